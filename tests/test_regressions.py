"""The bugs that earlier attempts at this system had, each by its name."""

import gc
import json
import sqlite3
import sys
import threading
import warnings

import pytest
from helpers import LONG, Work, at_once, balance, open_ledgers, orphans, run_python, sql, tasks, threads, until

from taskqueue_core import LedgerError, Status, Task, TaskFailedError, TaskQueue, WorkerPool


@pytest.fixture
def switching():
    """Threads change places as often as the interpreter allows."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_metrics_export_deadlocking_on_its_own_lock(open_queue, tmp_path):
    """Metrics and ledger are exported from processors, callbacks and other threads at once."""

    def export(task):
        return json.loads(queue.metrics.snapshot().to_json())["dequeued"]

    def callback(_):
        exported.append(queue.metrics.snapshot().to_dict())

    exported, copies = [], []
    queue = open_queue(export, max_workers=4)

    def look(n):
        for _ in range(20):
            queue.metrics.snapshot().to_json()
            queue.export(tmp_path / f"copy{n}.db")
            copies.append(n)

    with threads(4) as pool:
        looking = [pool.submit(look, n) for n in range(3)]
        for future in queue.submit_many(tasks(200)):
            future.add_done_callback(callback)
        for future in looking:
            future.result(LONG)
    assert queue.join(LONG)
    until(lambda: len(exported) == 200)
    assert len(copies) == 60
    assert queue.metrics.snapshot().succeeded == 200


def test_memory_databases_seen_by_one_connection_only(open_queue):
    """Sixteen threads write and read one :memory: ledger, and it can be exported."""
    with open_queue(ledger=":memory:", max_workers=8) as queue:

        def client(n):
            value = queue.submit(Task(f"t{n}", params={"n": n})).result(LONG)
            return value, queue.get(Task(f"t{n}").key).value, len(queue.records()) > 0

        assert at_once(client, 16) == [({"n": n}, {"n": n}, True) for n in range(16)]
        assert len(queue.records(Status.SUCCESS)) == 16


def test_memory_databases_can_be_exported(open_queue, tmp_path):
    """What a test has in memory can be looked at."""
    with open_queue(ledger=":memory:") as queue:
        WorkerPool(queue).run(tasks(10))
        queue.export(tmp_path / "copy.db")
    assert balance(tmp_path / "copy.db", 10)[Status.SUCCESS] == 10


def test_two_workers_both_passing_the_duplicate_check(open_queue, path, switching):
    """Eight threads submit the same key at once, through every door: one row, one run."""
    work = Work()
    queue = open_queue(work, max_workers=8)
    doors = [
        queue.submit,
        lambda task: queue.submit(task, timeout=LONG),
        lambda task: queue.submit_many([task, Task(f"beside {threading.get_ident()}"), task])[0],
        lambda task: queue.submit_many([Task("shared"), task])[1],
    ]
    for n in range(30):
        task = Task(f"t{n}", params={"n": n})
        futures = at_once(lambda door, task=task: doors[door % 4](task), 8)
        assert [future.result(LONG) for future in futures] == [{"n": n}] * 8
    assert queue.join(LONG)
    assert len(work.calls) == len(set(work.calls)) == len(sql(path, "SELECT id FROM tasks"))


@pytest.mark.parametrize("death", [SystemExit("worker"), KeyboardInterrupt("worker"), MemoryError("worker")], ids=repr)
def test_join_that_waits_for_ever_when_a_worker_died(open_queue, death):
    """Whatever is meant to end a thread ends an attempt: all workers are struck, and join and close come back."""
    queue = open_queue(Work({f"t{n}": [death] * 3 for n in range(8)}), max_workers=2)
    futures = queue.submit_many(tasks(12))
    assert queue.join(LONG)
    assert [isinstance(future.exception(LONG), TaskFailedError) for future in futures] == [True] * 8 + [False] * 4
    report = queue.close()
    assert (report.drained, report.stuck) == (True, ())


def test_shutdown_that_waits_for_ever_when_a_worker_died(open_queue, path):
    """The process of the workers was killed: the next owner has their tasks at once, and closes."""
    orphans(path, [f"t{n}" for n in range(4)])
    queue = open_queue()
    assert queue.join(LONG)
    assert queue.close().drained


def test_join_that_waits_for_ever_when_the_queue_is_closed(open_queue):
    """It began before, and tasks are left: it says so. Where none are left it is content."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit_many(tasks(3), futures=False)
    work.wait_started()
    with threads(2) as pool:
        joining = pool.submit(queue.join)
        until(lambda: queue._inflight._empty._waiters)
        closing = pool.submit(queue.close, LONG, drain=False)
        until(lambda: queue._workers._stopping)
        work.release()
        assert closing.result(LONG).waiting == 2
        assert "closed before all tasks were done" in str(joining.exception(LONG))
    with open_queue() as drained:
        pass
    assert drained.join()


