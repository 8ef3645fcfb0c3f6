"""Every knob of a queue in one place, validated once."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Self, TypeVar

from taskqueue_core.retry import RetryPolicy

T = TypeVar("T")

ENV_PREFIX = "TASKQUEUE_"
DURABILITIES = ("power", "process")
OVERFLOWS = ("block", "reject")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSettings:
    """How a TaskQueue behaves.

    durability    "power": an accepted task survives a power cut; "process": it survives kill -9 of the process
    max_workers   threads that work on tasks
    queue_size    places for waiting tasks in memory
    overflow      what a submit does when no place is free: "block" or "reject"
    retry         which errors are tried again, how often and after which delay
    task_timeout  seconds after which an attempt counts as failed; None: never
    max_retrying  retry-waiting tasks beyond which submits are held back; None: 10 x queue_size
    retain        successes that the ledger keeps, the last ones; None: all
    retain_for    seconds for which it keeps them; None: for ever
    """

    durability: str = "power"
    max_workers: int = 8
    queue_size: int = 200
    overflow: str = "block"
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    task_timeout: float | None = None
    max_retrying: int | None = None
    retain: int | None = None
    retain_for: float | None = None

    def __post_init__(self) -> None:
        _check_choice("durability", self.durability, DURABILITIES)
        _check_choice("overflow", self.overflow, OVERFLOWS)
        for name in ("max_workers", "queue_size"):
            _check_count(name, getattr(self, name))
        if not isinstance(self.retry, RetryPolicy):
            raise TypeError(f"retry must be a RetryPolicy, got {self.retry!r}")
        for name in ("max_retrying", "retain"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        for name in ("task_timeout", "retain_for"):
            _check_seconds(name, getattr(self, name))

    @property
    def retrying_limit(self) -> int:
        """How many retry-waiting tasks hold admission back."""
        return 10 * self.queue_size if self.max_retrying is None else self.max_retrying

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read TASKQUEUE_DURABILITY, TASKQUEUE_MAX_WORKERS, ...; an unset or empty variable means the default.

        The retry policy is read from TASKQUEUE_MAX_ATTEMPTS, TASKQUEUE_RETRY_BASE and TASKQUEUE_RETRY_CAP.
        Raises ValueError naming the variable.
        """
        retry = _build(RetryPolicy, environ, _RETRY_VARIABLES)
        return _build(partial(cls, retry=retry), environ, _VARIABLES)


_Variables = dict[str, tuple[str, Callable[[str], Any]]]
_VARIABLES: _Variables = {
    "DURABILITY": ("durability", str),
    "MAX_WORKERS": ("max_workers", int),
    "QUEUE_SIZE": ("queue_size", int),
    "OVERFLOW": ("overflow", str),
    "TASK_TIMEOUT": ("task_timeout", float),
    "MAX_RETRYING": ("max_retrying", int),
    "RETAIN": ("retain", int),
    "RETAIN_FOR": ("retain_for", float),
}
_RETRY_VARIABLES: _Variables = {
    "MAX_ATTEMPTS": ("max_attempts", int),
    "RETRY_BASE": ("base", float),
    "RETRY_CAP": ("cap", float),
}


def variables() -> list[str]:
    """The names of all environment variables that `from_env` reads."""
    return [ENV_PREFIX + name for name in (*_VARIABLES, *_RETRY_VARIABLES)]


def combine(settings: QueueSettings | None, **knobs: Any) -> QueueSettings:
    """Settings from single knobs, or the given ones; both at once is a TypeError that names the knob."""
    if settings is None:
        return QueueSettings(**knobs)
    defaults = QueueSettings()
    for knob in fields(QueueSettings):
        if knob.name in knobs and knobs[knob.name] != getattr(defaults, knob.name):
            raise TypeError(f"{knob.name} was given twice: put it into settings=QueueSettings(...) alone")
    return settings


def _build(make: Callable[..., T], environ: Mapping[str, str], names: _Variables) -> T:
    values = _read(environ, names)
    try:
        return make(**values)
    except ValueError as error:  # it names the knobs; whoever set variables looks for those
        wrong = [v for v, (knob, _) in names.items() if knob in values and re.search(rf"\b{knob}\b", str(error))]
        raise ValueError(f"{', '.join(ENV_PREFIX + variable for variable in wrong)}: {error}") from None


def _read(environ: Mapping[str, str], names: _Variables) -> dict[str, Any]:
    values = {}
    for variable, (knob, convert) in names.items():
        text = environ.get(ENV_PREFIX + variable, "").strip()
        if text:
            try:
                values[knob] = convert(text)
            except ValueError:
                raise ValueError(f"{ENV_PREFIX}{variable}={text!r}: expected {convert.__name__}") from None
    return values


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_seconds(name: str, value: float | None) -> None:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a positive number of seconds or None, got {value!r}")
