"""What a queue did, counted and timed in bounded memory."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

COUNTERS = (
    "enqueued",
    "succeeded",
    "failed",
    "retried",
    "rejected",
    "duplicates",
    "fenced",
    "recovered",
    "cancelled",
)

_SUB_BUCKETS = 64
_NOTHING = -(1 << 20)  # the bucket of zero
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
        """Count one duration; a negative one counts as zero. Each task has three: without helpers, 0.6 x the time."""
        if seconds > 0.0:
            mantissa, exponent = math.frexp(seconds)  # seconds = mantissa * 2**exponent, mantissa in [0.5, 1)
            bucket = (exponent - 1) * _SUB_BUCKETS + int(mantissa * 2 * _SUB_BUCKETS)
            self.total += seconds
        else:
            bucket = _NOTHING
        self.count += 1
        buckets = self._buckets
        try:
            buckets[bucket] += 1
        except KeyError:
            buckets[bucket] = 1

    def merge(self, other: LatencyHistogram) -> None:
        """Add another histogram's counts."""
        self.count += other.count
        self.total += other.total
        for bucket, count in other._buckets.items():
            self._buckets[bucket] = self._buckets.get(bucket, 0) + count

    def copy(self) -> LatencyHistogram:
        """The counts so far; also while another thread is adding to them."""
        copied = LatencyHistogram()
        copied.total = self.total
        copied._buckets = self._buckets.copy()  # in one step, unlike a loop
        copied.count = sum(copied._buckets.values())
        return copied

    def buckets(self) -> dict[float, int]:
        """How many durations fell into each bucket, by its middle in seconds, shortest first."""
        return {_middle(bucket): self._buckets[bucket] for bucket in sorted(self._buckets)}

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

    Latency is from submit to the committed result, queue wait from submit to the start of an attempt, run time that of
    the processor. A commit is one transaction with the changes of `commit_changes_mean` tasks. The oldest queued age
    is how long the longest-waiting task in memory has been due. `utilization` is busy seconds / workers / elapsed
    seconds.
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
    cancelled: int
    latency_mean_s: float
    latency_p95_s: float
    queue_wait_mean_s: float
    queue_wait_p95_s: float
    run_time_mean_s: float
    run_time_p95_s: float
    commit_mean_s: float
    commit_p95_s: float
    commit_changes_mean: float
    oldest_queued_age_s: float
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

    What every task costs is counted by each worker for itself (WorkerMetrics) and added up when somebody looks. One
    lock guards the rest and no method calls out while it holds it (but for the clock), so `snapshot()` never waits
    for work in progress; a signal handler may call it too. `clock` gives monotonic seconds.
    """

    def __init__(self, workers: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._workers = workers
        self._clock = clock
        self._lock = threading.RLock()  # guards every field below; a signal handler may find its own thread inside
        self._started = clock()
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._latency = LatencyHistogram()
        self._commits = LatencyHistogram()
        self._changes = 0
        self._enqueue_rate = _Rate(self._started)
        self._stuck = 0
        self._past = WorkerMetrics(clock)  # of the workers that have left
        self._present: set[WorkerMetrics] = set()
        self.depth = Depth(clock)
        self.oldest: Callable[[], float] = lambda: 0.0

    def count(self, name: str, n: int = 1) -> None:
        """Add to one of COUNTERS."""
        if n:
            with self._lock:
                self._counters[name] += n

    def enqueued(self, n: int = 1) -> None:
        """`n` tasks were accepted."""
        with self._lock:
            self._counters["enqueued"] += n
            self._enqueue_rate.add(n, self._clock())

    def committed(self, seconds: float, changes: int) -> None:
        """One transaction was written."""
        with self._lock:
            self._commits.add(seconds)
            self._changes += changes

    def finished(self, name: str, latencies: Sequence[float | None]) -> None:
        """Tasks have their committed results: `name` is "succeeded" or "failed"; latencies in seconds, if known."""
        with self._lock:
            self._counters[name] += len(latencies)
            for latency in latencies:
                if latency is not None:
                    self._latency.add(latency)

    def stuck(self, change: int) -> None:
        """A worker got stuck (+1) or came back (-1)."""
        with self._lock:
            self._stuck += change

    def worker(self) -> WorkerMetrics:
        """The counters of a worker that begins; it hands them to `retire` when it leaves."""
        worker = WorkerMetrics(self._clock)
        with self._lock:
            self._present.add(worker)
        return worker

    def retire(self, worker: WorkerMetrics) -> None:
        """A worker leaves; what it counted stays."""
        with self._lock:
            self._present.discard(worker)
            self._past.add(worker)

    def snapshot(self) -> MetricsSnapshot:
        """The metrics now."""
        oldest = self.oldest()
        with self._lock:
            now = self._clock()
            elapsed = now - self._started
            work = WorkerMetrics(self._clock)
            for worker in (self._past, *self._present):
                work.add(worker)
            busy = work.busy_seconds + sum(worker.busy_for(now) for worker in self._present)
            latency = self._latency
            return MetricsSnapshot(
                **self._counters,
                dequeued=work.dequeued,
                latency_mean_s=latency.mean,
                latency_p95_s=latency.percentile(0.95),
                queue_wait_mean_s=work.wait.mean,
                queue_wait_p95_s=work.wait.percentile(0.95),
                run_time_mean_s=work.run.mean,
                run_time_p95_s=work.run.percentile(0.95),
                commit_mean_s=self._commits.mean,
                commit_p95_s=self._commits.percentile(0.95),
                commit_changes_mean=self._changes / self._commits.count if self._commits.count else 0.0,
                oldest_queued_age_s=oldest,
                queue_depth=self.depth.now,
                queue_depth_max=self.depth.highest,
                queue_depth_mean=self.depth.mean(),
                enqueue_rate=self._enqueue_rate.read(now),
                dequeue_rate=work.rate.read(now, self._started),
                utilization=busy / self._workers / elapsed if elapsed > 0 else 0.0,
                stuck_workers=self._stuck,
                elapsed_s=elapsed,
            )


class WorkerMetrics:
    """What one worker counts, without a lock: only its own thread writes, and readers may be one attempt behind."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.dequeued = 0
        self.busy_seconds = 0.0
        self.last = 0.0  # seconds that the last attempt took
        self.wait = LatencyHistogram()
        self.run = LatencyHistogram()
        self.rate = _Rate(clock())
        self._busy_since: float | None = None

    def begin(self, submitted_at: float | None) -> None:
        """An attempt begins, at a task that was submitted then (None: not in this process)."""
        now = self._clock()
        self.dequeued += 1
        self.rate.add(1, now)
        self._busy_since = now
        if submitted_at is not None:
            self.wait.add(now - submitted_at)

    def end(self) -> None:
        """The attempt is over."""
        self.last = seconds = self.busy_for(self._clock())
        self._busy_since = None
        self.busy_seconds += seconds
        self.run.add(seconds)

    def busy_for(self, now: float) -> float:
        """Seconds since the attempt at hand began."""
        since = self._busy_since
        return 0.0 if since is None else max(now - since, 0.0)

    def add(self, other: WorkerMetrics) -> None:
        """Add another worker's counts, while it goes on counting."""
        self.dequeued += other.dequeued
        self.busy_seconds += other.busy_seconds
        self.wait.merge(other.wait.copy())
        self.run.merge(other.run.copy())
        self.rate.merge(other.rate)


