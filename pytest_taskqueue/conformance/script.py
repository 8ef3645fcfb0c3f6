"""Work that does what its task says, and remembers how often. The same script can be played in another process."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_taskqueue.wording import count
from taskqueue_core import Task

LONGEST = 120.0
"""Seconds for which a task stays blocked when nobody releases it: no thread is to be there for ever."""

ERRORS: dict[str, type[Exception]] = {"ConnectionError": ConnectionError, "ValueError": ValueError}


def task(key: str, /, **script: Any) -> Task:
    """A task under that key. What its work does, in this order:

    block   wait for the release
    fail    raise in that many first attempts: `error` is the name of the error, `text` what it says
    number  return how many attempts there have been, this one included
    pid     return in which process that was
    key     return under which key that was
    value   return this
    """
    return Task(image_key=f"{key}.jpg", params=script, idempotency_key=key)


def strange(keys: Sequence[str]) -> Iterator[str]:
    """The problem with work under keys that are no task's; nothing for no keys."""
    if keys:
        done = "1 task was" if len(keys) == 1 else f"{count(len(keys), 'task')} were"
        given_back = "store task.key and give it back as idempotency_key"
        yield f"{done} worked on under keys that nobody submitted, such as {keys[0]!r:.80}: {given_back}"


class Work:
    """The work of one queue. Attempts are counted by key when they begin and when they end.

    With a `log`, the key of every good attempt is a line of that file, which outlives the process.
    """

    def __init__(self, log: Path | None = None) -> None:
        self._changed = threading.Condition()  # guards the counts
        self._released = threading.Event()
        self._log = log
        self.begun: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def __call__(self, task: Task) -> Any:
        key, script = task.key, task.params
        attempt = self._count(self.begun, key)
        try:
            if script.get("block"):
                self._released.wait(LONGEST)
            if attempt <= script.get("fail", 0):
                raise ERRORS[script["error"]](script.get("text", "on purpose"))
            self._write(key)
        finally:
            self._count(self.ended, key)
        return key if script.get("key") else self._value(script, attempt)

    def release(self) -> None:
        """Let all go on that are blocked, now and later."""
        self._released.set()

    def wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition on the counts holds; whether it does."""
        with self._changed:
            return self._changed.wait_for(condition, seconds)

    def _value(self, script: Mapping[str, Any], attempt: int) -> Any:
        if script.get("number"):
            return attempt
        return os.getpid() if script.get("pid") else script.get("value")

    def _count(self, counts: Counter[str], key: str) -> int:
        with self._changed:
            counts[key] += 1
            self._changed.notify_all()
            return counts[key]

    def _write(self, key: str) -> None:
        """In one piece: the process may be killed at any time."""
        if self._log is not None:
            file = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(file, f"{key}\n".encode())
            finally:
                os.close(file)
