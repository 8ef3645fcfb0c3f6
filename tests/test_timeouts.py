"""Attempts that outlive task_timeout: the task moves on, its thread cannot be killed."""

import sqlite3
import threading
import time
from contextlib import closing

import pytest
from helpers import FAST, LONG, Work, output, tasks, until, wait_looks

from taskqueue_core import (
    PermanentError,
    RetryPolicy,
    Status,
    Task,
    TaskFailedError,
    TaskTimeoutError,
    output_key,
)
from taskqueue_core.inflight import Entry
from taskqueue_core.timeouts import Timeouts

CAT = Task("cat.jpg")
QUICK = 0.2  # seconds: an attempt that is not held needs far less, even on a busy machine
ONCE = RetryPolicy(max_attempts=1, base=0.001, cap=0.001)


def test_the_retry_does_not_run_beside_the_stuck_attempt(open_queue):
    """It waits for the thread to come back, although it is due and workers are free; the late result is fenced."""
    work = Work({"cat.jpg": ["late", "second"]}, hold=True)
    queue = open_queue(work, max_workers=4, task_timeout=QUICK)
    future = queue.submit(CAT)
    work.wait_started()
    until(lambda: queue.get(CAT.key).retries == 1)
    until(lambda: queue.metrics.snapshot().stuck_workers == 1)
    record = queue.get(CAT.key)
    assert record.status is Status.QUEUED
    assert record.error == f"TaskTimeoutError: attempt 1 was still running after {QUICK} s"
    until(lambda: time.time() > record.run_at)
    wait_looks(queue, 3)  # the feeder has looked after the retry became due, and passed it by
    assert work.calls == ["cat.jpg"]
    work.release()
    assert future.result(LONG) == "second"
    snapshot = queue.metrics.snapshot()
    assert (snapshot.fenced, snapshot.stuck_workers, snapshot.retried, snapshot.succeeded) == (1, 0, 1, 1)
    assert work.most == 1


def test_the_last_attempt_fails_at_once(open_queue):
    """The caller does not wait for the stuck thread; the task is a dead letter."""
    work = Work(hold=True)
    queue = open_queue(work, task_timeout=0.02, retry=ONCE)
    with pytest.raises(TaskFailedError) as caught:
        queue.submit(CAT).result(LONG)
    assert isinstance(caught.value.__cause__, TaskTimeoutError)
    assert caught.value.record.status is Status.FAILED
    assert [letter.reason for letter in queue.dead_letters()] == ["exhausted"]
    assert queue.metrics.snapshot().stuck_workers == 1
    assert queue.join(LONG)
    work.release()
    until(lambda: queue.metrics.snapshot().stuck_workers == 0)
    assert queue.metrics.snapshot().fenced == 1
    assert queue.get(CAT.key).status is Status.FAILED


@pytest.mark.parametrize("outcome", [PermanentError("late"), SystemExit(), "late"], ids=repr)
def test_whatever_comes_late_is_fenced(open_queue, outcome):
    """An error counts as little as a value."""
    work = Work({"cat.jpg": [outcome]}, hold=True)
    queue = open_queue(work, task_timeout=0.02, retry=ONCE)
    with pytest.raises(TaskFailedError):
        queue.submit(CAT).result(LONG)
    before = queue.get(CAT.key)
    work.release()
    until(lambda: queue.metrics.snapshot().fenced == 1)
    assert queue.get(CAT.key) == before


def test_a_late_output_does_not_replace_a_good_one(open_queue, tmp_path):
    """The file of the late attempt is removed."""
    work = Work({"cat.jpg": [output(tmp_path, b"late", "late.jpg")]}, hold=True)
    queue = open_queue(work, task_timeout=0.05, retry=ONCE, max_workers=2)
    with pytest.raises(TaskFailedError):
        queue.submit(CAT).result(LONG)
    work._plan["cat.jpg"].append(output(tmp_path, b"good", "good.jpg"))
    again = queue.replay(CAT.key)
    work.wait_started(2)
    good = tmp_path / output_key(CAT.key, ".jpg")
    work.release()
    until(lambda: queue.metrics.snapshot().fenced == 1)
    try:
        again.result(LONG)
    except TaskFailedError:  # on a slow machine the second attempt was late, too
        assert not good.exists()
    else:
        assert good.read_bytes() == b"good"
    assert not (tmp_path / "late.jpg").exists()


