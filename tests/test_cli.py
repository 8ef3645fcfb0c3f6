"""The `taskqueue` command: what it prints, what it exits with, and how signals end it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
from helpers import LONG, Pause, Work, balance, environ, tasks, threads, until

from taskqueue_core import PermanentError, Status, Task, TaskQueue, WorkerPool, cli
from taskqueue_core.cli import HANDLED_SIGNALS, main
from taskqueue_core.database import LedgerView
from taskqueue_core.ownership import owner_alive
from taskqueue_core.run import Run
from taskqueue_core.signals import Signals

POSIX = pytest.mark.skipif(os.name == "nt", reason="a signal sent to a process ends it on Windows")

# A task's work: tell that it has begun, then wait until the test closes the input; for "stuck...", for ever.
PROGRAM = """
import signal, sys, threading, time
from taskqueue_core import cli, run

mode, queues = sys.argv[1], []

class Queue(run.TaskQueue):
    def __init__(self, *args, **knobs):
        queues.append(self)
        if mode == "slow to open":
            print("opening", flush=True)
            sys.stdin.read()
        super().__init__(*args, **knobs)

class Processor:
    def __init__(self, *_, **__):
        pass

    def __call__(self, task):
        print("started", task.image_key, flush=True)
        if task.image_key.startswith("stuck"):
            threading.Event().wait()
        sys.stdin.read()
        while mode == "ends while closing" and not queues[0]._workers._stopping:
            time.sleep(0.002)
        return 1

run.TaskQueue, cli.Processor = Queue, Processor
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever shell the tests run in
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The working directory, an empty store."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def task_file(store):
    """Write tasks.json."""

    def write(*names):
        entries = [{"image_key": name, "variant": "9x9"} for name in names]
        (store / "tasks.json").write_text(json.dumps(entries), encoding="utf-8")

    return write


@pytest.fixture
def start(store):
    """Start a run over tasks.json in a process of its own, with one worker."""
    started = []

    def start(*options, mode="plain", **env):
        command = [sys.executable, "-W", "error", "-c", PROGRAM, mode, "run", "tasks.json", "--workers=1", *options]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environ(), "PYTHONUNBUFFERED": "", **env},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        with process:
            pass


def end(process):
    """Let the work go on, and wait for the end: exit status, output, errors."""
    out, err = process.communicate(timeout=LONG)
    return process.returncode, out, err


def ended(process):
    """The exit status of a process that ends although its work does not."""
    return process.wait(LONG), process.stdout.read(), process.stderr.read()


def records():
    with LedgerView.inspect("tasks.db") as view:
        return view.records()


# --- signals


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_lets_running_tasks_finish_and_leaves_the_others_queued(start, task_file, number):
    """It says so, exits with 128 + its number, and the same command goes on where it ended."""
    task_file("a", "b", "c")
    process = start(mode="ends while closing")
    assert process.stdout.readline() == "started a\n"
    process.send_signal(number)
    assert process.stderr.readline().startswith(f"taskqueue: {number.name}: closing: nothing more is submitted, ")
    status, out, err = end(process)
    assert status == 128 + number
    assert re.match(r"success 1   failed 0 ", out)
    waiting = len(records()) - 1
    assert re.match(rf"taskqueue: closed in \d+\.\d s: {waiting} tasks? waits? in tasks\.db, 0 stuck", err)
    assert {record.image_key: (record.status, record.attempt) for record in records()}.items() <= {
        "a": ("success", 1),
        "b": ("queued", 0),
        "c": ("queued", 0),
    }.items()
    assert end(start())[0] == 0
    assert [(record.status, record.attempt) for record in records()] == [("success", 1)] * 3


@POSIX
def test_a_task_that_does_not_end_is_given_back_and_the_process_leaves_without_it(start, task_file):
    """Its attempt does not count; the output is flushed, the ledger closed."""
    task_file("stuck.jpg")
    process = start("--close-timeout=0.1")
    assert process.stdout.readline() == "started stuck.jpg\n"
    process.send_signal(signal.SIGTERM)
    status, out, err = ended(process)
    assert status == 128 + signal.SIGTERM
    assert out.startswith("success 0 ")
    assert "1 task waits in tasks.db, 1 stuck; the same command goes on\n" in err
    assert 'stuck: ["stuck.jpg","9x9"]: its thread cannot be ended' in err
    (record,) = records()
    assert (record.status, record.retries, record.crashes) == ("queued", 0, 0)


