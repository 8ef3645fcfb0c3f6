"""cancel(): a caller gives up his claim to a result, and the last one takes the task along."""

import asyncio
import contextlib
import sqlite3
import threading
from concurrent.futures import CancelledError, wait
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Pause, Work, at_once, balance, nothing_held, sql, tasks, threads, until, wait_looks

from taskqueue_core import QueueClosedError, QueueSettings, Status, Task, TransientError

CAT = Task("cat.jpg", params={"n": 1})
OTHER = Task("cat.jpg", params={"n": 2})  # the same key, other work

ROW = "SELECT status, error FROM tasks WHERE image_key = 'cat.jpg'"
LETTERS = "SELECT reason, error, replayed_at IS NULL FROM dead_letters ORDER BY id"
CANCELLED = ("failed", "cancelled")


@pytest.fixture
def busy(open_queue):
    """A queue whose only worker is busy, and its processor."""

    def make(**knobs):
        work = Work(hold=True)
        queue = open_queue(work, max_workers=1, **knobs)
        queue.submit(Task("busy"))
        work.wait_started()
        return queue, work

    return make


def test_a_waiting_task_is_cancelled_and_that_is_committed_before_true(busy, path):
    """T8: failed, with a dead letter that says why; its place is free, and it never runs."""
    queue, work = busy()
    future = queue.submit(CAT)
    assert future.cancel() is True
    assert sql(path, ROW) == [CANCELLED]
    assert sql(path, LETTERS) == [("cancelled", "cancelled", 1)]
    assert queue._places._free == 200
    assert (future.cancelled(), future.done()) == (True, True)
    with pytest.raises(CancelledError):
        future.result(0)
    work.release()
    assert queue.join(LONG)
    assert work.calls == ["busy"]
    assert queue.metrics.snapshot().cancelled == 1
    assert nothing_held(queue)
    queue.close()
    assert balance(path, 2)[Status.FAILED] == 1


def test_the_place_of_a_cancelled_task_is_the_next_ones(busy):
    """A submit that waits for a place gets in."""
    queue, work = busy(queue_size=1)
    future = queue.submit(CAT)
    with threads(1) as pool:
        submitting = pool.submit(queue.submit, Task("next"))
        until(lambda: queue._places._for_submits._waiters)
        assert future.cancel()
        following = submitting.result(LONG)
    work.release()
    assert following.result(LONG) == {}
    assert work.calls == ["busy", "next"]


def test_a_task_that_waits_for_its_retry_is_cancelled(open_queue, path):
    """It is a row with a later time; nobody comes back for it."""
    queue = open_queue(Work({"cat.jpg": [TransientError("later")]}), retry=NEVER)
    future = queue.submit(CAT)
    until(lambda: queue._inflight.retrying() == 1)
    assert not queue.join(0)
    assert future.cancel()
    assert sql(path, ROW) == [CANCELLED]
    assert queue._inflight.retrying() == 0
    assert queue.join(LONG)
    assert queue.get(CAT.key).retries == 1
    assert queue.submit(OTHER).result(LONG) == {"n": 2}


def test_a_cancelled_retry_lets_submits_in_again(open_queue):
    """Too many tasks that wait for a retry hold them back; one that is cancelled waits no more."""
    settings = QueueSettings(durability="process", retry=NEVER, max_retrying=1)
    queue = open_queue(Work({f"t{n}": [TransientError("later")] for n in range(2)}), settings=settings)
    futures = queue.submit_many(tasks(2))
    until(lambda: queue._places._held_back)
    with threads(1) as pool:
        submitting = pool.submit(queue.submit, CAT)
        until(lambda: queue._places._for_submits._waiters)
        assert futures[0].cancel()
        assert submitting.result(LONG).result(LONG) == {"n": 1}


def test_a_running_task_runs_on(open_queue, path):
    """Its caller is rid of it, and the result is recorded all the same."""
    work = Work(hold=True)
    queue = open_queue(work)
    future = queue.submit(CAT)
    work.wait_started()
    assert future.cancel() is True
    assert future.cancelled()
    assert sql(path, ROW) == [("running", None)]
    work.release()
    assert queue.join(LONG)
    assert queue.get(CAT.key).status is Status.SUCCESS
    assert queue.dead_letters() == []
    assert queue.submit(CAT).result(0) == {"n": 1}
    assert queue.metrics.snapshot().cancelled == 0