def test_nothing_is_claimed_while_all_workers_are_stuck(open_queue):
    """The other task is queued until a thread has come back."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, task_timeout=QUICK, retry=ONCE)
    stuck, waiting = queue.submit(CAT), queue.submit(Task("waiting"))
    assert isinstance(stuck.exception(LONG), TaskFailedError)
    record = queue.get(Task("waiting").key)
    assert (record.status, record.attempt, work.calls) == (Status.QUEUED, 0, ["cat.jpg"])
    work.release()
    assert waiting.result(LONG) == {}


def test_quick_attempts_are_left_alone(open_queue):
    """A timeout that is long enough changes nothing, however long."""
    for timeout in (30.0, 1e12):
        with open_queue(task_timeout=timeout, ledger=":memory:") as queue:
            assert [f.result(LONG) for f in queue.submit_many(tasks(50))] == [{"n": n} for n in range(50)]
            snapshot = queue.metrics.snapshot()
            assert (snapshot.fenced, snapshot.stuck_workers, snapshot.retried) == (0, 0, 0)


def test_close_does_not_wait_for_a_stuck_thread(open_queue, path):
    """Its task is named; a retry that waited for the thread is in the ledger, to run next time."""
    work = Work(hold=True)
    queue = open_queue(work, task_timeout=0.02)
    queue.submit(CAT)
    until(lambda: queue.metrics.snapshot().stuck_workers == 1)
    report = queue.close(timeout=0.05)
    assert (report.stuck, report.waiting, report.drained) == ((CAT.key,), 1, False)
    assert report.elapsed_s < 1.05
    work.release()
    with open_queue(Work({"cat.jpg": ["second"]})) as again:
        assert again.submit(CAT).result(LONG) == "second"
        assert (again.get(CAT.key).retries, again.get(CAT.key).crashes) == (1, 0)


def test_a_task_stuck_twice_is_named_until_its_last_thread_is_back(open_queue):
    """Failed, replayed and stuck again: the return of the first thread does not hide the second one."""
    works = [Work(hold=True), Work(hold=True)]
    turns = iter(works)

    def work(task):
        return next(turns)(task)

    queue = open_queue(work, max_workers=2, task_timeout=0.02, retry=ONCE)
    with pytest.raises(TaskFailedError):
        queue.submit(CAT).result(LONG)
    with pytest.raises(TaskFailedError):
        queue.replay(CAT.key).result(LONG)
    works[0].release()
    until(lambda: queue.metrics.snapshot().stuck_workers == 1)
    report = queue.close(timeout=0.05)
    works[1].release()
    assert report.stuck == (CAT.key,)
    assert report.elapsed_s < 1.05


@pytest.mark.parametrize("order", ["thread first", "timeout first"])
def test_thread_and_timeout_may_come_in_either_order(open_queue, order):
    """Whoever of the two is second puts the task back."""
    work = Work({"cat.jpg": ["late", "second"]}, hold=True)
    queue = open_queue(work, task_timeout=QUICK)
    expired, expire = threading.Event(), queue._inflight.expire
    returned, come_back = threading.Event(), queue._inflight.come_back

    def watched_expire(entry, moved):
        if order == "thread first":
            work.release()
            assert returned.wait(LONG)
        try:
            return expire(entry, moved)
        finally:
            expired.set()

    def watched_come_back(entry):
        try:
            return come_back(entry)
        finally:
            returned.set()

    queue._inflight.expire, queue._inflight.come_back = watched_expire, watched_come_back
    future = queue.submit(CAT)
    assert expired.wait(LONG)
    work.release()
    assert future.result(LONG) == "second"
    assert queue.metrics.snapshot().stuck_workers == 0
    assert queue.get(CAT.key).attempt == 2


def test_timeouts_report_in_the_order_of_their_deadlines(open_queue):
    """Those that ended in time are not among them."""
    reported = []
    timeouts = Timeouts(0.01, lambda entry, record: reported.append(record.idempotency_key))
    with open_queue(Work(), retry=FAST) as queue:
        futures = queue.submit_many(tasks(4))
        assert [future.result(LONG) for future in futures]
        records = queue.records()
    for record in records:
        timeouts.begin(Entry(None), record)
    timeouts.end(records[1])
    timeouts.end(records[1])
    thread = threading.Thread(target=timeouts.run)
    thread.start()
    until(lambda: len(reported) == 3)
    timeouts.close()
    thread.join(LONG)
    assert not thread.is_alive()
    assert reported == [records[n].idempotency_key for n in (0, 2, 3)]


def test_a_timeout_that_cannot_be_recorded_does_not_end_the_watch(open_queue, caplog):
    """The next one is noticed all the same; the attempt itself goes on as if it were in time."""
    works = [Work(hold=True), Work(hold=True)]
    queue = open_queue(lambda task: works[task.params["n"]](task), max_workers=2, task_timeout=0.02, retry=ONCE)
    fail = queue._ledger.fail

    def fail_once(*args):
        queue._ledger.fail = fail
        raise RuntimeError("a bug")

    queue._ledger.fail = fail_once
    first, second = tasks(2)
    late = queue.submit(first)
    until(lambda: "a bug" in caplog.text)
    with pytest.raises(TaskFailedError):
        queue.submit(second).result(LONG)
    for work in works:
        work.release()
    assert late.result(LONG) == {"n": 0}


def test_closing_ends_the_watch_over_a_ledger_that_takes_nothing(open_queue, path, monkeypatch, caplog):
    """Quietly: no thread dies of it."""
    monkeypatch.setattr("taskqueue_core.attempts.PAUSE", 0.01)
    work = Work(hold=True)
    queue = open_queue(work, task_timeout=0.02)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        queue.submit(CAT)
        work.wait_started()
        database.execute("CREATE TRIGGER no BEFORE UPDATE ON tasks BEGIN SELECT RAISE(ABORT, 'not now'); END")
        until(lambda: "an outcome could not be recorded" in caplog.text)
        report = queue.close(timeout=0.05)
        database.execute("DROP TRIGGER no")
    work.release()
    assert (report.drained, report.stuck, report.waiting) == (False, (CAT.key,), 0)
    assert report.elapsed_s < 1.05
    with open_queue() as again:
        assert again.join(LONG)
