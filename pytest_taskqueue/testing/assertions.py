"""What a test can say of a queue's tasks; a failed assertion shows the tasks that come nearest."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_taskqueue.testing.matching import listing, read, state, wanted
from pytest_taskqueue.wording import queue_at
from taskqueue_core import DeadLetter, LedgerView, ObjectStore, Status, Task, TaskQueue, TaskRecord, clock, watch

STEP = 0.02
"""Seconds between two looks at a queue that works."""
BLOCK = 1 << 16

Source = TaskQueue | str | os.PathLike[str]
"""A queue, open or closed, or the path of a ledger."""


def assert_enqueued(
    queue: Source,
    task: Task | str | None = None,
    *,
    image_key: str | None = None,
    variant: str | None = None,
    params: Mapping[str, Any] | None = None,
    status: Status | str | None = None,
    count: int | None = None,
    within: float = 0.0,
) -> list[TaskRecord]:
    """A task as described was submitted, whatever has become of it since: the records, oldest first.

    `task` is a Task, which counts whole (its params are equal to the record's), or a key; `params` may be a part of
    the task's; `status` asks for one state. With `count` there are exactly so many. With `within` it may take so many
    seconds to come true. Raises AssertionError with the tasks that come nearest.
    """
    __tracebackhide__ = True
    description = wanted(task, image_key=image_key, variant=variant, params=params, status=status)
    found: list[TaskRecord] = []

    def is_so() -> bool:
        found[:] = filter(description.matches, _records(queue))
        return bool(found) if count is None else len(found) == count

    if not _wait(is_so, within):
        how_many = "a task" if count is None else f"exactly {count} tasks"
        raise AssertionError(
            f"{how_many} with {description} should have been enqueued in {_name(queue)}"
            f"{_after(within)}, found {len(found) or 'none'}\n{listing(description, _records(queue))}"
        )
    return found


def refute_enqueued(
    queue: Source,
    task: Task | str | None = None,
    *,
    image_key: str | None = None,
    variant: str | None = None,
    params: Mapping[str, Any] | None = None,
    status: Status | str | None = None,
    within: float = 0.0,
) -> None:
    """No task as described was submitted, nor is for `within` seconds. See `assert_enqueued`: a Task with other params
    is another task. Raises AssertionError with the tasks that were.
    """
    __tracebackhide__ = True
    description = wanted(task, image_key=image_key, variant=variant, params=params, status=status)
    found: list[TaskRecord] = []

    def appears() -> bool:
        found[:] = filter(description.matches, _records(queue))
        return bool(found)

    if _wait(appears, within):
        raise AssertionError(
            f"no task with {description} should have been enqueued in {_name(queue)}\n{listing(description, found)}"
        )


def assert_dead(
    queue: Source,
    task: Task | str | None = None,
    *,
    image_key: str | None = None,
    variant: str | None = None,
    params: Mapping[str, Any] | None = None,
    reason: str | None = None,
    error: str | type[BaseException] | None = None,
) -> DeadLetter:
    """A task as described has failed for good, and was not replayed since: its dead letter, the last one.

    `reason` is "permanent", "exhausted", "poison" or "cancelled"; `error` an error class, or a part of the text. Its
    error counts as read. Raises AssertionError with the dead letters and tasks that come nearest.
    """
    __tracebackhide__ = True
    description = wanted(task, image_key=image_key, variant=variant, params=params, reason=reason, error=error)
    letters = [letter for letter in read(queue, LedgerView.dead_letters) if letter.replayed_at is None]
    found = [letter for letter in letters if description.matches(letter)]
    if not found:
        alive = [record for record in _records(queue) if record.status is not Status.FAILED]
        raise AssertionError(
            f"a task with {description} should be dead in {_name(queue)}\n{listing(description, letters, alive)}"
        )
    _note_read(queue, found)
    return found[-1]


def assert_output(
    queue: Source, task: Task | str, store: ObjectStore | str | os.PathLike[str], *, content: bytes | None = None
) -> TaskRecord:
    """The task has succeeded, and its output stands in `store` (an ObjectStore or a folder) with the recorded size
    and SHA-256, and with these bytes, if `content` is given: its record. Raises AssertionError.
    """
    __tracebackhide__ = True
    key, description = task.key if isinstance(task, Task) else task, wanted(task)
    record = read(queue, lambda view: view.get(key))
    if record is None or not description.matches(record):
        raise AssertionError(
            f"there is no task with {description} in {_name(queue)}\n{listing(description, _records(queue))}"
        )
    if record.status is not Status.SUCCESS or record.output_key is None:
        raise AssertionError(f"task {key!r} should have an output, but it {_why_none(record)}")
    _compare(record, _chunks(store, record), content)
    return record


def _why_none(record: TaskRecord) -> str:
    """Why there is no output, and what to do where there can be one."""
    match record.status:
        case Status.SUCCESS:
            return "has no output"
        case Status.FAILED:
            return f"is failed: {record.error}"
        case Status.QUEUED if record.run_at > clock.now():
            return f"is {state(record)}: move the clock there with tq_clock.advance(...), then drain(queue)"
        case Status.QUEUED | Status.RUNNING:
            return f"is {state(record)}: drain(queue) first, which waits until it is done"


def _compare(record: TaskRecord, chunks: Iterable[bytes], content: bytes | None) -> None:
    __tracebackhide__ = True
    digest, size, same, rest = hashlib.sha256(), 0, True, memoryview(content or b"")
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        same = same and rest[: len(chunk)] == chunk
        rest = rest[len(chunk) :]
    output = f"the output {record.output_key!r} of task {record.idempotency_key!r}"
    if (size, digest.hexdigest()) != (record.size, record.sha256):
        raise AssertionError(
            f"{output} has {size} bytes and SHA-256 {digest.hexdigest()}, recorded were {record.size} bytes and "
            f"{record.sha256}: it was changed after it was published"
        )
    if content is not None and not (same and not rest):
        raise AssertionError(f"{output} has other bytes ({size} of them) than expected ({len(content)})")


def _chunks(store: ObjectStore | str | os.PathLike[str], record: TaskRecord) -> Iterable[bytes]:
    __tracebackhide__ = True
    assert record.output_key is not None
    try:
        if isinstance(store, ObjectStore):
            yield from store.open_read(record.output_key)
            return
        with (Path(store) / record.output_key).open("rb") as file:
            while chunk := file.read(BLOCK):
                yield chunk
    except FileNotFoundError:
        where = f"folder {os.fspath(store)!r}" if not isinstance(store, ObjectStore) else "the store"
        raise AssertionError(
            f"the output {record.output_key!r} of task {record.idempotency_key!r} is not in {where}"
        ) from None


def _records(queue: Source) -> list[TaskRecord]:
    return read(queue, LedgerView.records)


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(STEP, left))
    return True


def _note_read(queue: Source, letters: Iterable[DeadLetter]) -> None:
    path = queue.path if isinstance(queue, TaskQueue) else Path(queue).resolve()
    watch.seen(path, letters)


def _name(queue: Source) -> str:
    return queue_at(queue.path if isinstance(queue, TaskQueue) else queue)


def _after(seconds: float) -> str:
    return f" within {seconds:g} s" if seconds else ""
