"""Child processes that can be killed at any moment: made by fork from a parent without threads, heard over a pipe.

A fork costs two milliseconds where a new interpreter costs a hundred and fifty, and it is a process as real as any
other: the kernel ends it at once on SIGKILL, and frees its locks.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any, Self

HANG = 15
"""Seconds after which a child ends by SIGALRM: only a hang reaches it."""

Event = list[Any]


class Voice:
    """The child's end of the pipe: one line of JSON for each event, each a single write, so that no kill cuts one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, *event: Any) -> None:
        """Tell the parent; from any thread."""
        line = f"{json.dumps(event)}\n".encode()
        assert len(line) <= select.PIPE_BUF, "the line could be torn"
        os.write(self._descriptor, line)

    def share(self) -> int:
        """The descriptor, for a program that this process is about to become."""
        os.set_inheritable(self._descriptor, True)
        return self._descriptor


class _Complaints(logging.Handler):
    """What the queue logs as an error is told as one; warnings are its everyday business."""

    def __init__(self, voice: Voice) -> None:
        super().__init__(logging.ERROR)
        self._voice = voice

    def emit(self, record: logging.LogRecord) -> None:
        self._voice.say("logged", record.getMessage()[:500])


class Child:
    """A process under test. `heard` has the events that it told, in their order."""

    def __init__(self, program: Callable[..., object], *args: Any, hang: int = HANG) -> None:
        """Fork, and call `program(voice, *args)` in the child; after `hang` seconds it ends by SIGALRM (0: never)."""
        self._reader, writer = os.pipe()
        self.heard: list[Event] = []
        self._rest = b""
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _be(Voice(writer), program, args, hang)
        os.close(writer)

    def listen(self, enough: Callable[[list[Event]], bool], seconds: float = HANG + 5) -> list[Event]:
        """Hear until it is enough, the child has ended, or the time is up; the events that are new."""
        end, new = time.monotonic() + seconds, list[Event]()
        while not enough(self.heard) and (left := end - time.monotonic()) > 0:
            if select.select([self._reader], [], [], min(left, 60.0))[0]:
                data = os.read(self._reader, 1 << 16)
                if not data:
                    break
                new += self._take(data)
        return new

    def kill(self) -> list[Event]:
        """SIGKILL; what it had still said."""
        os.kill(self.pid, signal.SIGKILL)
        return self.rest()

    def rest(self) -> list[Event]:
        """Hear the child until its end."""
        return self.listen(lambda _: False, float("inf"))

    def wait(self) -> int:
        """Its end: the exit status, or minus the signal."""
        if self._status is None:
            self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._reader)
        return self._status

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """No child outlives its story, however that ends."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    def told(self, kind: str) -> list[Event]:
        """The events of one kind, without the kind."""
        return [event[1:] for event in self.heard if event[0] == kind]

    def _take(self, data: bytes) -> list[Event]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = [json.loads(line) for line in lines]
        self.heard += events
        return events


def run(program: Callable[..., object], *args: Any) -> tuple[Child, int]:
    """Run a child to its end."""
    with Child(program, *args) as child:
        child.rest()
        return child, child.wait()


def _be(voice: Voice, program: Callable[..., object], args: tuple[Any, ...], hang: int) -> None:
    """The child's life. It never returns, and nothing of the parent's is flushed or cleaned up twice."""
    status = 1
    try:
        signal.alarm(hang)
        logger = logging.getLogger("taskqueue")
        logger.handlers[:], logger.propagate = [_Complaints(voice)], False
        program(voice, *args)
        status = 0
    except BaseException:  # noqa: BLE001 - told to the parent
        voice.say("error", traceback.format_exc()[-1500:])
    finally:
        os._exit(status)
