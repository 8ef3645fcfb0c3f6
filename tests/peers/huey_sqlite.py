"""SqliteHuey, each commit on the disk (WAL, synchronous=FULL); the rest as in huey_memory.

Waiting tasks are rows. Of running ones its documentation says that they are lost with the consumer: it "does not
guarantee at-least-once delivery" (docs/consumer.rst, Consumer shutdown). So `durable` is not promised.
"""

from __future__ import annotations

from huey import Huey, SqliteHuey

from pytest_taskqueue.subjects import Setup
from tests.peers import huey_memory


class Queue(huey_memory.Queue):
    def open(self, setup: Setup) -> Huey:
        return SqliteHuey(filename=str(setup.directory / "huey.db"), timeout=60.0, fsync=True)
