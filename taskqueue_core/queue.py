"""TaskQueue: a bounded queue.Queue and a ThreadPoolExecutor over a ledger.

One task's way: submit -> is the key known? -> a place -> Ledger.admit (claimed with it, if a worker is free) ->
queue.Queue -> Ledger.claims -> worker: processor -> RetryPolicy -> Ledger.successes, retry or fail -> the future has
its result. The first half is admission.py, then workers.py and attempts.py; tasks that wait in the ledger only come
in through feeder.py.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, overload

from taskqueue_core import watch
from taskqueue_core.admission import Admission, draft, refuse_on_a_full_stack
from taskqueue_core.attempts import Attempts
from taskqueue_core.cancellation import Cancellation
from taskqueue_core.closing import CloseReport, Closing
from taskqueue_core.database import DeadLetter, LedgerView
from taskqueue_core.deadline import Deadline
from taskqueue_core.entries import Call
from taskqueue_core.errors import LedgerError, QueueClosedError, TaskQueueError
from taskqueue_core.feeder import Feeder
from taskqueue_core.futures import Callbacks, TaskFuture
from taskqueue_core.idle import wait_idle
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import log_event
from taskqueue_core.metrics import Metrics
from taskqueue_core.places import Places
from taskqueue_core.processor import ProcessorLike
from taskqueue_core.retry import RetryPolicy
from taskqueue_core.settings import QueueSettings, combine
from taskqueue_core.task import JSON, Status, Task, TaskRecord
from taskqueue_core.workers import UNLIMITED, Workers


class TaskQueue:
    """A durable, bounded task queue: what `submit` returned for is on disk, and runs at least once.

        with TaskQueue(processor, ledger="tasks.db") as queue:
            future = queue.submit(Task(image_key="cat.jpg", variant="200x200"))
            value = future.result(timeout=10)

    `processor` is any callable of one Task (see ProcessorLike). `ledger` is the path of the SQLite file, made if
    missing, or ":memory:", which keeps nothing. The other knobs are those of QueueSettings: give them one by one,
    or all of them as `settings`. With `paused` no task is begun before `resume`. Raises LedgerInUseError when another
    queue owns the ledger, LedgerError when the file is no ledger, ValueError or TypeError for a bad knob.

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
        paused: bool = False,
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
        self._start(processor, paused)

    def _start(self, processor: ProcessorLike, paused: bool) -> None:
        settings, ledger = self.settings, self._ledger
        self.metrics = Metrics(settings.max_workers)
        self._inflight = InFlight()
        self._callbacks = Callbacks(lambda record: watch.seen(ledger.file, [record]))
        self._places = Places(settings.queue_size, self.metrics.depth)
        self._feeder = Feeder(
            ledger=ledger,
            inflight=self._inflight,
            places=self._places,
            retrying_limit=settings.retrying_limit,
            batch=settings.queue_size,
            enqueue=lambda entries: self._workers.enqueue(entries),  # noqa: PLW0108 - they are made below
        )
        self._attempts = Attempts(
            processor,
            ledger=ledger,
            inflight=self._inflight,
            places=self._places,
            feeder=self._feeder,
            metrics=self.metrics,
            settings=settings,
            rng=random.Random(),
        )
        commits, writer = ledger.commits, ledger.writer
        writer.observe = self.metrics.committed
        self._workers = self._attempts.workers = Workers(
            size=settings.max_workers,
            places=settings.queue_size,
            metrics=self.metrics,
            claim=self._attempts.claim,
            run=self._attempts.run,
            taken=self._places.vacate,
            help=commits.help,
            nudge=commits.nudge,
            halted=lambda: commits.troubled or self._inflight.all_stuck(settings.max_workers),
            busy=lambda: commits.busy,
            ended=lambda: self._closing.interpreter_ended(),  # noqa: PLW0108 - it is made below
            commit_seconds=lambda: writer.seconds,
        )
        commits.delay = self._workers.commit_delay
        self.metrics.oldest = self._workers.waiting.oldest_age
        if paused:
            self._workers.allow(0)
        self._make_doors()
        self._start_threads()

    def _make_doors(self) -> None:
        """The ways in and out."""
        self._admission = Admission(
            ledger=self._ledger,
            inflight=self._inflight,
            places=self._places,
            metrics=self.metrics,
            settings=self.settings,
            workers=self._workers,
            feeder=self._feeder,
        )
        self._cancellation = Cancellation(
            ledger=self._ledger,
            inflight=self._inflight,
            places=self._places,
            workers=self._workers,
            feeder=self._feeder,
            metrics=self.metrics,
        )
        self._closing = Closing(
            ledger=self._ledger,
            inflight=self._inflight,
            places=self._places,
            feeder=self._feeder,
            attempts=self._attempts,
            workers=self._workers,
            callbacks=self._callbacks,
            purge_old=self._purge_old,
        )

    def _start_threads(self) -> None:
        commits, timeouts = self._ledger.commits, self._attempts.timeouts
        self._commit_thread = threading.Thread(
            target=commits.run, args=(self._tidy, self._claim_again), name="taskqueue-commits", daemon=True
        )
        self._threads = [threading.Thread(target=self._feeder.run, name="taskqueue-feeder", daemon=True)]
        if timeouts is not None:
            self._threads.append(threading.Thread(target=timeouts.run, name="taskqueue-timeouts", daemon=True))
        try:
            self._attempts.recover()
            for thread in (self._commit_thread, *self._threads):
                thread.start()
        except BaseException:
            self._ledger.close()
            raise
        self._closing.threads, self._closing.commit_thread = self._threads, self._commit_thread
        self._closing.closed = lambda: watch.closed(self)
        watch.opened(self)

    def _tidy(self) -> None:
        """Keep the ledger small."""
        self._purge_old(Deadline(None))
        self._ledger.tidy()

    def _purge_old(self, deadline: Deadline) -> None:
        retain, retain_for = self.settings.retain, self.settings.retain_for
        while not deadline.passed and not self.closed and self._ledger.purge_old(retain, retain_for):
            pass

    def _claim_again(self) -> None:
        """After a pause, or trouble with the ledger: claim what waits."""
        self._workers.pump()
        self._feeder.wake()

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
        refuse_on_a_full_stack()
        call = self._call(task)
        self._admission.admit([call], timeout)
        if call.refused is not None:
            raise call.refused
        assert call.future is not None
        return call.future

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
        refuse_on_a_full_stack()
        calls = [self._call(task) if futures else Call(draft(task), None) for task in tasks]
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
        refuse_on_a_full_stack()
        record = self.get(key)
        if record is None or record.status is not Status.FAILED:
            state = "unknown" if record is None else f"that of a task in state {record.status.value!r}"
            raise TaskQueueError(f"cannot replay {key!r}: only a failed task can be replayed, this key is {state}")
        self._inflight.wait_left(record)
        try:
            moved = self._ledger.replay(record)
            if moved is not None:
                log_event("replayed", key, moved)
            return self.submit(record.task)
        finally:
            self._feeder.wake()  # if this was interrupted, the task is queued all the same

    def purge(self, key: str) -> bool:
        """Forget a finished task and its dead letters: its key is free again, and its output stays. False when the
        key is unknown. Raises TaskQueueError when the task is not finished.
        """
        record = self.get(key)
        if record is not None and not record.finished:
            raise TaskQueueError(f"cannot purge {key!r}: its task is {record.status.value}, not finished")
        return record is not None and self._ledger.purge(record)

    def _call(self, task: Task) -> Call:
        drafted = draft(task)
        return Call(drafted, TaskFuture(drafted.key, self._callbacks, self._cancel, self._ledger.commits.help))

    def _cancel(self, future: TaskFuture) -> bool:
        refuse_on_a_full_stack()
        return self._cancellation.cancel(future)

    # When tasks are begun

    def pause(self) -> None:
        """Begin no more tasks until `resume`: what runs runs on, and so does what is claimed ahead for the workers.
        Submits are accepted as long as places are free.
        """
        self._workers.allow(0)

    def resume(self, limit: int | None = None) -> None:
        """Begin tasks again; with a `limit` of 1 or more, so many attempts, and then the queue is paused again.

        Raises ValueError for another limit.
        """
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be a whole number of at least 1 or None, got {limit!r}")
        self._workers.allow(UNLIMITED if limit is None else limit)
        self._claim_again()

    @property
    def paused(self) -> bool:
        """Whether no task is begun until `resume`."""
        return self._workers.paused

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until no task runs and none is to be begun now: those that are queued wait for a later `run_at`, or for
        `resume`, and the futures of the others are done. False after `timeout` seconds. Raises QueueClosedError, or
        TaskQueueError when called by a processor.
        """
        self._refuse_in_worker("wait_idle")
        try:
            return wait_idle(self._inflight, self._workers, self._open_ledger(), Deadline(timeout))
        except LedgerError:
            self._open_ledger()  # it may have been closed meanwhile
            raise

    def look_again(self) -> None:
        """Look now for tasks that are due and successes that are old: for whoever has set the clock."""
        self._feeder.wake()
        self._ledger.commits.tidy_soon()

    # What is there

    @property
    def path(self) -> Path | None:
        """The ledger's file, as an absolute path; None for one in memory."""
        return self._ledger.file

    @property
    def closed(self) -> bool:
        """Whether the queue is closed, and can be asked for nothing any more."""
        return self._closing.report is not None

    def view(self) -> LedgerView:
        """The ledger for reading: how many tasks are in each state, which are due."""
        return self._open_ledger().view()

    def get(self, key: str) -> TaskRecord | None:
        """The task of an idempotency key (`Task.key`), or None."""
        if not isinstance(key, str):
            raise TypeError(f"a key is a text such as task.key, got {key!r}")
        return self.view().get(key)

    def records(self, status: Status | None = None) -> list[TaskRecord]:
        """All tasks, or those in one state, in the order of their submission."""
        return self.view().records(status)

    def dead_letters(self) -> list[DeadLetter]:
        """All dead letters, replayed ones too, oldest first."""
        return self.view().dead_letters()

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write a copy of the ledger, also of one in memory, as a SQLite file of its own; it replaces `path`."""
        self._open_ledger().export(path)
        watch.read(self.path)

    def _open_ledger(self) -> Ledger:
        if self.closed:
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

        With `drain` it first waits until all tasks are finished, unless it is paused; without, only for those that are
        running. What is unfinished at the deadline goes back to queued without using an attempt; futures that are
        left open get QueueClosedError. A thread that is stuck in a processor cannot be ended: Python itself then waits
        for it at exit, as with any ThreadPoolExecutor. Raises TaskQueueError when called by a processor, or when
        another close() needs longer than `timeout`.
        """
        self._refuse_in_worker("close")
        return self._closing.close(timeout, drain=drain)

    def _refuse_in_worker(self, name: str) -> None:
        self._ledger.refuse_after_fork()
        ours = (*self._threads, self._commit_thread, self._callbacks.thread)
        if self._workers.is_worker() or threading.current_thread() in ours:
            raise TaskQueueError(f"{name}() was called by a processor of this queue: it would wait for itself")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drain=kind is None)
