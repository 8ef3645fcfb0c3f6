"""Exact counts, percentiles of a known error, and snapshots that never wait."""

import json
import random
import sys
import threading
from concurrent.futures import Future
from itertools import chain

import pytest

from taskqueue_core import LatencyHistogram, Metrics, Task, TaskQueue

LONG = 20.0  # seconds: a limit that only a hang reaches
FIXED = (
    "enqueued dequeued succeeded failed retried rejected duplicates fenced recovered latency_mean_s latency_p95_s "
    "queue_depth queue_depth_max queue_depth_mean enqueue_rate dequeue_rate utilization stuck_workers"
)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self, now=1000.4):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def in_threads(number, work):
    """Run `work(index)` in that many threads, which begin together; raise what one of them raised."""
    barrier, futures = threading.Barrier(number), [Future() for _ in range(number)]

    def run(index, future):
        try:
            barrier.wait(LONG)
            future.set_result(work(index))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits for it
            future.set_exception(error)

    for index, future in enumerate(futures):
        threading.Thread(target=run, args=(index, future), daemon=True).start()
    for future in futures:
        future.result(LONG)


def go_through(metrics, latency=0.5):
    """What a queue tells its metrics about one task."""
    metrics.enqueued()
    metrics.depth(1)
    metrics.attempt_begins()
    metrics.attempt_ends()
    metrics.finished("succeeded", latency)


