"""perform: one attempt at one task, by the way that every task takes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from taskqueue_core import (
    ErrorClass,
    Output,
    ProcessorLike,
    RetryPolicy,
    Status,
    Task,
    TaskQueue,
    TaskRecord,
    TransientError,
)

STEP = 0.005
"""Seconds between two looks at what nothing announces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Performed:
    """What came of one attempt.

    outcome  "success", "retry" (a later attempt follows), "dead" (failed for good), or "released" (the machine's
             fault, such as a full disk: tried again, and no attempt used)
    value    what the processor returned, as it reads back from the ledger; None unless it succeeded
    output   the published file, where the processor returned an Output
    delay    seconds until the next attempt; None unless there is one
    error    what the processor raised; None when it succeeded
    record   the task as the ledger has it
    """

    outcome: Literal["success", "retry", "dead", "released"]
    value: Any
    output: Path | None
    delay: float | None
    error: BaseException | None
    record: TaskRecord


def perform(
    processor: ProcessorLike,
    task: Task,
    *,
    attempt: int = 1,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
    task_timeout: float | None = None,
    timeout: float = 10.0,
) -> Performed:
    """Make attempt number `attempt` at a task with a processor, and tell what comes of it.

    A real queue on a ":memory:" ledger runs it: the earlier attempts have failed there, so the record, the delay of a
    retry and the end of all attempts are those that `retry` gives to the n-th one. The processor is called once.

    Raises ValueError when the policy has no such attempt, and TimeoutError when the attempt takes longer than
    `timeout` seconds; its thread cannot be ended, see `task_timeout`.
    """
    __tracebackhide__ = True
    if not 1 <= attempt <= retry.max_attempts:
        raise ValueError(f"attempt {attempt} never comes: {retry!r} has attempts 1 to {retry.max_attempts}")
    course = _Course(processor, attempt - 1)
    policy = _Policy(retry.max_attempts, retry.base, retry.cap, course.classify(retry), retry, course)
    queue = TaskQueue(course, ledger=":memory:", max_workers=1, retry=policy, task_timeout=task_timeout, paused=True)
    try:
        future = queue.submit(task)
        queue.resume(attempt)
        _await(queue, attempt, task, timeout)
        error = future.exception() if future.done() else None
        record = queue.view().get(task.key)
        assert record is not None
        return _performed(record, course, error)
    finally:
        queue.close(0.0, drain=False)


def _await(queue: TaskQueue, attempt: int, task: Task, timeout: float) -> None:
    """Wait until all attempts were begun, so that the queue is paused again, and have ended."""
    __tracebackhide__ = True
    end = time.monotonic() + timeout
    while not (queue.wait_idle(max(end - time.monotonic(), 0.0)) and queue.paused):
        if time.monotonic() >= end:
            raise TimeoutError(f"attempt {attempt} at {task.key!r} was still running after {timeout:g} s")
        time.sleep(STEP)  # the wall clock was set back: the next one is not due yet


def _performed(record: TaskRecord, course: _Course, failure: BaseException | None) -> Performed:
    outcome = _outcome(record, course)
    error = None if record.status is Status.SUCCESS else course.error or (failure and failure.__cause__)
    return Performed(
        outcome=outcome,
        value=record.value,
        output=course.folder / record.output_key if course.folder and record.output_key else None,
        delay=course.delay if outcome == "retry" else None,
        error=error,
        record=record,
    )


def _outcome(record: TaskRecord, course: _Course) -> Literal["success", "retry", "dead", "released"]:
    if record.status is Status.SUCCESS:
        return "success"
    if record.status is Status.FAILED:
        return "dead"
    return "retry" if record.retries > course.earlier else "released"


class _EarlierError(TransientError):
    """How the attempts before the one that is asked for have failed."""


class _Course:
    """The processor, after so many attempts that fail before it is called; and what was seen of its own attempt."""

    def __init__(self, processor: ProcessorLike, earlier: int) -> None:
        self.earlier = earlier
        self.error: BaseException | None = None
        self.delay: float | None = None
        self.folder: Path | None = None
        self._processor = processor
        self._failed = 0

    def __call__(self, task: Task) -> Any:
        """Fail, or call the processor."""
        if self._failed < self.earlier:
            self._failed += 1
            raise _EarlierError(f"attempt {self._failed} failed, as `perform` was asked for a later one")
        result = self._processor(task)
        if isinstance(result, Output):
            self.folder = Path(result.temp_path).parent
        return result

    def classify(self, retry: RetryPolicy) -> Callable[[BaseException], ErrorClass]:
        """The policy's, which never hears of the earlier attempts."""

        def classify(error: BaseException) -> ErrorClass:
            return ErrorClass.TRANSIENT if isinstance(error, _EarlierError) else retry.classify(error)

        return classify


@dataclass(frozen=True, slots=True)
class _Policy(RetryPolicy):
    """The policy that was given, but for the earlier attempts: the next one follows them at once."""

    given: RetryPolicy = field(default_factory=RetryPolicy)
    course: _Course | None = None

    def decide(self, error: BaseException, retries: int, rng: random.Random) -> float | None:
        """Return the delay in seconds before the next attempt, or None when there is none."""
        if isinstance(error, _EarlierError):
            return 0.0
        delay = self.given.decide(error, retries, rng)
        if self.course is not None:
            self.course.error, self.course.delay = error, delay
        return delay
