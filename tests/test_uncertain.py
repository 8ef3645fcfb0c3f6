"""A COMMIT that was carried out and is reported as failed: the queue finds out what stands, and goes on from there."""

import errno
import threading
from contextlib import closing

import pytest
from helpers import LONG, Work, balance, draft, report_failed, tasks, threads, until

from taskqueue_core import FaultPlan, LedgerError, PermanentError, Status, Task, TransientError, points
from taskqueue_core import commits as commits_module
from taskqueue_core.database import make_error
from taskqueue_core.ledger import Ledger


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("kind", ["insert", "claim", "success"])
def test_every_task_runs_and_every_caller_hears_of_it(open_queue, monkeypatch, path, kind, count):
    """G1, G3, G9: an insert that may have failed is submitted again, everything else mends itself."""
    monkeypatch.setattr(commits_module, "PAUSE", 0.01)
    monkeypatch.setattr("taskqueue_core.attempts.PAUSE", 0.01)
    work = Work(hold=kind == "claim")
    queue = open_queue(work, max_workers=2)
    if kind == "claim":  # the workers are busy, so that the others are claimed by themselves
        held = queue.submit_many([Task("held0"), Task("held1")])
        work.wait_started(2)
    reported = report_failed(queue._ledger, kind)
    try:
        futures = queue.submit_many(tasks(count))
    except LedgerError:
        futures = queue.submit_many(tasks(count))
    work.release()
    assert [future.result(5) for future in futures] == [{"n": n} for n in range(count)]
    assert queue.join(LONG)
    assert reported
    queue.close()
    submitted = count + (len(held) if kind == "claim" else 0)
    assert balance(path, submitted)[Status.SUCCESS] == submitted


def test_a_claim_that_was_made_and_reported_as_failed_runs(open_queue, monkeypatch, path):
    """Alone in its transaction, as the feeder brings tasks in: its row says running, and this queue is its owner."""
    monkeypatch.setattr(commits_module, "PAUSE", 0.01)
    with open_queue(Work()) as queue:
        reported = report_failed(queue._ledger, "claim")
        queue._ledger.insert([draft()])
        queue._feeder.wake()
        assert queue.join(5)
        assert reported
    assert balance(path, 1)[Status.SUCCESS] == 1


def test_an_insert_that_was_made_and_reported_as_failed_runs_without_being_submitted_again(
    open_queue, monkeypatch, path
):
    """G1, G9: its caller was told that the outcome is unknown; the row stands, so the task is done."""
    monkeypatch.setattr(commits_module, "PAUSE", 0.01)
    with open_queue(Work()) as queue:
        reported = report_failed(queue._ledger, "insert")
        with pytest.raises(LedgerError):
            queue.submit(Task("k"))
        assert reported
        assert queue.join(5)
    assert balance(path, 1)[Status.SUCCESS] == 1


def fail_after(queue, name) -> list[str]:
    """Report the next call of this arrow as failed, after its COMMIT; grows when that was done."""
    arrow, reported = getattr(queue._ledger, name), list[str]()

    def carry_out(*args):
        moved = arrow(*args)
        if not reported:
            reported.append(name)
            raise LedgerError("disk I/O error, as the test says", code="SQLITE_IOERR_FSYNC")
        return moved

    setattr(queue._ledger, name, carry_out)
    return reported


@pytest.mark.parametrize(
    ("name", "outcome", "status"),
    [
        ("retry", TransientError("once"), Status.SUCCESS),
        ("fail", PermanentError("never"), Status.FAILED),
        ("release", OSError(errno.ENOSPC, "no space"), Status.SUCCESS),
    ],
)
def test_an_outcome_that_was_recorded_and_reported_as_failed_counts(
    open_queue, monkeypatch, path, name, outcome, status
):
    """The worker looks what stands: the task goes on from there, and its caller hears of it."""
    monkeypatch.setattr("taskqueue_core.attempts.PAUSE", 0.01)
    queue = open_queue(Work({"cat.jpg": [outcome]}))
    reported = fail_after(queue, name)
    future = queue.submit(Task("cat.jpg"))
    assert (future.exception(LONG) is None) is (status is Status.SUCCESS)
    assert reported
    assert queue.join(LONG)
    queue.close()
    assert balance(path, 1)[status] == 1


def test_a_cancel_that_was_recorded_and_reported_as_failed_counts(open_queue):
    """The caller hears True, and the key is free."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue._workers._claims_ahead = lambda: 0
    queue.submit(Task("busy"))
    work.wait_started()
    future = queue.submit(Task("cat.jpg"))
    reported = fail_after(queue, "cancel")
    assert future.cancel() is True
    assert reported
    again = queue.submit(Task("cat.jpg"))
    work.release()
    assert again.result(LONG) == {}
    assert queue.join(LONG)


def interrupt_once(monkeypatch, target, name) -> None:
    """A Ctrl-C just before the main thread's next call of it."""
    call = getattr(target, name)

    def interrupted(*args, **knobs):
        if threading.current_thread() is threading.main_thread():
            monkeypatch.setattr(target, name, call)
            raise KeyboardInterrupt
        return call(*args, **knobs)

    monkeypatch.setattr(target, name, interrupted)


