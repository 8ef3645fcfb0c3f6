"""Real processes, really killed: what was accepted survives, and nothing is left running."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import LONG, Work, balance, draft, environ, run_python, sql, until

from taskqueue_core import Output, Status, Task, TaskQueue
from taskqueue_core.ledger import Ledger

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")

CONTENT = 200  # repetitions of a task's name that make up its output

SUBMITTER = """
import os, sys, threading
from itertools import count
from pathlib import Path
from taskqueue_core import Output, RetryPolicy, Task, TaskQueue, TransientError

path, generation, durability = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
failed = set()

def work(task):
    if task.params["n"] % 7 == 3 and task.key not in failed:
        failed.add(task.key)
        raise TransientError("once in each process")
    part = path.with_name(f"{task.image_key}.{os.getpid()}.part.jpg")
    part.write_bytes(task.image_key.encode() * 200)
    return Output(part, task.params["n"])

def discard(tasks):
    for task in tasks:
        for part in path.parent.glob(f"{task.image_key}.*.part.jpg"):
            part.unlink()

work.discard = discard
policy = RetryPolicy(max_attempts=100, base=0.001, cap=0.005)
queue = TaskQueue(work, ledger=path, max_workers=4, queue_size=10, retry=policy, durability=durability)

def submit(thread):
    for n in count():
        task = Task(f"{generation}-{thread}-{n}", params={"n": n})
        if n % 5 == 4:
            queue.submit_many([task, task], futures=False)
        else:
            queue.submit(task)
        os.write(1, f"{task.key}\\n".encode())

for thread in range(3):
    threading.Thread(target=submit, args=[thread], daemon=True).start()
threading.Event().wait()
"""

HOLDER = """
import os, sys, threading
from taskqueue_core import Task, TaskQueue

def hold(task):
    os.write(1, f"{task.image_key} runs\\n".encode())
    if task.image_key not in os.environ.get("QUICK", ""):
        threading.Event().wait()

queue = TaskQueue(hold, ledger=sys.argv[1], max_workers=2)
for key in sys.argv[2:]:
    queue.submit(Task(key))
threading.Event().wait()
"""


def start(code, *args, **variables):
    command = [sys.executable, "-S", "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env={**environ(), **variables}, text=True)


def kill(process):
    """SIGKILL; what it had still said."""
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.readlines()
    process.stdout.close()
    assert process.wait(LONG) == -signal.SIGKILL
    return rest


def one_round(path, generation, durability, acknowledged, rng):
    """Let a process submit until it is killed; keep what it acknowledged on the disk, as its client would."""
    process = start(SUBMITTER, path, generation, durability)
    for _ in range(rng.randrange(1, 60)):
        acknowledged.write(process.stdout.readline())
        acknowledged.flush()
        os.fsync(acknowledged.fileno())
    time.sleep(rng.uniform(0, 0.01))
    rest = kill(process)
    acknowledged.writelines(line for line in rest if line.endswith("\n"))


class Finisher:
    """The processor of the last owner."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, task):
        part = self.folder / f"{task.image_key}.last.part.jpg"
        part.write_bytes(task.image_key.encode() * CONTENT)
        return Output(part, task.params["n"])

    def discard(self, tasks):
        for task in tasks:
            for part in self.folder.glob(f"{task.image_key}.*.part.jpg"):
                part.unlink()


