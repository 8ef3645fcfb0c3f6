"""The plan of an open loop: tasks come at random moments, however slow a queue is.

A closed loop lets a slow queue slow its own clients down, and shows latencies at saturation. Arrivals of a Poisson
process, at a rate that both queues can bear, show what users of a queue with room see.
"""

from __future__ import annotations

import random
from array import array


def poisson_plan(rate: float, seconds: float, clients: int, seed: int) -> list[array[float]]:
    """For each client the moments of its tasks, in seconds from the beginning: together `rate` tasks per second. The
    tasks go round the clients, so that one who is still waiting seldom holds up the next.
    """
    draw, plan, at, n = random.Random(f"plan/{seed}"), [array("d") for _ in range(clients)], 0.0, 0
    while (at := at + draw.expovariate(rate)) < seconds or n == 0:
        plan[n % clients].append(at)
        n += 1
    return plan
