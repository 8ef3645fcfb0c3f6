"""Pure statistics: from pairs of figures to PASS, FAIL, INCONCLUSIVE or INVALID. Knows no files, no tables, no pytest.

The sample is one log ratio per pair, log(optimized / baseline): neighbouring slots share the machine's mood, a ratio
cancels it, and the logarithm makes "twice" and "half" equally far from "the same". One look at the end, one Student t
interval per gate. PASS needs every gate, so it keeps its level without a correction for the number of gates.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from statistics import NormalDist, mean, stdev

TAIL = 0.025
"""One-sided error of each end of an interval; both ends together make the 95 % interval."""

_DIRECTIONS = {"throughput": ">=", "mean": "<=", "p50": "<=", "p95": "<=", "p99": "<="}
_FORM = re.compile(r"\s*([a-z0-9]+)\s*([<>]=)\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*[xX]\s*")
_HELP = "write throughput>=RATIOx, or METRIC<=RATIOx with mean, p50, p95 or p99, for example p95<=0.6x"

MOST_PAIRS = 10_000
"""Past this many pairs no estimate is given: nobody runs them."""

Pair = tuple[Mapping[str, float], Mapping[str, float]]
"""The figures (metric -> value) of two neighbouring slots: baseline, optimized."""


class Verdict(Enum):
    """What a comparison decided, in ascending rank."""

    PASS = "PASS"  # noqa: S105
    INCONCLUSIVE = "INCONCLUSIVE"
    FAIL = "FAIL"
    INVALID = "INVALID"

    @property
    def rank(self) -> int:
        """0 for PASS up to 3 for INVALID: of several verdicts the highest rank counts."""
        return list(Verdict).index(self)

    @property
    def exit_status(self) -> int:
        """The status a script ends with; 2 is left for usage errors."""
        return {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 3, Verdict.INVALID: 4}[self]


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of the highest rank. Raises ValueError for none at all: nothing judged is no PASS."""
    return max(verdicts, key=lambda verdict: verdict.rank)


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on the ratio optimized / baseline of one metric. Raises ValueError for one that makes no sense."""

    metric: str
    op: str
    bound: float

    def __post_init__(self) -> None:
        wanted = _DIRECTIONS.get(self.metric)
        if wanted is None:
            raise ValueError(f"there is no metric {self.metric!r}")
        if self.op != wanted:
            better = "higher" if wanted == ">=" else "lower"
            raise ValueError(f"{self.metric} is better when it is {better}, so its gate takes {wanted}, not {self.op}")
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise ValueError(f"the ratio must be finite and above 0, not {self.bound!r}")

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{repr(self.bound).removesuffix('.0')}x"

    @property
    def limit(self) -> str:
        """The bound as people read it: two decimals, or all of them where two would change it."""
        short = f"{self.bound:.2f}"
        return short if float(short) == self.bound else repr(self.bound)

    def decide(self, found: Interval) -> Verdict:
        """PASS or FAIL when the interval of log ratios lies wholly on one side of the bound, which itself passes."""
        edge = math.log(self.bound)
        right, wrong = found.low >= edge, found.high < edge
        if self.op == "<=":
            right, wrong = found.high <= edge, found.low > edge
        return Verdict.PASS if right else Verdict.FAIL if wrong else Verdict.INCONCLUSIVE


def parse_gate(text: str) -> Gate:
    """Read 'throughput>=2x' or 'p95 <= 0.6 X'. Raises ValueError that says what was given and what is allowed."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"gate {text!r} is not understood; {_HELP}")
    metric, op, number = match.groups()
    try:
        return Gate(metric, op, float(number))
    except ValueError as error:
        raise ValueError(f"gate {text!r}: {error}; {_HELP}") from None


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the two ends of its interval, all of them log ratios."""

    middle: float
    low: float
    high: float


def interval(sample: Sequence[float], tail: float) -> Interval:
    """Student's t interval of the mean, each end wrong with probability `tail`; the sample has at least two values."""
    middle = mean(sample)
    half = t_quantile(1 - tail, len(sample) - 1) * stdev(sample) / math.sqrt(len(sample))
    return Interval(middle, middle - half, middle + half)


@lru_cache(maxsize=256)
def t_quantile(p: float, df: int) -> float:
    """The t that Student's distribution with `df` (a whole number) stays below with probability p, 0.5 <= p < 1."""
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return middle


def t_cdf(t: float, df: int) -> float:
    """Student's distribution function for whole df: the finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun."""
    angle, odd = math.atan2(t, math.sqrt(df)), df % 2
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for power in range(odd, df - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power + 1) / (power + 2)
    area = math.sin(angle) * total
    return 0.5 + ((angle + area) / math.pi if odd else area / 2)


