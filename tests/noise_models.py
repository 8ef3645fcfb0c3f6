"""Machines that are noisy in ways we know: made-up figures whose true ratios are known, to hold the rule against.

The log speed of a slot is the sum of the machine's drift, of a hiccup now and then, and of jitter with or without
memory. A machine measures nothing: it shows only how often the rule is wrong.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_taskqueue.verdict import LOOKS, Pair

PAIRS = LOOKS[-1]
DRIFT_TAKES = 40  # slots until a drift is complete, or a wave has come back
DRIFT = math.log(2.0)


class Moods(NamedTuple):
    """The log factors on the figures of one pair, and the order of its slots."""

    baseline_first: bool
    baseline: float
    optimized: float
    baseline_delay: float
    optimized_delay: float

    def pair(self, speed: float, delay: float = 1.0) -> Pair:
        """The figures of queues whose true ratios are these."""
        return Pair(
            {"throughput": 300.0 * math.exp(self.baseline), "p95": 0.2 * math.exp(self.baseline_delay)},
            {
                "throughput": 300.0 * speed * math.exp(self.optimized),
                "p95": 0.2 * delay * math.exp(self.optimized_delay),
            },
            self.baseline_first,
        )


@dataclass(frozen=True)
class Machine:
    """One kind of noise.

    jitter    standard deviation of the log speed of a slot; of the optimized arm `unequal` times that
    drifts    whether the speed drifts by a factor of 2, up or down, as a ramp, a step or a wave
    hiccups   how often a slot runs 1.5 to 3 times slower
    memory    correlation of the jitter of one slot with that of the next one
    """

    name: str
    jitter: float
    drifts: bool = False
    hiccups: float = 0.0
    memory: float = 0.0
    unequal: float = 1.0

    def moods(self, draw: random.Random) -> list[Moods]:
        """As many pairs as a comparison ever has."""
        orders = blocks(draw)
        arms = [arm for first in orders for arm in ((False, True) if first else (True, False))]
        speeds = self.speeds(draw, arms)
        delays = [draw.gauss(-speed, self.jitter / 2) for speed in speeds]
        found = []
        for at, first in enumerate(orders):
            baseline, optimized = (2 * at, 2 * at + 1) if first else (2 * at + 1, 2 * at)
            found.append(Moods(first, speeds[baseline], speeds[optimized], delays[baseline], delays[optimized]))
        return found

    def speeds(self, draw: random.Random, arms: Sequence[bool]) -> list[float]:
        """The log speed of each slot; `arms` tells which of them are of the optimized arm."""
        path = drift(draw, len(arms)) if self.drifts else [0.0] * len(arms)
        kept, fresh = self.memory, math.sqrt(1 - self.memory**2)
        jitter = draw.gauss(0.0, 1.0)
        for at, optimized in enumerate(arms):
            path[at] += self.jitter * jitter * (self.unequal if optimized else 1.0)
            jitter = kept * jitter + draw.gauss(0.0, fresh)
            if self.hiccups and draw.random() < self.hiccups:
                path[at] -= math.log(draw.uniform(1.5, 3.0))
        return path


def blocks(draw: random.Random) -> list[bool]:
    """For each pair, whether the baseline goes first: ABBA or BAAB, by a coin for each block."""
    coins = [draw.random() < 0.5 for _ in range(PAIRS // 2)]
    return [first for coin in coins for first in (coin, not coin)]


def drift(draw: random.Random, slots: int) -> list[float]:
    """The log speed of a machine that grows faster or slower whatever it runs."""
    height = draw.choice((DRIFT, -DRIFT))
    match draw.choice(("ramp", "step", "wave")):
        case "ramp":
            return [height * min(slot / DRIFT_TAKES, 1.0) for slot in range(slots)]
        case "step":
            begins = draw.randrange(1, DRIFT_TAKES)
            return [0.0] * begins + [height] * (slots - begins)
        case _:
            start = draw.uniform(0.0, math.tau)
            return [height / 2 * math.sin(start + math.tau * slot / DRIFT_TAKES) for slot in range(slots)]


CALM = Machine("5 %, drift", 0.05, drifts=True)
USUAL = Machine("15 %, drift", 0.15, drifts=True)
LOUD = Machine("30 %, drift", 0.30, drifts=True)
MACHINES = (
    CALM,
    USUAL,
    LOUD,
    replace(CALM, name="5 %, drift, hiccups", hiccups=0.05),
    replace(USUAL, name="15 %, drift, hiccups", hiccups=0.05),
    Machine("30 %, memory 0.5", 0.30, memory=0.5),
    Machine("15 %, memory 0.8", 0.15, memory=0.8),
    Machine("10 % and 20 %", 0.10, unequal=2.0),
)
