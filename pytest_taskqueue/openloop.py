"""Client threads under an open loop: tasks come when a plan says so, however slow the queue is.

A closed loop lets a slow queue slow its own clients down, and shows latencies at saturation. Here tasks arrive at
random (a Poisson process) at a rate both queues can bear, and latency counts from the moment at which a task was to be
sent: one that had to wait for its client waited, too (the correction for coordinated omission of Gil Tene's wrk2).
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

from pytest_taskqueue.load import ClosedLoop, LoadLog, clock


def poisson_plan(rate: float, seconds: float, clients: int, seed: int) -> list[array[float]]:
    """For each client the moments of its tasks, in seconds from the beginning: together `rate` tasks per second. The
    tasks go round the clients, so that one who is still waiting seldom holds up the next.
    """
    draw, plan, at, n = random.Random(f"plan/{seed}"), [array("d") for _ in range(clients)], 0.0, 0
    while (at := at + draw.expovariate(rate)) < seconds or n == 0:
        plan[n % clients].append(at)
        n += 1
    return plan


def following(plan: list[array[float]]) -> Callable[[ClosedLoop], LoadLog]:
    """How to run an open loop in a slot."""

    def drive(loop: ClosedLoop) -> LoadLog:
        assert isinstance(loop, OpenLoop)
        return loop.follow(plan)

    return drive


class OpenLoop(ClosedLoop):
    """The same clients and the same tasks, sent by a plan."""

    _plan: list[array[float]]
    _began: float

    def follow(self, plan: list[array[float]]) -> LoadLog:
        """Send every task of the plan and wait for all results; the window holds all of the plan."""
        self._plan = plan
        self._began = clock()
        log = self.run_each(lambda number: len(plan[number]))
        ends = [end for client in log.clients for end in client.ends]
        return LoadLog(
            self._began, max(ends, default=clock()), log.clients, log.cpu_s, log.depths, log.hung, planned=True
        )

    def _begin(self, number: int, k: int) -> float:
        """The planned moment, waited for unless it is past."""
        moment = self._began + self._plan[number][k]
        self._wait_until(moment)
        return moment