@pytest.mark.parametrize(("seed", "durability"), [(1, "process"), (2, "power"), (3, "process")])
def test_kill_9_at_random_times_loses_no_acknowledged_task(path, tmp_path, seed, durability):
    """Five rounds over one ledger: no task lost, none twice, each output complete, no file left over."""
    rng = random.Random(time.time_ns() + seed)
    with (tmp_path / "acknowledged").open("w") as acknowledged:
        for generation in range(5):
            one_round(path, generation, durability, acknowledged, rng)
    keys = {line.strip() for line in (tmp_path / "acknowledged").read_text().splitlines()}
    with TaskQueue(Finisher(tmp_path), ledger=path, durability="process") as queue:
        assert queue.join(LONG)
        records = {record.idempotency_key: record for record in queue.records()}
        poisoned = {letter.idempotency_key for letter in queue.dead_letters()}
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    assert keys <= set(records)
    assert len(keys) >= 5
    assert [*tmp_path.glob("*.part.jpg")] == []
    for key, record in records.items():
        if record.status is Status.FAILED:
            assert key in poisoned
            assert record.crashes == 3
            continue
        assert (record.status, record.value) == ("success", record.params["n"])
        content = (tmp_path / record.output_key).read_bytes()
        assert content == record.image_key.encode() * CONTENT
        assert (record.size, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_killed_process_leaves_its_tasks_to_the_next_owner_at_once(path):
    """No lease has to run out: what ran is recovered and blamed once, what waited is simply there."""
    process = start(HOLDER, path, "a", "b", "c", "d")
    for _ in range(2):
        assert process.stdout.readline().endswith(" runs\n")
    until(lambda: len(sql(path, "SELECT id FROM tasks")) == 4)
    kill(process)
    assert {status for (status,) in sql(path, "SELECT status FROM tasks WHERE image_key < 'c'")} == {"running"}
    work = Work()
    with TaskQueue(work, ledger=path) as queue:
        assert queue.join(LONG)
        assert queue.metrics.snapshot().recovered == 2
        assert [(record.image_key, record.crashes, record.attempt, record.retries) for record in queue.records()] == [
            ("a", 1, 2, 0), ("b", 1, 2, 0), ("c", 0, 1, 0), ("d", 0, 1, 0),
        ]  # fmt: skip
    assert sorted(task.image_key for task in work.discarded) == ["a", "b"]
    assert balance(path, 4)[Status.SUCCESS] == 4


def test_a_task_that_kills_its_process_three_times_is_poison(path):
    """Only that one: what ran beside it the first time is recovered and gets its turn."""
    killer, bystander = Task("killer").key, Task("bystander").key
    process = start(HOLDER, path, "killer", "bystander")
    for _ in range(2):
        process.stdout.readline()
    kill(process)
    for _ in range(2):
        process = start(HOLDER, path, QUICK="bystander")
        while (line := process.stdout.readline()) != "killer runs\n":
            assert line
        kill(process)
    with TaskQueue(Work(), ledger=path) as queue:
        assert queue.join(LONG)
        assert [(letter.idempotency_key, letter.reason) for letter in queue.dead_letters()] == [(killer, "poison")]
        assert (queue.get(killer).status, queue.get(killer).crashes) == ("failed", 3)
        assert (queue.get(bystander).status, queue.get(bystander).crashes) == ("success", 1)


def test_a_retry_survives_its_process(path):
    """With its count, its error and its time."""
    code = """
import os, signal, sys
from taskqueue_core import RetryPolicy, Task, TaskQueue, TransientError

def fail(task):
    raise TransientError("later")

queue = TaskQueue(fail, ledger=sys.argv[1], retry=RetryPolicy(base=0.05, cap=0.05))
queue.submit(Task("a"))
while not (record := queue.get(Task("a").key)).retries:
    pass
print(record.run_at, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    program = run_python(code, str(path))
    assert program.returncode == -signal.SIGKILL
    with TaskQueue(Work(), ledger=path) as queue:
        assert queue.join(LONG)
        record = queue.get(Task("a").key)
        assert record.status is Status.SUCCESS
        assert record.retries >= 1
        assert record.run_at >= float(program.stdout)


FORGETFUL = """
import sys, time
from taskqueue_core import Task, TaskQueue

def work(task):
    time.sleep(float(sys.argv[2]))

queue = TaskQueue(work, ledger=sys.argv[1], max_workers=2, queue_size=5)
for n in range(int(sys.argv[3])):
    queue.submit(Task(f"t{n}"))
print("end of the program", flush=True)
"""


@pytest.mark.parametrize(("duration", "count", "waiting"), [(0, 0, 0), (0.02, 3, 0), (0.01, 0, 30)])
def test_a_program_that_forgets_close_exits(path, duration, count, waiting):
    """Idle, busy, or with rows of the last time to bring in; quietly, and nothing accepted is lost."""
    ledger = Ledger(path)
    ledger.insert([draft(f"k{n}") for n in range(waiting)])
    ledger.close()
    program = run_python(FORGETFUL, str(path), str(duration), str(count))
    assert (program.returncode, program.stdout, program.stderr) == (0, "end of the program\n", "")
    balance(path, count + waiting)
    with TaskQueue(Work(), ledger=path) as queue:
        assert queue.join(LONG)
    assert balance(path, count + waiting)[Status.SUCCESS] == count + waiting


def test_a_program_whose_main_thread_ends_while_others_submit_exits(path):
    """Python starts no threads from then on: the others are told, and what was accepted is kept."""
    code = """
import os, sys, threading, time
from taskqueue_core import QueueClosedError, Task, TaskQueue

queue = TaskQueue(lambda task: time.sleep(0.001), ledger=sys.argv[1], max_workers=2, queue_size=3, durability="process")

def submit(thread):
    n = 0
    try:
        while True:
            queue.submit(Task(f"{thread}-{n}"))
            n += 1
            time.sleep(0.2 if n == 5 else 0)  # all workers have gone home by then
    except QueueClosedError:
        os.write(1, f"{n} ".encode())

for thread in range(3):
    threading.Thread(target=submit, args=[thread]).start()
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stderr) == (0, "")
    accepted = [int(count) for count in program.stdout.split()]
    assert len(accepted) == 3
    stored = len(sql(path, "SELECT id FROM tasks"))
    assert sum(accepted) <= stored <= sum(accepted) + 3
    with TaskQueue(Work(), ledger=path) as queue:
        assert queue.join(LONG)


