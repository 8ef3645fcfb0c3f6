"""From the logs of the clients to the figures of a slot or an arm. Computed off the clock."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_taskqueue.load import LoadLog
from pytest_taskqueue.results import Figures
from taskqueue_core import LatencyHistogram


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one slot contributes: raw latencies and completion times, and what else was counted. Seconds, MiB."""

    window_s: float
    latencies: Sequence[float]
    finished: int
    longest_gap_s: float
    cpu_s: float
    depths: Sequence[int]
    errors: int
    lost: int
    doubled: int
    rss_growth_mb: float | None


def measure(log: LoadLog, *, lost: int, doubled: int, rss_growth_mb: float | None) -> Measured:
    """Throughput counts tasks finished in the window; latency is of tasks submitted in it, whenever they finish."""
    finished = sorted(end for client in log.clients for end in client.ends if log.opens <= end <= log.closes)
    latencies = array(
        "d",
        (
            end - start
            for client in log.clients
            for start, end in zip(client.starts, client.ends, strict=False)  # a lost task has no end
            if log.opens <= start <= log.closes
        ),
    )
    return Measured(
        window_s=log.closes - log.opens,
        latencies=latencies,
        finished=len(finished),
        longest_gap_s=_longest_gap([log.opens, *finished, log.closes]),
        cpu_s=log.cpu_s,
        depths=log.depths,
        errors=sum(len(client.errors) for client in log.clients),
        lost=lost,
        doubled=doubled,
        rss_growth_mb=rss_growth_mb,
    )


def combine(slots: Sequence[Measured]) -> Figures:
    """The figures of slots of one arm together. Latencies are pooled; percentiles are never averaged."""
    latencies = sorted(latency for slot in slots for latency in slot.latencies)
    finished = sum(slot.finished for slot in slots)
    depths = [depth for slot in slots for depth in slot.depths]
    growth = [slot.rss_growth_mb for slot in slots if slot.rss_growth_mb is not None]
    return Figures(
        tasks=finished,
        throughput=finished / sum(slot.window_s for slot in slots),
        mean_s=math.fsum(latencies) / len(latencies) if latencies else math.nan,
        p50_s=percentile(latencies, 0.50),
        p95_s=percentile(latencies, 0.95),
        p99_s=percentile(latencies, 0.99),
        max_s=percentile(latencies, 1.0),
        errors=sum(slot.errors for slot in slots),
        lost=sum(slot.lost for slot in slots),
        doubled=sum(slot.doubled for slot in slots),
        depth_mean=math.fsum(depths) / len(depths) if depths else None,
        depth_max=max(depths, default=None),
        cpu_s_per_task=sum(slot.cpu_s for slot in slots) / finished if finished else math.nan,
        longest_gap_s=max(slot.longest_gap_s for slot in slots),
        rss_growth_mb=max(growth, default=None),
    )


def histogram(slots: Sequence[Measured]) -> dict[float, int]:
    """How many latencies of the slots fell into each log-linear bucket, by its middle in seconds."""
    merged = LatencyHistogram()
    for slot in slots:
        for latency in slot.latencies:
            merged.add(latency)
    return merged.buckets()


def metrics(figures: Figures) -> dict[str, float | None]:
    """The figures as gates name them."""
    return {
        "throughput": figures.throughput,
        "mean": figures.mean_s,
        "p50": figures.p50_s,
        "p95": figures.p95_s,
        "p99": figures.p99_s,
        "max": figures.max_s,
        "cpu": figures.cpu_s_per_task,
        "stall": figures.longest_gap_s,
        "rss": figures.rss_growth_mb,
        "errors": figures.errors,
    }


def percentile(ordered: Sequence[float], q: float) -> float:
    """Nearest rank: the smallest value with at least the share `q` of all values at or below it; nan when empty."""
    return ordered[max(math.ceil(q * len(ordered)), 1) - 1] if ordered else math.nan


def _longest_gap(moments: Sequence[float]) -> float:
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