def test_a_claimed_task_runs_although_no_worker_has_begun_it(open_queue):
    """A claim is not taken back."""
    queue = open_queue(max_workers=1)
    pause = Pause(queue._workers, "_run")
    future = queue.submit(CAT)
    pause.wait_reached()
    assert future.cancel() is True
    pause.go.set()
    assert queue.join(LONG)
    assert queue.get(CAT.key).status is Status.SUCCESS


def test_the_last_of_several_callers_cancels_the_task(busy, path):
    """Each of the others only leaves."""
    queue, _ = busy()
    futures = [queue.submit(CAT) for _ in range(3)]
    for future in (futures[1], futures[0]):
        assert future.cancel() is True
        assert future.cancelled()
        assert sql(path, ROW) == [("queued", None)]
    assert not futures[2].done()
    assert futures[2].cancel() is True
    assert sql(path, ROW) == [CANCELLED]


def test_who_stays_gets_the_result(busy):
    """The others have cancelled, the first caller among them."""
    queue, work = busy()
    futures = [queue.submit(CAT) for _ in range(3)]
    assert futures[0].cancel()
    assert futures[2].cancel()
    work.release()
    assert futures[1].result(LONG) == {"n": 1}
    for future in (futures[0], futures[2]):
        with pytest.raises(CancelledError):
            future.result(0)


@pytest.mark.parametrize("first", ["anonymous", "future"])
def test_a_caller_without_a_future_wants_the_task_done(busy, first):
    """He can never cancel, so whoever beside him does only leaves."""
    queue, work = busy()
    if first == "anonymous":
        queue.submit_many([CAT], futures=False)
        future = queue.submit(CAT)
    else:
        future = queue.submit(CAT)
        queue.submit_many([CAT], futures=False)
    assert future.cancel() is True
    assert queue.get(CAT.key).status is Status.QUEUED
    work.release()
    assert queue.join(LONG)
    assert queue.get(CAT.key).value == {"n": 1}


@pytest.mark.parametrize("reopened", [False, True])
@pytest.mark.parametrize("again", [CAT, OTHER], ids=["same", "other"])
def test_the_key_is_free_again(busy, open_queue, path, again, reopened):
    """For the same work and for other work, here and in the next process; the old letter is marked."""
    queue, work = busy()
    assert queue.submit(CAT).cancel()
    if reopened:
        work.release()
        queue.close()
        queue = open_queue()
    future = queue.submit(again)
    assert sql(path, LETTERS) == [("cancelled", "cancelled", 0)]
    work.release()
    assert future.result(LONG) == dict(again.params)
    record = queue.get(CAT.key)
    assert (record.status, record.params, record.retries, record.attempt) == ("success", dict(again.params), 0, 1)
    assert queue.submit(again).result(LONG) == dict(again.params)
    queue.close()
    assert balance(path, 2)[Status.SUCCESS] == 2


def test_a_key_may_be_cancelled_again_and_again(busy, path):
    """Each time it gets a letter; the task that was wanted in the end is done."""
    queue, work = busy()
    for n in range(5):
        assert queue.submit(Task("cat.jpg", params={"n": n})).cancel()
    future = queue.submit(OTHER)
    work.release()
    assert future.result(LONG) == {"n": 2}
    assert sql(path, LETTERS) == [("cancelled", "cancelled", 0)] * 5
    assert work.calls == ["busy", "cat.jpg"]


def test_a_batch_may_bring_cancelled_keys_back_beside_new_ones(busy):
    """In one transaction."""
    queue, work = busy()
    futures = queue.submit_many(tasks(4))
    assert futures[1].cancel()
    assert futures[3].cancel()
    again = queue.submit_many(tasks(8))
    work.release()
    assert [future.result(LONG) for future in again] == [{"n": n} for n in range(8)]
    assert sorted(work.calls) == ["busy", *(f"t{n}" for n in range(8))]


def test_a_cancelled_task_can_be_replayed(busy):
    """It is a dead letter like the others."""
    queue, work = busy()
    assert queue.submit(CAT).cancel()
    future = queue.replay(CAT.key)
    work.release()
    assert future.result(LONG) == {"n": 1}


@pytest.mark.parametrize("waiting", ["place", "retry"])
def test_a_cancel_that_the_ledger_does_not_take_is_refused(open_queue, path, monkeypatch, caplog, waiting):
    """False: the caller still has his claim, and gets the result."""
    monkeypatch.setattr("taskqueue_core.commits.PAUSE", 0.01)
    work = Work({"cat.jpg": [TransientError("later", retry_after=0.2)]} if waiting == "retry" else {}, hold=True)
    queue = open_queue(work, max_workers=1)
    if waiting == "place":
        queue.submit(Task("busy"))
        work.wait_started()
    future = queue.submit(CAT)
    if waiting == "retry":
        work.release()
        until(queue._inflight.retrying)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'not now'); END")
        assert future.cancel() is False
        assert (future.cancelled(), future.done()) == (False, False)
        assert sql(path, ROW)[0][0] == "queued"
        database.execute("DROP TRIGGER no")
    assert "could not be cancelled" in caplog.text
    work.release()
    assert future.result(LONG) == {"n": 1}
    assert queue.join(LONG)
    assert nothing_held(queue)


