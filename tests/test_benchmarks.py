"""What single steps of the queue cost, for `--benchmark-json` and `--benchmark-compare`; few rounds, no judgement."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_taskqueue import bridge
from taskqueue_core import Status, Task, TaskQueue

benchmark = bridge.benchmark_or_skip

ROUNDS = 20
MANY = 100
LONG = 20.0  # seconds: a limit that only a hang reaches


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[TaskQueue]:
    """On a real file, durable against power loss, as users have it."""
    with TaskQueue(lambda task: None, ledger=tmp_path / "tasks.db") as opened:
        yield opened


@pytest.fixture
def fresh() -> Callable[[int], list[Task]]:
    """Tasks that nobody has seen before."""
    numbers = itertools.count()
    return lambda count: [Task(f"t{next(numbers)}") for _ in range(count)]


def test_submit(benchmark: Any, queue: TaskQueue, fresh: Callable[[int], list[Task]]) -> None:
    """One task, on disk when submit returns."""
    benchmark.pedantic(queue.submit, setup=lambda: (fresh(1), {}), rounds=ROUNDS)
    assert queue.join(LONG)
    assert len(queue.records(Status.SUCCESS)) in (1, ROUNDS), "1 where benchmarks are disabled"


def test_submit_many(benchmark: Any, queue: TaskQueue, fresh: Callable[[int], list[Task]]) -> None:
    """100 tasks in one call."""

    def setup() -> tuple[tuple[list[Task]], dict[str, object]]:
        assert queue.join(LONG)  # so that every round finds all places free
        return (fresh(MANY),), {}

    benchmark.pedantic(queue.submit_many, setup=setup, rounds=ROUNDS // 2)
    assert queue.join(LONG)
    assert len(queue.records(Status.SUCCESS)) in (MANY, MANY * (ROUNDS // 2))


def test_settle(benchmark: Any, queue: TaskQueue, fresh: Callable[[int], list[Task]]) -> None:
    """One task from submit to its result in the caller's hand: accepted, worked on, settled."""

    def settle(task: Task) -> None:
        assert queue.submit(task).result(LONG) is None

    benchmark.pedantic(settle, setup=lambda: (fresh(1), {}), rounds=ROUNDS)
    assert queue.metrics.snapshot().failed == 0
