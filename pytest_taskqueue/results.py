"""What a comparison found: plain values, made by comparison.py, shown by report.py, published by bridge.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_taskqueue.verdict import GateResult, Verdict

SCHEMA = 1
"""Version of the result file. It changes whenever a key changes its name, its unit or its meaning."""

ARMS = ("baseline", "optimized")
"""The two arms, in the order in which they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The figures of one slot, or of all the slots of one arm together. bench_results/README.md defines each.

    Latencies and gaps are seconds, throughput is tasks per second, memory is MiB (1,048,576 bytes).
    Depths are None for a queue that does not tell how many tasks wait.
    """

    tasks: int
    throughput: float
    mean_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    max_s: float
    errors: int
    lost: int
    doubled: int
    depth_mean: float | None
    depth_max: int | None
    cpu_s_per_task: float
    longest_gap_s: float
    rss_growth_mb: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotResult:
    """One timed run of one arm. `pair` 0 is the unmeasured warm-up; measured pairs count from 1."""

    arm: str
    index: int
    pair: int
    window_s: float
    figures: Figures
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """One comparison of two queues under one client count: the verdict and all its evidence."""

    created: str
    verdict: Verdict
    reason: str
    clients: int
    seed: int
    command: str
    machine: Mapping[str, str | int | float | bool]
    settings: Mapping[str, str | int | float]
    gates: tuple[GateResult, ...]
    arms: Mapping[str, Figures]
    slots: tuple[SlotResult, ...]
    elapsed_s: float
    warnings: tuple[str, ...] = field(default=())
