"""Each fixture does what its help says, and lets go of everything at teardown."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toys
from toys import LONG, ONE, Doubles, Pool

from pytest_taskqueue.config import CompareConfig
from pytest_taskqueue.input_new.generate_tasks import make_images
from taskqueue_core import FaultInjector, Status, Task, TaskQueue, TransientError, WorkerPool


def test_config_has_the_options_of_this_run(tq_config: CompareConfig, pytestconfig: pytest.Config) -> None:
    """The same value wherever it is asked for."""
    assert isinstance(tq_config, CompareConfig)
    assert tq_config.workers >= 1
    assert tq_config.given["workers"] in ("--tq-workers", "PYTEST_TQ_WORKERS", "tq_workers", "default of --tq-workers")


def test_queue_gives_the_params_back_from_a_ledger_in_tmp_path(
    tq_queue: TaskQueue, tq_config: CompareConfig, tmp_path: Path
) -> None:
    assert tq_queue.submit(Task("a", params={"n": 4})).result(LONG) == {"n": 4}
    assert list(tmp_path.glob("*.db")) == [tmp_path / "tasks-0.db"]
    assert (tq_queue.settings.max_workers, tq_queue.settings.queue_size) == (tq_config.workers, tq_config.queue_size)


class TestOverridden:
    """`tq_processor` is there to be replaced."""

    @pytest.fixture
    def tq_processor(self) -> Callable[[Task], str]:
        return lambda task: task.image_key.upper()

    def test_queue_does_what_the_processor_says(self, tq_queue: TaskQueue) -> None:
        assert tq_queue.submit(Task("a")).result(LONG) == "A"

    def test_a_processor_of_its_own_wins(self, make_tq_queue: Callable[..., TaskQueue]) -> None:
        queue = make_tq_queue(lambda task: "mine")
        assert queue.submit(Task("a")).result(LONG) == "mine"


def test_every_queue_has_a_ledger_of_its_own_unless_told(
    make_tq_queue: Callable[..., TaskQueue], tmp_path: Path
) -> None:
    """Knobs go through; a closed queue's ledger can be opened again."""
    first, second = make_tq_queue(max_workers=1, queue_size=3), make_tq_queue(ledger=tmp_path / "own.db")
    assert (first.settings.max_workers, first.settings.queue_size) == (1, 3)
    assert first.submit(Task("a", params={"n": 1})).result(LONG) == {"n": 1}
    assert second.get(Task("a").key) is None
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["own.db", "tasks-0.db"]
    first.close(LONG)
    again = make_tq_queue(ledger=tmp_path / "tasks-0.db", settings=first.settings)
    assert again.submit(Task("a", params={"n": 1})).result(LONG) == {"n": 1}
    assert again.metrics.snapshot().duplicates == 1


def test_pool_runs_tasks_through_the_queue(tq_pool: WorkerPool, tq_queue: TaskQueue) -> None:
    metrics = tq_pool.run([Task(f"t{k}") for k in range(30)], timeout=LONG)
    assert metrics.succeeded == 30
    assert tq_pool.queue is tq_queue
    assert len(tq_queue.records(Status.SUCCESS)) == 30


def test_faults_are_seeded_by_the_option_unless_told(
    tq_faults: Callable[..., FaultInjector], tq_config: CompareConfig
) -> None:
    """The same seed, the same attempts fail."""
    same, again, told = tq_faults(error_rate=0.5), tq_faults(error_rate=0.5), tq_faults(error_rate=0.5, seed=4711)
    first = draws(same)
    assert first == draws(again) == draws(FaultInjector(error_rate=0.5, seed=tq_config.seed))
    assert first != draws(told)


def draws(injector: FaultInjector) -> list[bool]:
    """Which of 40 attempts fail."""
    failed = []
    for _ in range(40):
        before = injector.failures
        with contextlib.suppress(TransientError):
            injector()
        failed.append(injector.failures > before)
    return failed


def test_baseline_runs_the_original_queue(tq_baseline: Callable[..., Any], tmp_path: Path) -> None:
    """Sources come from tmp_path and results go below it, unless told."""
    (name, *_) = make_images(tmp_path, images=1, seed=7)
    queue = tq_baseline(round_trip=0.0)
    handle = queue.submit({"image_key": name, "variant": "64x64"})
    assert handle.wait(LONG)
    assert handle.error is None
    assert handle.output.parent == tmp_path / "baseline-output"
    assert handle.output.is_file()
    assert tq_baseline(output=tmp_path / "other").output == tmp_path / "other"


