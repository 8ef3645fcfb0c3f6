"""The processor under test, and the programs that every proof needs: one that submits, one that finishes.

A task's params say how it behaves, so that whoever inherits the ledger goes on with it: `fails` is "never", "once"
(in each process) or "always"; `output` says whether the result is a file. Each run has a token of its own, which is
the value of its result and what its file repeats: a second run can be told from the first by either.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from taskqueue_core import Output, PermanentError, QueueClosedError, RetryPolicy, Task, TaskQueue, TransientError
from tests.proof.process import HANG, Voice
from tests.proof.trap import Point, Trap, die

LEDGER = "tasks.db"
PART = ".part-"
"""How the name of an unfinished file begins."""
REPEAT = 200
PATIENCE = 5.0
"""Seconds for what takes milliseconds."""
QUICK = RetryPolicy(max_attempts=100, base=0.001, cap=0.005)


def content(token: str) -> bytes:
    """What the file of a run holds."""
    return token.encode() * REPEAT


def task(name: str, *, fails: str = "never", output: bool = True) -> Task:
    """A task whose key is its name."""
    return Task(name, params={"fails": fails, "output": output}, idempotency_key=name)


class Work:
    """Runs tasks as their params say, and tells the parent of each run.

    `deadly` kills the process when the file is written and not published; `held` keeps an attempt there until `go`
    is set; `mended` means that what always failed fails no more; `pace` is how long an attempt takes, in seconds.
    """

    def __init__(self, voice: Voice, folder: Path) -> None:
        self.voice = voice
        self.folder = folder
        self.deadly = ""
        self.held: set[str] = set()
        self.mended = False
        self.pace = 0.0
        self.go = threading.Event()
        self.begun = threading.Event()
        self._failed: set[str] = set()

    def __call__(self, task: Task) -> Any:
        token = secrets.token_hex(8)
        self.voice.say("ran", task.key, token)
        time.sleep(self.pace)
        self._maybe_fail(task)
        if not task.params["output"]:
            self._stop_there(task)
            return token
        part = self.folder / f"{PART}{task.image_key}-{token}"
        part.write_bytes(content(token))
        self._stop_there(task)
        return Output(part, token)

    def discard(self, tasks: Sequence[Task]) -> None:
        """Remove the unfinished files of these tasks."""
        for task in tasks:
            for part in self.folder.glob(f"{PART}{task.image_key}-*"):
                part.unlink()

    def _maybe_fail(self, task: Task) -> None:
        fails = task.params["fails"]
        if fails == "always" and not self.mended:
            raise PermanentError("it always fails")
        if fails == "once" and task.key not in self._failed:
            self._failed.add(task.key)
            raise TransientError("once in each process")

    def _stop_there(self, task: Task) -> None:
        self.begun.set()
        if task.key == self.deadly:
            die()
        if task.key in self.held:
            assert self.go.wait(HANG), "nobody let the task go on"


def open_queue(work: Callable[[Task], Any], folder: Path, **knobs: Any) -> TaskQueue:
    """A queue over the folder's ledger."""
    return TaskQueue(work, ledger=folder / LEDGER, **{"durability": "process", "retry": QUICK, **knobs})


def submit(queue: TaskQueue, voice: Voice, task: Task) -> Future[Any]:
    """Submit, tell that it was accepted, and later its result."""
    future = queue.submit(task)
    voice.say("accepted", task.key)
    tell(voice, task.key, future)
    return future


def submit_many(queue: TaskQueue, voice: Voice, tasks: Sequence[Task]) -> list[Future[Any]]:
    """The same for several at once."""
    futures = queue.submit_many(tasks)
    for task, future in zip(tasks, futures, strict=True):
        voice.say("accepted", task.key)
        tell(voice, task.key, future)
    return futures


def watch(voice: Voice) -> None:
    """Tell the parent, once for each, which ways the transactions of this process go."""
    Trap(Point("never"), lambda way: voice.say("way", way)).set()


def tell(voice: Voice, key: str, future: Future[Any]) -> None:
    """Tell the parent what the caller of this task was told."""

    def done(future: Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            voice.say("result", key, future.result())
        elif not isinstance(error, QueueClosedError):
            voice.say("failure", key)

    future.add_done_callback(done)


def finish(voice: Voice, folder: Path) -> None:
    """The program of the last owner: recover, drain, close."""
    queue = open_queue(Work(voice, folder), folder)
    queue.join(PATIENCE)
    voice.say("drained", queue.close(PATIENCE).drained)
