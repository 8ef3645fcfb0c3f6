"""TaskQueue: a bounded queue.Queue and a ThreadPoolExecutor over a ledger.

One task's way: submit -> is the key known? -> a place -> Ledger.insert -> queue.Queue -> worker: Ledger.claim
-> processor -> RetryPolicy -> Ledger.succeed, retry or fail -> the future has its result. The first half is
admission.py, the second attempts.py; tasks that wait in the ledger only come in through feeder.py.
"""

from __future__ import annotations

import os
import queue
import random
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, overload

from taskqueue_core.admission import Admission, draft
from taskqueue_core.attempts import Attempts
from taskqueue_core.database import DeadLetter
from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import QueueClosedError, TaskQueueError
from taskqueue_core.feeder import Feeder
from taskqueue_core.inflight import Call, Entry, InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import log_event, logger
from taskqueue_core.metrics import Metrics
from taskqueue_core.places import Places
from taskqueue_core.processor import ProcessorLike
from taskqueue_core.retry import RetryPolicy
from taskqueue_core.settings import QueueSettings, combine
from taskqueue_core.task import JSON, Status, Task, TaskRecord

LINGER = 0.1
"""Seconds for which an idle worker stays at the queue before it goes back to the executor."""
GRACE = 0.8
"""Seconds past its deadline that `close` grants to what takes milliseconds: a claim or a row just being written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """How a queue was closed.

    drained    every task was finished
    waiting    tasks left queued in the ledger, for the next time it is opened
    stuck      keys of the tasks that were still running at the deadline; they are queued again, the attempt
               does not count, and their late results are refused
    elapsed_s  seconds that closing took
    """

    drained: bool
    waiting: int
    stuck: tuple[str, ...]
    elapsed_s: float


class TaskQueue:
    """A durable, bounded task queue: what `submit` returned for is on disk, and runs at least once.

        with TaskQueue(processor, ledger="tasks.db") as queue:
            future = queue.submit(Task(image_key="cat.jpg", variant="200x200"))
            value = future.result(timeout=10)

    `processor` is any callable of one Task (see ProcessorLike). `ledger` is the path of the SQLite file, made if
    missing, or ":memory:", which keeps nothing. The other knobs are those of QueueSettings: give them one by one,
    or all of them as `settings`. Raises LedgerInUseError when another queue owns the ledger, LedgerError when the
    file is no ledger, ValueError or TypeError for a bad knob.

    Leaving the `with` block waits up to 30 s for all tasks when no error is on its way, else only for those that
    are running. A queue that was never closed loses nothing: its waiting tasks are in the ledger.
    """

    def __init__(
        self,
        processor: ProcessorLike,
        *,
        ledger: str | os.PathLike[str],
        durability: str = "power",
        max_workers: int = 8,
        queue_size: int = 200,
        overflow: str = "block",
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
        task_timeout: float | None = None,
        settings: QueueSettings | None = None,
    ) -> None:
        if not callable(processor):
            raise TypeError(f"processor must be a callable of one Task, got {processor!r}")
        self.settings = combine(
            settings,
            durability=durability,
            max_workers=max_workers,
            queue_size=queue_size,
            overflow=overflow,
            retry=retry,
            task_timeout=task_timeout,
        )
        self._ledger = Ledger(ledger, durability=self.settings.durability)
        self._start(processor)

    def _start(self, processor: ProcessorLike) -> None:
        settings = self.settings
        self.metrics = Metrics(settings.max_workers)
        self._inflight = InFlight()
        self._places = Places(settings.queue_size)
        # Tasks are bounded by the places; the room beyond is for the tokens with which close() wakes the workers.
        self._waiting: queue.Queue[Entry | None] = queue.Queue(settings.queue_size + settings.max_workers)
        self._executor = ThreadPoolExecutor(settings.max_workers, thread_name_prefix="taskqueue-worker")
        self._lock = threading.Lock()  # guards the five fields below
        self._left = threading.Condition(self._lock)  # told when a worker has signed off
        self._active = 0
        self._stopping = False
        self._worker_ids: set[int] = set()
        self._report: CloseReport | None = None
        self._depth = threading.Lock()  # between reading the depth and noting it, so that the last note is the newest
        self._closing = threading.Lock()  # held by the one thread that closes
        self._feeder = Feeder(
            ledger=self._ledger,
            inflight=self._inflight,
            places=self._places,
            retrying_limit=settings.retrying_limit,
            batch=settings.queue_size,
            enqueue=self._enqueue,
        )
        self._admission = Admission(
            ledger=self._ledger,
            inflight=self._inflight,
            places=self._places,
            metrics=self.metrics,
            settings=settings,
            enqueue=self._enqueue,
            wake_feeder=self._feeder.wake,
        )
        self._attempts = Attempts(
            processor,
            ledger=self._ledger,
            inflight=self._inflight,
            feeder=self._feeder,
            metrics=self.metrics,
            settings=settings,
            rng=random.Random(),
        )
        self._threads = [threading.Thread(target=self._feeder.run, name="taskqueue-feeder", daemon=True)]
        if (timeouts := self._attempts.timeouts) is not None:
            self._threads.append(threading.Thread(target=timeouts.run, name="taskqueue-timeouts", daemon=True))
        try:
            self._attempts.recover()
            for thread in self._threads:
                thread.start()
        except BaseException:
            self._ledger.close()
            raise

    # The producers' side

    def submit(self, task: Task, *, timeout: float | None = None) -> Future[JSON]:
        """Accept a task; it is on disk when this returns. The future gets the value of its processor.

        A task whose key is known is not run again: the future gets the first one's result, at once when it has
        finished. A failed task's key answers with its TaskFailedError until it is brought back by `replay`.
        `timeout` is the longest wait for a place, in seconds (None: no limit; under overflow="reject" there is
        no wait).

        Raises QueueFullError, QueueClosedError, KeyConflictError (the key stands for other work), TypeError or
        ValueError (params are no JSON object), LedgerError (the outcome is unknown; submitting again is safe).
        """
        future: Future[JSON] = Future()
        call = Call(draft(task), future)
        self._admission.admit([call], timeout)
        if call.refused is not None:
            raise call.refused
        return future

    @overload
    def submit_many(
        self, tasks: Iterable[Task], *, timeout: float | None = None, futures: Literal[True] = True
    ) -> list[Future[JSON]]: ...
    @overload
    def submit_many(self, tasks: Iterable[Task], *, timeout: float | None = None, futures: Literal[False]) -> int: ...
    def submit_many(
        self, tasks: Iterable[Task], *, timeout: float | None = None, futures: bool = True
    ) -> list[Future[JSON]] | int:
        """Accept many tasks, as many in a transaction as places are free; the futures in the same order.

        With `futures=False` the number of tasks accepted (duplicates count). A task whose key stands for other
        work does not keep its neighbours out: its future gets the KeyConflictError; without futures the error is
        raised after the others were accepted. Under overflow="reject" either all new tasks find a place or none
        is accepted; with overflow="block" a QueueFullError after `timeout` seconds may leave a part accepted, and
        submitting all of them again is safe. Otherwise raises what `submit` raises.
        """
        calls = [Call(draft(task), Future() if futures else None) for task in tasks]
        self._admission.admit(calls, timeout)
        refused = [call for call in calls if call.refused is not None]
        if not futures:
            if refused and refused[0].refused is not None:
                raise refused[0].refused
            return len(calls)
        for call in refused:
            if call.future is not None:
                call.future.set_exception(call.refused)
        return [call.future for call in calls if call.future is not None]

    def replay(self, key: str) -> Future[JSON]:
        """Bring a dead letter back: the failed task is queued again with all its attempts, under the same key.

        Raises TaskQueueError when the key is unknown or its task has not failed.
        """
        record = self._open_ledger().get(key)
        if record is None or record.status is not Status.FAILED:
            state = "unknown" if record is None else f"that of a task in state {record.status.value!r}"
            raise TaskQueueError(f"cannot replay {key!r}: only a failed task can be replayed, this key is {state}")
        self._inflight.wait_left(record)
        moved = self._ledger.replay(record)
        if moved is not None:
            log_event("replayed", moved)
        return self.submit(record.task)

    # What is there

    def get(self, key: str) -> TaskRecord | None:
        """The task of an idempotency key (`Task.key`), or None."""
        return self._open_ledger().get(key)

    def records(self, status: Status | None = None) -> list[TaskRecord]:
        """All tasks, or those in one state, in the order of their submission."""
        return self._open_ledger().records(status)

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, replayed ones too, oldest first."""
        return self._open_ledger().dead_letters()

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the ledger, also of one in memory, as a SQLite file of its own; it replaces `path`."""
        self._open_ledger().export(path)

    def _open_ledger(self) -> Ledger:
        if self._report is not None:
            raise QueueClosedError("the queue is closed: open its ledger again to read it, or use `taskqueue status`")
        return self._ledger

    # The end

    def join(self, timeout: float | None = None) -> bool:
        """Wait until no task is queued or running, retry-waiting and recovered ones included; False after
        `timeout` seconds. Raises QueueClosedError when the queue is closed before, TaskQueueError when called by
        a processor, which would wait for itself.
        """
        self._refuse_in_worker("join")
        return self._inflight.wait_done(self._ledger.unfinished, Deadline(timeout))

    def close(self, timeout: float = 30.0, *, drain: bool = True) -> CloseReport:
        """Close the queue within `timeout` seconds (+ 1) and tell how. Called again, it returns the same report.

        With `drain` it first waits until all tasks are finished; without, only for those that are running. What
        is unfinished at the deadline goes back to queued without using an attempt; futures that are left open
        get QueueClosedError. A thread that is stuck in a processor cannot be ended: Python itself then waits for
        it at exit, as with any ThreadPoolExecutor. Raises TaskQueueError when called by a processor, or when
        another close() needs longer than `timeout`.
        """
        self._refuse_in_worker("close")
        deadline = Deadline(timeout)
        left = deadline.later(GRACE).remaining()
        if not self._closing.acquire(timeout=-1 if left is None else left):
            raise TaskQueueError(f"another close() of this queue was not done within {timeout} s")
        try:
            if self._report is None:
                self._report = self._close(deadline, drain)
            return self._report
        finally:
            self._closing.release()

    def _close(self, deadline: Deadline, drain: bool) -> CloseReport:
        """First nobody comes in, then the work ends, then the futures, the ledger last; whatever goes wrong."""
        started = time.monotonic()
        self._places.close_to_submits()
        stuck, waiting, drained = list[str](), -1, False
        try:
            if drain:
                self.join(deadline.remaining())
        finally:
            try:
                stuck = self._stop_workers(deadline)
                counts = self._ledger.counts()
                waiting = counts[Status.QUEUED]
                drained = waiting == counts[Status.RUNNING] == 0
            finally:
                self._executor.shutdown(wait=False)
                self._inflight.close(drained=drained)
                self._ledger.close()
        elapsed = time.monotonic() - started
        return CloseReport(drained=drained, waiting=waiting, stuck=tuple(stuck), elapsed_s=elapsed)

    def _stop_workers(self, deadline: Deadline) -> list[str]:
        """End the feeder and the workers; the keys of the tasks that were released because they did not end."""
        final = deadline.later(GRACE)
        self._feeder.close()
        self._places.close()
        self._attempts.close()
        with self._lock:
            self._stopping = True
            idle = self._active
        for _ in range(idle):
            self._waiting.put_nowait(None)  # wakes a worker that lingers at the queue
        self._inflight.wait_arrivals(final)
        released = [] if self._inflight.wait_workers(deadline) else self._attempts.release_running(final)
        stuck = [record.idempotency_key for record in released] + self._inflight.stuck()
        with self._lock:  # a worker may be busy in the callback of a future, too: never wait without a limit
            all_left = not stuck and self._left.wait_for(lambda: self._active <= 0, final.remaining())
        self._executor.shutdown(wait=all_left)
        for thread in self._threads:
            thread.join(final.remaining())
        return stuck

    def _refuse_in_worker(self, name: str) -> None:
        self._ledger.refuse_after_fork()
        with self._lock:  # a future's callback may run in the thread of the timeouts, too
            inside = threading.get_ident() in self._worker_ids or threading.current_thread() in self._threads
        if inside:
            raise TaskQueueError(f"{name}() was called by a processor of this queue: it would wait for itself")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)

    # The workers

    def _enqueue(self, entry: Entry) -> None:
        """Hand a task that holds a place to the workers, and see that one is at work. Never fails: its row stands."""
        self._waiting.put_nowait(entry)
        self._note_depth()
        with self._lock:
            if self._active >= self.settings.max_workers or self._stopping:
                return
            self._active += 1
        try:
            self._executor.submit(self._work)
        except BaseException as error:
            with self._lock:
                self._active -= 1
            if not isinstance(error, RuntimeError):
                raise
            if "shutdown" in str(error):  # the interpreter ends; the row is on disk, and nobody waits for a worker
                self._places.close_to_submits()

    def _work(self) -> None:
        """A worker: task after task until none comes for a while.

        It then goes back to the executor, which can end it; a worker that waited here for ever would keep a
        program that forgot `close` from exiting.
        """
        with self._lock:
            self._worker_ids.add(threading.get_ident())
        while (entry := self._next()) is not None:
            try:
                self._attempts.run(entry)
            except BaseException:  # noqa: BLE001 - a worker never dies of one task
                logger.exception("a worker met an error of its own at %r", entry.draft.key)

    def _next(self) -> Entry | None:
        """The next task, its place given back; None when the worker may go."""
        while not self._stopping:
            try:
                entry = self._waiting.get(timeout=LINGER)
            except queue.Empty:
                if self._may_leave():
                    return None
                continue
            if entry is not None and self._taken():
                return entry
        self._may_leave()
        return None

    def _note_depth(self) -> None:
        with self._depth:
            self.metrics.depth(self._waiting.qsize())

    def _taken(self) -> bool:
        """Give the place back; False when the queue is stopping and the task stays queued in the ledger."""
        self._places.give()
        self._note_depth()
        return not self._stopping

    def _may_leave(self) -> bool:
        """Sign off, unless a task came in the meantime: `_enqueue` counts the workers under the same lock."""
        with self._lock:
            if not self._stopping and not self._waiting.empty():
                return False
            self._active -= 1
            self._worker_ids.discard(threading.get_ident())
            self._left.notify_all()
            return True
