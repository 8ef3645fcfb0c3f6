"""Gates: what the optimized queue must show, as text and as a test of an interval."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pytest_taskqueue.verdict.intervals import interval
from pytest_taskqueue.verdict.values import Interval, Pair, Verdict


class UnjudgeableError(ValueError):
    """A figure that no gate can be judged by: not known, or 0 where a ratio is asked for."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a gate may ask for a figure of a slot.

    better  the direction that is better, and the only one a gate takes
    units   what a limit may be written in -> how much that is in the unit of the figure
    ratio   whether optimized / baseline makes sense
    worst   whether a limit holds for each single slot; else it is for the slots together, as an interval
    """

    better: str
    units: Mapping[str, float]
    ratio: bool = True
    worst: bool = False


ROUNDING = 1e-12
"""What the logarithms of equal numbers may differ by."""

_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
METRICS: Mapping[str, Metric] = {
    "throughput": Metric(">=", {"/s": 1.0}),
    **{name: Metric("<=", _SECONDS) for name in ("mean", "p50", "p95", "p99", "cpu")},
    **{name: Metric("<=", _SECONDS, worst=True) for name in ("max", "stall")},
    "rss": Metric("<=", {"MB": 1e6 / 2**20, "MiB": 1.0}, ratio=False, worst=True),
    "errors": Metric("<=", {"": 1.0}, ratio=False, worst=True),
}
"""Latencies, `cpu` (CPU time per task) and `stall` (longest gap between completions) are seconds, `throughput` tasks
per second, `rss` (memory growth) MiB, `errors` failed tasks; each of one slot."""

_FORM = re.compile(r"\s*([a-z0-9]+)\s*([<>]=)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([A-Za-z/]*)\s*")
_HELP = (
    "write METRIC<=RATIOx, as in p95<=0.6x, or METRIC<=LIMIT with a unit, as in p99<=50ms, stall<=0.5s, rss<=20MB, "
    f"errors<=0; throughput takes >=, as in throughput>=2x or throughput>=500/s; metrics are {', '.join(METRICS)}"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on the ratio optimized / baseline of one metric (unit "x"), or a limit on the optimized arm alone.

    Raises ValueError for one that makes no sense.
    """

    metric: str
    op: str
    bound: float
    unit: str = "x"

    def __post_init__(self) -> None:
        metric = METRICS.get(self.metric)
        if metric is None:
            raise ValueError(f"there is no metric {self.metric!r}")
        if self.op != metric.better:
            better = "higher" if metric.better == ">=" else "lower"
            raise ValueError(
                f"{self.metric} is better when it is {better}, so its gate takes {metric.better}, not {self.op}"
            )
        units = ["x"] * metric.ratio + list(metric.units)
        if self.unit not in units:
            raise ValueError(f"{self.metric} is given in {' or '.join(map(repr, units))}, not in {self.unit!r}")
        least = 0.0 if self.of_each_slot else math.ulp(0.0)
        if not least <= self.bound < math.inf:
            raise ValueError(
                f"the bound must be finite and {'at least' if self.of_each_slot else 'above'} 0, not {self.bound!r}"
            )

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{repr(self.bound).removesuffix('.0')}{self.unit}"

    @property
    def relative(self) -> bool:
        """Whether the bound is a ratio to the baseline."""
        return self.unit == "x"

    @property
    def of_each_slot(self) -> bool:
        """Whether the bound is a limit that no single slot may cross."""
        return METRICS[self.metric].worst and not self.relative

    @property
    def limit(self) -> str:
        """The bound as people read it: of a ratio two decimals, or all of them where two would change it."""
        short = f"{self.bound:.2f}" if self.relative else f"{self.bound:g}"
        return (short if float(short) == self.bound else repr(self.bound)) + self.unit.replace("x", "")

    def sample(self, pairs: Sequence[Pair]) -> list[float]:
        """What the gate judges, one value per pair: a log ratio, the log of a figure, or a figure; the two latter in
        the gate's unit. Raises UnjudgeableError for figures that have none.
        """
        if self.relative:
            return [math.log(self._figure(p, "optimized") / self._figure(p, "baseline")) for p in pairs]
        unit = METRICS[self.metric].units[self.unit]
        values = [self._figure(pair, "optimized") / unit for pair in pairs]
        return values if self.of_each_slot else [math.log(value) for value in values]

    def estimate(self, sample: Sequence[float], tail: float) -> Interval:
        """The interval of a sample; of a limit for each slot it is the worst slot."""
        return Interval(*[max(sample)] * 3) if self.of_each_slot else interval(sample, tail)

    def shown(self, value: float) -> float:
        """A value of the sample, or an end of its interval, as people read it: a ratio, or a figure."""
        return value if self.of_each_slot else math.exp(min(value, 700.0))

    @property
    def edge(self) -> float:
        """The bound on the scale of the sample."""
        return self.bound if self.of_each_slot else math.log(self.bound)

    def decide(self, found: Interval) -> Verdict:
        """PASS or FAIL when the interval lies wholly on one side of the bound, which itself passes."""
        sign = 1.0 if self.op == ">=" else -1.0
        low, high = sorted(sign * (end - self.edge) for end in (found.low, found.high))
        right, wrong = low >= -ROUNDING, high < -ROUNDING
        return Verdict.PASS if right else Verdict.FAIL if wrong else Verdict.INCONCLUSIVE

    def _figure(self, pair: Pair, arm: str) -> float:
        value = getattr(pair, arm).get(self.metric)
        where = f"gate {self}: {self.metric} of the {arm} arm is"
        if value is None or not math.isfinite(value):
            raise UnjudgeableError(f"{where} not known here ({value!r}): leave the gate out")
        if value <= 0 and not self.of_each_slot:
            raise UnjudgeableError(f"{where} {value!r} in a slot: a longer window (--tq-slot) may show more")
        return float(value)


def parse_gate(text: str) -> Gate:
    """Read 'throughput>=2x', 'p95 <= 0.6 X' or 'p99<=50ms'. Raises ValueError that says what is allowed."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"gate {text!r} is not understood; {_HELP}")
    metric, op, number, unit = match.groups()
    try:
        return Gate(metric, op, float(number), "x" if unit == "X" else unit)
    except ValueError as error:
        raise ValueError(f"gate {text!r}: {error}; {_HELP}") from None