def test_a_leader_that_is_interrupted_before_it_begins_gives_the_lead_on(open_queue, monkeypatch):
    """Nobody would ever write again, and `close` would hang."""
    queue = open_queue(Work())
    assert queue.submit(Task("before")).result(LONG) == {}
    interrupt_once(monkeypatch, queue._ledger.commits, "_lead")
    with pytest.raises(KeyboardInterrupt):
        queue.submit(Task("lost"))
    with threads(1) as pool:
        assert pool.submit(queue.submit, Task("after")).result(LONG).result(LONG) == {}
    assert queue.get(Task("lost").key) is None
    assert queue.join(LONG)


def test_a_replay_that_is_interrupted_after_its_commit_is_run(open_queue, monkeypatch):
    """The task is queued again, so somebody has to bring it in."""
    queue = open_queue(Work({"cat.jpg": [PermanentError("no")]}))
    assert queue.submit(Task("cat.jpg")).exception(LONG) is not None
    interrupt_once(monkeypatch, queue, "submit")
    with pytest.raises(KeyboardInterrupt):
        queue.replay(Task("cat.jpg").key)
    assert queue.join(LONG)
    assert queue.get(Task("cat.jpg").key).status is Status.SUCCESS


def test_a_cancel_that_is_interrupted_leaves_no_key_blocked(open_queue, monkeypatch):
    """Whether the task was cancelled or not, it goes on."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue._workers._claims_ahead = lambda: 0
    queue.submit(Task("busy"))
    work.wait_started()
    future = queue.submit(Task("cat.jpg"))
    interrupt_once(monkeypatch, queue._ledger, "cancel")
    with pytest.raises(KeyboardInterrupt):
        future.cancel()
    again = queue.submit(Task("cat.jpg"))
    work.release()
    assert again.result(LONG) == future.result(LONG) == {}
    assert queue.join(LONG)


ARROWS = {
    "retry": ("claimed", lambda ledger, row: ledger.retry(row, "down", 5.0), Status.QUEUED),
    "fail": ("claimed", lambda ledger, row: ledger.fail(row, "bad", "permanent"), Status.FAILED),
    "release": ("claimed", lambda ledger, row: ledger.release(row), Status.QUEUED),
    "cancel": ("queued", lambda ledger, row: ledger.cancel(row), Status.FAILED),
    "replay": ("failed", lambda ledger, row: ledger.replay(row), Status.QUEUED),
}


@pytest.mark.parametrize("arrow", ARROWS)
def test_an_arrow_that_was_written_with_others_and_reported_as_failed_is_not_taken_for_fenced(path, arrow):
    """Each change of such a transaction is tried again alone, and meets itself."""
    state, move, reached = ARROWS[arrow]
    begun, go, reports = threading.Event(), threading.Event(), [True]

    def probe(point):
        if point == points.BEGIN and not begun.is_set():
            begun.set()
            assert go.wait(LONG)
        elif point.endswith(".after_commit") and moving in point and reports:
            reports.clear()
            raise make_error("SQLITE_IOERR", "written, and reported as failed")

    moving = {"retry": points.SETTLE, "fail": points.SETTLE}.get(arrow, arrow)
    with closing(Ledger(path, durability="process")) as ledger, threads(3) as pool:
        (row,) = ledger.insert([draft()])
        row = ledger.claim(row) if state != "queued" else row
        row = ledger.fail(row, "bad", "permanent") if state == "failed" else row
        with points.probing(probe):
            first = pool.submit(ledger.insert, [draft("first")])
            assert begun.wait(LONG)
            moved = pool.submit(move, ledger, row)
            other = pool.submit(ledger.insert, [draft("other")])
            until(lambda: len(ledger.commits._waiting) == 2)
            go.set()
            found = moved.result(LONG)
            assert (first.result(LONG)[0].version, other.result(LONG)[0].version) == (1, 1)
        assert not reports
        assert (found.status, found.version) == (reached, row.version + 1)
        assert move(ledger, row) is None, "another one is fenced as ever"


def test_a_cancel_that_comes_too_late_leaves_no_task_to_nobody(open_queue, monkeypatch):
    """The feeder looks for a row that stands as running just while its caller is on the way out, and comes back."""
    monkeypatch.setattr("taskqueue_core.feeder.PAUSE", 1000.0)
    queue, cancelling, struck = open_queue(Work(), max_workers=1), threading.Event(), threading.Semaphore(0)
    claim = FaultPlan("claim.after_commit:SQLITE_IOERR@1")

    def probe(point):
        claim(point)
        if point == "release.before_begin" and not cancelling.is_set():
            struck.release()
            raise make_error("SQLITE_FULL", "full")
        if point == "cancel.before_begin":
            cancelling.set()
            queue._feeder.wake()
            until(lambda: not queue._feeder._strays)

    with points.probing(probe):
        with pytest.raises(LedgerError):
            queue.submit(Task("a"))
        future = queue.submit(Task("a"))
        assert struck.acquire(timeout=LONG)
        assert not future.cancel()
    assert future.result(LONG) == {}
    assert queue.join(LONG)
