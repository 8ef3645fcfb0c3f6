"""What a caller submits (Task), and what the ledger knows of it (TaskRecord)."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from taskqueue_core.errors import InvalidKeyError

JSON = Any
"""A value that `json` can write: None, bool, int, finite float, str, list, or dict with str keys."""


DEEPEST = 100
"""Lists and objects inside each other, at most: deeper ones can be written but, on a fuller stack, not read back."""


class Status(StrEnum):
    """The four states of a task. A task that waits for a retry is queued, with a later `run_at`."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work: `image_key` names the object, `variant` what to make of it.

    `params` is any JSON object. Two tasks with the same idempotency key are the same task; the key is
    made of `image_key` and `variant` unless one is given.
    """

    image_key: str
    variant: str = ""
    params: Mapping[str, JSON] = field(default_factory=dict)
    idempotency_key: str | None = None

    def __post_init__(self) -> None:
        _check_text("image_key", self.image_key)
        _check_text("variant", self.variant, may_be_empty=True)
        if self.idempotency_key is not None:
            _check_text("idempotency_key", self.idempotency_key)
        if not isinstance(self.params, Mapping):
            raise TypeError(f"params must be a JSON object (a dict), got {self.params!r}")

    @property
    def key(self) -> str:
        """The idempotency key. A JSON pair, so that ("a#b", "c") and ("a", "b#c") cannot meet."""
        if self.idempotency_key is not None:
            return self.idempotency_key
        return f"[{_quoted(self.image_key)},{_quoted(self.variant)}]"  # what to_json makes of the pair


def stored_task(image_key: str, variant: str, params: dict[str, JSON], key: str) -> Task:
    """A task that was checked when it was submitted; checking it again for each attempt would cost 3 us."""
    task = object.__new__(Task)
    _set(task, "image_key", image_key)
    _set(task, "variant", variant)
    _set(task, "params", params)
    _set(task, "idempotency_key", key)
    return task


_set = object.__setattr__  # the dataclass is frozen for everybody else


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """A task as the ledger has it. Times are seconds since the epoch; `value` is decoded.

    `attempt` counts claims, `retries` the attempts that failed and were tried again, `crashes` the owners
    that died while the task was running. `version` grows with every change and guards the next one. `finished_at`
    is None until the task has succeeded or failed.
    """

    id: int
    idempotency_key: str
    image_key: str
    variant: str
    params: Mapping[str, JSON]
    status: Status
    retries: int
    attempt: int
    crashes: int
    created_at: float
    run_at: float
    output_key: str | None
    size: int | None
    sha256: str | None
    value: JSON
    error: str | None
    version: int
    finished_at: float | None = None

    @property
    def task(self) -> Task:
        """The task to hand to a processor, with params of its own."""
        return stored_task(self.image_key, self.variant, copy.deepcopy(dict(self.params)), self.idempotency_key)

    @property
    def finished(self) -> bool:
        """True when nothing more will happen to the task by itself."""
        return self.status in (Status.SUCCESS, Status.FAILED)


_encode = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_quoted = json.encoder.encode_basestring


def to_json(value: JSON) -> str:
    """Write a value as canonical JSON text: sorted keys, no spaces, no NaN. Raises TypeError or ValueError."""
    text = _encode(value)
    if text.count("[") + text.count("{") > DEEPEST and _deeper(value, DEEPEST):
        raise ValueError(f"nested more than {DEEPEST} deep")
    return text


def _deeper(value: JSON, limit: int) -> bool:
    level: list[Any] = [[value]]
    for _ in range(limit + 1):
        children = [child for part in level for child in (part.values() if isinstance(part, Mapping) else part)]
        level = [child for child in children if isinstance(child, dict | list | tuple)]
        if not level:
            return False
    return True


def _check_text(name: str, text: object, *, may_be_empty: bool = False) -> None:
    if not isinstance(text, str):
        raise InvalidKeyError(f"{name} must be a string, got {text!r}")
    if not text and not may_be_empty:
        raise InvalidKeyError(f"{name} must not be empty")
    if "\0" in text:
        raise InvalidKeyError(f"{name} must not hold a NUL byte: {text!r}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidKeyError(f"{name} is no valid Unicode text: {text!r}") from None