@pytest.fixture
def hasty():
    """Threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("hasty")
def test_counts_are_exact_under_threads():
    """Sixteen threads, and neither an event nor a busy second, of which every attempt has one, is lost."""
    ticks = threading.local()

    def clock():
        ticks.now = getattr(ticks, "now", 0) + 1
        return float(ticks.now)

    metrics = Metrics(16, clock=clock)

    def work(index):
        for _ in range(200):
            go_through(metrics)
            metrics.finished("failed", None)
            metrics.count("retried")
            metrics.count("duplicates", 3)
            metrics.stuck(+1)
            metrics.stuck(-1)

    in_threads(16, work)
    found = metrics.snapshot()
    assert (found.enqueued, found.dequeued, found.succeeded, found.failed) == (3200,) * 4
    assert (found.retried, found.duplicates, found.stuck_workers, found.rejected) == (3200, 9600, 0, 0)
    assert (found.latency_mean_s, found.utilization * 16 * found.elapsed_s) == (0.5, 3200)


@pytest.mark.usefixtures("hasty")
def test_snapshot_is_consistent_while_threads_hammer():
    """Snapshots come back beside eight busy threads, and none shows a task that is done but never came in."""
    metrics, stop = Metrics(8), threading.Event()

    def work(index):
        while index and not stop.is_set():
            go_through(metrics)
        for _ in range(0 if index else 300):
            found = metrics.snapshot()
            assert found.enqueued >= found.dequeued >= found.succeeded
        stop.set()

    in_threads(9, work)


def test_metrics_export_cannot_deadlock_on_its_own_lock():
    """A signal handler or finalizer that exports while its own thread is inside a method gets its snapshot.

    The clock is called with the lock held, so it stands for whatever interrupts at that point.
    """
    exported = []

    def clock():
        if interrupt and not exported:
            exported.append(None)
            exported.append(metrics.snapshot().to_json())
        return 1.0

    interrupt = False
    metrics = Metrics(1, clock=clock)
    interrupt = True
    in_threads(1, lambda index: metrics.depth(3))
    assert json.loads(exported[1])["queue_depth"] == 0
    assert metrics.snapshot().queue_depth == 3


def test_snapshot_from_inside_a_processor_and_a_callback():
    """A task sees itself at work, its callback sees it done."""
    seen, done = [], threading.Event()

    def processor(task):
        seen.append(queue.metrics.snapshot().to_dict())

    def callback(future):
        seen.append(queue.metrics.snapshot().to_dict())
        done.set()

    with TaskQueue(processor, ledger=":memory:") as queue:
        queue.submit(Task("a")).add_done_callback(callback)
        assert done.wait(LONG)
    assert [(each["dequeued"], each["succeeded"]) for each in seen] == [(1, 0), (1, 1)]


def test_json_has_the_fixed_names(clock):
    """From the first moment on, as plain JSON numbers, the same as the dict."""
    metrics = Metrics(2, clock=clock)
    for _ in range(2):
        found = metrics.snapshot()
        exported = json.loads(found.to_json(), parse_constant=pytest.fail)
        assert exported == found.to_dict()
        assert set(FIXED.split()) <= exported.keys()
        go_through(metrics)
        clock.now += 1


def test_rates_are_of_the_last_minute(clock):
    """Per second since the start at first, over the last minute later, and 0 when nothing comes any more."""
    metrics = Metrics(1, clock=clock)
    metrics.enqueued(30)
    clock.now += 10
    assert metrics.snapshot().enqueue_rate == pytest.approx(3.0)
    clock.now += 600
    assert metrics.snapshot().enqueue_rate == 0.0
    for _ in range(120):
        metrics.enqueued(5)
        metrics.attempt_begins()
        clock.now += 1
    found = metrics.snapshot()
    assert (found.enqueue_rate, found.dequeue_rate) == (pytest.approx(5.0, rel=0.02), pytest.approx(1.0, rel=0.02))


def test_depth_mean_is_weighted_by_time(clock):
    """Ten for three seconds and none for one make 7.5; the highest is remembered."""
    metrics = Metrics(1, clock=clock)
    metrics.depth(10)
    clock.now += 3
    metrics.depth(0)
    clock.now += 1
    found = metrics.snapshot()
    assert (found.queue_depth, found.queue_depth_max, found.queue_depth_mean) == (0, 10, pytest.approx(7.5))


def test_utilization_counts_running_attempts(clock):
    """Busy seconds / workers / elapsed: of an attempt that is over, of one that still runs; an end alone is nothing."""
    metrics = Metrics(2, clock=clock)
    metrics.attempt_begins()
    clock.now += 4
    metrics.attempt_ends()
    assert metrics.snapshot().utilization == pytest.approx(0.5)
    in_threads(1, lambda index: metrics.attempt_begins())
    clock.now += 4
    metrics.attempt_ends()
    found = metrics.snapshot()
    assert (found.utilization, found.elapsed_s) == (pytest.approx(0.5), pytest.approx(8.0))


def nearest_rank(values, percent):
    return sorted(values)[-(-percent * len(values) // 100) - 1]


def filled(values):
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    return histogram


DISTRIBUTIONS = {
    "uniform": lambda rng: rng.uniform(0.001, 0.1),
    "exponential": lambda rng: rng.expovariate(50),
    "lognormal": lambda rng: rng.lognormvariate(-5, 2),
    "bimodal": lambda rng: rng.choice((0.002, 3.0)) * rng.uniform(0.9, 1.1),
    "constant": lambda rng: 0.25,
    "wide": lambda rng: 10.0 ** rng.uniform(-12, 9),
}


@pytest.mark.parametrize("draw", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@pytest.mark.parametrize("size", [1, 2, 19, 20, 21, 5000])
def test_percentile_is_at_most_08_percent_off(draw, size):
    """Against the exact nearest rank, whatever the shape; count and mean are exact."""
    rng = random.Random(size)
    values = [draw(rng) for _ in range(size)]
    histogram = filled(values)
    for percent in (1, 50, 90, 95, 99, 100):
        exact = nearest_rank(values, percent)
        assert abs(histogram.percentile(percent / 100) - exact) <= 0.008 * exact
    assert (histogram.count, histogram.mean) == (size, pytest.approx(sum(values) / size))


def test_percentile_takes_the_exact_rank():
    """Of a hundred values the nth percentile is the nth, although 0.07 * 100 is a little more than 7."""
    values = [2.0**n for n in range(1, 101)]
    histogram = filled(values)
    assert [histogram.percentile(n / 100) for n in range(1, 101)] == pytest.approx(values, rel=0.008)


def test_merged_histograms_add_up_exactly():
    """Merging gives what counting everything in one histogram would have given."""
    rng = random.Random(1)
    parts = [[rng.expovariate(9) for _ in range(size)] for size in (0, 1, 700)]
    merged, whole = LatencyHistogram(), filled(chain(*parts))
    for part in parts:
        merged.merge(filled(part))
    assert merged.count == whole.count
    assert [merged.percentile(n / 100) for n in range(1, 101)] == [whole.percentile(n / 100) for n in range(1, 101)]
    assert merged.mean == pytest.approx(whole.mean)


def test_empty_and_zero():
    """Nothing counted reads as 0.0; a negative duration, from a clock set back, counts as zero."""
    assert (LatencyHistogram().percentile(0.95), LatencyHistogram().mean) == (0.0, 0.0)
    histogram = filled([0.0, -1.0, 1.0])
    assert (histogram.percentile(0.6), histogram.mean) == (0.0, pytest.approx(1 / 3))
