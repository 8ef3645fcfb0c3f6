"""The faults of one test, from its setup until its fixtures are torn down."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from taskqueue_core import FaultPlan, points


class Faulty:
    """Installs a FaultPlan for all queues of the process."""

    def __init__(self, texts: Sequence[str], seed: int) -> None:
        self._plan = FaultPlan(*texts, seed=seed)
        self._installed = ExitStack()
        self._installed.enter_context(points.probing(self._plan))

    def end(self) -> None:
        """End all waits, and take the faults out."""
        self._plan.release()
        self._installed.close()
