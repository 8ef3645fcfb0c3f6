"""50 and 100 clients on real thumbnails, the original queue first. Speed is recorded here, judged by --tq-compare."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_taskqueue.results import ARMS, SlotResult

TASKS = 300


def record(result: SlotResult, clients: int, record_property: Callable[[str, object], None]) -> None:
    figures = result.figures
    rate = figures.errors / TASKS
    for name, value in (("throughput", figures.throughput), ("p95_s", figures.p95_s), ("error_rate", rate)):
        record_property(f"c{clients}_{result.arm}_{name}", value)
    print(
        f"{clients} clients, {TASKS} tasks, {result.arm:<9}  {figures.throughput:6.1f} tasks/s  "
        f"P95 {figures.p95_s:.3f} s  error rate {rate:.2%}"
    )


@pytest.mark.parametrize("clients", [50, 100])
def test_both_queues_do_every_task_once_and_rightly(
    clients: int, tq_load: Callable[..., SlotResult], record_property: Callable[[str, object], None]
) -> None:
    """300 tasks through each, the baseline first: if it is not valid there is nothing to compare with."""
    for arm in ARMS:
        result = tq_load(arm, clients=clients, tasks=TASKS, workload="thumbnail")
        record(result, clients, record_property)
        figures = result.figures
        assert result.problems == (), f"the {arm} queue does wrong work"
        assert (figures.tasks, figures.errors, figures.lost, figures.doubled) == (TASKS, 0, 0, 0)
        assert 0 < figures.p50_s <= figures.p95_s <= figures.p99_s <= figures.max_s
        assert figures.throughput > 0