def test_a_program_that_forgets_close_has_its_callbacks_called(path):
    """All of them, before it exits."""
    code = """
import sys, time
from taskqueue_core import Task, TaskQueue
queue = TaskQueue(lambda task: time.sleep(0.01), ledger=sys.argv[1])
for n in range(50):
    queue.submit(Task(f"t{n}")).add_done_callback(lambda _: print("told", flush=True))
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stdout, program.stderr) == (0, "told\n" * 50, "")


def test_a_program_that_forgets_close_on_a_slow_disk_has_its_results_recorded(path):
    """A COMMIT takes longer than a worker without work stays."""
    code = """
import sys, time
from taskqueue_core import Task, TaskQueue
from taskqueue_core import workers
workers.LINGER = 0.001
queue = TaskQueue(lambda task: time.sleep(0.01), ledger=sys.argv[1], max_workers=2)
execute = queue._ledger.writer.execute
def slow(batch):
    time.sleep(0.1)
    return execute(batch)
queue._ledger.writer.execute = slow
for n in range(3):
    queue.submit(Task(f"t{n}"))
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stderr) == (0, "")
    assert balance(path, 3)[Status.SUCCESS] == 3


def test_an_interrupted_program_keeps_what_it_accepted(path):
    """Ctrl-C while submit waits for a place: that task left nothing, the others are on the disk."""
    code = """
import sys, threading
from taskqueue_core import Task, TaskQueue

go = threading.Event()
with TaskQueue(lambda task: go.wait(20), ledger=sys.argv[1], max_workers=1, queue_size=1) as queue:
    for n in range(2):
        queue.submit(Task(f"t{n}"))
    while not queue.metrics.snapshot().dequeued:
        pass
    try:
        queue.submit(Task("t2"))
        print("waits", flush=True)
        queue.submit(Task("t3"))
    finally:
        go.set()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environ(),
        text=True,
    )
    watchdog = threading.Timer(LONG, process.kill)
    watchdog.start()
    try:
        until(lambda: path.exists() and len(rows(path)) >= 2)
        until(lambda: in_a_wait(process.pid))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=LONG)
    finally:
        watchdog.cancel()
    assert "KeyboardInterrupt" in errors
    keys = [key for (key,) in rows(path)]
    assert keys == [f"t{n}" for n in range(len(keys))]
    assert len(keys) in (2, 3)
    with TaskQueue(Work(), ledger=path) as queue:
        assert queue.join(LONG)
    assert balance(path, len(keys))[Status.SUCCESS] == len(keys)


def rows(path):
    try:
        return sql(path, "SELECT image_key FROM tasks ORDER BY id")
    except Exception:  # noqa: BLE001 - the file is just being made
        return []


def in_a_wait(pid):
    """Whether the main thread of a process sleeps, as far as the system tells."""
    try:
        with open(f"/proc/{pid}/task/{pid}/wchan") as wchan:  # noqa: PTH123
            return "futex" in wchan.read()
    except OSError:
        time.sleep(0.2)
        return True
