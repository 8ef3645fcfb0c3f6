"""The signals that ask a run to end: the first one politely, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Any, Self

from taskqueue_core.exits import SIGNAL

WAKE = 0.2
"""Seconds after which a wait looks for signals by itself. A signal does not always interrupt it: never on Windows,
and elsewhere not when the system gave the signal to another thread."""


class Signals:
    """While entered (by the main thread, in others it does nothing) signals are noted instead of ending the process.

    A handler runs between any two steps of the main thread, which may hold any lock just then. So the first
    signal only goes into a SimpleQueue, the one thing of the library that allows it, and raises nothing; a second
    one ends the process with the status of the first, as kill -9 would. Signals that were ignored (nohup) stay so.
    """

    def __init__(self, handled: Sequence[signal.Signals]) -> None:
        self._handled = handled
        self._previous: list[tuple[signal.Signals, Callable[..., Any] | int]] = []
        self._news: SimpleQueue[None] = SimpleQueue()
        self.first: signal.Signals | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._handled:
                previous = signal.getsignal(number)
                if previous is not None and previous != signal.SIG_IGN:
                    self._previous.append((number, previous))
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._previous:
            signal.signal(*self._previous.pop())

    @property
    def status(self) -> int | None:
        """The exit status that the first signal asks for; None without one."""
        return None if self.first is None else SIGNAL + self.first

    def wait(self) -> None:
        """Wait for a signal or a `wake`, at most WAKE seconds."""
        with suppress(Empty):
            self._news.get(timeout=WAKE)

    def wake(self) -> None:
        """End a `wait`, from any thread."""
        self._news.put(None)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.first is None:
            self.first = signal.Signals(number)
            self._news.put(None)
            return
        with suppress(OSError):  # not print: this may have interrupted one
            os.write(2, b"taskqueue: a second signal: leaving at once; what was running counts as a crash\n")
        os._exit(SIGNAL + self.first)
