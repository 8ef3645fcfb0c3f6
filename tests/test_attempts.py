"""One attempt: what its outcome means for the task, the callers and the worker."""

import errno
import hashlib
import logging
import sqlite3
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Work, output, sql, tasks, threads, until

from taskqueue_core import (
    ErrorClass,
    LedgerError,
    Output,
    PermanentError,
    QueueFullError,
    RetryPolicy,
    Status,
    Task,
    TaskFailedError,
    TransientError,
    output_key,
)
from taskqueue_core.attempts import VALUE_LIMIT

CAT = Task("cat.jpg", "v")
NEXT = Task("next")


class Stop(BaseException):
    """No Exception."""


class Speechless(RuntimeError):
    """Its text cannot be had."""

    def __str__(self):
        raise ValueError("no words")


def failure(queue, task=CAT):
    with pytest.raises(TaskFailedError) as caught:
        queue.submit(task).result(LONG)
    return caught.value


def test_a_transient_error_is_tried_again(open_queue):
    """The record counts the retry and forgets the error once it has succeeded."""
    with open_queue(Work({"cat.jpg": [TransientError("one"), ConnectionError("two"), "three"]})) as queue:
        assert queue.submit(CAT).result(LONG) == "three"
        record = queue.get(CAT.key)
        assert (record.retries, record.attempt, record.error) == (2, 3, None)
        snapshot = queue.metrics.snapshot()
        assert (snapshot.dequeued, snapshot.retried, snapshot.succeeded, snapshot.failed) == (3, 2, 1, 0)


def test_a_permanent_error_is_not_tried_again(open_queue):
    """The caller gets the record and the original error; the task is a dead letter."""
    original = PermanentError("no cat")
    with open_queue(Work({"cat.jpg": [original]})) as queue:
        error = failure(queue)
        assert error.__cause__ is original
        assert error.record == queue.get(CAT.key)
        assert (error.record.status, error.record.error) == (Status.FAILED, "PermanentError: no cat")
        (letter,) = queue.dead_letters()
        assert (letter.reason, letter.error, letter.attempt) == ("permanent", "PermanentError: no cat", 1)


def test_attempts_are_used_up(open_queue):
    """Three of them; the cause is the last error."""
    errors = [TransientError(str(n)) for n in range(5)]
    with open_queue(Work({"cat.jpg": errors})) as queue:
        error = failure(queue)
        assert error.__cause__ is errors[2]
        assert (error.record.retries, error.record.attempt) == (2, 3)
        assert [letter.reason for letter in queue.dead_letters()] == ["exhausted"]


def test_every_caller_of_a_failed_task_gets_an_error_of_his_own(open_queue):
    """A traceback that one of them adds does not show up with the others."""
    work = Work({"cat.jpg": [PermanentError("no")]}, hold=True)
    with open_queue(work) as queue:
        futures = [queue.submit(CAT) for _ in range(3)]
        work.release()
        assert len({id(future.exception(LONG)) for future in futures}) == 3


def test_a_task_that_waits_for_its_retry_occupies_no_worker(open_queue):
    """It is a row with a later run_at; the only worker goes on with the others."""
    queue = open_queue(Work({"cat.jpg": [TransientError("later")]}), max_workers=1, retry=NEVER)
    queue.submit(CAT)
    others = queue.submit_many(tasks(5))
    assert [future.result(LONG) for future in others] == [{"n": n} for n in range(5)]
    record = queue.get(CAT.key)
    assert (record.status, record.retries, record.attempt) == (Status.QUEUED, 1, 1)
    assert record.run_at > record.created_at + 900
    assert queue._inflight.still_running() == []
    assert record.error == "TransientError: later"


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), Stop(), LedgerError("of its own"), Speechless()]
)
def test_whatever_a_processor_raises_is_the_outcome_of_its_task(open_queue, error):
    """The worker lives on."""
    with open_queue(Work({"cat.jpg": [error] * 3}), max_workers=1) as queue:
        failed = failure(queue)
        assert failed.__cause__ is error
        assert failed.record.attempt == 3
        assert failed.record.error.startswith(f"{type(error).__name__}: ")
        assert queue.submit(NEXT).result(LONG) == {}


