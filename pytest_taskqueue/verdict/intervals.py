"""Looks, the error rate they share, and the intervals at a look: Student's t for few pairs, then exact ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, median

from pytest_taskqueue.verdict.values import Interval

ALPHA = 0.025
"""One-sided error of a gate over all looks together; both sides make the 95 % interval."""
LOOKS = (5, 8, 12, 18, 27, 40)
"""After how many pairs the rule looks."""
RANKS_FROM = 12
"""From so many pairs on the interval is one of ranks, which no outlier moves far; fewer cannot reach the level."""
MOST_PAIRS = 10_000
"""Past this many pairs no estimate is given: nobody runs them."""


def tail_at(pairs: int) -> float:
    """What the look at so many pairs, or the next one, may err on each side: ALPHA spent in proportion to the pairs."""
    look = next((look for look in LOOKS if look >= pairs), LOOKS[-1])
    before = max((earlier for earlier in LOOKS if earlier < look), default=0)
    return ALPHA * (look - before) / LOOKS[-1]


def interval(sample: Sequence[float], tail: float) -> Interval:
    """The interval of a sample's middle, each end wrong with probability `tail`; it has at least two values."""
    return t_interval(sample, tail) if len(sample) < RANKS_FROM else rank_interval(sample, tail)


def t_interval(sample: Sequence[float], tail: float) -> Interval:
    """Student's t interval of the mean."""
    middle = fmean(sample)
    half = t_quantile(1 - tail, len(sample) - 1) * deviation(sample) / math.sqrt(len(sample))
    return Interval(middle, middle - half, middle + half)


def rank_interval(sample: Sequence[float], tail: float) -> Interval:
    """The Hodges-Lehmann estimate, the median of all Walsh averages, with the exact interval of the signed-rank test
    (Hollander and Wolfe, Nonparametric Statistical Methods, 3.3). Infinite where the sample is too small for `tail`.
    """
    walsh = sorted((x + y) / 2 for i, x in enumerate(sample) for y in sample[i:])
    middle = median(walsh)
    cut = signed_rank_cut(len(sample), tail)
    return Interval(middle, -math.inf, math.inf) if cut == 0 else Interval(middle, walsh[cut - 1], walsh[-cut])


@lru_cache(maxsize=256)
def signed_rank_cut(n: int, tail: float) -> int:
    """Which Walsh average, counted from each end, bounds the interval: the largest c with P(W <= c - 1) <= tail for
    Wilcoxon's signed-rank statistic W of n values; 0 where there is none.
    """
    ways = [1]  # in how many of the 2**n sign patterns the ranks of the positive values add up to 0, 1, 2, ...
    for rank in range(1, n + 1):
        longer = ways + [0] * rank
        for total, count in enumerate(ways):
            longer[total + rank] += count
        ways = longer
    cut, below, allowed = 0, ways[0], tail * 2**n
    while below <= allowed:
        cut += 1
        below += ways[cut]
    return cut


@lru_cache(maxsize=256)
def t_quantile(p: float, df: int) -> float:
    """The t that Student's distribution with `df` (a whole number) stays below with probability p, 0.5 <= p < 1."""
    if df < 1:
        raise ValueError("an interval needs two values or more")
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


def deviation(sample: Sequence[float]) -> float:
    """Sample standard deviation; statistics.stdev is exact, and 25 times slower."""
    middle = fmean(sample)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in sample) / (len(sample) - 1))


def pairs_needed(sample: Sequence[float], edge: float) -> int | None:
    """How many pairs make the interval just reach the edge if middle and noise stay as they are; None: out of reach.

    Up to the last look those of the look; beyond, what the last look's tail would take: Guenther's sample size for a
    t interval (The American Statistician 35, 1981), z^2 s^2 / d^2 + z^2 / 2.
    """
    distance, spread = abs(fmean(sample) - edge), deviation(sample)
    for look in LOOKS:
        if look > len(sample) and half_width(look, spread) <= distance:
            return look
    z = NormalDist().inv_cdf(1 - tail_at(LOOKS[-1]))
    if z * spread >= distance * math.sqrt(MOST_PAIRS):
        return None
    return max(LOOKS[-1] + 1, math.ceil((z * spread / distance) ** 2 + z * z / 2))


def half_width(look: int, spread: float) -> float:
    """Half of the interval at a look, on the log scale, if the log ratios have the standard deviation `spread`."""
    return t_quantile(1 - tail_at(look), look - 1) * spread / math.sqrt(look)