def test_load_gives_figures_and_problems(tq_load: Callable[..., Any]) -> None:
    """Every client does the same number of tasks; the subject is a name or a factory."""
    result = tq_load("baseline", clients=10, tasks=50)
    assert (result.arm, result.figures.tasks, result.figures.errors, result.problems) == ("baseline", 50, 0, ())
    assert result.figures.throughput > 0
    assert tq_load(Pool, clients=5, tasks=10, workload="noop").arm == "Pool"
    assert tq_load(Doubles, clients=5, tasks=25).problems == (f"1 task worked on more than once: io-{ONE}",)
    with pytest.raises(ValueError, match="10 tasks cannot be shared evenly by 4 clients"):
        tq_load(clients=4, tasks=10)


INNER = """
    import threading

    import pytest
    import pytest_taskqueue.fixtures
    from taskqueue_core import QueueClosedError, Task

    HELD = threading.Event()
    KEPT = {}

    @pytest.fixture(autouse=True, scope="module")
    def impatient():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pytest_taskqueue.fixtures, "CLOSE_TIMEOUT", 0.5)
            yield
        HELD.set()

    def test_stuck(make_tq_queue):
        begun = threading.Semaphore(0)

        def hold(task):
            begun.release()
            HELD.wait(20)

        queues = [make_tq_queue(hold), make_tq_queue()]
        queues[0].submit(Task("a", idempotency_key="the stuck one"))
        assert begun.acquire(timeout=20)
        KEPT["queues"] = queues

    def test_all_its_queues_are_closed_though_one_is_stuck():
        for queue in KEPT["queues"]:
            with pytest.raises(QueueClosedError):
                queue.submit(Task("b"))

    def test_released_first(tq_faults, make_tq_queue):
        slow_work(make_tq_queue, tq_faults)

    def test_released_first_in_whatever_order(make_tq_queue, tq_faults):
        slow_work(make_tq_queue, tq_faults)

    def slow_work(make_tq_queue, tq_faults):
        begun = threading.Semaphore(0)
        wait = tq_faults(latency=(1000, 1000)).wrap(lambda task: None)

        def work(task):
            begun.release()
            return wait(task)

        make_tq_queue(work).submit(Task("a"))
        assert begun.acquire(timeout=20)

    def test_baseline_stops(tq_baseline, tmp_path):
        KEPT["baseline"] = tq_baseline(workers=2)
        KEPT["baseline"].submit({"image_key": "none", "variant": "1x1"})

    def test_no_thread_is_left():
        HELD.set()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(20)
        assert threading.enumerate() == [threading.main_thread()]
"""


def test_teardown_lets_go_of_everything(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stuck task is an error that names it; injected waits end first; queues, runners and threads end."""
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS", "PYTEST_TQ_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(INNER)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:hypothesispytest", timeout=50)
    result.assert_outcomes(passed=6, errors=1)
    result.stdout.fnmatch_lines(["1 task was still running 0.5 s after the test: the stuck one"])


MARKED = """
    import pytest

    def compare(baseline, optimized, **more):
        names = {"baseline": f"TOYS:{baseline}", "optimized": f"TOYS:{optimized}"}
        return pytest.mark.tq_compare(workload="io", slot=0.2, **{"clients": 6, **names, **more})

    @compare("Slow", "Quick", gate=["throughput>=0.01x", "p95<=100x"])
    def test_faster(tq_comparison):
        assert tq_comparison.verdict.name == "PASS"
        assert tq_comparison.clients == 6
        assert [gate.expr for gate in tq_comparison.gates] == ["throughput>=0.01x", "p95<=100x"]
        assert tq_comparison.settings["optimized"].endswith(":Quick")

    @compare("Slow", "Quick", gate="throughput>=1000x", clients=2)
    def test_not_fast_enough():
        assert False, "never run"

    @compare("Slow", "Quick", budget=0.001, inconclusive="skip")
    def test_undecided():
        assert False, "never run"

    @compare("Slow", "Doubles")
    def test_wrong(tq_comparison):
        assert False, "never run"

    def test_unmarked(tq_comparison):
        assert False, "never run"
"""


def test_a_marked_test_runs_only_when_the_verdict_is_pass(pytester: pytest.Pytester) -> None:
    """It has the comparison by its marker; it fails, skips or is an error else, and an unmarked one has none."""
    pytester.makepyfile(MARKED.replace("TOYS", str(toys.__file__)))
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:hypothesispytest", "-rA", timeout=50)
    result.assert_outcomes(passed=1, failed=1, skipped=1, errors=2)
    result.stdout.re_match_lines_random([
        r"PASSED .*::test_faster$",
        r"FAIL: the optimized queue misses a gate$",
        r"SKIPPED .* INCONCLUSIVE: not shown$",
        rf"INVALID: optimized: 1 task worked on more than once: io-{ONE} \(slot 1\)$",
        r"tq_comparison is for tests that are marked tq_compare\(\.\.\.\)$",
    ])  # fmt: skip
    result.stdout.no_fnmatch_line("*never run*")
