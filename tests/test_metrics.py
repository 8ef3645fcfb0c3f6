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
    "queue_depth queue_depth_max queue_depth_mean enqueue_rate dequeue_rate utilization stuck_workers cancelled "
    "queue_wait_mean_s queue_wait_p95_s run_time_mean_s run_time_p95_s commit_mean_s commit_p95_s commit_changes_mean "
    "oldest_queued_age_s elapsed_s"
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


def go_through(metrics, worker, latency=0.5):
    """What a queue tells its metrics about one task."""
    metrics.enqueued()
    worker.begin(None)
    worker.end()
    metrics.finished("succeeded", [latency])


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
        worker = metrics.worker()
        for _ in range(200):
            go_through(metrics, worker)
            metrics.finished("failed", [None])
            metrics.committed(0.25, 2)
            metrics.count("retried")
            metrics.count("duplicates", 3)
            metrics.stuck(+1)
            metrics.stuck(-1)
        if index % 2:
            metrics.retire(worker)

    in_threads(16, work)
    found = metrics.snapshot()
    assert (found.enqueued, found.dequeued, found.succeeded, found.failed) == (3200,) * 4
    assert (found.retried, found.duplicates, found.stuck_workers, found.rejected) == (3200, 9600, 0, 0)
    assert (found.latency_mean_s, found.utilization * 16 * found.elapsed_s) == (0.5, 3200)
    assert (found.commit_mean_s, found.commit_changes_mean, found.run_time_mean_s) == (0.25, 2.0, 1.0)


@pytest.mark.usefixtures("hasty")
def test_snapshot_is_consistent_while_threads_hammer():
    """Snapshots come back beside eight busy threads, and none shows a task that is done but never came in."""
    metrics, stop = Metrics(8), threading.Event()

    def work(index):
        worker = metrics.worker()
        while index and not stop.is_set():
            go_through(metrics, worker)
            if worker.dequeued % 50 == 0:  # workers come and go
                metrics.retire(worker)
                worker = metrics.worker()
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
    in_threads(1, lambda index: metrics.enqueued(3))
    assert json.loads(exported[1])["queue_depth"] == 0
    assert metrics.snapshot().enqueued == 3


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
    assert seen[0]["utilization"] > 0


def test_json_has_the_fixed_names(clock):
    """From the first moment on, as plain JSON numbers, the same as the dict."""
    metrics = Metrics(2, clock=clock)
    for _ in range(2):
        found = metrics.snapshot()
        exported = json.loads(found.to_json(), parse_constant=pytest.fail)
        assert exported == found.to_dict()
        assert set(FIXED.split()) <= exported.keys()
        go_through(metrics, metrics.worker())
        clock.now += 1


def test_rates_are_of_the_last_minute(clock):
    """Per second since the start at first, over the last minute later, and 0 when nothing comes any more."""
    metrics = Metrics(1, clock=clock)
    metrics.enqueued(30)
    clock.now += 10
    assert metrics.snapshot().enqueue_rate == pytest.approx(3.0)
    clock.now += 600
    assert metrics.snapshot().enqueue_rate == 0.0
    worker = metrics.worker()
    for _ in range(120):
        metrics.enqueued(5)
        worker.begin(None)
        worker.end()
        clock.now += 1
    found = metrics.snapshot()
    assert (found.enqueue_rate, found.dequeue_rate) == (pytest.approx(5.0, rel=0.02), pytest.approx(1.0, rel=0.02))


def test_depth_mean_is_weighted_by_time(clock):
    """Ten for three seconds and none for one make 7.5; the highest is remembered."""
    metrics = Metrics(1, clock=clock)
    metrics.depth.set(10)
    clock.now += 3
    metrics.depth.set(0)
    clock.now += 1
    found = metrics.snapshot()
    assert (found.queue_depth, found.queue_depth_max, found.queue_depth_mean) == (0, 10, pytest.approx(7.5))


def test_utilization_counts_running_attempts(clock):
    """Busy seconds / workers / elapsed: of an attempt that is over, of one that still runs, of one whose worker left;
    an end alone is nothing.
    """
    metrics = Metrics(2, clock=clock)
    first, second = metrics.worker(), metrics.worker()
    first.begin(None)
    clock.now += 4
    first.end()
    metrics.retire(first)
    assert metrics.snapshot().utilization == pytest.approx(0.5)
    second.begin(None)
    clock.now += 2
    assert metrics.snapshot().utilization == pytest.approx(0.5)
    clock.now += 2
    second.end()
    found = metrics.snapshot()
    assert (found.utilization, found.elapsed_s) == (pytest.approx(0.5), pytest.approx(8.0))
    assert (found.dequeued, found.run_time_mean_s) == (2, pytest.approx(4.0))
    metrics.worker().end()
    assert metrics.snapshot().utilization == pytest.approx(0.5)


