"""Futures: who calls back, in which thread, and when a result is written that somebody waits for."""

import threading
from concurrent.futures import FIRST_COMPLETED, CancelledError, as_completed, wait

import pytest
from helpers import LONG, Pause, Work, tasks, threads, until

from taskqueue_core import PermanentError, QueueClosedError, Task, TaskFailedError, TaskQueueError

CAT = Task("cat.jpg", params={"n": 1})


class Callback:
    """A callback that keeps what it was called with, and waits while `hold` is on."""

    def __init__(self, call=lambda future: None, *, hold=False):
        self._call = call
        self.inside = threading.Event()
        self.go = threading.Event()
        if not hold:
            self.go.set()
        self.futures = []
        self.threads = []
        self.done = threading.Event()

    def __call__(self, future):
        self.futures.append(future)
        self.threads.append(threading.current_thread())
        self.inside.set()
        assert self.go.wait(LONG)
        try:
            return self._call(future)
        finally:
            self.done.set()


@pytest.fixture
def held(open_queue):
    """A queue whose processor waits to be released; the processor."""

    def make(**knobs):
        work = Work(hold=True)
        return open_queue(work, **knobs), work

    return make


# Callbacks


def test_callbacks_run_in_a_thread_of_their_own(held):
    """Neither in the worker, nor in the thread that commits for everybody, nor in that of a caller; in their order."""
    queue, work = held()
    callbacks = [Callback() for _ in range(5)]
    future = queue.submit(CAT)
    for callback in callbacks:
        future.add_done_callback(callback)
    work.release()
    assert all(callback.done.wait(LONG) for callback in callbacks)
    assert {thread.name for callback in callbacks for thread in callback.threads} == {"taskqueue-callbacks"}
    assert all(callback.futures == [future] for callback in callbacks)
    assert future.result(0) == {"n": 1}


def test_a_queue_without_callbacks_has_no_thread_for_them(open_queue):
    """It begins with the first one."""
    queue = open_queue()
    queue.submit(CAT).result(LONG)
    assert queue._callbacks.thread is None


def test_a_callback_of_a_finished_task_is_called_at_once(open_queue):
    """Here, in the thread that adds it, as with any Future."""
    queue = open_queue()
    future = queue.submit(CAT)
    future.result(LONG)
    callback = Callback()
    future.add_done_callback(callback)
    assert callback.threads == [threading.current_thread()]


def test_a_slow_callback_holds_nobody(held):
    """Neither the workers, nor other callers' results, nor submits; only the callbacks behind it."""
    queue, work = held(max_workers=1)
    slow, behind = Callback(hold=True), Callback()
    first = queue.submit(CAT)
    first.add_done_callback(slow)
    work.release()
    assert slow.inside.wait(LONG)
    assert first.result(LONG) == {"n": 1}
    futures = queue.submit_many(tasks(20))
    futures[0].add_done_callback(behind)
    assert [future.result(LONG) for future in futures] == [{"n": n} for n in range(20)]
    assert queue.join(LONG)
    slow.go.set()
    assert behind.done.wait(LONG)


def test_a_callback_may_submit_and_wait_for_the_result(held):
    """All workers are free for it, and so is the one who writes."""
    queue, work = held(max_workers=1, queue_size=1)
    got = []
    callback = Callback(lambda _: got.append(queue.submit(Task("next")).result(LONG)))
    queue.submit(CAT).add_done_callback(callback)
    work.release()
    assert callback.done.wait(LONG)
    assert got == [{}]


def test_a_chain_of_callbacks_that_submit_comes_to_its_end(open_queue):
    """Each result submits the next task, far more often than there are places."""
    done = threading.Event()
    queue = open_queue(max_workers=2, queue_size=1)

    def follow(future):
        n = future.result()["n"] + 1
        if n == 100:
            done.set()
        else:
            queue.submit(Task(f"t{n}", params={"n": n})).add_done_callback(follow)

    queue.submit(Task("t0", params={"n": 0})).add_done_callback(follow)
    assert done.wait(LONG)


