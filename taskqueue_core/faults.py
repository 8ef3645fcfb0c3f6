"""FaultInjector: seeded delays and errors, for tests and drills."""

from __future__ import annotations

import functools
import math
import random
import threading
from collections.abc import Callable
from typing import TypeVar

from taskqueue_core.errors import TransientError
from taskqueue_core.task import Task

R = TypeVar("R")


class FaultInjector:
    """Makes attempts slow or fails them, by a seeded plan. Call it once per attempt, or `wrap` a processor.

    latency     (low, high): each attempt waits that many seconds, drawn evenly
    error_rate  the share of attempts that fail, from 0 to 1
    error       what a failing attempt raises: an exception class, or a callable that makes an exception
    seed        the same seed gives the same sequence of draws

    Threads share one sequence: which attempt meets which draw depends on the schedule, how many of n attempts
    fail does not. `release()` ends all waits, now and later, so that a test can always be torn down.
    """

    def __init__(
        self,
        latency: tuple[float, float] = (0.0, 0.0),
        error_rate: float = 0.0,
        error: Callable[[str], BaseException] = TransientError,
        seed: int = 0,
    ) -> None:
        if not 0 <= latency[0] <= latency[1] < math.inf:
            raise ValueError(f"latency must be (low, high) finite seconds with 0 <= low <= high, got {latency!r}")
        if not 0 <= error_rate <= 1:
            raise ValueError(f"error_rate must lie between 0 and 1, got {error_rate!r}")
        self.latency = latency
        self.error_rate = error_rate
        self.error = error
        self.calls = 0
        self.failures = 0
        self._released = threading.Event()
        self._lock = threading.Lock()  # guards the random source and the two counters
        self._random = random.Random(seed)

    def __call__(self) -> None:
        """Wait as long as this attempt's draw says, then perhaps raise `error`."""
        with self._lock:
            delay = self._random.uniform(*self.latency)
            fails = self._random.random() < self.error_rate
            self.calls += 1
            self.failures += fails
            number = self.calls
        if delay:
            self._released.wait(delay)
        if fails:
            raise self.error(f"injected fault (attempt {number} of this injector)")

    def wrap(self, processor: Callable[[Task], R]) -> Callable[[Task], R]:
        """Return a processor that meets a fault, or not, before each attempt; its `discard` is kept."""

        @functools.wraps(processor, (*functools.WRAPPER_ASSIGNMENTS, "discard"), ())
        def faulty(task: Task) -> R:
            self()
            return processor(task)

        return faulty

    def release(self) -> None:
        """End every wait of this injector, now and from now on."""
        self._released.set()
