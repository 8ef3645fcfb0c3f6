"""WorkerPool: a whole run, from many producers to the last result."""

import json
import threading

import pytest
from helpers import LONG, NEVER, Work, tasks, threads, until

from taskqueue_core import (
    KeyConflictError,
    PermanentError,
    QueueClosedError,
    QueueFullError,
    Task,
    TransientError,
    WorkerPool,
)


@pytest.mark.parametrize("producers", [1, 4, 32])
def test_a_run_submits_and_finishes_all_tasks(open_queue, producers):
    """The metrics of the end say so; the queue stays open."""
    with open_queue(queue_size=5) as queue:
        snapshot = WorkerPool(queue, producers).run(task for task in tasks(200))
        assert (snapshot.enqueued, snapshot.succeeded, snapshot.failed, snapshot.queue_depth) == (200, 200, 0, 0)
        assert sorted(record.params["n"] for record in queue.records()) == [*range(200)]
        assert queue.submit(Task("later")).result(LONG) == {}


def test_a_run_of_nothing_is_over_at_once(open_queue):
    """Also with a limit."""
    with open_queue() as queue:
        assert WorkerPool(queue).run([], timeout=LONG).enqueued == 0


def test_the_metrics_are_written_as_json(open_queue, tmp_path):
    """Where the caller wants them."""
    with open_queue() as queue:
        snapshot = WorkerPool(queue, metrics_path=tmp_path / "metrics.json").run(tasks(3))
    assert json.loads((tmp_path / "metrics.json").read_text()) == snapshot.to_dict()


def test_failed_tasks_and_duplicates_are_finished_tasks(open_queue):
    """A run is no verdict over them."""
    with open_queue(Work({"t3": [PermanentError("no")]})) as queue:
        snapshot = WorkerPool(queue).run(tasks(10) + tasks(10))
        assert (snapshot.enqueued, snapshot.duplicates, snapshot.succeeded, snapshot.failed) == (10, 10, 9, 1)


def test_a_run_out_of_time_says_how_far_it_came(open_queue):
    """TimeoutError; nothing more is submitted."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=2)
    with pytest.raises(TimeoutError, match=r"^[123] tasks were submitted, not all are finished after 0\.05 s"):
        WorkerPool(queue).run(tasks(100), timeout=0.05)
    until(lambda: not producers())
    assert len(queue.records()) <= 3
    work.release()
    assert queue.join(LONG)


def producers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("taskqueue-producer")]


def test_a_task_that_waits_for_its_retry_is_not_finished(open_queue):
    """The run waits for it."""
    queue = open_queue(Work({"t0": [TransientError("later")]}), retry=NEVER)
    with pytest.raises(TimeoutError):
        WorkerPool(queue).run(tasks(2), timeout=0.1)


def test_an_iterable_that_takes_too_long_is_a_timeout(open_queue):
    """Although everything that was submitted is finished, and although nobody can interrupt the iterable."""
    go = threading.Event()

    def slow():
        yield Task("first")
        go.wait(LONG)
        yield Task("second")

    with open_queue() as queue:
        with threads(1) as pool:
            run = pool.submit(WorkerPool(queue).run, slow(), timeout=0.1)
            try:
                assert isinstance(run.exception(LONG), TimeoutError)
            finally:
                go.set()
        until(lambda: not producers())
        assert queue.get(Task("second").key) is None


def test_an_error_of_the_iterable_is_raised(open_queue):
    """Once what was submitted until then is finished."""

    def broken():
        yield from tasks(5)
        raise RuntimeError("no more")

    with open_queue() as queue:
        with pytest.raises(RuntimeError, match="no more"):
            WorkerPool(queue).run(broken())
        assert queue.metrics.snapshot().succeeded == 5


@pytest.mark.parametrize("bad", [None, "cat.jpg", 7])
def test_what_is_no_task_does_not_end_the_run_quietly(open_queue, bad):
    """Not even None."""
    with open_queue() as queue, pytest.raises((TypeError, AttributeError)):
        WorkerPool(queue).run([Task("a"), bad, Task("b")])


def test_a_conflict_is_raised(open_queue):
    """It is the caller's mistake."""
    with open_queue() as queue:
        with pytest.raises(KeyConflictError):
            WorkerPool(queue, 1).run([Task("a"), Task("a", params={"n": 1}), Task("b")])
        assert [record.image_key for record in queue.records()] == ["a"]


def test_a_refusal_is_raised(open_queue):
    """With overflow="reject" a run can be too large."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=1, overflow="reject")
    queue.submit(Task("running"))
    work.wait_started()
    queue.submit(Task("waiting"))
    with threads(1) as pool:
        run = pool.submit(WorkerPool(queue).run, tasks(3), timeout=LONG)
        until(lambda: queue.metrics.snapshot().rejected)
        work.release()
        assert isinstance(run.exception(LONG), QueueFullError)


def test_a_closed_queue_ends_the_run(open_queue):
    """All producers stop; the error says why."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=1)
    with threads(2) as pool:
        run = pool.submit(WorkerPool(queue).run, tasks(100))
        work.wait_started()
        until(lambda: len(queue._places._for_submits._waiters) == 4)
        closing = pool.submit(queue.close, LONG, drain=False)
        until(lambda: not producers())
        work.release()
        closing.result(LONG)
        assert run.exception(LONG) is not None
    assert isinstance(run.exception(), QueueClosedError)


def test_a_pool_needs_a_producer(open_queue):
    """At least one."""
    with open_queue() as queue, pytest.raises(ValueError, match="at least 1"):
        WorkerPool(queue, 0)
