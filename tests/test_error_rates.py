"""How often the rule is wrong on machines whose noise and whose true ratios are known, at a fixed seed."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from noise_models import CALM, LOUD, MACHINES, USUAL, Machine, Moods

from pytest_taskqueue.verdict import LOOKS, Gate, Verdict, judge

THROUGHPUT, P95 = Gate("throughput", ">=", 2.0), Gate("p95", "<=", 0.6)
TRIALS = 500
SEED = 20261122


@dataclass
class Tally:
    """What the rule said in all trials, and how many pairs each of them took."""

    verdicts: list[Verdict]
    pairs: list[int]

    def share(self, verdict: Verdict) -> float:
        return self.verdicts.count(verdict) / len(self.verdicts)

    @property
    def mean_pairs(self) -> float:
        return sum(self.pairs) / len(self.pairs)


def compare(gates: Sequence[Gate], moods: Sequence[Moods], speed: float, delay: float) -> tuple[Verdict, int]:
    """Look by look, as a comparison does: the first verdict that decides, and after how many pairs."""
    pairs = [mood.pair(speed, delay) for mood in moods]
    for look in LOOKS:
        verdict = judge(gates, pairs[:look]).verdict
        if verdict is not Verdict.INCONCLUSIVE:
            return verdict, look
    return Verdict.INCONCLUSIVE, LOOKS[-1]


def trials(
    machine: Machine, gates: Sequence[Gate], truths: Sequence[tuple[float, float]], count: int = TRIALS
) -> list[Tally]:
    """For each pair of true ratios its tally; all of them see the same noise."""
    draw, tallies = random.Random(f"{SEED} {machine.name}"), [Tally([], []) for _ in truths]
    for _ in range(count):
        moods = machine.moods(draw)
        for (speed, delay), tally in zip(truths, tallies, strict=True):
            verdict, pairs = compare(gates, moods, speed, delay)
            tally.verdicts.append(verdict)
            tally.pairs.append(pairs)
    return tallies


def at_most(bound: float, count: int = TRIALS) -> float:
    """The largest share that is still within three standard errors of the bound."""
    return bound + 3 * math.sqrt(bound * (1 - bound) / count)


def at_least(bound: float, count: int = TRIALS) -> float:
    """The smallest one."""
    return bound - 3 * math.sqrt(bound * (1 - bound) / count)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: machine.name)
def test_one_gate_errs_as_rarely_as_promised_and_shows_three_times_the_speed(machine: Machine) -> None:
    below, on_it, above, far = trials(machine, [THROUGHPUT], [(1.8, 1.0), (2.0, 1.0), (2.4, 1.0), (3.0, 1.0)])
    assert below.share(Verdict.PASS) <= at_most(0.01)
    assert on_it.share(Verdict.PASS) <= at_most(0.025)
    assert on_it.share(Verdict.FAIL) <= at_most(0.025)
    assert above.share(Verdict.FAIL) <= at_most(0.01)
    assert far.share(Verdict.PASS) >= at_least(0.99)
    assert far.mean_pairs <= 17


@pytest.mark.parametrize("machine", [CALM, USUAL, LOUD], ids=lambda machine: machine.name)
def test_both_gates_pass_together_as_rarely_as_one_where_either_is_missed(machine: Machine) -> None:
    """Latency is the mirror of throughput with half a jitter of its own, as in a closed loop of clients."""
    truths = [(1.8, 0.55), (2.4, 0.65), (2.0, 0.60), (3.0, 0.40)]
    slow, late, on_both, far = trials(machine, [THROUGHPUT, P95], truths)
    assert slow.share(Verdict.PASS) <= at_most(0.01)
    assert late.share(Verdict.PASS) <= at_most(0.01)
    assert on_both.share(Verdict.PASS) <= at_most(0.025)
    assert far.share(Verdict.PASS) >= at_least(0.99)
