"""When something hangs: calls that are given up, stacks of those who hang, and a way out of the process."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType
from typing import Any

from pytest_taskqueue.wording import said

FRAMES = 12
"""How many of the innermost frames of a stack are shown."""
GROUPS = 4
"""How many different stacks are shown."""
ENDS = 0.1
"""Seconds for which the end of an idle hand is waited for."""
GRACE = 1.0
"""Seconds that threads have to end by themselves before the process leaves without them."""


class Hang(Exception):  # noqa: N818 - it is no error of the caller
    """A call did not come back in time; `stacks` shows where it is."""

    def __init__(self, seconds: float, stacks: list[str]) -> None:
        super().__init__(f"no answer within {seconds:.3g} s")
        self.stacks = stacks


class Hand:
    """A thread that makes calls for others, who can give them up. All calls of one hand are made in one thread; it is
    no executor's, for whose threads Python waits at exit.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def call(self, what: Callable[[], Any], seconds: float) -> Any:
        """What the call returns or raises. Raises Hang when that takes longer than `seconds`."""
        outcome = self.begin(what)
        try:
            return outcome.result(seconds)
        except TimeoutError:
            if outcome.done():  # the call's own
                raise
            raise Hang(seconds, stacks([self.thread])) from None

    def begin(self, what: Callable[[], Any]) -> Future[Any]:
        """Make a call without waiting for it."""
        outcome: Future[Any] = Future()
        self._calls.put((what, outcome))
        return outcome

    def end(self) -> None:
        """Make no more calls; the thread ends, or does so when the call it makes comes back."""
        self._calls.put(None)
        self.thread.join(ENDS)

    def _work(self) -> None:
        while (given := self._calls.get()) is not None:
            what, outcome = given
            try:
                outcome.set_result(what())
            except Exception as error:  # noqa: BLE001 - whoever asked for the call raises it
                outcome.set_exception(error)
            except BaseException as error:  # noqa: BLE001 - what would end a thread or a program ends nothing here
                outcome.set_exception(RuntimeError(said(error)))


def stacks(threads: Iterable[threading.Thread]) -> list[str]:
    """Where these threads are, innermost call last; those at the same place are shown once, the loneliest first."""
    frames = sys._current_frames()
    groups: dict[str, list[str]] = {}
    for thread in threads:
        if (frame := frames.get(thread.ident or 0)) is not None:
            groups.setdefault(_calls(frame), []).append(thread.name)
    lonely = sorted(groups.items(), key=lambda group: len(group[1]))
    shown = [f"{_names(names)}:\n{text}" for text, names in lonely[:GROUPS]]
    return shown + [f"... and {len(groups) - GROUPS} other stacks"] * (len(groups) > GROUPS)


def _calls(frame: FrameType) -> str:
    """The innermost calls, without how threading began the thread."""
    calls = traceback.extract_stack(frame)
    while len(calls) > 1 and calls[0].filename == threading.__file__:
        del calls[0]
    return "".join(traceback.format_list(calls[-FRAMES:])).rstrip()


def still_alive(threads: Iterable[threading.Thread], seconds: float) -> list[threading.Thread]:
    """Wait for threads, for all of them together at most so long; those that have not ended."""
    threads, deadline = list(threads), time.monotonic() + seconds
    for thread in threads:  # by threading's own methods: a thread of the queue's own kind may have others
        threading.Thread.join(thread, max(deadline - time.monotonic(), 0.0))
    return [thread for thread in threads if threading.Thread.is_alive(thread)]


def watch_exit(status: int, before: Collection[threading.Thread]) -> None:
    """Leave the process with `status` if it is still there after GRACE seconds: at exit Python waits without end for
    threads that a queue has left behind, those of an executor even when they are daemons. Called last. Threads that
    were there `before` the run are not ours to end: pytest.main may have been called by a program that goes on.
    """
    here = {*before, threading.current_thread()}
    kept = [thread for thread in threading.enumerate() if thread not in here]
    if kept:
        threading.Thread(target=_leave, args=(status, kept), name="tq-exit", daemon=True).start()


def _leave(status: int, kept: list[threading.Thread]) -> None:
    time.sleep(GRACE)
    names = [thread.name for thread in kept if thread.is_alive()]
    if not names:  # nobody is waited for
        return
    with suppress(OSError, ValueError):
        sys.stderr.write(f"taskqueue: {_names(names)} still at work, not waited for\n")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - 1} more threads" if len(names) > 1 else ""
    return f"thread {names[0]}{more}"
