"""What the adapters share: a task as text and back, and worker threads for the libraries that have none."""

from __future__ import annotations

import itertools
import json
import threading
import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any
from uuid import uuid4

from pytest_taskqueue.subjects import Setup
from taskqueue_core import Task

POLL = 0.001
"""Seconds between two looks of an idle worker, in favour of libraries that would look less often."""


def pack(task: Task) -> str:
    """Its fields as JSON; the work cannot be stored, and stays in the adapter."""
    return json.dumps([task.image_key, task.variant, dict(task.params), task.key])


def unpack(text: str) -> Task:
    """The task again."""
    image_key, variant, params, key = json.loads(text)
    return Task(image_key, variant, params, idempotency_key=key)


class Futures:
    """The futures of open tasks, each by a name: asked for by a submit and settled by a worker, whichever is first."""

    def __init__(self) -> None:
        self._open: dict[str, Future[Any]] = {}  # its single steps are safe among threads
        self._closed = False

    def check(self) -> None:
        """Raise when no task is taken any more."""
        if self._closed:
            raise RuntimeError("the queue is closed")

    def of(self, name: str) -> Future[Any]:
        """The future of a task."""
        self.check()
        future = self._open.setdefault(name, Future())
        future.add_done_callback(lambda _: self._open.pop(name, None))
        return future

    def settle(self, name: str, value: Any = None, error: BaseException | None = None) -> None:
        """Give the caller what came out."""
        future = self._open.setdefault(name, Future())
        with suppress(InvalidStateError):  # it was cancelled at this moment
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

    def close(self) -> None:
        """Nobody is to wait for a task that is not done: those of the next queue over the same folder."""
        self._closed = True
        for future in list(self._open.values()):
            future.cancel()


class Threads:
    """A store that knows put, take, done and failed, with `setup.workers` threads and a Future for each submit.

    What the store already holds is worked on, too; nobody waits for that. A result is given out once the store has
    recorded it.
    """

    def __init__(self, setup: Setup) -> None:
        self._work = setup.work
        self._futures = Futures()
        self._stopped = threading.Event()
        self._ended = itertools.count(1)  # next() is one step, also for eight threads
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(setup.workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task) -> Future[Any]:
        """Put it, with a token by which the result finds its future."""
        token = uuid4().hex
        future = self._futures.of(token)
        try:
            self.put(token + pack(task))
        except BaseException:
            future.cancel()
            raise
        return future

    def close(self, timeout: float) -> None:
        """Let the tasks that run end, as far as the time goes; what waits is left to the store."""
        self._stopped.set()
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(end - time.monotonic(), 0.0))
        self._futures.close()

    def put(self, text: str) -> None:
        """Store a task."""
        raise NotImplementedError

    def take(self) -> tuple[Any, str] | None:
        """The next task with what names it in the store; None when there is none for the moment."""
        raise NotImplementedError

    def done(self, handle: Any) -> None:
        """Record that it succeeded."""
        raise NotImplementedError

    def failed(self, handle: Any) -> None:
        """Record that it failed."""
        raise NotImplementedError

    def shut(self) -> None:
        """Close the store; the last thread does it."""
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stopped.is_set():
            if (taken := self.take()) is not None:
                self._one(*taken)
        if next(self._ended) == len(self._threads):
            self.shut()

    def _one(self, handle: Any, text: str) -> None:
        try:
            value = self._work(unpack(text[32:]))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self.failed(handle)
            self._futures.settle(text[:32], error=error)
        else:
            self.done(handle)
            self._futures.settle(text[:32], value)
