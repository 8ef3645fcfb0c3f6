"""Fixtures for the tests of the queue, and the check that none of them leaves a thread or an open file behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import FAST, Work, until

from taskqueue_core import TaskQueue

FILES = Path("/proc/self/fd")  # Linux; elsewhere only the threads are checked


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread of ours runs and no file of a ledger is open once a test is over."""
    before = {thread.ident for thread in threading.enumerate()}
    yield
    until(lambda: not _our_threads(before))
    assert not _open_ledgers()


def _our_threads(before: set[int | None]) -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("taskqueue-") and t.ident not in before]


def _open_ledgers() -> list[str]:
    if not FILES.is_dir():
        return []
    found = []
    for descriptor in FILES.iterdir():
        try:
            found.append(os.readlink(descriptor))
        except OSError:
            continue  # the one that listed the folder
    return [name for name in found if ".db" in Path(name).name]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the ledger of the test is."""
    return tmp_path / "tasks.db"


@pytest.fixture
def open_queue(path: Path) -> Iterator[Callable[..., TaskQueue]]:
    """Open queues over the test's ledger (commits that survive kill -9, quick retries); closed at the end."""
    opened: list[tuple[TaskQueue, Any]] = []

    def make(processor: Any = None, **knobs: Any) -> TaskQueue:
        processor = processor or Work()
        if "settings" not in knobs:
            knobs = {"durability": "process", "retry": FAST, **knobs}
        queue = TaskQueue(processor, **{"ledger": path, **knobs})
        opened.append((queue, processor))
        return queue

    yield make
    for _, processor in opened:
        if isinstance(processor, Work):
            processor.release()
    for queue, _ in opened:
        queue.close(timeout=5.0, drain=False)
