"""What can be measured and tested: anything with `submit(task) -> future` and `close(timeout)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from pytest_taskqueue.tally import Tally
from pytest_taskqueue.thumbnails import Images
from taskqueue_core import Task


class Promise(StrEnum):
    """What a queue may promise beyond doing each task once: `promises = {"bounded", "durable"}` on its class.

    The conformance suite holds it to each of them.
    """

    BOUNDED = "bounded"
    """At most `setup.queue_size` tasks wait; a submit beyond that is held back until there is room."""
    REJECTS = "rejects"
    """Opened with `setup.overflow == "reject"`, such a submit raises at once, and leaves nothing behind."""
    DEDUPLICATES = "deduplicates"
    """A task whose `task.key` is known is not done again: its future gets the first one's result."""
    CONFLICTS = "conflicts"
    """A known key with other params is an error."""
    RETRIES = "retries"
    """ConnectionError and its like are tried again, ValueError and its like are not."""
    DEAD_LETTERS = "dead_letters"
    """`dead_letters()` gives the keys of the tasks that failed for good, `replay(key)` a future of another try."""
    JOINS = "joins"
    """`join(timeout)` waits until nothing is left to do: True; False when the time is over."""
    DEADLINE = "deadline"
    """`close(timeout)` comes back in time although a task is stuck."""
    DURABLE = "durable"
    """A task whose `submit` returned is done after kill -9, by the next queue that is opened over its directory."""
    FORK_SAFE = "fork_safe"
    """In a forked child it refuses instead of hanging, and the parent goes on unharmed."""


BASICS = ("once", "results", "exceptions", "closes", "leaves_nothing")
"""What every queue promises; none says so."""


class Subject(Protocol):
    """A queue under load or under test.

    These methods are used where they are there: `join(timeout) -> bool`, `dead_letters() -> Iterable[str]` and
    `replay(key) -> future` (see Promise); `depth() -> int`, how many tasks wait; `output(task) -> Path`, where the
    output file of a task lies if not at `Images.output(task)`. So is the attribute `promises`, of Promise or their
    names.
    """

    def submit(self, task: Task, /) -> Any:
        """Accept a task, from any of many threads; what comes back has `result(timeout)`, as a Future has."""

    def close(self, timeout: float) -> object:
        """End within `timeout` seconds and leave no thread and no open file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a subject is made from, fresh for every slot and for every check.

    work        does one task, counts it and returns its value; the queue calls it once per task
    workers     how many threads may call it at once
    queue_size  how many tasks may wait
    directory   an empty folder for whatever the queue keeps; after kill -9 with what it kept
    overflow    what a submit does when no place is free: "block" or "reject"
    images      for queues that bring their own image work: where it reads and writes; None for other workloads
    tally       what such a queue must tell of each task once its own work is done
    """

    work: Callable[[Task], Any]
    workers: int
    queue_size: int
    directory: Path
    overflow: str = "block"
    images: Images | None = None
    tally: Tally = field(default_factory=Tally)


SubjectFactory = Callable[[Setup], Subject]
"""A class, or a function, that makes a subject."""


class ProtocolError(TypeError):
    """A subject is not what a subject has to be: says which method, and how to mend it."""


def opened(factory: SubjectFactory, setup: Setup) -> Subject:
    """A subject that has what it must have. Raises ProtocolError, or what the subject raises when it is made."""
    return opened_and_heard(factory, setup)[0]


def opened_and_heard(factory: SubjectFactory, setup: Setup) -> tuple[Subject, frozenset[Promise]]:
    """The same, and what it promises: that is read once, since it may be computed."""
    try:
        inspect.signature(factory).bind(setup)
    except TypeError as error:
        name = getattr(factory, "__name__", repr(factory))
        remedy = "write def __init__(self, setup)" if isinstance(factory, type) else f"write def {name}(setup)"
        raise ProtocolError(
            f"{name} is called with one argument, a Setup, and that fails ({error}): {remedy}"
        ) from None
    except ValueError:  # made in C: it has no signature
        pass
    subject = factory(setup)
    if subject is None:
        raise ProtocolError("it returned None: return the object that has submit(task) and close(timeout)")
    name = type(subject).__name__
    _check(subject, name, "submit", "task", "a Future")
    _check(subject, name, "close", "timeout", "nothing, within `timeout` seconds")
    return subject, promises_of(subject)


def promises_of(subject: Subject) -> frozenset[Promise]:
    """What a subject promises. Raises ProtocolError for what is no promise."""
    given = getattr(subject, "promises", ())
    try:
        return frozenset(map(_promise, _names(given)))
    except ValueError as error:
        raise ProtocolError(f"{type(subject).__name__}.promises: {error}; there are {', '.join(Promise)}") from None


def _names(given: object) -> list[str]:
    if isinstance(given, Mapping):  # it may say False
        raise ValueError(f"it is a {type(given).__name__}, write a set such as {{'bounded'}}")
    if not isinstance(given, Iterable):
        raise ValueError(f"it is {given!r:.80}, write a set such as {{'bounded'}}")
    return [given] if isinstance(given, str) else [str(name) for name in given]


def _promise(name: str) -> Promise:
    if name in BASICS:
        raise ValueError(f"{name!r} is promised by every queue, leave it out")
    return Promise(name)


def checked_future(subject: Subject, given: Any) -> Any:
    """What `submit` returned, if it is as good as a Future. Raises ProtocolError."""
    result = getattr(given, "result", None)
    if callable(result) and _takes(result, 1.0):
        return given
    where = f"{type(subject).__name__}.submit returned {given!r:.80}"
    if callable(result):
        raise ProtocolError(f"{where}, whose result() takes no timeout: write def result(self, timeout=None)")
    raise ProtocolError(f"{where}: return a concurrent.futures.Future, or what has result(timeout) like one")


def _check(subject: Subject, name: str, method: str, argument: str, returned: str) -> None:
    call = getattr(subject, method, None)
    remedy = f"write def {method}(self, {argument}), which returns {returned}"
    if not callable(call):
        raise ProtocolError(f"{name} has no method {method}: {remedy}")
    if not _takes(call, object()):
        called = f"{name}.{method}{inspect.signature(call)}"
        raise ProtocolError(f"{called} cannot be called with a {argument} alone: {remedy}")


def _takes(call: Callable[..., Any], *arguments: object) -> bool:
    try:
        inspect.signature(call).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # made in C: it has no signature
        return True
    return True
