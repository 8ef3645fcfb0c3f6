"""One attempt at a task: claim, run the processor, decide, settle, deliver."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable

from taskqueue_core.deadline import Deadline
from taskqueue_core.errors import ErrorClass, LedgerError, PermanentError, TaskTimeoutError, describe
from taskqueue_core.feeder import PAUSE, Feeder
from taskqueue_core.inflight import Entry, InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.logs import log_event, logger
from taskqueue_core.metrics import Metrics
from taskqueue_core.processor import ProcessorLike
from taskqueue_core.publish import Output, Publication, remove
from taskqueue_core.settings import QueueSettings
from taskqueue_core.task import Status, TaskRecord, to_json
from taskqueue_core.timeouts import Timeouts

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
        feeder: Feeder,
        metrics: Metrics,
        settings: QueueSettings,
        rng: random.Random,
    ) -> None:
        self._processor = processor
        self._ledger = ledger
        self._inflight = inflight
        self._feeder = feeder
        self._metrics = metrics
        self._policy = settings.retry
        self._durable = settings.durability == "power"
        self._rng = rng
        self._closing = threading.Event()
        timeout = settings.task_timeout
        self._task_timeout = timeout
        self.timeouts = None if timeout is None else Timeouts(timeout, self.expire)

    def close(self) -> None:
        """Stop trying to record outcomes that the ledger does not take."""
        self._closing.set()
        if self.timeouts is not None:
            self.timeouts.close()

    def run(self, entry: Entry) -> None:
        """Attempt a task that a worker took from the bounded queue."""
        self._inflight.take(entry)
        if self._closing.is_set():  # asked after `take`: whoever was faster than close() is waited for
            self._inflight.put_back(entry, entry.row, retrying=False)
            return
        try:
            self._attempt(entry)
        except LedgerError as error:
            logger.warning("the queue closed before the outcome of %r was recorded: %s", entry.draft.key, error)

    def _attempt(self, entry: Entry) -> None:
        record = self._claim(entry)
        if record is None:
            return
        self._metrics.attempt_begins()
        try:
            log_event("claimed", record)
            self._work(entry, record)
        except LedgerError:
            raise
        except BaseException as bug:  # noqa: BLE001 - nobody may wait for ever because of a bug
            logger.exception("the queue met an error of its own at %r", record.idempotency_key)
            self._rescue(entry, record, bug)
        finally:
            self._metrics.attempt_ends()

    def recover(self) -> None:
        """T6: whatever ran when the last owner died is queued again, and what its attempts left is removed."""
        self._inflight.add_retrying(self._ledger.retry_waiting())
        orphans = self._ledger.recover()
        for record in orphans:
            log_event("recovered", record, level=logging.WARNING)
        self._metrics.count("recovered", len(orphans))
        discard = getattr(self._processor, "discard", None)
        if orphans and callable(discard):
            discard([record.task for record in orphans])

    def release_running(self, deadline: Deadline) -> list[TaskRecord]:
        """T7 for every task that is still running; one that finishes at this very moment keeps its result."""
        self._inflight.wait_claims(deadline)
        released = [self._ledger.release(entry.row) for entry in self._inflight.still_running()]
        for record in released:
            if record is not None:
                log_event("released", record, level=logging.WARNING)
        return [record for record in released if record is not None]

    def _claim(self, entry: Entry) -> TaskRecord | None:
        """T2; None when the row has moved, or the ledger cannot be written: the entry is put right then."""
        try:
            record = self._ledger.claim(entry.row)
            if record is not None:
                self._inflight.claimed(entry, record)
                return record
            found = self._ledger.get(entry.draft.key)
        except LedgerError:
            logger.exception("a task could not be claimed; it is tried again in %s s", PAUSE)
            self._closing.wait(PAUSE)
            found = None
        if found is not None and found.finished:
            self._inflight.resolve(entry, found)
        else:
            self._inflight.put_back(entry, found or entry.row, retrying=False)
        self._feeder.wake()
        return None

    def _rescue(self, entry: Entry, record: TaskRecord, bug: BaseException) -> None:
        """If the outcome stands, tell it; else the attempt counts as failed, so that this cannot go on for ever."""
        found = self._ledger.get(record.idempotency_key)
        if found is not None and found.finished:
            self._inflight.finish(entry, found, bug)  # counted already, before whatever went wrong
            self._feeder.wake()
        else:
            self._failed(entry, record, bug)

    def _work(self, entry: Entry, record: TaskRecord) -> None:
        result: object = None
        try:
            result = self._process(entry, record)
            value, output = self._prepare(result, record)
        except BaseException as error:  # noqa: BLE001 - whatever a processor raises is its task's outcome
            remove(result)
            self._failed(entry, record, error)
        else:
            self._succeeded(entry, record, value, output)

    def _process(self, entry: Entry, record: TaskRecord) -> object:
        if self.timeouts is None:
            return self._processor(record.task)
        self.timeouts.begin(entry, record)
        try:
            return self._processor(record.task)
        finally:
            self.timeouts.end(record)

    def expire(self, entry: Entry, record: TaskRecord) -> None:
        """The attempt has outlived `task_timeout`: settle it as TaskTimeoutError, whatever its thread does.

        A retry waits until the stuck thread has come back, so that the task does not run beside itself.
        """
        try:
            self._expire(entry, record)
        except Exception:  # noqa: BLE001 - the watch over the other attempts goes on
            logger.exception("the timeout of %r could not be recorded", record.idempotency_key)

    def _expire(self, entry: Entry, record: TaskRecord) -> None:
        error = TaskTimeoutError(f"attempt {record.attempt} was still running after {self._task_timeout} s")
        moved, _ = self._settle_failure(record, error)
        if moved is None:
            return  # it has finished in the meantime
        self._metrics.stuck(1)
        log_event("timed out", moved, error=error, level=logging.WARNING)
        back = self._inflight.expire(entry, moved)
        if moved.finished:
            self._finish(entry, moved, error)
        if back:
            self._after_timeout(entry, moved)
        self._feeder.wake()

    def _after_timeout(self, entry: Entry, moved: TaskRecord) -> None:
        """The thread of a timed-out attempt is back."""
        self._metrics.stuck(-1)
        if not moved.finished:
            self._metrics.count("retried")
            self._put_back(entry, moved)

    def _prepare(self, result: object, record: TaskRecord) -> tuple[str, Publication | None]:
        """The value as JSON text, and the output measured and synced."""
        if not isinstance(result, Output):
            return encode_value(result), None
        value = encode_value(result.value)
        return value, Publication.prepare(result, record.idempotency_key, durable=self._durable)

    def _succeeded(self, entry: Entry, record: TaskRecord, value: str, output: Publication | None) -> None:
        done = None
        try:
            done = self._settle(lambda: self._ledger.succeed(record, value, output))
        except OSError as error:  # the output could not be renamed, and nothing was recorded
            self._failed(entry, record, error)
            return
        finally:
            if done is None and output is not None:
                output.discard()
        if done is None:
            self._fenced(entry, record)
            return
        log_event("succeeded", done)
        self._finish(entry, done, None)

    def _failed(self, entry: Entry, record: TaskRecord, error: BaseException) -> None:
        moved, retried = self._settle_failure(record, error)
        if moved is None:
            self._fenced(entry, record)
        elif moved.finished:
            log_event("failed", moved, error=error, level=logging.WARNING)
            self._finish(entry, moved, error)
        else:
            log_event("retried" if retried else "released", moved, error=error, level=logging.WARNING)
            self._metrics.count("retried", int(retried))
            self._put_back(entry, moved)

    def _settle_failure(self, record: TaskRecord, error: BaseException) -> tuple[TaskRecord | None, bool]:
        """T4, T5 or T7 as the error says: the row as it stands now (None: fenced), and whether that is a retry."""
        text = describe(error)
        try:
            kind = self._policy.classify(error)
            delay = self._policy.decide(error, record.retries, self._rng)
        except Exception as bug:  # noqa: BLE001 - a bug in the user's classify must not kill the worker
            kind, delay = ErrorClass.PERMANENT, None
            text = f"classify failed with {describe(bug)}; the error of the task was {text}"
        if kind is ErrorClass.ENVIRONMENT:
            return self._settle(lambda: self._ledger.release(record, PAUSE)), False
        if delay is not None:
            return self._settle(lambda: self._ledger.retry(record, text, delay)), True
        reason = "permanent" if kind is ErrorClass.PERMANENT else "exhausted"
        return self._settle(lambda: self._ledger.fail(record, text, reason)), False

    def _put_back(self, entry: Entry, moved: TaskRecord) -> None:
        self._inflight.put_back(entry, moved, retrying=True)
        self._feeder.hold_back()
        self._feeder.wake()

    def _settle(self, arrow: Callable[[], TaskRecord | None]) -> TaskRecord | None:
        """Record an outcome. While the ledger cannot be written the finished work is kept and tried again."""
        while True:
            try:
                return arrow()
            except LedgerError:
                if self._closing.is_set():
                    raise
                logger.exception("an outcome could not be recorded; it is tried again in %s s", PAUSE)
                if self._closing.wait(PAUSE):
                    raise

    def _finish(self, entry: Entry, record: TaskRecord, cause: BaseException | None) -> None:
        latency = None if entry.submitted_at is None else time.perf_counter() - entry.submitted_at
        self._metrics.finished("succeeded" if record.status is Status.SUCCESS else "failed", latency)
        self._inflight.finish(entry, record, cause)
        if record.crashes:
            self._feeder.wake()  # the next task with a crash behind it may run now

    def _fenced(self, entry: Entry, record: TaskRecord) -> None:
        log_event("fenced", record, level=logging.WARNING)
        self._metrics.count("fenced")
        moved = self._inflight.come_back(entry)
        if moved is not None:
            self._after_timeout(entry, moved)


def encode_value(value: object) -> str:
    """A processor's value as JSON text. Raises PermanentError naming what it was."""
    name = "None" if value is None else f"a {type(value).__name__}"
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
