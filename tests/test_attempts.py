"""One attempt: what its outcome means for the task, the callers and the worker."""

import errno
import logging
import sqlite3
import sys
from concurrent.futures import wait
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Work, failure, nested, sql, tasks, threads, until, wait_looks

from taskqueue_core import (
    ErrorClass,
    LedgerError,
    PermanentError,
    QueueClosedError,
    QueueFullError,
    RetryPolicy,
    Status,
    Task,
    TransientError,
)

CAT = Task("cat.jpg", "v")
NEXT = Task("next")


class Stop(BaseException):
    """No Exception."""


class SpeechlessError(RuntimeError):
    """Its text cannot be had."""

    def __str__(self):
        raise ValueError("no words")


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
        error = failure(queue, CAT)
        assert error.__cause__ is original
        assert error.record == queue.get(CAT.key)
        assert (error.record.status, error.record.error) == (Status.FAILED, "PermanentError: no cat")
        (letter,) = queue.dead_letters()
        assert (letter.reason, letter.error, letter.attempt) == ("permanent", "PermanentError: no cat", 1)


def test_attempts_are_used_up(open_queue):
    """Three of them; the cause is the last error."""
    errors = [TransientError(str(n)) for n in range(5)]
    with open_queue(Work({"cat.jpg": errors})) as queue:
        error = failure(queue, CAT)
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
    assert queue._inflight.working() == []
    assert record.error == "TransientError: later"


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), Stop(), LedgerError("of its own"), SpeechlessError()]
)
def test_whatever_a_processor_raises_is_the_outcome_of_its_task(open_queue, error):
    """The worker lives on."""
    with open_queue(Work({"cat.jpg": [error] * 3}), max_workers=1) as queue:
        failed = failure(queue, CAT)
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
        assert failure(queue, CAT).record.error == (
            "classify failed with ZeroDivisionError: in classify; the error of the task was TransientError: mine"
        )
        assert queue.submit(NEXT).result(LONG) == {}


def test_users_decide_what_is_transient(open_queue):
    """Also against our own opinion."""
    policy = RetryPolicy(base=0.001, cap=0.001, classify=lambda error: ErrorClass.TRANSIENT)
    with open_queue(Work({"cat.jpg": [PermanentError("no"), "yes"]}), retry=policy) as queue:
        assert queue.submit(CAT).result(LONG) == "yes"


@pytest.fixture
def soon(monkeypatch):
    """What is tried again while the ledger cannot be written, is tried again soon."""
    monkeypatch.setattr("taskqueue_core.commits.TIDY", 0.01)  # the commit thread sleeps no longer than that
    monkeypatch.setattr("taskqueue_core.commits.PAUSE", 0.01)
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
        until(lambda: caplog.text.count("the ledger cannot be written") >= 2)
        assert not future.done()
        assert sql(path, "SELECT status, version FROM tasks") == [("running", 2)]

    trigger(when, refuse)
    until(future.done)
    assert queue.get(CAT.key).status == status
    assert len(work.calls) == attempts
    assert len(queue.dead_letters()) == (status == "failed")


def test_a_claim_that_fails_is_tried_again(open_queue, trigger, soon, caplog):
    """The tasks lose nothing."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    first = queue.submit(Task("first"))
    work.wait_started()
    futures = queue.submit_many([CAT, NEXT])

    def refuse():
        work.release()
        until(lambda: caplog.text.count("the ledger cannot be written") >= 2)
        assert not any(future.done() for future in futures)

    trigger("UPDATE ON tasks WHEN new.status = 'running'", refuse)
    assert [future.result(LONG) for future in (first, *futures)] == [{}, {}, {}]
    assert [record.attempt for record in queue.records()] == [1, 1, 1]
    assert work.calls == ["first", "cat.jpg", "next"]


def test_a_claim_that_fails_is_not_tried_again_at_once(open_queue, trigger, monkeypatch, caplog):
    """The task is due, the feeder looks, and nobody spins; closing ends the pause."""
    monkeypatch.setattr("taskqueue_core.commits.PAUSE", 1000.0)
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit(Task("first"))
    work.wait_started()
    queue.submit(CAT)

    def refuse():
        work.release()
        until(lambda: "the ledger cannot be written" in caplog.text)
        wait_looks(queue, 5)
        assert caplog.text.count("the ledger cannot be written") == 1

    trigger("UPDATE ON tasks WHEN new.status = 'running'", refuse)
    report = queue.close(drain=False)
    assert (report.waiting, report.stuck) == (1, ())


def test_closing_does_not_wait_for_a_ledger_that_takes_nothing(open_queue, trigger, soon, caplog):
    """The task is named, and left running in the file; the next owner recovers it."""
    work = Work(hold=True)
    queue = open_queue(work)
    queue.submit(CAT)
    work.wait_started()

    future = queue.submit(CAT)

    def refuse():
        work.release()
        reports.append(queue.close(timeout=0.05))

    reports = []
    trigger("UPDATE ON tasks", refuse)
    assert (reports[0].drained, reports[0].stuck, reports[0].waiting) == (False, (CAT.key,), 0)
    assert reports[0].elapsed_s < 1.05
    assert "could not be released" in caplog.text
    with pytest.raises(QueueClosedError):
        future.result(0)
    with open_queue() as again:
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
    bug = MemoryError("no room")

    def broken(*_):
        raise bug

    with monkeypatch.context() as patch:
        patch.setattr(queue._ledger.successes, "post", broken)
        assert failure(queue, CAT).__cause__ is bug
    assert 'met an error of its own at \'["cat.jpg"' in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(queue.metrics, "finished", broken_once(queue, bug))
        assert queue.submit(NEXT).result(LONG) == {}
    assert "met an error of its own at 1 results" in caplog.text
    assert queue.join(LONG)


def broken_once(queue, bug):
    finished, calls = queue.metrics.finished, []

    def once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise bug
        finished(*args)

    return once


def test_values_nested_as_deep_as_the_stack_end_their_tasks_one_way_or_the_other(open_queue):
    """What JSON can still write it cannot always read again: a value, or an error, but nobody waits for ever."""
    depths = range(sys.getrecursionlimit() - 70, sys.getrecursionlimit())
    queue = open_queue(lambda task: nested(task.params["depth"]), max_workers=2)
    futures = queue.submit_many([Task(f"d{depth}", params={"depth": depth}) for depth in depths])
    assert not wait(futures, LONG).not_done
    assert queue.join(LONG)


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
