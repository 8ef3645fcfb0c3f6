"""One attempt at a task: claim, run the processor, decide, settle, deliver."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from taskqueue_core import points, watch
from taskqueue_core.arrows import Row, Success
from taskqueue_core.commits import PAUSE
from taskqueue_core.entries import Entry
from taskqueue_core.errors import ErrorClass, LedgerError, PermanentError, TaskTimeoutError, describe
from taskqueue_core.feeder import Feeder
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import log_event, logger
from taskqueue_core.metrics import Metrics, WorkerMetrics
from taskqueue_core.places import Places
from taskqueue_core.processor import ProcessorLike
from taskqueue_core.publish import Output, Publication, remove
from taskqueue_core.settings import QueueSettings
from taskqueue_core.task import Status, TaskRecord, to_json
from taskqueue_core.timeouts import Timeouts
from taskqueue_core.workers import Workers

VALUE_LIMIT = 64 * 1024
"""Bytes of JSON that a processor may return."""


class Attempts:
    """What a worker does with a task. Each change goes to the ledger first, to the futures after its COMMIT."""

    def __init__(
        self,
        processor: ProcessorLike,
        *,
        ledger: Ledger,
        inflight: InFlight,
        places: Places,
        feeder: Feeder,
        metrics: Metrics,
        settings: QueueSettings,
        rng: random.Random,
    ) -> None:
        self._processor = processor
        self._ledger = ledger
        self._inflight = inflight
        self._places = places
        self._feeder = feeder
        self.workers: Workers  # set by the queue: they run what is attempted here
        self._size = settings.max_workers
        self._metrics = metrics
        self._policy = settings.retry
        self._durable = settings.durability == "power"
        self._rng = rng
        ledger.claims.done = self._claimed
        ledger.successes.done = self._succeeded
        self._closing = threading.Event()
        timeout = settings.task_timeout
        self._task_timeout = timeout
        self.timeouts = None if timeout is None else Timeouts(timeout, self.expire)

    def close(self) -> None:
        """Stop trying to record outcomes that the ledger does not take."""
        self._closing.set()
        if self.timeouts is not None:
            self.timeouts.close()

    def claim(self, entries: Sequence[Entry]) -> None:
        """T2 for tasks that workers are free to take, or soon will be: posted, they hear of it by `ready` or `lost`."""
        staying = self._inflight.claiming(entries)
        if len(staying) < len(entries):  # cancelled while they were on their way here
            gone = len(entries) - len(staying)
            self.workers.lost(gone)
            self._places.give(gone)
        if staying:
            self._ledger.claims.post(staying)

    def run(self, entry: Entry, metrics: WorkerMetrics) -> bool:
        """Attempt a claimed task, on the thread of a worker; whether somebody waits for its result now."""
        metrics.begin(entry.submitted_at)
        try:
            log_event("started", entry.draft.key, entry.row)
            self._work(entry)
        except LedgerError as error:
            logger.warning("the queue closed before the outcome of %r was recorded: %s", entry.draft.key, error)
        except BaseException as bug:  # noqa: BLE001 - nobody may wait for ever because of a bug
            logger.exception("the queue met an error of its own at %r", entry.draft.key)
            self._rescue(entry, bug)
        finally:
            metrics.end()
        return any(future.awaited for future in entry.futures)

    def recover(self) -> None:
        """T6: whatever ran when the last owner died is queued again. What its attempts left is removed before that:
        killed in between, the next open does it again.
        """
        discard = getattr(self._processor, "discard", None)
        if callable(discard) and (attempted := self._ledger.unfinished_attempts()):
            discard([record.task for record in attempted])
        self._inflight.add_retrying(self._ledger.retry_waiting())
        orphans = self._ledger.recover()
        for record in orphans:
            log_event("recovered", record.idempotency_key, record, level=logging.WARNING)
            if record.finished:
                watch.failed(self._ledger.file, record)
        self._metrics.count("recovered", len(orphans))

    def release(self, entries: Sequence[Entry]) -> list[str]:
        """T7 for tasks that do not end, when the queue closes: their keys. One that finishes at this very moment
        keeps its result and is not among them; one that the ledger does not take back is, and is recovered at the
        next open.
        """
        return [entry.draft.key for entry in entries if self._release(entry) is not None]

    def put_back(self, entries: Sequence[Entry]) -> None:
        """T7 for tasks that were claimed and that no worker can take; their places are free again."""
        for entry in entries:
            self._inflight.put_back(entry, self._release(entry) or entry.row, retrying=False)
        self._places.give(len(entries))

    def _release(self, entry: Entry) -> Row | TaskRecord | None:
        try:
            record = self._settle(partial(self._ledger.release, entry.row), entry.row, Status.QUEUED)
        except LedgerError:
            logger.exception("%r could not be released: it counts as running when its owner died", entry.draft.key)
            return entry.row
        if record is not None:
            log_event("released", record.idempotency_key, record, level=logging.WARNING)
        return record

    def _claimed(self, entries: Sequence[Entry], results: Sequence[bool | LedgerError]) -> None:
        """Called after the COMMIT of claims, or its failure."""
        good, bad = list[Entry](), list[Entry]()
        for entry, result in zip(entries, results, strict=True):
            (good if result is True or self._stands(entry) else bad).append(entry)
        self._inflight.claimed(good)
        self.workers.ready(good)
        if bad:
            self._places.give(len(bad))
            self.workers.lost(len(bad))
            self._feeder.find([entry.draft.key for entry in bad])

    def _stands(self, entry: Entry) -> bool:
        """Whether a claim that was answered with No, or an error, stands all the same: a failed COMMIT may have been
        written. If not, the row has moved, or the ledger cannot be written, and the entry is put right.
        """
        try:
            found = self._ledger.get(entry.draft.key)
        except LedgerError:
            logger.exception("%r could not be claimed; it is tried again", entry.draft.key)
            found = None
        if found is not None and found.finished:
            self._inflight.resolve(entry, found)
        elif found is not None and (found.status, found.version) == (Status.RUNNING, entry.row.version + 1):
            return True
        else:
            self._inflight.put_back(entry, found or entry.row, retrying=False)
        return False

    def _rescue(self, entry: Entry, bug: BaseException) -> None:
        """If the outcome stands, tell it; else the attempt counts as failed, so that this cannot go on for ever."""
        found = self._ledger.get(entry.draft.key)
        if found is not None and found.finished:
            self._inflight.resolve(entry, found, bug)  # counted already, before whatever went wrong
            self._feeder.wake()
        else:
            self._failed(entry, bug)

    def _work(self, entry: Entry) -> None:
        result: object = None
        try:
            result = self._process(entry)
            value, output = self._prepare(result, entry)
        except BaseException as error:  # noqa: BLE001 - whatever a processor raises is its task's outcome
            remove(result)
            self._failed(entry, error)
        else:
            self._ledger.successes.post([Success(entry.row, value, output, entry)])

    def _process(self, entry: Entry) -> object:
        if self.timeouts is None:
            if points.probe is not None:
                points.reach(points.PROCESS)
            return self._processor(entry.task)
        row = entry.row
        self.timeouts.begin(entry, row)
        try:
            points.reach(points.PROCESS)
            return self._processor(entry.task)
        finally:
            self.timeouts.end(row)

    def expire(self, entry: Entry, row: Row) -> None:
        """The attempt has outlived `task_timeout`: settle it as TaskTimeoutError, whatever its thread does.

        A retry waits until the stuck thread has come back, so that the task does not run beside itself.
        """
        try:
            self._expire(entry, row)
        except Exception:  # noqa: BLE001 - the watch over the other attempts goes on
            logger.exception("the timeout of %r could not be recorded", entry.draft.key)

    def _expire(self, entry: Entry, row: Row) -> None:
        error = TaskTimeoutError(f"attempt {row.attempt} was still running after {self._task_timeout} s")
        moved, _ = self._settle_failure(row, error)
        if moved is None:
            return  # it has finished in the meantime
        self._metrics.stuck(1)
        log_event("timed out", moved.idempotency_key, moved, error=error, level=logging.WARNING)
        back = self._inflight.expire(entry, moved)
        if moved.finished:
            self._finish_failed(entry, moved, error)
        if back:
            self._after_timeout(entry, moved)
        elif self._inflight.all_stuck(self._size):  # nobody is left to run what was claimed ahead
            self.put_back(self.workers.take_untaken())
        self._feeder.wake()

    def _after_timeout(self, entry: Entry, moved: TaskRecord) -> None:
        """The thread of a timed-out attempt is back."""
        self._metrics.stuck(-1)
        self.workers.pump()
        if not moved.finished:
            self._metrics.count("retried")
            self._await_retry(entry, moved)

    def _prepare(self, result: object, entry: Entry) -> tuple[str, Publication | None]:
        """The value as JSON text, and the output measured and synced."""
        if not isinstance(result, Output):
            return encode_value(result), None
        value = encode_value(result.value)
        return value, Publication.prepare(result, entry.draft.key, durable=self._durable)

    def _succeeded(self, successes: Sequence[Success], results: Sequence[bool | BaseException]) -> None:
        """Called after the COMMIT of successes, or its failure. Those that were recorded come first."""
        recorded = [success for success, result in zip(successes, results, strict=True) if result is True]
        try:
            self._finish(recorded)
        except Exception as bug:  # noqa: BLE001 - nobody may wait for ever because of a bug
            logger.exception("the queue met an error of its own at %d results", len(recorded))
            for success in recorded:
                self._rescue(success.caller, bug)
        for success, result in zip(successes, results, strict=True):
            if result is not True:
                self._not_recorded(success, result)

    def _finish(self, recorded: Sequence[Success]) -> None:
        now = time.perf_counter()
        entries: list[Entry] = [success.caller for success in recorded]
        latencies = [None if entry.submitted_at is None else now - entry.submitted_at for entry in entries]
        self._metrics.finished("succeeded", latencies)
        self._inflight.finish([(success.caller, None, success.value) for success in recorded], None)
        for entry in entries:
            log_event("succeeded", entry.draft.key, entry.row)
        if any(entry.row.crashes for entry in entries):
            self._feeder.wake()  # the next task with a crash behind it may run now

    def _not_recorded(self, success: Success, result: bool | BaseException) -> None:
        if success.output is not None:
            success.output.discard()
        if isinstance(result, LedgerError):
            logger.warning("the queue closed before %r was recorded: %s", success.caller.draft.key, result)
        elif isinstance(result, BaseException):  # the output could not be renamed, and nothing was recorded
            self._failed(success.caller, result)
        else:
            self._fenced(success.caller)

    def _failed(self, entry: Entry, error: BaseException) -> None:
        moved, retried = self._settle_failure(entry.row, error)
        if moved is None:
            self._fenced(entry)
        elif moved.finished:
            log_event("failed", moved.idempotency_key, moved, error=error, level=logging.WARNING)
            self._finish_failed(entry, moved, error)
        else:
            log_event(
                "retried" if retried else "released", moved.idempotency_key, moved, error=error, level=logging.WARNING
            )
            self._metrics.count("retried", int(retried))
            self._await_retry(entry, moved)

    def _settle_failure(self, row: Row, error: BaseException) -> tuple[TaskRecord | None, bool]:
        """T4, T5 or T7 as the error says: the row as it stands now (None: fenced), and whether that is a retry."""
        text = describe(error)
        try:
            kind = self._policy.classify(error)
            delay = self._policy.decide(error, row.retries, self._rng)
        except Exception as bug:  # noqa: BLE001 - a bug in the user's classify must not kill the worker
            kind, delay = ErrorClass.PERMANENT, None
            text = f"classify failed with {describe(bug)}; the error of the task was {text}"
        if kind is ErrorClass.ENVIRONMENT:
            return self._settle(lambda: self._ledger.release(row, PAUSE), row, Status.QUEUED), False
        if delay is not None:
            return self._settle(lambda: self._ledger.retry(row, text, delay), row, Status.QUEUED), True
        reason = "permanent" if kind is ErrorClass.PERMANENT else "exhausted"
        return self._settle(lambda: self._ledger.fail(row, text, reason), row, Status.FAILED), False

    def _await_retry(self, entry: Entry, moved: TaskRecord) -> None:
        self._inflight.put_back(entry, moved, retrying=True)
        self._feeder.hold_back()
        self._feeder.wake()

    def _settle(
        self, arrow: Callable[[], TaskRecord | None], row: Row | TaskRecord, reached: Status
    ) -> TaskRecord | None:
        """Record an outcome. While the ledger cannot be written the finished work is kept and tried again; what a try
        that was reported as failed has written all the same counts.
        """
        while True:
            try:
                return arrow()
            except LedgerError:
                if (found := self._ledger.reached(row, reached)) is not None:
                    return found
                if self._closing.is_set():
                    raise
                logger.exception("an outcome could not be recorded; it is tried again in %s s", PAUSE)
                if self._closing.wait(PAUSE):
                    raise

    def _finish_failed(self, entry: Entry, record: TaskRecord, cause: BaseException) -> None:
        latency = None if entry.submitted_at is None else time.perf_counter() - entry.submitted_at
        self._metrics.finished("failed", [latency])
        watch.failed(self._ledger.file, record)
        self._inflight.finish([(entry, record, "")], cause)
        if record.crashes:
            self._feeder.wake()

    def _fenced(self, entry: Entry) -> None:
        log_event("fenced", entry.draft.key, entry.row, level=logging.WARNING)
        self._metrics.count("fenced")
        moved = self._inflight.come_back(entry)
        if moved is not None:
            self._after_timeout(entry, moved)


def encode_value(value: object) -> str:
    """A processor's value as JSON text. Raises PermanentError naming what it was."""
    if value is None:
        return "null"
    name = f"a {type(value).__name__}"
    try:
        text = to_json(value)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise PermanentError(f"the processor returned {name}, which is no JSON value: {error}") from error
    if size > VALUE_LIMIT:
        raise PermanentError(
            f"the processor returned {name} of {size:,} bytes of JSON, more than {VALUE_LIMIT:,}: "
            "return an Output(temp_path) for large results"
        )
    return text