@pytest.mark.parametrize("outcome", ["done", PermissionError("no")], ids=["success", "failure"])
def test_what_has_a_result_cannot_be_cancelled(open_queue, outcome):
    """False, and the result stays."""
    queue = open_queue(Work({"cat.jpg": [outcome]}))
    future = queue.submit(CAT)
    wait([future], LONG)
    before = queue.get(CAT.key)
    assert future.cancel() is False
    assert not future.cancelled()
    assert (future.exception() is None) == (outcome == "done")
    assert queue.get(CAT.key) == before


def test_cancelling_twice_is_cancelling_once(busy, path):
    """True both times, as with any Future."""
    queue, _ = busy()
    future = queue.submit(CAT)
    assert future.cancel() is True
    assert future.cancel() is True
    assert len(sql(path, LETTERS)) == 1


def test_a_second_cancel_beside_the_first_is_not_done_before_it(busy, path):
    """Two threads cancel one future: neither hears True before the ledger has it."""
    queue, _ = busy()
    future = queue.submit(CAT)
    pause = Pause(queue._ledger, "cancel")
    answers = []

    def cancel():
        answer = future.cancel()
        answers.append((answer, sql(path, ROW)))

    with threads(2) as pool:
        first = pool.submit(cancel)
        pause.wait_reached()
        second = pool.submit(cancel)
        assert not wait([second], 0.05).done
        pause.go.set()
        wait([first, second], LONG)
    assert answers == [(True, [CANCELLED])] * 2


def test_cancelling_from_many_threads_is_one_letter(busy, path):
    """Eight callers leave at once: the task is cancelled, once."""
    queue, _ = busy()
    futures = [queue.submit(CAT) for _ in range(8)]
    assert at_once(lambda n: futures[n].cancel(), 8) == [True] * 8
    assert sql(path, ROW) == [CANCELLED]
    assert sql(path, LETTERS) == [("cancelled", "cancelled", 1)]


def test_a_submit_of_a_key_that_is_just_being_cancelled_waits_for_the_outcome(busy):
    """It is a new task then; it does not attach to one that goes."""
    queue, work = busy()
    future = queue.submit(CAT)
    pause = Pause(queue._ledger, "cancel")
    with threads(2) as pool:
        cancelling = pool.submit(future.cancel)
        pause.wait_reached()
        submitting = pool.submit(queue.submit, OTHER)
        until(lambda: queue._inflight._landed._waiters)
        assert not submitting.done()
        pause.go.set()
        assert cancelling.result(LONG) is True
        again = submitting.result(LONG)
    work.release()
    assert again.result(LONG) == {"n": 2}
    assert work.calls == ["busy", "cat.jpg"]


def test_close_waits_for_a_cancel(busy, path):
    """What is being cancelled is cancelled, and not left waiting for the next time."""
    queue, work = busy()
    future = queue.submit(CAT)
    pause = Pause(queue._ledger, "cancel")
    with threads(2) as pool:
        cancelling = pool.submit(future.cancel)
        pause.wait_reached()
        closing_ = pool.submit(queue.close, 5.0, drain=False)
        until(lambda: queue._inflight._landed._waiters)
        pause.go.set()
        assert cancelling.result(LONG) is True
        work.release()
        assert closing_.result(LONG).waiting == 0
    assert sql(path, ROW) == [CANCELLED]


def test_after_close_there_is_nothing_to_cancel(busy, path):
    """The future has its QueueClosedError, and the task waits for the next time."""
    queue, work = busy()
    future = queue.submit(CAT)
    queue._attempts.close = released_with(queue._attempts.close, work)
    queue.close(timeout=5.0, drain=False)
    assert future.cancel() is False
    with pytest.raises(QueueClosedError):
        future.result(0)
    assert sql(path, ROW) == [("queued", None)]


def released_with(close, work):
    def closed():
        close()
        work.release()

    return closed


