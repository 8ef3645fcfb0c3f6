"""For all tests: an environment of their own, queues to open, and the check that nothing stays open or running."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import FAST, Work, open_ledgers, until

from taskqueue_core import TaskQueue

OUTSIDE = re.compile(
    "CI|BUILD_NUMBER|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|PY_COLORS|PYTHONWARNINGS|"
    "PYTEST_(?!CURRENT_TEST|VERSION).*|COV_CORE_.*"
)
"""Names in the environment that change what a run of pytest takes for asked, or how much it shows."""


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this run was started with, or by, is not for the runs within; they may import the toys."""
    for name in filter(OUTSIDE.fullmatch, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread of ours runs and no file of a ledger is open once a test is over."""
    threads, files = _our_threads(), open_ledgers()
    yield
    until(lambda: _our_threads() <= threads)
    assert open_ledgers() <= files


def _our_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("taskqueue-")}


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
