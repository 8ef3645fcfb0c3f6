"""pause, resume and wait_idle: when tasks are begun, and when there is nothing to do for now."""

from __future__ import annotations

import threading

import pytest
from helpers import LONG, NEVER, Pause, Work, balance, nothing_held, orphans, tasks, threads, until

from taskqueue_core import QueueClosedError, Status, Task, TaskQueueError, TransientError, inflight, points

CAT = Task("cat.jpg")


def test_a_paused_queue_accepts_tasks_and_begins_none(open_queue):
    """Until it is resumed; what waited is done then, in the order of submission."""
    work = Work()
    queue = open_queue(work, paused=True, max_workers=1)
    assert queue.paused
    futures = queue.submit_many(tasks(5))
    assert queue.wait_idle(LONG)
    assert work.calls == []
    assert len(queue.records(Status.QUEUED)) == 5
    queue.resume()
    assert not queue.paused
    assert [future.result(LONG) for future in futures] == [{"n": n} for n in range(5)]
    assert work.calls == [f"t{n}" for n in range(5)]


def test_what_runs_when_the_queue_is_paused_runs_on(open_queue):
    """And nothing is begun behind it."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue._workers._claims_ahead = lambda: 0
    running = queue.submit(CAT)
    work.wait_started()
    waiting = queue.submit(Task("dog.jpg"))
    queue.pause()
    assert not queue.wait_idle(0.0)
    work.release()
    assert running.result(LONG) == {}
    assert queue.wait_idle(LONG)
    assert not waiting.done()
    assert work.calls == ["cat.jpg"]


def test_an_opened_ledger_waits_for_resume(open_queue, path):
    """What was there before, and what is recovered."""
    orphans(path, ["an orphan"])
    work = Work()
    queue = open_queue(work, paused=True)
    assert queue.wait_idle(LONG)
    assert work.calls == []
    queue.resume()
    assert queue.join(LONG)
    assert work.calls == ["an orphan"]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_limit_lets_so_many_attempts_begin(open_queue, workers):
    """Then the queue is paused again, and the next limit counts anew."""
    work = Work()
    queue = open_queue(work, paused=True, max_workers=workers)
    queue.submit_many(tasks(9))
    for limit, done in [(1, 1), (3, 4), (2, 6)]:
        queue.resume(limit)
        assert queue.wait_idle(LONG)
        assert (len(work.calls), queue.paused) == (done, True)
    with pytest.raises(ValueError, match="limit must be a whole number of at least 1 or None, got 0"):
        queue.resume(0)


def test_a_new_task_uses_the_limit_too(open_queue):
    """It is claimed as it is inserted, if it may."""
    work = Work()
    queue = open_queue(work, paused=True)
    queue.resume(2)
    queue.submit_many(tasks(5))
    assert queue.wait_idle(LONG)
    assert len(work.calls) == 2


def test_a_claim_that_comes_to_nothing_is_made_again(open_queue):
    """A limit counts attempts; a pause takes back what is left of it."""
    queue = open_queue(paused=True)
    queue.resume(2)
    assert queue._workers.reserve(2) == 2
    queue._workers.lost(2)
    assert not queue.paused
    queue.pause()
    queue._workers._in_hand = queue._workers._claiming = 1
    queue._workers.lost(1)
    assert queue.paused
    nothing_held(queue)


def test_idle_is_when_a_retry_waits_for_later(open_queue):
    """Not before, and join waits for it."""
    work = Work({"cat.jpg": [TransientError("later")]}, hold=True)
    queue = open_queue(work, retry=NEVER)
    queue.submit(CAT)
    work.wait_started()
    assert not queue.wait_idle(0.0)
    work.release()
    assert queue.wait_idle(LONG)
    assert queue.metrics.snapshot().retried == 1
    assert not queue.join(0.0)


def test_idle_waits_for_results_to_be_delivered(open_queue):
    """Every future is done, and every task counted."""
    queue = open_queue(paused=True)
    for batch in range(20):
        futures = queue.submit_many(tasks(20, f"batch {batch} "))
        queue.resume()
        assert queue.wait_idle(LONG)
        queue.pause()
        assert all(future.done() for future in futures)
        assert queue.metrics.snapshot().succeeded == 20 * (batch + 1)


def test_a_task_that_is_just_being_claimed_is_no_rest(open_queue):
    """1. a limit is used up, 2. its claim is not posted yet: neither the ledger nor the tasks in hand tell of it."""
    queue = open_queue(paused=True)
    queue.submit(CAT)
    claim = Pause(queue._workers, "_claim")
    with threads(1) as pool:
        resumed = pool.submit(queue.resume, 1)
        claim.wait_reached()
        assert queue.paused
        assert not queue.wait_idle(0.0)
        claim.go.set()
        resumed.result(LONG)
    assert queue.wait_idle(LONG)
    assert queue.get(CAT.key).status is Status.SUCCESS


def test_a_result_that_is_just_being_written_is_no_rest(open_queue):
    """1. the worker has gone on, 2. its result is not committed yet."""
    queue = open_queue(paused=True)
    queue.submit(CAT)
    reached, go = threading.Event(), threading.Event()

    def hold(point):
        if point == "settle.before_commit":
            reached.set()
            assert go.wait(LONG)

    with points.probing(hold):
        queue.resume(1)
        assert reached.wait(LONG)
        until(lambda: queue._workers.at_rest() == (True, True))
        assert not queue.wait_idle(0.0)
        go.set()
        assert queue.wait_idle(LONG)
    assert queue.get(CAT.key).status is Status.SUCCESS


def test_a_result_that_is_just_being_told_is_no_rest(open_queue, monkeypatch):
    """1. the task has left, 2. its future is not done yet."""
    monkeypatch.setattr(inflight, "deliver", inflight.deliver)  # and back, at the end
    pause = Pause(inflight, "deliver")
    queue = open_queue(paused=True)
    future = queue.submit(CAT)
    queue.resume(1)
    pause.wait_reached()
    until(lambda: queue._workers.at_rest() == (True, True))
    assert not queue.wait_idle(0.0)
    pause.go.set()
    assert queue.wait_idle(LONG)
    assert future.done()


def test_a_paused_queue_is_closed_without_draining(open_queue, path, monkeypatch):
    """It would wait for nothing; the tasks are there at the next open."""
    queue = open_queue(paused=True)
    future = queue.submit(CAT)
    monkeypatch.setattr(queue, "join", None)
    report = queue.close(LONG)
    assert (report.drained, report.waiting) == (False, 1)
    with pytest.raises(QueueClosedError):
        future.result(LONG)
    assert balance(path, 1)[Status.QUEUED] == 1
    assert queue.closed


def test_a_full_paused_queue_holds_submits_back(open_queue):
    """Backpressure is as ever."""
    queue = open_queue(paused=True, queue_size=2)
    queue.submit_many(tasks(2))
    with threads(1) as pool:
        late = pool.submit(queue.submit, CAT)
        queue.resume()
        assert late.result(LONG).result(LONG) == {}


def test_a_processor_cannot_wait_for_itself(open_queue):
    """It is refused rather than hung."""

    def work(task):
        queue.wait_idle()

    queue = open_queue(work)
    queue.submit(CAT)
    assert until(lambda: queue.get(CAT.key).error).startswith("TaskQueueError: wait_idle() was called by a processor")
    with pytest.raises(QueueClosedError):
        closed(queue).wait_idle()
    assert issubclass(QueueClosedError, TaskQueueError)


def closed(queue):
    queue.close(LONG, drain=False)
    return queue


def test_close_does_not_wait_for_tasks_of_a_queue_that_is_paused_meanwhile(open_queue):
    """By the limit of `resume` here: two are begun, three stay for the next time."""
    queue = open_queue(Work(), paused=True, max_workers=1)
    queue.submit_many(tasks(5))
    queue.resume(2)
    report = queue.close(LONG)
    assert (report.waiting, report.drained, report.stuck) == (3, False, ())
    assert report.elapsed_s < LONG / 2
