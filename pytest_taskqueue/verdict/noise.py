"""What the measured pairs tell about the machine: noise, drift, and whether the order mattered."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from pytest_taskqueue.verdict.gates import METRICS, Gate
from pytest_taskqueue.verdict.intervals import LOOKS, deviation, half_width
from pytest_taskqueue.verdict.values import Pair

SIGNIFICANT = 3.0
"""How many standard errors from 0 an effect must be before it is worth a warning."""


@dataclass(frozen=True, slots=True)
class Noise:
    """How quiet the machine was, in one metric. All but the correlation are relative: 0.02 is 2 %.

    floor        how far two neighbouring slots of the same arm lie apart: the root mean square of their log ratios
    repeats      how many such neighbours there were: the middle of each block of two pairs
    spread       standard deviation of the pairs' log ratios, which the intervals are made of
    drift        how much more of the metric both arms had in the second half of the pairs than in the first
    order        how much larger the ratio came out where the baseline went first
    order_error  the standard error of that
    correlation  of the log ratio of a pair with that of the next one; near 0 where pairs are independent

    None where there were too few pairs to tell.
    """

    floor: float | None
    repeats: int
    spread: float | None
    drift: float | None
    order: float | None
    order_error: float | None
    correlation: float | None

    @property
    def order_matters(self) -> bool:
        """The order of the arms within a pair made a difference that chance seldom makes."""
        if self.order is None or self.order_error is None:
            return False
        return abs(math.log1p(self.order)) > SIGNIFICANT * self.order_error


def noise(pairs: Sequence[Pair], metric: str) -> Noise:
    """From all measured pairs, in their order, and a metric that has a ratio. Raises ValueError for figures without."""
    gate = Gate(metric, METRICS[metric].better, 1.0)
    ratios = gate.sample(pairs)
    blocks = zip(pairs[::2], pairs[1::2], strict=False)
    floor = [_repeat(*block, metric) for block in blocks if block[0].baseline_first != block[1].baseline_first]
    order, error = _order(pairs, ratios)
    return Noise(
        floor=math.sqrt(fmean([value * value for value in floor])) if floor else None,
        repeats=len(floor),
        spread=deviation(ratios) if len(ratios) > 1 else None,
        drift=_drift(pairs, metric),
        order=order,
        order_error=error,
        correlation=_correlation(ratios),
    )


def provable(gate: Gate, spread: float, pairs: int) -> float | None:
    """The ratio nearest to the gate that the rule could still show within so many pairs; None where no look comes."""
    looks = [look for look in LOOKS if look <= pairs]
    if not looks or not gate.relative:
        return None
    margin = min(half_width(look, spread) for look in looks)
    return gate.bound * math.exp(margin if gate.op == ">=" else -margin)


def _repeat(first: Pair, second: Pair, metric: str) -> float:
    """The log ratio of the two slots in the middle of a block: the same arm, one slot after the other."""
    arm = "optimized" if first.baseline_first else "baseline"
    return math.log(_figure(getattr(second, arm), metric) / _figure(getattr(first, arm), metric))


def _drift(pairs: Sequence[Pair], metric: str) -> float | None:
    if len(pairs) < 4:
        return None
    speed = [math.log(_figure(pair.baseline, metric)) + math.log(_figure(pair.optimized, metric)) for pair in pairs]
    half = len(pairs) // 2
    return math.expm1((fmean(speed[-half:]) - fmean(speed[:half])) / 2)


def _order(pairs: Sequence[Pair], ratios: Sequence[float]) -> tuple[float | None, float | None]:
    """The effect of the order, and its standard error on the log scale (Welch)."""
    first = [ratio for pair, ratio in zip(pairs, ratios, strict=True) if pair.baseline_first]
    second = [ratio for pair, ratio in zip(pairs, ratios, strict=True) if not pair.baseline_first]
    if min(len(first), len(second)) < 3:
        return None, None
    error = math.sqrt(deviation(first) ** 2 / len(first) + deviation(second) ** 2 / len(second))
    return math.expm1(fmean(first) - fmean(second)), error


def _correlation(ratios: Sequence[float]) -> float | None:
    if len(ratios) < 8:
        return None
    middle = fmean(ratios)
    around = [ratio - middle for ratio in ratios]
    power = math.fsum(value * value for value in around)
    return math.fsum(a * b for a, b in itertools.pairwise(around)) / power if power else None


def _figure(figures: Mapping[str, float | None], metric: str) -> float:
    return figures[metric] or math.nan