@POSIX
def test_a_second_signal_leaves_at_once(start, task_file, path):
    """With the status of the first; what was running counts as a crash."""
    task_file("stuck.jpg")
    process = start("--close-timeout=1000")
    assert process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert "SIGTERM: closing" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    status, out, err = ended(process)
    assert (status, out) == (128 + signal.SIGTERM, "")
    assert err == "taskqueue: a second signal: leaving at once; what was running counts as a crash\n"
    assert [record.status for record in records()] == ["running"]
    assert not owner_alive(path)


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_before_the_queue_is_open_is_not_lost(start, task_file, number):
    """The queue is opened, and closed again without a single submit."""
    task_file("a", "b")
    process = start(mode="slow to open")
    assert process.stdout.readline() == "opening\n"
    process.send_signal(number)
    assert f"{number.name}: closing" in process.stderr.readline()
    status, out, _ = end(process)
    assert status == 128 + number
    assert "started" not in out
    assert records() == []


@POSIX
def test_a_signal_while_a_submit_waits_for_a_place_ends_the_run(start, task_file):
    """Four producers wait; none of them is waited for."""
    task_file("stuck.jpg", *"abcdefgh")
    process = start("--queue-size=1", "--close-timeout=0.1")
    assert process.stdout.readline()
    until(lambda: len(records()) == 2)
    process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 128 + signal.SIGINT
    assert len(records()) <= 6
    assert {record.status for record in records()} == {"queued"}


def test_handlers_are_installed_only_while_a_run_is_running(store, task_file, monkeypatch):
    """Afterwards they are those of before."""
    task_file()
    during = []

    def look(run, *_, **__):
        during.extend(signal.getsignal(number) for number in HANDLED_SIGNALS)

    monkeypatch.setattr(Run, "execute", look)
    before = [signal.getsignal(number) for number in HANDLED_SIGNALS]
    assert main(["run", "tasks.json"]) == 0
    assert [signal.getsignal(number) for number in HANDLED_SIGNALS] == before
    assert all(new != old for new, old in zip(during, before, strict=True) if old != signal.SIG_IGN)


def test_other_threads_leave_the_signals_alone(store, task_file, capsys):
    """Only the main thread may touch them; the run itself works."""
    task_file()
    with threads(1) as pool:
        assert pool.submit(main, ["run", "tasks.json"]).result(LONG) == 0
    assert capsys.readouterr().out.startswith("success 0 ")


def test_a_signal_that_was_ignored_stays_ignored():
    """As in a background job of a shell."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Signals([signal.SIGTERM]) as signals:
            signal.raise_signal(signal.SIGTERM)
        assert signals.first is None
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_only_notes_the_signal():
    """Nothing is raised, whatever the main thread does; a wait ends."""
    with Signals(HANDLED_SIGNALS) as signals:
        assert signals.status is None
        signal.raise_signal(signal.SIGTERM)
        assert (signals.first, signals.status) == (signal.SIGTERM, 143)
        signals.wait()
    assert {signal.SIGINT, signal.SIGTERM} <= set(HANDLED_SIGNALS)


# --- the way out


def test_a_timed_out_task_whose_thread_is_stuck_does_not_keep_the_process(start, task_file):
    """Without any signal: the run is over, and Python would wait for the thread at exit."""
    task_file("stuck.jpg")
    env = {"TASKQUEUE_TASK_TIMEOUT": "0.05", "TASKQUEUE_MAX_ATTEMPTS": "1"}
    status, out, err = ended(start(**env))
    assert status == 1
    assert out.startswith("started stuck.jpg\nsuccess 0   failed 1 ")
    assert 'stuck: ["stuck.jpg","9x9"]' in err
    assert 'failed: ["stuck.jpg","9x9"]: TaskTimeoutError: ' in err
    assert balance("tasks.db", 1)[Status.FAILED] == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["dead-letters", "status", "check"])
def test_a_reader_that_went_away_ends_the_command_quietly(path, store, command, unbuffered):
    """As in `taskqueue dead-letters tasks.db | head -1`: status 141, no traceback."""
    with TaskQueue(Work({"bad.jpg": [PermanentError("no")]}), ledger=path) as queue:
        queue.submit_many([Task("bad.jpg")], futures=False)
    reading, writing = os.pipe()
    os.close(reading)
    program = "import sys; from taskqueue_core.cli import main; sys.exit(main())"
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [sys.executable, "-c", program, command, "tasks.db"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            env={**environ(), "PYTHONUNBUFFERED": unbuffered},
            timeout=LONG,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


# --- the commands


def test_a_run_of_failing_tasks_exits_with_1_and_names_them(store, task_file, capsys):
    """With --replay they are tried again; the metrics are those of the end."""
    task_file("none.jpg", "none.jpg")
    for options, line in (([], "success 0   failed 1   duplicates 1 "), (["--replay"], "success 0   failed 1 ")):
        assert main(["run", "tasks.json", "--metrics=m.json", *options]) == 1
        shown = capsys.readouterr()
        assert shown.out.startswith(line)
        assert shown.err.count('failed: ["none.jpg","9x9"]: FileNotFoundError') == 1
        assert "--replay tries them again" in shown.err
    assert json.loads((store / "m.json").read_text(encoding="utf-8"))["failed"] == 1
    assert len(letters(capsys)) == 2


def letters(capsys):
    assert main(["dead-letters", "tasks.db"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_run_out_of_time_exits_with_1(store, task_file, capsys, monkeypatch):
    """What was submitted stays queued or is finished, and the command says how to go on."""
    task_file("a", "b")
    work, close = Work(hold=True), TaskQueue.close
    monkeypatch.setattr(cli, "Processor", lambda *_, **__: work)
    monkeypatch.setattr(TaskQueue, "close", lambda *args, **knobs: work.release() or close(*args, **knobs))
    assert main(["run", "tasks.json", "--timeout=0"]) == 1
    shown = capsys.readouterr()
    assert re.match(r"taskqueue: \d tasks were submitted, not all are finished after 0\.0 s; the same", shown.err)
    assert "taskqueue: closed in " in shown.err
    assert shown.out.startswith("success ")
    assert balance("tasks.db", len(records()))[Status.RUNNING] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.json"], "none.json: cannot be read"),
        (["run", "tasks.json", "--store=none"], "there is no folder 'none' to take the images from"),
        (["run", "tasks.json", "--workers=0"], "max_workers must be a whole number of at least 1"),
        (["run", "tasks.json", "--ledger=."], ""),
        (["status", "none.db"], "there is no ledger at 'none.db'"),
        (["dead-letters", "tasks.json"], "'tasks.json' is no SQLite file; it was left as it is"),
    ],
)
def test_bad_input_exits_with_2_in_one_line(store, task_file, capsys, arguments, message):
    """Also when it is the thread of the run that meets it."""
    task_file("a")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"taskqueue: {message}")
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_a_bug_shows_its_traceback(store, task_file, capsys, monkeypatch):
    """One line would hide where it is."""
    task_file("a")
    monkeypatch.setattr(WorkerPool, "run", lambda *_, **__: 1 // 0)
    assert main(["run", "tasks.json"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--timeout", "--close-timeout"])
@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "soon"])
def test_seconds_are_numbers_of_at_least_0(capsys, option, seconds):
    """Refused by name before anything is opened."""
    with pytest.raises(SystemExit, match="2"):
        main(["run", "tasks.json", f"{option}={seconds}"])
    assert f"argument {option}: '{seconds}' is no number of seconds, 0 or more" in capsys.readouterr().err


def test_the_version_names_what_runs(capsys):
    """Ours, Python's and SQLite's."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.fullmatch(r"taskqueue \d\S+, Python 3\.\d+\.\S+, SQLite 3\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["run", "status", "dead-letters", "check"])
