"""What a queue did, counted and timed in bounded memory."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

COUNTERS = ("enqueued", "dequeued", "succeeded", "failed", "retried", "rejected", "duplicates", "fenced", "recovered")

_SUB_BUCKETS = 64
_RATE_SECONDS = 60


class LatencyHistogram:
    """Counts of durations in log-linear buckets: 64 to each power of two, so a value read back is at most 0.8 %
    off. Memory grows with the spread of the values, not with their number; two histograms add up exactly.
    The idea is HdrHistogram's (exponent and linear sub-buckets). Not locked: the owner guards it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self._buckets: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        """Count one duration; a negative one counts as zero."""
        seconds = max(seconds, 0.0)
        self.count += 1
        self.total += seconds
        bucket = _bucket(seconds)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def merge(self, other: LatencyHistogram) -> None:
        """Add another histogram's counts."""
        self.count += other.count
        self.total += other.total
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    @property
    def mean(self) -> float:
        """Mean in seconds, 0.0 when empty."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, q: float) -> float:
        """The nearest-rank percentile in seconds, `q` in (0, 1]; the middle of its bucket. 0.0 when empty."""
        rank, seen = math.ceil(round(q * self.count, 6)), 0  # 0.07 * 100 is 7.000000000000001
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return _middle(bucket)
        return 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsSnapshot:
    """The metrics at one moment. Times are seconds, rates tasks per second over the last minute at most.

    Latency is from submit to the committed result. `utilization` is busy seconds / workers / elapsed seconds.
    """

    enqueued: int
    dequeued: int
    succeeded: int
    failed: int
    retried: int
    rejected: int
    duplicates: int
    fenced: int
    recovered: int
    latency_mean_s: float
    latency_p95_s: float
    queue_depth: int
    queue_depth_max: int
    queue_depth_mean: float
    enqueue_rate: float
    dequeue_rate: float
    utilization: float
    stuck_workers: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """All figures by name."""
        return asdict(self)

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps(self.to_dict(), allow_nan=False)


class Metrics:
    """The counters of one queue. Safe to use from many threads, and from inside a processor or a callback.

    One lock guards everything and no method calls out while it holds it (but for the clock), so `snapshot()`
    never waits for work in progress; a signal handler may call it too. `clock` gives monotonic seconds.
    """

    def __init__(self, workers: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._workers = workers
        self._clock = clock
        self._lock = threading.RLock()  # guards every field below; a signal handler may find its own thread inside
        self._started = clock()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._latency = LatencyHistogram()
        self._depth = _Depth(self._started)
        self._enqueue_rate = _Rate(self._started)
        self._dequeue_rate = _Rate(self._started)
        self._busy_seconds = 0.0
        self._busy_since: dict[int, float] = {}  # worker's thread id -> start of its attempt
        self._stuck = 0

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of COUNTERS."""
        with self._lock:
            self._counters[name] += n

    def enqueued(self, n: int = 1) -> None:
        """`n` tasks were accepted."""
        with self._lock:
            self._counters["enqueued"] += n
            self._enqueue_rate.add(n, self._clock())

    def depth(self, depth: int) -> None:
        """The number of tasks that wait in memory has changed."""
        with self._lock:
            self._depth.set(depth, self._clock())

    def attempt_begins(self) -> None:
        """A worker has taken a task."""
        now = self._clock()
        with self._lock:
            self._counters["dequeued"] += 1
            self._dequeue_rate.add(1, now)
            self._busy_since[threading.get_ident()] = now

    def attempt_ends(self) -> None:
        """The same worker is done with it."""
        with self._lock:
            since = self._busy_since.pop(threading.get_ident(), None)
            if since is not None:
                self._busy_seconds += self._clock() - since

    def finished(self, name: str, latency: float | None) -> None:
        """A task has its committed result: `name` is "succeeded" or "failed"; latency in seconds, if known."""
        with self._lock:
            self._counters[name] += 1
            if latency is not None:
                self._latency.add(latency)

    def stuck(self, change: int) -> None:
        """A worker got stuck (+1) or came back (-1)."""
        with self._lock:
            self._stuck += change

    def snapshot(self) -> MetricsSnapshot:
        """The metrics now."""
        with self._lock:
            now = self._clock()
            elapsed = now - self._started
            busy = self._busy_seconds + sum(now - since for since in self._busy_since.values())
            return MetricsSnapshot(
                **self._counters,
                latency_mean_s=self._latency.mean,
                latency_p95_s=self._latency.percentile(0.95),
                queue_depth=self._depth.now,
                queue_depth_max=self._depth.highest,
                queue_depth_mean=self._depth.mean(now),
                enqueue_rate=self._enqueue_rate.read(now),
                dequeue_rate=self._dequeue_rate.read(now),
                utilization=busy / self._workers / elapsed if elapsed > 0 else 0.0,
                stuck_workers=self._stuck,
                elapsed_s=elapsed,
            )


class _Depth:
    """A level over time: now, highest, and the mean weighted by how long each level stood."""

    def __init__(self, now: float) -> None:
        self.now = 0
        self.highest = 0
        self._started = self._since = now
        self._area = 0.0

    def set(self, depth: int, now: float) -> None:
        self._area += self.now * (now - self._since)
        self._since = now
        self.now = depth
        self.highest = max(self.highest, depth)

    def mean(self, now: float) -> float:
        elapsed = now - self._started
        return (self._area + self.now * (now - self._since)) / elapsed if elapsed > 0 else float(self.now)


class _Rate:
    """Events per second over the last minute, from one bucket a second."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._buckets = [0] * _RATE_SECONDS
        self._second = int(now)

    def add(self, n: int, now: float) -> None:
        self._turn(int(now))
        self._buckets[self._second % _RATE_SECONDS] += n

    def read(self, now: float) -> float:
        self._turn(int(now))
        seconds = min(now - self._started, _RATE_SECONDS - 1 + now % 1)
        return sum(self._buckets) / seconds if seconds > 0 else 0.0

    def _turn(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + _RATE_SECONDS) + 1):
            self._buckets[passed % _RATE_SECONDS] = 0
        self._second = max(second, self._second)


def _bucket(seconds: float) -> int:
    if seconds == 0.0:
        return -(1 << 20)
    mantissa, exponent = math.frexp(seconds)  # seconds = mantissa * 2**exponent, mantissa in [0.5, 1)
    return exponent * _SUB_BUCKETS + int((mantissa - 0.5) * 2 * _SUB_BUCKETS)


def _middle(bucket: int) -> float:
    if bucket == -(1 << 20):
        return 0.0
    exponent, step = divmod(bucket, _SUB_BUCKETS)
    return math.ldexp(0.5 + (step + 0.5) / (2 * _SUB_BUCKETS), exponent)
