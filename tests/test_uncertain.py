"""A COMMIT that was carried out and is reported as failed: the queue finds out what stands, and goes on from there."""

import pytest
from helpers import LONG, Work, balance, draft, report_failed, tasks

from taskqueue_core import LedgerError, Status, Task
from taskqueue_core import commits as commits_module


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