def test_each_command_explains_itself_and_its_exit_status(capsys, command):
    """A description of its own, not the line of the list."""
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"exit status: 0", shown)
    assert re.search(r"\] (tasks|ledger) [A-Z][^:]*[.:] .*positional arguments", shown)


def test_status_tells_the_owner_and_the_tasks(store, path, open_queue, capsys):
    """Two lines, beside the running owner."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit_many(tasks(3), futures=False)
    work.wait_started()
    assert main(["status", "tasks.db"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"tasks.db   owner pid {os.getpid()} (running)   SQLite 3.")
    assert re.fullmatch(
        r"queued 2 \(oldest \d+\.\d s; 0 waiting for a retry\)   running 1   success 0   failed 0 "
        r"\(0 dead letters, 0 poison\)",
        second,
    )
    work.release()


# --- WorkerPool.stop


def test_a_stopped_pool_submits_nothing_more(open_queue):
    """It returns while its producers wait for places; each of the four has one task in hand."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=2)
    pool = WorkerPool(queue)
    with threads(1) as others:
        run = others.submit(pool.run, tasks(100))
        work.wait_started()
        until(lambda: len(queue.records()) == 3)
        pool.stop()
        assert run.result(LONG).succeeded == 0
    work.release()
    assert queue.join(LONG)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("taskqueue-producer")])
    assert len(queue.records()) <= 7


def test_a_stopped_pool_does_not_wait_for_the_tasks(open_queue):
    """All are submitted, one is running."""
    work = Work(hold=True)
    queue = open_queue(work)
    pool = WorkerPool(queue)
    waiting = Pause(queue, "join")
    with threads(1) as others:
        run = others.submit(pool.run, tasks(1))
        waiting.wait_reached()
        pool.stop()
        waiting.go.set()
        assert run.result(LONG).succeeded == 0


def test_a_pool_that_was_stopped_before_runs_nothing(open_queue):
    """A stop is never too early."""
    queue = open_queue()
    pool = WorkerPool(queue)
    pool.stop()
    assert pool.run(tasks(100)).enqueued == 0
    assert queue.records() == []