class Depth:
    """A level over time: now, highest, and the mean weighted by how long each level stood.

    Whoever calls `set` sees to it that one thread does so at a time; readers need no lock: what they read is one
    tuple, so a signal handler may read too.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._state = (0, 0, self._started, 0.0)  # now, highest, since when, level x seconds before that

    @property
    def now(self) -> int:
        """The level."""
        return self._state[0]

    @property
    def highest(self) -> int:
        """The highest level so far."""
        return self._state[1]

    def set(self, level: int) -> None:
        """The level has changed."""
        before, highest, since, area = self._state
        now = self._clock()
        self._state = (level, max(highest, level), now, area + before * (now - since))

    def mean(self) -> float:
        """The mean since the beginning."""
        level, _, since, area = self._state
        now = self._clock()
        elapsed = now - self._started
        return (area + level * (now - since)) / elapsed if elapsed > 0 else float(level)


class _Rate:
    """Events per second over the last minute, from one bucket a second."""

    def __init__(self, now: float) -> None:
        self._started = now
        self._buckets = [0] * _RATE_SECONDS
        self._second = int(now)

    def add(self, n: int, now: float) -> None:
        second = int(now)
        if second != self._second:
            self._turn(second)
        self._buckets[second % _RATE_SECONDS] += n

    def merge(self, other: _Rate) -> None:
        """Add another one's events of the seconds that both remember."""
        self._turn(other._second)
        for second in range(max(self._second - _RATE_SECONDS, other._second - _RATE_SECONDS) + 1, other._second + 1):
            self._buckets[second % _RATE_SECONDS] += other._buckets[second % _RATE_SECONDS]

    def read(self, now: float, started: float | None = None) -> float:
        self._turn(int(now))
        seconds = min(now - (self._started if started is None else started), _RATE_SECONDS - 1 + now % 1)
        return sum(self._buckets) / seconds if seconds > 0 else 0.0

    def _turn(self, second: int) -> None:
        for passed in range(self._second + 1, min(second, self._second + _RATE_SECONDS) + 1):
            self._buckets[passed % _RATE_SECONDS] = 0
        self._second = max(second, self._second)


def _middle(bucket: int) -> float:
    if bucket == _NOTHING:
        return 0.0
    exponent, step = divmod(bucket, _SUB_BUCKETS)
    return math.ldexp(0.5 + (step + 0.5) / (2 * _SUB_BUCKETS), exponent)
