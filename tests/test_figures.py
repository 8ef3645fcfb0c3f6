"""From the logs of the clients to figures, against examples worked out by hand."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import Any

import pytest

from pytest_taskqueue.figures import Measured, combine, histogram, measure, metrics, percentile
from pytest_taskqueue.load import ClientLog, LoadLog
from pytest_taskqueue.verdict import METRICS

OPENS, CLOSES = 10.0, 20.0


def client(*tasks: tuple[float, float], **more: Any) -> ClientLog:
    """A client with (submitted, result in hand) for each of its tasks."""
    starts, ends = ([one[side] for one in tasks] for side in (0, 1))
    return ClientLog(starts=array("d", starts), ends=array("d", ends), values=[None] * len(tasks), **more)


def measured(*clients: ClientLog, depths: Sequence[int] = (), cpu: float = 0.0, lost: int = 0) -> Measured:
    log = LoadLog(OPENS, CLOSES, clients, cpu, tuple(depths), ())
    return measure(log, lost=lost, doubled=0, rss_growth_mb=None)


def slot(latencies: Sequence[float], **more: Any) -> Measured:
    made: dict[str, Any] = {
        "window_s": 2.0, "latencies": latencies, "finished": len(latencies), "longest_gap_s": 0.1, "cpu_s": 1.0,
        "depths": (), "errors": 0, "lost": 0, "doubled": 0, "rss_growth_mb": None,
    }  # fmt: skip
    return Measured(**made | more)


@pytest.mark.parametrize(
    ("count", "q", "rank"),
    [(1, 0.5, 1), (1, 0.95, 1), (2, 0.5, 1), (3, 0.5, 2), (5, 0.95, 5), (12, 0.95, 12), (20, 0.95, 19), (21, 0.95, 20),
     (100, 0.95, 95), (100, 0.99, 99), (101, 0.99, 100), (7, 1.0, 7), (7, 0.0, 1)],
)  # fmt: skip
def test_percentiles_are_of_the_nearest_rank(count: int, q: float, rank: int) -> None:
    """The smallest value with at least that share of all at or below it: always a value that was measured."""
    assert percentile(range(1, count + 1), q) == rank


def test_there_is_no_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 0.95))


def test_throughput_counts_what_finished_in_the_window() -> None:
    """Submitted before it or not; not what finished in the ramp or after the end."""
    found = measured(client((8.0, 9.9), (9.9, 10.0), (10.1, 15.0), (15.0, 20.0), (20.0, 20.1)))
    assert found.finished == 3
    assert combine([found]).throughput == 3 / 10.0
    assert combine([found]).tasks == 3


def test_latency_is_of_what_was_submitted_in_the_window_whenever_it_finished() -> None:
    found = measured(client((9.0, 12.0), (12.0, 13.5), (13.5, 29.5)), client((20.0, 21.0), (21.0, 22.0)))
    assert sorted(found.latencies) == [1.0, 1.5, 16.0]


def test_a_lost_task_has_no_latency() -> None:
    lost = client((11.0, 12.0))
    lost.starts.append(13.0)
    found = measured(lost, lost=1)
    assert list(found.latencies) == [1.0]
    assert found.lost == 1


def test_the_longest_gap_counts_both_ends_of_the_window() -> None:
    """Between two finishes of whatever client; before the first; after the last; all of it when there is none."""
    assert measured(client((9.0, 12.0), (12.0, 19.0)), client((9.0, 15.0))).longest_gap_s == 4.0
    assert measured(client((9.0, 16.0), (16.0, 19.0))).longest_gap_s == 6.0
    assert measured(client((9.0, 11.0), (11.0, 14.0), (14.0, 25.0))).longest_gap_s == 6.0
    assert measured(client((9.0, 25.0))).longest_gap_s == 10.0


def test_errors_of_all_clients_add_up() -> None:
    found = measured(client((11.0, 12.0), errors=[(0, "a")]), client((11.0, 12.0), errors=[(0, "b"), (1, "c")]))
    assert found.errors == 3


def test_percentiles_of_several_slots_are_those_of_all_latencies_together() -> None:
    """Their average would say something else."""
    slots = [slot([1.0] * 99 + [5.0]), slot([2.0] * 19 + [9.0])]
    found = combine(slots)
    assert (found.p50_s, found.p95_s, found.p99_s, found.max_s) == (1.0, 2.0, 5.0, 9.0)
    assert found.mean_s == (99 + 5 + 38 + 9) / 120
    assert found.p95_s != sum(combine([one]).p95_s for one in slots) / 2


def test_an_arm_is_its_slots_together() -> None:
    """Sums of counts and times, the largest of the largest, the mean of all depths."""
    found = combine([
        slot([1.0] * 4, cpu_s=1.0, longest_gap_s=0.5, depths=(1, 2), errors=1, lost=1, doubled=2, rss_growth_mb=1.5),
        slot([1.0] * 16, cpu_s=3.0, longest_gap_s=0.25, depths=(9,), window_s=3.0, rss_growth_mb=-0.5),
    ])  # fmt: skip
    assert (found.tasks, found.throughput) == (20, 20 / 5.0)
    assert found.cpu_s_per_task == 4.0 / 20
    assert found.longest_gap_s == 0.5
    assert (found.depth_mean, found.depth_max) == (4.0, 9)
    assert (found.errors, found.lost, found.doubled) == (1, 1, 2)
    assert found.rss_growth_mb == 1.5


def test_what_is_unknown_stays_unknown() -> None:
    """No depth told, no memory told, nothing finished: None or nan, never 0."""
    found = combine([slot([])])
    assert (found.depth_mean, found.depth_max, found.rss_growth_mb) == (None, None, None)
    assert all(math.isnan(value) for value in (found.mean_s, found.p50_s, found.max_s, found.cpu_s_per_task))
    assert found.throughput == 0.0
    assert combine([slot([1.0], rss_growth_mb=2.0), slot([1.0])]).rss_growth_mb == 2.0


def test_gates_find_every_metric_under_its_name() -> None:
    """In the units of the figures."""
    figures = combine([slot([1.0] * 50 + [2.0] * 44 + [3.0] * 4 + [4.0, 5.0], errors=3, rss_growth_mb=6.5)])
    found = metrics(figures)
    assert set(found) == set(METRICS)
    assert (found["throughput"], found["mean"], found["cpu"], found["stall"]) == (50.0, 1.59, 0.01, 0.1)
    assert [found[name] for name in ("p50", "p95", "p99", "max", "errors", "rss")] == [1.0, 3.0, 4.0, 5.0, 3, 6.5]
    assert metrics(combine([slot([1.0])]))["rss"] is None


def test_histograms_of_several_slots_are_merged() -> None:
    """Every latency once, in a bucket whose middle lies within 0.8 % of it."""
    found = histogram([slot([0.1, 0.1, 3.0]), slot([0.1])])
    assert sorted(found.values()) == [1, 3]
    assert sorted(found) == pytest.approx([0.1, 3.0], rel=0.008)