def test_a_cancel_beside_the_claim_leaves_the_worker_to_the_next_task(open_queue):
    """1. the caller has left, 2. the worker takes the task out to claim it, finds it cancelled, and goes on with the
    next one; 3. the cancel finds nothing to take out.
    """
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue._workers._claims_ahead = lambda: 0  # as where a task takes longer than a commit
    queue.submit(Task("busy"))
    work.wait_started()
    cancelled, following = queue.submit(CAT), queue.submit(Task("next"))
    pause = Pause(queue._workers.waiting, "remove")
    with threads(1) as pool:
        cancelling = pool.submit(cancelled.cancel)
        pause.wait_reached()
        work.release()
        assert following.result(LONG) == {}
        pause.go.set()
        assert cancelling.result(LONG) is True
    assert queue.join(LONG)
    assert work.calls == ["busy", "next"]
    assert nothing_held(queue)


def test_a_claim_beside_the_cancel_wins_when_it_is_first(open_queue, path):
    """The claim is on its way to the ledger: the task runs, its caller is rid of it."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit(Task("busy"))
    work.wait_started()
    future = queue.submit(CAT)
    pause = Pause(queue._ledger.claims, "post")
    work.release()
    pause.wait_reached()
    assert future.cancel() is True
    pause.go.set()
    assert queue.join(LONG)
    assert sql(path, ROW) == [("success", None)]
    assert work.calls == ["busy", "cat.jpg"]
    assert nothing_held(queue)


@pytest.mark.parametrize("again", [CAT, OTHER], ids=["same", "other"])
def test_a_cancel_beside_the_feeder_frees_the_key(open_queue, again):
    """1. the feeder has read that the retry is due, 2. its last caller cancels it, 3. the feeder brings it in, 4. the
    key is submitted again: that is a new task, and gets a result of its own.
    """
    work = Work({"cat.jpg": [TransientError("once")]}, hold=True)
    queue = open_queue(work, max_workers=1)
    queue._workers._claims_ahead = lambda: 0
    pause = Pause(queue._places, "take_first")
    cancelled = queue.submit(CAT)
    work.wait_started()
    work.release()
    pause.wait_reached()
    work._go.clear()
    queue.submit(Task("busy"))
    work.wait_started()
    assert cancelled.cancel() is True
    pause.go.set()
    wait_looks(queue, 1)
    future = queue.submit(again)
    work.release()
    assert future.result(LONG) == dict(again.params)
    assert queue.join(LONG)
    assert nothing_held(queue)


def test_cancels_and_claims_that_race_200_times_agree(open_queue, path):
    """Each task either runs once and is a success, or never runs and is cancelled, and its caller never hangs."""
    work = Work()
    queue = open_queue(work, max_workers=2)
    cancelled = 0
    with threads(1) as pool:
        for n in range(200):
            batch = [Task(f"{n}-{m}") for m in range(5)]
            start = threading.Barrier(2)

            def cancel(futures, start=start, n=n):
                start.wait(LONG)
                return [future.cancel() for future in futures]

            futures = queue.submit_many(batch)
            cancelling = pool.submit(cancel, futures[::-1] if n % 2 else futures)
            start.wait(LONG)
            answers = cancelling.result(LONG)
            for future, answer in zip(futures[::-1] if n % 2 else futures, answers, strict=True):
                assert future.cancelled() == answer
                cancelled += answer
    assert queue.join(LONG)
    assert nothing_held(queue)
    states = dict(sql(path, "SELECT image_key, status FROM tasks"))
    letters = [key for (key,) in sql(path, "SELECT image_key FROM dead_letters WHERE reason = 'cancelled'")]
    assert len(states) == 1000
    assert sorted(work.calls) == sorted(key for key, status in states.items() if status == "success")
    assert sorted(letters) == sorted(key for key, status in states.items() if status == "failed")
    assert len(letters) <= cancelled
    assert queue.submit_many(tasks(20))[-1].result(LONG) == {"n": 19}


def test_asyncio_cancels_the_task(busy, path):
    """wrap_future hands a cancel on."""
    queue, _ = busy()

    async def give_up():
        future = asyncio.wrap_future(queue.submit(CAT))
        future.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await future

    asyncio.run(give_up())
    assert sql(path, ROW) == [CANCELLED]


def test_asyncio_gets_results(open_queue):
    """And a timeout there cancels what still waits."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)

    async def use():
        busy = asyncio.wrap_future(queue.submit(Task("busy")))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(queue.submit(CAT)), 0.01)
        work.release()
        return await asyncio.wait_for(busy, LONG)

    assert asyncio.run(use()) == {}
    assert queue.join(LONG)
    assert work.calls == ["busy"]