def test_each_time_has_its_own_meaning(clock):
    """Wait from submit to the attempt, run in it, latency to the committed result; what is not known is not counted."""
    metrics = Metrics(1, clock=clock)
    worker = metrics.worker()
    submitted = clock.now
    clock.now += 2
    worker.begin(submitted)
    clock.now += 5
    worker.end()
    assert worker.last == 5.0
    clock.now += 1
    metrics.finished("succeeded", [clock.now - submitted, None])
    worker.begin(None)
    worker.end()
    metrics.committed(0.5, 3)
    metrics.committed(1.5, 1)
    metrics.oldest = lambda: 7.5
    found = metrics.snapshot()
    assert (found.queue_wait_mean_s, found.run_time_mean_s, found.latency_mean_s) == (2.0, 2.5, 8.0)
    assert (found.queue_wait_p95_s, found.run_time_p95_s) == (pytest.approx(2, rel=0.008), pytest.approx(5, rel=0.008))
    assert found.latency_p95_s == pytest.approx(8, rel=0.008)
    assert (found.commit_mean_s, found.commit_p95_s) == (1.0, pytest.approx(1.5, rel=0.008))
    assert (found.commit_changes_mean, found.oldest_queued_age_s, found.succeeded) == (2.0, 7.5, 2)


def test_counting_nothing_is_free():
    """Neither a name nor a number is looked up for zero events."""
    metrics = Metrics(1)
    metrics.count("rejected", 0)
    metrics.finished("failed", [])
    found = metrics.snapshot()
    assert (found.rejected, found.failed, found.latency_mean_s, found.commit_changes_mean) == (0, 0, 0.0, 0.0)


@pytest.mark.usefixtures("hasty")
def test_workers_are_added_up_while_they_count():
    """Snapshots and retirements beside them never raise, never go back and never count one attempt twice."""
    metrics, stop, done = Metrics(4), threading.Event(), []

    def work(index):
        if index == 0:
            seen = [metrics.snapshot().dequeued for _ in range(300)]
            stop.set()
            assert seen == sorted(seen)
            return
        rng, count = random.Random(index), 0
        while not stop.is_set():
            worker = metrics.worker()
            for _ in range(20):
                worker.begin(-rng.expovariate(1))  # new buckets all the time
                worker.end()
                count += 1
            metrics.retire(worker)
        done.append(count)

    in_threads(5, work)
    assert metrics.snapshot().dequeued == sum(done)
    assert metrics._past.wait.count == metrics._past.run.count == sum(done)
    assert not metrics._present


def test_memory_stays_bounded(clock):
    """A hundred thousand tasks and a thousand workers later there are a few buckets and no worker."""
    metrics, rng = Metrics(1, clock=clock), random.Random(2)
    for _ in range(1000):
        worker = metrics.worker()
        for _ in range(100):
            worker.begin(clock.now - rng.uniform(0.001, 10.0))
            worker.end()
            metrics.enqueued()
            metrics.committed(rng.uniform(0.001, 10.0), 1)
            metrics.finished("succeeded", [rng.uniform(0.001, 10.0)])
            metrics.depth.set(rng.randrange(100))
        clock.now += 1
        metrics.retire(worker)
    buckets = [h._buckets for h in (metrics._latency, metrics._commits, metrics._past.wait, metrics._past.run)]
    assert all(len(each) <= 64 * 15 for each in buckets)
    assert (len(metrics._present), len(metrics._past.rate._buckets), len(metrics._enqueue_rate._buckets)) == (0, 60, 60)
    assert metrics.snapshot().dequeued == 100_000


def test_rates_of_workers_that_left_stay_in_the_minute(clock):
    """One left half a minute ago, one is new; after a minute the first one's tasks are forgotten."""
    metrics = Metrics(1, clock=clock)
    clock.now += 100
    old = metrics.worker()
    for _ in range(60):
        old.begin(None)
        old.end()
    metrics.retire(old)
    clock.now += 30
    new = metrics.worker()
    for _ in range(30):
        new.begin(None)
        new.end()
    assert metrics.snapshot().dequeue_rate == pytest.approx(90 / 60, rel=0.02)
    clock.now += 31
    assert metrics.snapshot().dequeue_rate == pytest.approx(30 / 60, rel=0.02)
    clock.now += 600
    assert metrics.snapshot().dequeue_rate == 0.0


@pytest.mark.usefixtures("hasty")
def test_a_histogram_can_be_copied_while_it_grows():
    """The copy's count is that of its buckets, and the original does not notice."""
    histogram, stop = LatencyHistogram(), threading.Event()

    def work(index):
        if index:
            for _ in range(500):
                copied = histogram.copy()
                assert copied.count == sum(copied._buckets.values())
                assert copied.percentile(1.0) >= 0.0
            stop.set()
            return
        rng = random.Random(3)
        while not stop.is_set():
            histogram.add(10.0 ** rng.uniform(-9, 9))

    in_threads(2, work)
    before = histogram.count
    histogram.copy().add(1.0)
    assert histogram.count == before == sum(histogram._buckets.values())


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