def test_errors_that_no_file_can_hold_are_stored_all_the_same(open_queue, path):
    """Half a character, a NUL, a megabyte."""
    errors = {"half": PermanentError("\ud800"), "nul": PermanentError("a\0b"), "long": PermanentError("x" * 10**6)}
    with open_queue(Work({key: [error] for key, error in errors.items()})) as queue:
        for key in errors:
            failure(queue, Task(key))
        assert queue.get(Task("half").key).error == "PermanentError: ?"
        assert len(queue.get(Task("long").key).error) == 2000
        assert queue.submit(NEXT).result(LONG) == {}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_fault_of_the_machine_uses_no_retry(open_queue, number):
    """T7: the task is queued again, a little later."""
    queue = open_queue(Work({"cat.jpg": [OSError(number, "the disk")]}), retry=RetryPolicy(max_attempts=1))
    queue.submit(CAT)
    record = until(lambda: (r := queue.get(CAT.key)).attempt and r.status is Status.QUEUED and r)
    assert (record.retries, record.attempt) == (0, 1)
    assert record.run_at > record.created_at + 0.9
    assert queue.metrics.snapshot().retried == 0


def test_a_classify_that_fails_makes_the_error_permanent(open_queue):
    """Both errors are told, and the worker lives on."""

    def broken(error):
        raise ZeroDivisionError("in classify")

    policy = RetryPolicy(base=0.001, cap=0.001, classify=broken)
    with open_queue(Work({"cat.jpg": [TransientError("mine")]}), max_workers=1, retry=policy) as queue:
        assert failure(queue).record.error == (
            "classify failed with ZeroDivisionError: in classify; the error of the task was TransientError: mine"
        )
        assert queue.submit(NEXT).result(LONG) == {}


def test_users_decide_what_is_transient(open_queue):
    """Also against our own opinion."""
    policy = RetryPolicy(base=0.001, cap=0.001, classify=lambda error: ErrorClass.TRANSIENT)
    with open_queue(Work({"cat.jpg": [PermanentError("no"), "yes"]}), retry=policy) as queue:
        assert queue.submit(CAT).result(LONG) == "yes"


