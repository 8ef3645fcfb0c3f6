"""How often and when each task was worked on, counted inside the work itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a task was worked on; a queue that brings its own work tells only the end."""

    begun: float | None
    done: float

    @property
    def earliest(self) -> float:
        """The first moment at which it is known to have been in hand."""
        return self.done if self.begun is None else self.begun


class Tally:
    """Counts, inside the work itself, how often each task was worked on. Each thread has counts of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the lists, whose dictionaries have one writer each
        self._counts: list[dict[str, int]] = []
        self._spans: list[dict[str, Span]] = []
        self._local = threading.local()

    def count(self, key: str, begun: float | None = None, *, now: Callable[[], float] = time.perf_counter) -> None:
        """The work of this task is done; it was begun then, where that is known. The clock is bound here: replacing
        it elsewhere does not reach it.
        """
        if not hasattr(self._local, "counts"):
            self._local.counts, self._local.spans = {}, {}
            with self._lock:
                self._counts.append(self._local.counts)
                self._spans.append(self._local.spans)
        self._local.spans[key] = Span(begun, now())
        self._local.counts[key] = self._local.counts.get(key, 0) + 1

    def spans(self) -> dict[str, Span]:
        """When each task was worked on, by `time.perf_counter`; for when the threads have ended."""
        with self._lock:
            return {key: span for spans in self._spans for key, span in spans.copy().items()}

    def total(self) -> Counter[str]:
        """How often the work of each task was done; for when the threads have ended."""
        total: Counter[str] = Counter()
        with self._lock:
            for counts in self._counts:
                total.update(counts.copy())  # a worker that was left behind may still be counting
        return total
