"""Descriptions of tasks: does a record match, by how much does it miss, and how is that said?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_taskqueue.wording import count
from taskqueue_core import DeadLetter, LedgerView, QueueClosedError, Status, Task, TaskQueue, TaskRecord, clock, watch

R = TypeVar("R")

SHOWN = 5
"""How many tasks a failed assertion shows."""
_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a task should be like; None stands for anything. `params` may be a part of the task's, `whole` is all that
    decides whether two tasks of one key are the same: image_key, variant and params.
    """

    idempotency_key: str | None = None
    whole: Mapping[str, Any] | None = None
    image_key: str | None = None
    variant: str | None = None
    params: Mapping[str, Any] | None = None
    status: Status | None = None
    reason: str | None = None
    error: str | type[BaseException] | None = None

    def matches(self, found: TaskRecord | DeadLetter) -> bool:
        """Whether that is one."""
        return not any(self.differences(found))

    def differences(self, found: TaskRecord | DeadLetter) -> Iterator[str]:
        """What is otherwise, a phrase for each."""
        for name in ("idempotency_key", "image_key", "variant", "status", "reason"):
            want = getattr(self, name)
            have = getattr(found, name, None)
            if want is not None and have != want:
                yield f"{_shown(name)} is {_value(have)}, not {_value(want)}"
        if self.whole is not None:
            yield from _unlike(self.whole, found)
        if self.params is not None:
            yield from _missing("params", self.params, found.params)
        if self.error is not None and not _is_error(self.error, found.error or ""):
            yield f"error is {found.error!r}"

    def __str__(self) -> str:
        given = [(name, getattr(self, name)) for name in self.__slots__ if getattr(self, name) is not None]
        return ", ".join(_given(name, value) for name, value in given) or "any content"


def wanted(task: Task | str | None = None, *, status: Status | str | None = None, **fields: Any) -> Wanted:
    """A description. Raises TypeError or ValueError for what describes no task."""
    if isinstance(task, Task):
        params = json.loads(json.dumps(dict(task.params)))  # as the ledger gives them back
        fields["whole"] = {"image_key": task.image_key, "variant": task.variant, "params": params}
        task = task.key
    if not isinstance(task, str | None):
        raise TypeError(f"expected a Task, its key or None, got {task!r}")
    return Wanted(idempotency_key=task, status=None if status is None else _status(status), **fields)


def listing(description: Wanted, found: Sequence[TaskRecord | DeadLetter], others: Sequence[TaskRecord] = ()) -> str:
    """The tasks that come nearest, with what is otherwise in each, as lines below an assertion's text."""
    if not found and not others:
        return "  there is no task at all"
    ranked = sorted([*found, *others], key=lambda one: len([*description.differences(one)]))
    lines = [f"  {_task(one)}{_difference(description, one)}" for one in ranked[:SHOWN]]
    return "\n".join(lines + [f"  ... and {len(ranked) - SHOWN} more"] * (len(ranked) > SHOWN))


def read(queue: TaskQueue | str | os.PathLike[str], ask: Callable[[LedgerView], R]) -> R:
    """Ask a queue's ledger: that of an open queue, or the file of a closed one. Nobody's errors count as read by that.
    Raises TypeError for another thing.
    """
    if isinstance(queue, TaskQueue):
        try:
            with watch.aside():
                return ask(queue.view())
        except QueueClosedError:
            if queue.path is None:
                raise
            queue = queue.path
    if not isinstance(queue, str | os.PathLike):
        raise TypeError(f"expected a TaskQueue or the path of its ledger, got {queue!r}")
    with watch.aside(), LedgerView.inspect(queue) as view:
        return ask(view)


def state(record: TaskRecord) -> str:
    """'queued, 1 attempt so far, last error 'TransientError: busy', due in 4.2 s', or just 'success'."""
    if record.status is not Status.QUEUED:
        return record.status.value
    parts = ["queued"]
    if record.attempt:
        parts.append(f"{count(record.attempt, 'attempt')} so far")
    if record.error is not None:
        parts.append(f"last error {record.error!r}")
    if (left := record.run_at - clock.now()) > 0:
        parts.append(f"due in {left:,.1f} s")
    return ", ".join(parts)


def _status(status: str) -> Status:
    try:
        return Status(status)
    except ValueError:
        states = ", ".join(Status)
        raise ValueError(
            f"there is no status {status!r}; the states are {states}; a task that waits for a retry is queued"
        ) from None


def _task(found: TaskRecord | DeadLetter) -> str:
    what = f"dead ({found.reason}: {found.error})" if isinstance(found, DeadLetter) else state(found)
    params = f" params {found.params}" if found.params else ""
    return f"{found.image_key!r} {found.variant!r}{params}, {what}"


def _difference(description: Wanted, found: TaskRecord | DeadLetter) -> str:
    differences = list(description.differences(found))
    return f"\n      {'; '.join(differences)}" if differences else ""


def _unlike(whole: Mapping[str, Any], found: TaskRecord | DeadLetter) -> Iterator[str]:
    """Where a task is otherwise than one that was given whole."""
    for name in ("image_key", "variant"):
        if (have := getattr(found, name)) != whole[name]:
            yield f"{name} is {have!r}, not {whole[name]!r}"
    for name, value in found.params.items():
        if name not in whole["params"]:
            yield f"params[{name!r}] is {value!r}, and the task given has none"
    for name, value in whole["params"].items():
        have = found.params.get(name, _ABSENT)
        if have != value:
            yield f"params[{name!r}] is " + ("missing" if have is _ABSENT else f"{have!r}, not {value!r}")


def _missing(where: str, want: Mapping[str, Any], have: Any) -> Iterator[str]:
    """Where a part is not contained; mappings inside mappings may be parts, too."""
    for name, value in want.items():
        found = have.get(name, _ABSENT) if isinstance(have, Mapping) else _ABSENT
        place = f"{where}[{name!r}]"
        if found is _ABSENT:
            yield f"{place} is missing"
        elif isinstance(value, Mapping) and isinstance(found, Mapping):
            yield from _missing(place, value, found)
        elif found != value:
            yield f"{place} is {found!r}, not {value!r}"


def _is_error(want: str | type[BaseException], text: str) -> bool:
    return want in text if isinstance(want, str) else text.split(":", maxsplit=1)[0] == want.__name__


def _given(name: str, value: Any) -> str:
    """How a part of a description is said; of a whole task, what its key does not say."""
    if name != "whole":
        return f"{_shown(name)}={_value(value)}"
    return f"exactly params={value['params']!r}"


def _shown(name: str) -> str:
    return "key" if name == "idempotency_key" else name


def _value(value: object) -> str:
    if isinstance(value, Status):
        return value.value
    return value.__name__ if isinstance(value, type) else repr(value)
