"""Queues that hang for good, each in one place. Only for processes of their own: nothing ends their threads."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from toys import ONE, Pool

from pytest_taskqueue.subjects import Setup
from taskqueue_core import Task


def forever() -> None:
    """What nobody ever comes back from."""
    threading.Event().wait()


class Submit(Pool):
    """In submit, for every task."""

    def submit(self, task: Task) -> Future[Any]:
        forever()
        return super().submit(task)


class SubmitOne(Pool):
    """In submit, for a single task."""

    def submit(self, task: Task) -> Future[Any]:
        if task.key.endswith(ONE):
            forever()
        return super().submit(task)


class Deaf(Future[Any]):
    """A future without a result, and without an ear for timeouts."""

    def result(self, timeout: float | None = None) -> Any:
        forever()


class Result(Pool):
    """In the result of a single task, whatever timeout it is given."""

    def submit(self, task: Task) -> Future[Any]:
        return Deaf() if task.key.endswith(ONE) else super().submit(task)


class WorkOfExecutor(Pool):
    """In the work, in the threads of an executor, for which Python waits at exit."""

    def do(self, task: Task) -> Any:
        forever()


class WorkOfThreads:
    """In the work, in daemon threads of its own."""

    def __init__(self, setup: Setup) -> None:
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        for _ in range(setup.workers):
            threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while self._tasks.get():
            forever()

    def submit(self, task: Task) -> Future[Any]:
        self._tasks.put(task)
        return Future()

    def close(self, timeout: float) -> object:
        return None


class WorkOfStrangers(WorkOfThreads):
    """In the work, in threads of its own that are no daemons: Python waits for them, too."""

    def __init__(self, setup: Setup) -> None:
        self._tasks = SimpleQueue()
        for _ in range(setup.workers):
            threading.Thread(target=self.serve).start()


class Open(Pool):
    """When it is made."""

    def __init__(self, setup: Setup) -> None:
        forever()


class Close(Pool):
    """When it is closed, all its work done."""

    def close(self, timeout: float) -> object:
        forever()
        return None


class Depth(Pool):
    """When it is asked how many tasks wait."""

    def depth(self) -> int:
        forever()
        return 0


class Output(Pool):
    """When it is asked where an output is."""

    def output(self, task: Task) -> Path:
        forever()
        return Path()