def test_database_files_left_open(path, tmp_path):
    """After close, after a refusal, after a failed opening: the files can be deleted, and nothing is collected late."""
    (tmp_path / "diary.db").write_text("no ledger" * 200)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for n in range(2):
            with TaskQueue(Work(), ledger=path) as queue:
                queue.submit(Task(f"t{n}")).result(LONG)
                queue.export(tmp_path / "copy.db")
                with pytest.raises(LedgerError):
                    TaskQueue(Work(), ledger=path)
            with pytest.raises(LedgerError):
                TaskQueue(Work(), ledger=tmp_path / "diary.db")
            del queue
            gc.collect()
    assert not [file for file in open_ledgers() if tmp_path in file.parents]
    for file in tmp_path.iterdir():
        file.unlink()


def test_a_run_that_only_works_from_one_working_directory(tmp_path, monkeypatch):
    """A relative ledger stays where it was opened, wherever the program goes."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    with TaskQueue(Work(), ledger="tasks.db") as queue:
        queue.submit(Task("before")).result(LONG)
        monkeypatch.chdir(there)
        queue.submit(Task("after")).result(LONG)
        assert len(queue.records()) == 2
        queue.export("copy.db")
        with pytest.raises(LedgerError, match="pid"):
            TaskQueue(Work(), ledger=here / "tasks.db")
        with TaskQueue(Work(), ledger="tasks.db") as another:
            assert another.records() == []
    assert balance(here / "tasks.db", 2)[Status.SUCCESS] == 2
    assert balance(there / "copy.db", 2)[Status.SUCCESS] == 2


def test_a_program_runs_from_any_working_directory(tmp_path):
    """The packages are found, nothing is written beside them."""
    code = (
        "from taskqueue_core import Task, TaskQueue\n"
        "with TaskQueue(lambda task: 1, ledger='x.db') as queue: print(queue.submit(Task('a')).result(9))"
    )
    program = run_python(code, cwd=tmp_path)
    assert (program.stdout, program.stderr) == ("1\n", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.db", "x.db.lock"]


def test_a_test_run_that_hangs_instead_of_failing(tmp_path, request):
    """A test that waits for a task for ever is ended, and the run with it; this project's tests have such a limit."""
    pytest.importorskip("pytest_timeout")
    assert float(request.config.getini("timeout")) > 0
    (tmp_path / "test_stuck.py").write_text(
        """
import threading
from taskqueue_core import Task, TaskQueue

def test_stuck():
    go = threading.Event()
    with TaskQueue(lambda task: go.wait(), ledger=":memory:") as queue:
        try:
            queue.submit(Task("stuck")).result()
        finally:
            go.set()

def test_next():
    pass
""",
        encoding="utf-8",
    )
    code = (
        "import pytest; raise SystemExit(pytest.main("
        "['-q', '-p', 'no:cacheprovider', '-p', 'no:randomly', '--timeout', '0.5', '-o', 'addopts=', 'test_stuck.py']))"
    )
    program = run_python(code, cwd=tmp_path)
    assert program.returncode == 1, program.stderr
    assert "Timeout" in program.stdout


def test_a_second_sqlite_library_in_the_process_does_not_drop_the_lock(path, open_queue):
    """Other code opens and closes the ledger file while the queue is at work: nobody else gets in."""
    with open_queue() as queue:
        for n in range(3):
            sqlite3.connect(path).close()
            path.read_bytes()
            queue.submit(Task(f"t{n}")).result(LONG)
            with pytest.raises(LedgerError, match="in use"):
                TaskQueue(Work(), ledger=path)
    assert balance(path, 3)[Status.SUCCESS] == 3
