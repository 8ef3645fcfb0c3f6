"""What a comparison found: plain values, made by comparison.py, shown by report.py, published by bridge.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pytest_taskqueue.verdict import GateResult, Noise, Verdict

SCHEMA = 2
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
class Standing:
    """How far a comparison has come: told after every slot.

    pairs   measured so far, of at most `most`
    ratios  each gate as it stands, once that says anything; it decides at a look only
    plan    told once more after the warm-up: window and number of pairs are known now
    """

    slot: SlotResult
    pairs: int
    most: int
    elapsed_s: float
    budget_s: float
    window_s: float
    ratios: tuple[GateResult, ...] = ()
    plan: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenResult:
    """The open-loop companion: both arms under the same planned arrivals, `rate` tasks per second for `seconds`.
    Information, no gate.
    """

    rate: float
    share: float
    seconds: float
    arms: Mapping[str, Figures]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ComparisonResult:
    """One comparison of two queues under one client count: the verdict and all its evidence.

    looks        the gates as they stood at each look
    noise        what the pairs tell of the machine; None without any
    most_pairs   how many pairs there could have been within the budget
    pair_s       how long a pair took, in seconds
    ceiling      tasks per second that the clients do over a queue that does nothing
    histograms   of each arm: how many latencies fell into each bucket, by its middle in seconds
    open_loop    the companion under planned arrivals, where it was asked for and the budget had room
    stacks       where the threads were that hung
    """

    created: str
    verdict: Verdict
    reason: str
    clients: int
    seed: int
    command: str
    machine: Mapping[str, str | int | float | bool | None]
    settings: Mapping[str, str | int | float]
    gates: tuple[GateResult, ...]
    arms: Mapping[str, Figures]
    slots: tuple[SlotResult, ...]
    elapsed_s: float
    looks: tuple[tuple[GateResult, ...], ...] = ()
    noise: Noise | None = None
    most_pairs: int = 0
    pair_s: float | None = None
    ceiling: float | None = None
    histograms: Mapping[str, Mapping[float, int]] = field(default_factory=dict, repr=False)
    open_loop: OpenResult | None = None
    stacks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        """Whether every gate was shown."""
        return self.verdict is Verdict.PASS

    def __str__(self) -> str:
        """The whole evidence."""
        from pytest_taskqueue import report  # which shows what is defined here

        evidence = [*report.table(self), "", report.verdict_line(self)]
        return "\n".join([*report.failure_text(self).splitlines(), *evidence])

    def __repr__(self) -> str:
        """The verdict in one line, as a failed assertion shows it."""
        from pytest_taskqueue import report

        return f"<{report.verdict_line(self)}>"