@pytest.mark.parametrize("name", ["close", "join"])
def test_a_callback_must_not_wait_for_the_queue(held, name):
    """It gets a TaskQueueError, and the queue goes on: `close` waits for callbacks, and would wait for itself."""
    queue, work = held()
    refused = []

    def call(_):
        try:
            getattr(queue, name)()
        except TaskQueueError as error:
            refused.append(str(error))

    callback = Callback(call)
    queue.submit(CAT).add_done_callback(callback)
    work.release()
    assert callback.done.wait(LONG)
    assert refused
    assert name in refused[0]
    assert queue.submit(Task("next")).result(LONG) == {}


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_callback_that_raises_keeps_nobody_from_his(held, caplog, error):
    """It is logged with its traceback; those behind it are called, of this future and of others."""
    queue, work = held(max_workers=1)

    def fail(_):
        raise error

    futures = [queue.submit(CAT), queue.submit(CAT), queue.submit(Task("next"))]
    callbacks = [Callback(fail), Callback(), Callback(), Callback()]
    futures[0].add_done_callback(callbacks[0])
    for future, callback in zip([futures[0], *futures[1:]], callbacks[1:], strict=True):
        future.add_done_callback(callback)
    work.release()
    assert all(callback.done.wait(LONG) for callback in callbacks)
    assert "a callback of a future failed" in caplog.text
    assert type(error).__name__ in caplog.text
    assert [future.result(LONG) for future in futures] == [{"n": 1}, {"n": 1}, {}]


def test_a_callback_may_want_a_lock_that_a_submitter_holds(held):
    """The submitter waits for a place with the lock in his hand; the workers do not wait for the callback."""
    queue, work = held(max_workers=1, queue_size=1)
    lock = threading.Lock()

    def locked(_):
        with lock:
            pass

    callback = Callback(locked)
    queue.submit(CAT).add_done_callback(callback)
    work.wait_started()
    with lock:
        work.release()
        assert callback.inside.wait(LONG)
        queue.submit_many(tasks(20), futures=False)
        assert queue.submit(Task("last")).result(LONG) == {}
    assert callback.done.wait(LONG)


def test_a_callback_may_take_all_the_time_while_its_own_future_is_told_to_others(held):
    """The result is there for everybody else."""
    queue, work = held()
    first, second = queue.submit(CAT), queue.submit(CAT)
    slow = Callback(hold=True)
    first.add_done_callback(slow)
    work.release()
    assert slow.inside.wait(LONG)
    assert second.result(LONG) == {"n": 1}
    slow.go.set()


def test_the_callback_of_a_cancelled_future_is_called(held):
    """As with any Future; it tells that it was cancelled."""
    queue, work = held(max_workers=1)
    queue.submit(Task("busy"))
    work.wait_started()
    future, callback = queue.submit(CAT), Callback()
    future.add_done_callback(callback)
    assert future.cancel()
    assert callback.done.wait(LONG)
    assert callback.futures[0].cancelled()


def test_the_callback_of_a_failed_task_is_called_with_its_error(open_queue):
    """Not only successes count."""
    work = Work({"cat.jpg": [PermanentError("no")]}, hold=True)
    queue = open_queue(work)
    callback = Callback()
    queue.submit(CAT).add_done_callback(callback)
    work.release()
    assert callback.done.wait(LONG)
    assert isinstance(callback.futures[0].exception(0), TaskFailedError)


# The end of the queue


def test_closing_calls_the_callbacks_that_are_left(held):
    """Of tasks that were finished, and of those that were not: before close returns."""
    queue, work = held(max_workers=1)
    futures = queue.submit_many(tasks(3))
    callbacks = [Callback() for _ in futures]
    for future, callback in zip(futures, callbacks, strict=True):
        future.add_done_callback(callback)
    work.wait_started()
    close = queue._attempts.close

    def release():
        close()
        work.release()

    queue._attempts.close = release
    report = queue.close(timeout=10.0, drain=False)
    assert report.waiting == 2
    assert all(callback.done.is_set() for callback in callbacks)
    assert futures[0].result(0) == {"n": 0}
    assert all(isinstance(future.exception(0), QueueClosedError) for future in futures[1:])


def test_a_callback_added_after_close_is_called_at_once(held):
    """There is nobody else left to do it."""
    queue, _ = held()
    future = queue.submit(CAT)
    queue.close(timeout=0.05, drain=False)
    callback = Callback()
    future.add_done_callback(callback)
    assert callback.threads == [threading.current_thread()]


def test_a_callback_may_still_submit_while_the_queue_closes(held):
    """It is refused, in words, and close comes back."""
    queue, work = held()
    refused = []

    def submit(_):
        try:
            queue.submit(Task("next"))
        except QueueClosedError as error:
            refused.append(error)

    callback = Callback(submit, hold=True)
    queue.submit(CAT).add_done_callback(callback)
    work.release()
    assert callback.inside.wait(LONG)
    with threads(1) as pool:
        closing = pool.submit(queue.close, LONG)
        until(lambda: queue._places._closed_to_submits)
        callback.go.set()
        assert closing.result(LONG).drained
    assert refused