def noise(sample: Sequence[float]) -> float:
    """Standard deviation of the log ratios in percent: about how far one pair's ratio lies from the next one's."""
    return 100 * stdev(sample)


def pairs_needed(sample: Sequence[float], bound: float, tail: float) -> int | None:
    """How many pairs make the interval just reach the bound if ratio and noise stay as they are; None: out of reach.

    Guenther's sample size for a t interval (The American Statistician 35, 1981): z^2 s^2 / d^2 + z^2 / 2.
    """
    distance = abs(mean(sample) - math.log(bound))
    z = NormalDist().inv_cdf(1 - tail)
    if z * stdev(sample) >= distance * math.sqrt(MOST_PAIRS):
        return None
    return max(len(sample) + 1, math.ceil((z * stdev(sample) / distance) ** 2 + z * z / 2))


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate's ratio optimized / baseline, the interval that decided, and what it decided."""

    expr: str
    metric: str
    ratio: float
    low: float
    high: float
    pairs: int
    verdict: Verdict

    def to_dict(self) -> dict[str, str | float | int]:
        """The gate as the result file holds it."""
        numbers = {"ratio": self.ratio, "low": self.low, "high": self.high, "pairs": self.pairs}
        return {"expr": self.expr, **numbers, "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict over all gates, why in one sentence, and each gate as it stands."""

    verdict: Verdict
    reason: str
    gates: tuple[GateResult, ...]


def judge(gates: Sequence[Gate], pairs: Sequence[Pair]) -> Judgement:
    """Judge the ratios of (baseline, optimized) pairs. Raises ValueError for figures that no ratio can be taken of."""
    if not gates or len(pairs) < 2:
        raise ValueError(f"{len(gates)} gates and {len(pairs)} pairs given: a verdict needs 1 gate and 2 pairs or more")
    samples = [_log_ratios(gate.metric, pairs) for gate in gates]
    results = tuple(_result(gate, sample) for gate, sample in zip(gates, samples, strict=True))
    verdict = worst(result.verdict for result in results)
    decisive = (row for row in zip(gates, samples, results, strict=True) if row[2].verdict is verdict)
    return Judgement(verdict, "; ".join(_reason(*row) for row in decisive), results)


def _log_ratios(metric: str, pairs: Sequence[Pair]) -> list[float]:
    for number, pair in enumerate(pairs, start=1):
        for arm, figures in zip(("baseline", "optimized"), pair, strict=True):
            value = figures.get(metric, math.nan)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"pair {number}, {arm}: {metric} is {value!r}; a ratio needs finite values above 0")
    return [math.log(optimized[metric] / baseline[metric]) for baseline, optimized in pairs]


def _result(gate: Gate, sample: Sequence[float]) -> GateResult:
    found = interval(sample, TAIL)
    ratio, low, high = (math.exp(min(value, 700.0)) for value in (found.middle, found.low, found.high))
    return GateResult(str(gate), gate.metric, ratio, low, high, len(sample), gate.decide(found))


def _reason(gate: Gate, sample: Sequence[float], result: GateResult) -> str:
    """The interval that decided, or what it would take to decide."""
    spread = noise(sample)
    return (
        f"{result.metric} x{result.ratio:.2f}, {100 - 200 * TAIL:g} % interval [{result.low:.2f}, {result.high:.2f}] "
        f"{_stands(gate, result.verdict)} the gate {gate.limit} after {result.pairs} pairs "
        f"(noise {spread:.{0 if spread >= 10 else 1}f} %){_remedy(gate, sample, result.verdict)}"
    )


def _stands(gate: Gate, verdict: Verdict) -> str:
    if verdict is Verdict.INCONCLUSIVE:
        return "holds"
    if verdict is Verdict.PASS:
        return "reaches"
    return "lies below" if gate.op == ">=" else "lies above"


def _remedy(gate: Gate, sample: Sequence[float], verdict: Verdict) -> str:
    """Two digits, rounded up: more would promise what an estimate from a few pairs cannot hold."""
    if verdict is not Verdict.INCONCLUSIVE:
        return ""
    needed = pairs_needed(sample, gate.bound, TAIL)
    if needed is None:
        return f"; more than {MOST_PAIRS:,} pairs would be needed to decide it"
    step = 10 ** max(0, len(str(needed)) - 2)
    return f"; about {-(-needed // step) * step:,} pairs would decide it"
