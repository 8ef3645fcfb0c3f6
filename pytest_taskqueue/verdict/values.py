"""The words of the rule: verdicts, pairs of slots, intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum


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
class Pair:
    """The figures (metric -> value) of two neighbouring slots, and which of them came first."""

    baseline: Mapping[str, float | None]
    optimized: Mapping[str, float | None]
    baseline_first: bool = True


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the two ends of its interval, on the scale of the sample."""

    middle: float
    low: float
    high: float