# Waiting


def test_the_standard_ways_to_wait_work(open_queue):
    """wait, as_completed, result and exception, each with and without a limit."""
    work = Work({"t3": [PermanentError("no")]}, hold=True)
    queue = open_queue(work, max_workers=2)
    futures = queue.submit_many(tasks(10))
    with pytest.raises(TimeoutError):
        futures[0].result(timeout=0)
    with pytest.raises(TimeoutError):
        futures[0].exception(timeout=0.01)
    assert wait(futures, timeout=0).done == set()
    with pytest.raises(TimeoutError):
        next(as_completed(futures, timeout=0))
    with threads(1) as pool:
        first = pool.submit(wait, futures, LONG, FIRST_COMPLETED)
        every = pool.submit(lambda: set(as_completed(futures, LONG)))
        work.release()
        assert first.result(LONG).done
        assert every.result(LONG) == set(futures)
    assert wait(futures, LONG).not_done == set()
    assert [future.exception(0) is None for future in futures] == [n != 3 for n in range(10)]
    assert not any(future.running() or future.cancelled() for future in futures)


def test_waiting_for_a_cancelled_future_is_over_at_once(held):
    """wait counts it as done, result and exception raise CancelledError."""
    queue, work = held(max_workers=1)
    queue.submit(Task("busy"))
    work.wait_started()
    future = queue.submit(CAT)
    with threads(2) as pool:
        waiting, getting = pool.submit(wait, [future], LONG), pool.submit(future.result, LONG)
        until(lambda: len(future._waiters) == 1 and future.awaited)
        assert future.cancel()
        assert waiting.result(LONG).done == {future}
        assert isinstance(getting.exception(LONG), CancelledError)
    with pytest.raises(CancelledError):
        future.exception(0)


# Written at once


@pytest.fixture
def alone(monkeypatch):
    """Take the commit thread away: what is written, somebody else writes."""

    def take(queue):
        monkeypatch.setattr(queue._ledger.commits, "_wake_thread", lambda: None)
        monkeypatch.setattr(queue._ledger.commits, "help", lambda: False)  # others have the real one already

    yield take
    monkeypatch.undo()


@pytest.mark.parametrize("name", ["result", "exception"])
def test_an_awaited_result_is_written_by_the_worker_that_has_it(held, alone, name):
    """Nobody else need come by."""
    queue, work = held(max_workers=1)
    future = queue.submit(CAT)
    work.wait_started()
    alone(queue)
    with threads(1) as pool:
        waiting = pool.submit(getattr(future, name), LONG)
        until(lambda: future.awaited)
        work.release()
        assert waiting.result(LONG) == ({"n": 1} if name == "result" else None)


def test_a_result_that_was_left_behind_is_written_by_the_first_who_asks(held, alone):
    """The worker has gone on; nobody waited then."""
    queue, work = held(max_workers=1)
    future = queue.submit(CAT)
    work.wait_started()
    alone(queue)
    work.release()
    until(lambda: queue._ledger.successes.items)
    assert not future.done()
    with threads(1) as pool:
        assert pool.submit(future.result, LONG).result(LONG) == {"n": 1}


def test_a_callback_is_somebody_who_waits(held, alone):
    """Its result is written at once, too."""
    queue, work = held(max_workers=1)
    future, callback = queue.submit(CAT), Callback()
    work.wait_started()
    alone(queue)
    future.add_done_callback(callback)
    work.release()
    assert callback.done.wait(LONG)


def test_a_result_that_nobody_waits_for_comes_all_the_same(held):
    """wait() and done() do not ask for it, and need not."""
    queue, work = held(max_workers=1)
    futures = [queue.submit(CAT), queue.submit(Task("next"))]
    work.release()
    assert wait(futures[:1], LONG).not_done == set()
    until(futures[1].done)
    assert not any(future.awaited for future in futures)


def test_a_result_beside_the_one_who_asks_is_not_lost(held):
    """The worker leaves its result between the look whether it is done and the wait for it."""
    queue, work = held(max_workers=1)
    future = queue.submit(CAT)
    work.wait_started()
    pause = Pause(future, "_hurry")
    with threads(1) as pool:
        waiting = pool.submit(future.result, LONG)
        pause.wait_reached()
        work.release()
        until(lambda: queue._workers._in_hand == 0)
        pause.go.set()
        assert waiting.result(LONG) == {"n": 1}
