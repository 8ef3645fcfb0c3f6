"""tinyjobs over SQLite, with the worker that it embeds in a program: an event loop, tasks in a pool of threads.

Its documentation promises delivery at least once, by leases (a minute, set to 3 s here); retries by class of error;
failed tasks that can be listed and run again; an end within `shutdown_timeout`. Its keys collapse duplicates only
until the first one is done, which is less than `deduplicates`. It syncs at checkpoints only (synchronous=NORMAL).
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

from tinyjobs import JobStatus, TinyJobs

from pytest_taskqueue.subjects import Promise, Setup
from taskqueue_core import Task
from tests.peers.glue import POLL, Futures, pack, unpack

RETRY = {"max_attempts": 3, "retry_on": (ConnectionError, TimeoutError), "retry_base": 0.01}
FAST = {"poll_minimum": POLL, "poll_maximum": 10 * POLL, "lease_seconds": 3.0, "reap_interval": 0.5}


class Queue:
    promises = frozenset({Promise.DURABLE, Promise.RETRIES, Promise.DEAD_LETTERS, Promise.DEADLINE})

    def __init__(self, setup: Setup) -> None:
        self._futures = Futures()
        self._app = TinyJobs(f"sqlite:///{setup.directory / 'tinyjobs.db'}")
        self._do = self._app.task(name="do", **RETRY)(lambda text: setup.work(unpack(text)))
        self._app.on_job_success(lambda job, value, duration: self._futures.settle(job.id, value))
        self._app.on_job_failure(lambda job, error, again: again or self._futures.settle(job.id, error=error))
        self._closed, opened = asyncio.Event(), threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=[self._serve(setup.workers, opened)], daemon=True)
        self._thread.start()
        opened.wait()

    def submit(self, task: Task) -> Future[Any]:
        self._futures.check()
        return self._futures.of(self._do.enqueue(pack(task)).id)

    def close(self, timeout: float) -> None:
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join(timeout)
        self._futures.close()

    def dead_letters(self) -> dict[str, str]:
        failed = self._app.jobs(status=JobStatus.FAILED).items
        return {unpack(self._app.decode(job).args[0]).key: job.id for job in failed}

    def replay(self, key: str) -> Future[Any]:
        self._app.retry(job := self.dead_letters()[key])
        return self._futures.of(job)

    async def _serve(self, workers: int, opened: threading.Event) -> None:
        async with self._app.serve(worker=True, concurrency=workers, scheduler=False, **FAST):
            self._loop = asyncio.get_running_loop()
            opened.set()
            await self._closed.wait()
