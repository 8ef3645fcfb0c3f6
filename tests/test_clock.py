"""The clock of stored times: it goes forward when told, for every queue, and no measurement hears of it."""

from __future__ import annotations

import math
import threading
import time

import pytest
from helpers import LONG, NEVER, Work, until

from taskqueue_core import Status, Task, TransientError, clock

CAT = Task("cat.jpg")


@pytest.fixture(autouse=True)
def right_again():
    yield
    clock.put_right()


def test_a_task_that_waits_for_its_retry_runs_at_once(open_queue):
    """The queue sleeps for 1,000 s and is woken."""
    work = Work({"cat.jpg": [TransientError("later")]})
    queue = open_queue(work, retry=NEVER)
    future = queue.submit(CAT)
    assert queue.wait_idle(LONG)
    assert not future.done()
    wait_asleep(queue)
    clock.advance(1001)
    assert future.result(LONG) == {}
    assert work.calls == ["cat.jpg"] * 2


def wait_asleep(queue):
    """Wait until the feeder sleeps for long."""
    asleep, awake = threading.Event(), queue._feeder._awake
    wait = awake.wait

    def sleep(seconds):
        if seconds is not None and seconds > LONG:
            asleep.set()
        return wait(seconds)

    awake.wait = sleep
    queue._feeder.wake()
    assert asleep.wait(LONG)


def test_stored_times_follow_and_measurements_do_not(open_queue):
    """created_at is of tomorrow; latency, age and the machine's clocks are of today."""
    queue = open_queue(paused=True)
    clock.advance(86400)
    before, began = time.time(), time.monotonic()
    future = queue.submit(CAT)
    record = queue.get(CAT.key)
    assert before + 86400 <= record.created_at == record.run_at <= time.time() + 86400
    assert queue.metrics.snapshot().oldest_queued_age_s < 3600
    queue.resume()
    future.result(LONG)
    snapshot = queue.metrics.snapshot()
    assert snapshot.latency_mean_s <= time.monotonic() - began < 3600
    assert time.time() < before + 3600


def test_retention_follows(open_queue):
    """Successes that have become old are forgotten, although nothing else happens."""
    queue = open_queue(settings=settings(retain_for=3600.0))
    queue.submit(CAT).result(LONG)
    clock.advance(1000)
    until(lambda: queue._ledger.commits._tidy_at == math.inf)  # nothing is left to be done
    assert queue.get(CAT.key).status is Status.SUCCESS
    clock.advance(3600)
    until(lambda: queue.get(CAT.key) is None)


def settings(**knobs):
    from taskqueue_core import QueueSettings

    return QueueSettings(durability="process", **knobs)


def test_a_queue_that_is_opened_later_follows_too(open_queue):
    """The clock is the process's, not a queue's."""
    queue = open_queue(Work({"cat.jpg": [TransientError("later")]}), retry=NEVER)
    queue.submit(CAT)
    assert queue.wait_idle(LONG)
    queue.close(LONG, drain=False)
    clock.advance(1001)
    again = open_queue()
    assert again.submit(CAT).result(LONG) == {}


def test_it_only_goes_forward_and_can_be_put_right():
    """By as much as it was moved in all."""
    clock.advance(10)
    clock.advance(5.5)
    assert clock.shift() == 15.5
    for wrong in (-1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="the clock only goes forward"):
            clock.advance(wrong)
    clock.put_right()
    assert clock.shift() == 0.0
    assert clock.now() - time.time() < 3600