VALUES = [None, True, 0, -1.5, 1e300, "", "é\u2028\0", [], {}, [1, [2, {"a": [None]}]], {"b": 1, "a": {"c": []}}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_json_value_comes_back(open_queue, value):
    """As it was; to the first caller, to duplicates, and after a restart."""
    with open_queue(Work({"cat.jpg": [value]})) as queue:
        assert queue.submit(CAT).result(LONG) == queue.submit(CAT).result(LONG) == value
        assert type(queue.submit(CAT).result(LONG)) is type(value)
    with open_queue() as queue:
        assert queue.submit(CAT).result(LONG) == queue.get(CAT.key).value == value


def test_a_value_may_have_64_kib_of_json(open_queue):
    """Counted in bytes; one more is a permanent error that names what it was."""
    fits, large = "é" * (VALUE_LIMIT // 2 - 1), "é" * (VALUE_LIMIT // 2 - 1) + "x"
    with open_queue(Work({"fits": [fits], "large": [large]})) as queue:
        assert queue.submit(Task("fits")).result(LONG) == fits
        error = failure(queue, Task("large"))
        assert isinstance(error.__cause__, PermanentError)
        assert "returned a str of 65,537 bytes of JSON, more than 65,536" in str(error)


def nested(depth):
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [object(), b"bytes", {1, 2}, float("nan"), [float("inf")], "\ud800", {"x": print}, 10**5000, nested(101), nested(900),
     nested(100_000)],
    ids=["object", "bytes", "set", "nan", "inf", "surrogate", "function", "huge int", "deep", "deeper", "very deep"],
)  # fmt: skip
def test_what_is_no_json_is_a_permanent_error(open_queue, value):
    """It names the type; the worker and the duplicates of other tasks do not suffer."""
    with open_queue(Work({"cat.jpg": [value]}), max_workers=1) as queue:
        first, second = queue.submit_many([CAT, CAT])
        for future in (first, second):
            assert isinstance(future.exception(LONG), TaskFailedError)
        error = first.exception(LONG)
        assert f"the processor returned a {type(value).__name__}, which is no JSON value" in str(error)
        assert error.record.attempt == 1
        assert queue.submit(NEXT).result(LONG) == {}


def test_a_value_as_deep_as_allowed_reaches_every_caller(open_queue):
    """Each has a copy of his own."""
    work = Work({"cat.jpg": [nested(100)]}, hold=True)
    with open_queue(work) as queue:
        futures = [queue.submit(CAT) for _ in range(3)]
        work.release()
        assert [future.result(LONG) for future in futures] == [nested(100)] * 3


@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_output_is_published(open_queue, tmp_path, durability):
    """Its name, size and SHA-256 are in the record; the value goes to the future; the temporary file is gone."""
    work = Work({"cat.jpg": [output(tmp_path, b"pixels" * 30_000, value={"w": 5})]})
    with open_queue(work, durability=durability) as queue:
        assert queue.submit(CAT).result(LONG) == {"w": 5}
        record = queue.get(CAT.key)
    content = (tmp_path / record.output_key).read_bytes()
    assert record.output_key == output_key(CAT.key, ".jpg")
    assert (record.size, record.sha256) == (180_000, hashlib.sha256(content).hexdigest())
    assert not (tmp_path / "unfinished.jpg").exists()


@pytest.mark.parametrize("path_of", ["missing.jpg", ".", "a\0b", "x" * 300], ids=["missing", "folder", "nul", "long"])
def test_an_output_without_a_file_is_a_dead_letter(open_queue, tmp_path, path_of):
    """A permanent error that names the path; the worker lives on."""
    with open_queue(Work({"cat.jpg": [Output(f"{tmp_path}/{path_of}")] * 3}), max_workers=1) as queue:
        error = failure(queue)
        assert error.record.output_key is None
        assert queue.dead_letters()[0].idempotency_key == CAT.key
        assert queue.submit(NEXT).result(LONG) == {}


def test_an_output_with_no_path_is_a_dead_letter(open_queue):
    """None is a mistake of the processor."""
    with open_queue(Work({"cat.jpg": [Output(None)]})) as queue:
        assert isinstance(failure(queue).__cause__, TypeError)


@pytest.mark.parametrize("value", [object(), "x" * VALUE_LIMIT])
def test_the_file_of_an_output_with_a_bad_value_is_removed(open_queue, tmp_path, value):
    """Nobody would find it again."""
    with open_queue(Work({"cat.jpg": [output(tmp_path, value=value)]})) as queue:
        failure(queue)
    assert not (tmp_path / "unfinished.jpg").exists()
    assert not (tmp_path / output_key(CAT.key, ".jpg")).exists()


def test_an_output_that_cannot_be_renamed_is_tried_again(open_queue, tmp_path):
    """A folder stands in its way, and goes; the task needs its second attempt."""
    obstacle = tmp_path / output_key(CAT.key, ".jpg")
    obstacle.mkdir()

    def work(task):
        if len(calls) == 1:
            obstacle.rmdir()
        calls.append(task)
        return output(tmp_path, b"new")

    calls = []
    with open_queue(work) as queue:
        assert queue.submit(CAT).result(LONG) is None
        assert queue.get(CAT.key).retries == 1
    assert obstacle.read_bytes() == b"new"
    assert not (tmp_path / "unfinished.jpg").exists()


@pytest.fixture
def soon(monkeypatch):
    """What is tried again while the ledger cannot be written, is tried again soon."""
    monkeypatch.setattr("taskqueue_core.attempts.PAUSE", 0.01)
    monkeypatch.setattr("taskqueue_core.feeder.PAUSE", 0.01)


@pytest.fixture
def trigger(path):
    """Make the ledger refuse a kind of change for a while."""

    def make(when, call):
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(f"CREATE TRIGGER no BEFORE {when} BEGIN SELECT RAISE(ABORT, 'not now'); END")
            call()
            database.execute("DROP TRIGGER no")

    return make


@pytest.mark.parametrize(
    ("when", "status"),
    [
        ("UPDATE ON tasks WHEN new.status = 'success'", "success"),
        ("UPDATE ON tasks WHEN new.status = 'failed'", "failed"),
        ("INSERT ON dead_letters", "failed"),
        ("UPDATE ON tasks WHEN new.status = 'queued'", "success"),
    ],
)
def test_finished_work_is_kept_until_the_ledger_takes_it(open_queue, path, trigger, soon, caplog, when, status):
    """The outcome is tried again, not the work; meanwhile the row is as it was before."""
    plan = [PermanentError("no")] if status == "failed" else ["done"]
    if "'queued'" in when:
        plan.insert(0, TransientError("once"))
    work = Work({"cat.jpg": plan}, hold=True)
    attempts = len(plan)
    queue = open_queue(work)
    future = queue.submit(CAT)
    work.wait_started()

    def refuse():
        work.release()
        until(lambda: caplog.text.count("an outcome could not be recorded") >= 2)
        assert not future.done()
        assert sql(path, "SELECT status, version FROM tasks") == [("running", 2)]

    trigger(when, refuse)
    until(future.done)
    assert queue.get(CAT.key).status == status
    assert len(work.calls) == attempts
    assert len(queue.dead_letters()) == (status == "failed")


def test_a_claim_that_fails_is_tried_again(open_queue, trigger, soon, caplog):
    """The task loses nothing, and nobody spins."""
    work = Work()
    queue = open_queue(work)

    def refuse():
        future = queue.submit(CAT)
        until(lambda: caplog.text.count("could not be claimed") >= 2)
        assert not future.done()

    trigger("UPDATE ON tasks WHEN new.status = 'running'", refuse)
    assert queue.submit(CAT).result(LONG) == {}
    assert queue.get(CAT.key).attempt == 1


def test_closing_does_not_wait_for_a_ledger_that_takes_nothing(open_queue, path, trigger, soon):
    """The task is left running in the file; the next owner recovers it."""
    work = Work(hold=True)
    queue = open_queue(work)
    queue.submit(CAT)
    work.wait_started()

    def refuse():
        work.release()
        with pytest.raises(LedgerError, match="not now"):
            queue.close(timeout=0.05)

    trigger("UPDATE ON tasks", refuse)
    with open_queue() as again:
        queue._report = again.close  # for the fixture
        assert again.join(LONG)
        assert again.metrics.snapshot().recovered == 1
        assert again.get(CAT.key).status is Status.SUCCESS


def test_a_broken_log_handler_costs_no_task_its_outcome(open_queue, capsys):
    """Whatever a host hangs into our logger."""

    class Broken(logging.Handler):
        def handle(self, record):
            raise RuntimeError("no log today")

    log, handler = logging.getLogger("taskqueue"), Broken()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with open_queue(Work({"cat.jpg": [TransientError("late"), "done"]}), max_workers=1) as queue:
            assert queue.submit(CAT).result(LONG) == "done"
            assert queue.join(LONG)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert "no log today" in capsys.readouterr().err


def test_an_error_of_the_queues_own_is_the_outcome_of_the_task(open_queue, monkeypatch, caplog):
    """Nobody waits for ever because of a bug: the attempt counts as failed, or its outcome is told."""
    queue = open_queue(max_workers=1)
    monkeypatch.setattr("taskqueue_core.attempts.encode_value", lambda value: "1")
    bug = MemoryError("no room")

    def broken(*_):
        raise bug

    with monkeypatch.context() as patch:
        patch.setattr(queue._attempts, "_succeeded", broken)
        assert failure(queue).__cause__ is bug
    with monkeypatch.context() as patch:
        patch.setattr(queue._metrics if hasattr(queue, "_metrics") else queue.metrics, "finished", broken_once(queue, bug))
        assert queue.submit(NEXT).result(LONG) == 1
    assert "met an error of its own" in caplog.text
    assert queue.join(LONG)


def broken_once(queue, bug):
    finished, calls = queue.metrics.finished, []

    def once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise bug
        finished(*args)

    return once


def test_a_worker_that_submits_into_a_full_queue_can_give_up(open_queue):
    """With a timeout: all workers could be doing just that."""

    def submit_more(task):
        try:
            queue.submit_many(tasks(3, task.image_key), timeout=0.05, futures=False)
        except QueueFullError:
            return "full"
        return "room"

    queue = open_queue(submit_more, max_workers=1, queue_size=1)
    assert queue.submit(CAT).result(LONG) == "full"
    queue.close(timeout=0, drain=False)


def test_threads_are_the_executors(open_queue):
    """As many as asked for, all named, and they work at the same time."""
    work = Work(hold=True)
    with open_queue(work, max_workers=4) as queue:
        with threads(1) as pool:
            submitting = pool.submit(queue.submit_many, tasks(8))
            work.wait_started(4)
            assert work.most == 4
            work.release()
            submitting.result(LONG)
        assert queue.join(LONG)
    assert len(work.threads) <= 4
    assert all(thread.name.startswith("taskqueue-worker") for thread in work.threads)
