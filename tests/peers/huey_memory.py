"""huey in its memory, with its own consumer's worker threads in this process.

Its documentation promises retries, where CancelExecution(retry=False) tells what cannot be helped, and an end within
`shutdown_timeout`. The future gets its result once huey has stored it, from a hook: nobody polls for it.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from huey import CancelExecution, Huey, MemoryHuey
from huey.consumer import Consumer

from pytest_taskqueue.subjects import Promise, Setup
from taskqueue_core import Task
from tests.peers.glue import POLL, Futures, pack, unpack


class Queue:
    promises = frozenset({Promise.RETRIES, Promise.DEADLINE})

    def __init__(self, setup: Setup) -> None:
        self._work = setup.work
        self._futures = Futures()
        self._huey = self.open(setup)
        self._do = self._huey.task(retries=2, name="do")(self._attempt)
        self._huey.post_execute("settle")(self._settle)
        self._huey.on_shutdown("close")(self._huey.storage.close)  # by the worker that was stuck, too
        self._consumer = _Consumer(self._huey, setup.workers, periodic=False, initial_delay=POLL, max_delay=10 * POLL)
        self._consumer.start()

    def open(self, setup: Setup) -> Huey:
        return MemoryHuey()

    def submit(self, task: Task) -> Future[Any]:
        call = self._do.s(pack(task))
        future = self._futures.of(call.id)
        self._huey.enqueue(call)
        return future

    def close(self, timeout: float) -> None:
        self._consumer.shutdown_timeout = timeout
        self._consumer.stop(graceful=True)
        self._huey.storage.close()
        self._futures.close()

    def _attempt(self, text: str) -> Any:
        try:
            return self._work(unpack(text))
        except (ValueError, TypeError, LookupError) as error:
            raise CancelExecution(retry=False) from error

    def _settle(self, call: Any, value: Any, error: BaseException | None) -> None:
        if error is None or not call.retries:
            self._futures.settle(call.id, value, error and (error.__cause__ or error))


class _Consumer(Consumer):
    def _set_signal_handlers(self) -> None: ...  # they can be set in the main thread only
