"""Fixtures: configured queues and pools, fault injectors, baseline runners. All are released at teardown."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_taskqueue.config import CompareConfig
    from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue
    from pytest_taskqueue.testing.clocks import Clock
    from pytest_taskqueue.testing.crashes import Crash
    from taskqueue_core import FaultInjector, ProcessorLike, Task, TaskQueue, WorkerPool

CLOSE_TIMEOUT = 5.0
"""Seconds that a queue has at teardown before its tasks count as stuck."""


@pytest.fixture(scope="session")
def tq_config(pytestconfig: pytest.Config) -> CompareConfig:
    """The --tq-* options of this run, as one frozen value."""
    from pytest_taskqueue.options import settings

    return settings(pytestconfig)


@pytest.fixture
def tq_processor() -> ProcessorLike:
    """What the tasks of `tq_queue` do. Override it in your test module; this one returns the task's params."""

    def echo(task: Task) -> dict[str, Any]:
        return dict(task.params)

    return echo


@pytest.fixture
def make_tq_queue(
    tmp_path: Path, tq_processor: ProcessorLike, tq_config: CompareConfig
) -> Iterator[Callable[..., TaskQueue]]:
    """Makes queues: `make_tq_queue(processor, ledger=..., **knobs)`, each on a ledger of its own unless told.

    Workers and places come from --tq-workers and --tq-queue-size unless told. With `manual=True` a queue begins no
    task until it is told, see `tq_manual_queue`. At teardown every queue is closed within 5 s; a task that is stuck
    then is an error that names it.
    """
    from taskqueue_core import TaskQueue

    queues: list[TaskQueue] = []

    def make(processor: ProcessorLike | None = None, **knobs: Any) -> TaskQueue:
        if "settings" not in knobs:
            knobs = {"max_workers": tq_config.workers, "queue_size": tq_config.queue_size, **knobs}
        if knobs.pop("manual", False):
            knobs["paused"] = True
        knobs.setdefault("ledger", tmp_path / f"tasks-{len(queues)}.db")
        queues.append(TaskQueue(processor or tq_processor, **knobs))
        return queues[-1]

    yield make
    stuck = [key for queue in queues for key in queue.close(CLOSE_TIMEOUT, drain=False).stuck]
    if stuck:
        tasks = "1 task was" if len(stuck) == 1 else f"{len(stuck)} tasks were"
        pytest.fail(f"{tasks} still running {CLOSE_TIMEOUT:g} s after the test: {', '.join(stuck)}", pytrace=False)


@pytest.fixture
def tq_queue(make_tq_queue: Callable[..., TaskQueue]) -> TaskQueue:
    """A TaskQueue on a ledger in `tmp_path`; its tasks do what `tq_processor` says."""
    return make_tq_queue()


@pytest.fixture
def tq_manual_queue(make_tq_queue: Callable[..., TaskQueue]) -> TaskQueue:
    """A TaskQueue that begins no task until it is told: `drain(queue)` runs what is due, `queue.resume()` everything.

    Otherwise like `tq_queue`. `drain` and the assertions are in `pytest_taskqueue.testing`.
    """
    return make_tq_queue(manual=True)


@pytest.fixture
def tq_clock() -> Iterator[Clock]:
    """The clock that stored times come from: `tq_clock.advance(60)` moves it forward for every queue in the process.

    Tasks that wait for a retry are due at once, old successes are forgotten, `created_at` follows. It moves no
    measurement and no timeout: `time.perf_counter`, `time.monotonic` and `time.time` stay as they are. At teardown it
    is put right again.
    """
    from pytest_taskqueue.testing.clocks import Clock

    clock = Clock()
    yield clock
    clock.put_right()


@pytest.fixture
def tq_crash_at() -> Callable[..., Crash]:
    """Kills a real process at a named point: `tq_crash_at("settle.before_commit", story, ledger=path)`.

    `story` is a function at the top level of the test file; it is called with the other arguments in a new process,
    which is killed where and when it reaches the point (`nth=2`: the second time). Open the ledger afterwards, with
    `make_tq_queue(ledger=path)`, and see what is left. It is `crash_at` of `pytest_taskqueue.testing`.
    """
    from pytest_taskqueue.testing import crash_at

    return crash_at


@pytest.fixture
def tq_pool(tq_queue: TaskQueue) -> WorkerPool:
    """A WorkerPool over `tq_queue`: `tq_pool.run(tasks, timeout=10)`."""
    from taskqueue_core import WorkerPool

    return WorkerPool(tq_queue)


@pytest.fixture
def tq_faults(make_tq_queue: object, tq_config: CompareConfig) -> Iterator[Callable[..., FaultInjector]]:
    """Makes fault injectors: `tq_faults(latency=(0.001, 0.005), error_rate=0.1)`, seeded by --tq-seed unless told.

    They are released at teardown before any queue is closed, so an injected wait cannot hold a test up.
    """
    from taskqueue_core import FaultInjector

    del make_tq_queue  # asked for so that this fixture is torn down first
    injectors: list[FaultInjector] = []

    def make(*args: Any, **options: Any) -> FaultInjector:
        injectors.append(FaultInjector(*args, **{"seed": tq_config.seed, **options}))
        return injectors[-1]

    yield make
    for injector in injectors:
        injector.release()


@pytest.fixture
def tq_baseline(tmp_path: Path, tq_config: CompareConfig) -> Iterator[Callable[..., BaselineTaskQueue]]:
    """Makes runners of the original queue: `tq_baseline(source=..., round_trip=0.0)`; results go to `tmp_path`."""
    from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue

    runners: list[BaselineTaskQueue] = []

    def make(**options: Any) -> BaselineTaskQueue:
        defaults = {"workers": tq_config.workers, "source": tmp_path, "output": tmp_path / "baseline-output"}
        runners.append(BaselineTaskQueue(**{**defaults, **options}))
        return runners[-1]

    yield make
    from pytest_taskqueue.hangs import Hand, Hang

    for runner in runners:
        hand = Hand("tq-stop")
        try:
            hand.call(runner.stop, CLOSE_TIMEOUT)  # which waits for the tasks that are being worked on
        except Hang as hang:
            pytest.fail("\n".join([f"the baseline could not be stopped: {hang}", *hang.stacks]), pytrace=False)
        finally:
            hand.end()
