"""The way in: places, duplicates that need none, and keys that stand for other work."""

import sqlite3
import threading
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Pause, Work, sql, tasks, threads, until

from taskqueue_core import (
    LedgerError,
    PermanentError,
    QueueClosedError,
    QueueFullError,
    Task,
    TaskFailedError,
    TransientError,
)

CAT = Task("cat.jpg", params={"n": 1})


@pytest.fixture
def full(open_queue):
    """A queue with one worker, which is busy, and one place, which is taken; its processor."""

    def make(**knobs):
        work = Work(hold=True)
        queue = open_queue(work, max_workers=1, queue_size=1, **knobs)
        queue.submit(Task("running"))
        work.wait_started()
        queue.submit(Task("waiting"))
        return queue, work

    return make


def blocked(queue):
    """How many submits wait for a place."""
    return len(queue._places._for_submits._waiters)


def test_a_full_queue_blocks_a_submit_until_there_is_a_place(full):
    """The task gets in as soon as a worker takes one out."""
    queue, work = full()
    with threads(1) as pool:
        submitting = pool.submit(queue.submit, CAT)
        until(lambda: blocked(queue))
        assert queue.get(CAT.key) is None
        work.release()
        assert submitting.result(LONG).result(LONG) == {"n": 1}


@pytest.mark.parametrize("timeout", [0, -1, 0.01])
def test_a_submit_gives_up_after_its_timeout(full, timeout):
    """It leaves nothing behind: later the same task gets in."""
    queue, work = full()
    with pytest.raises(QueueFullError, match=r"queue_size 1.*wait longer or a larger queue_size"):
        queue.submit(CAT, timeout=timeout)
    assert queue.get(CAT.key) is None
    assert queue.metrics.snapshot().rejected == 1
    work.release()
    assert queue.submit(CAT).result(LONG) == {"n": 1}
    assert len(queue.records()) == 3


def test_reject_refuses_at_once(full):
    """Whatever the timeout, and it is counted."""
    queue, work = full(overflow="reject")
    for timeout in (None, LONG):
        with pytest.raises(QueueFullError, match="use overflow='block' or a larger queue_size"):
            queue.submit(CAT, timeout=timeout)
    assert queue.get(CAT.key) is None
    assert queue.metrics.snapshot().rejected == 2
    work.release()
    assert queue.join(LONG)
    assert queue.submit(CAT).result(LONG) == {"n": 1}


def test_reject_takes_all_of_a_batch_or_none(open_queue):
    """Three do not fit into two places; two do."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=2, overflow="reject")
    queue.submit(Task("running"))
    work.wait_started()
    with pytest.raises(QueueFullError, match="3 more"):
        queue.submit_many(tasks(3))
    assert [record.image_key for record in queue.records()] == ["running"]
    assert queue.metrics.snapshot().rejected == 3
    assert len(queue.submit_many(tasks(2))) == 2
    work.release()
    assert queue.join(LONG)
    assert len(queue.submit_many(tasks(2))) == 2


def test_reject_counts_only_the_new_ones_of_a_batch(full):
    """Known ones need no place, and are not lost when the others find none."""
    queue, work = full(overflow="reject")
    assert len(queue.submit_many([Task("running"), Task("waiting")])) == 2
    with pytest.raises(QueueFullError, match="1 more"):
        queue.submit_many([Task("waiting"), CAT])
    work.release()
    assert queue.join(LONG)
    assert len(queue.submit_many([Task("waiting"), CAT])) == 2


@pytest.mark.parametrize("overflow", ["block", "reject"])
def test_a_duplicate_needs_no_place(full, open_queue, overflow):
    """In flight, finished, failed or waiting for its retry."""
    with open_queue(Work({"failed": [PermanentError("no")], "retry": [TransientError("later")]}), retry=NEVER) as first:
        first.submit_many([Task("finished"), Task("failed"), Task("retry")])
        until(lambda: {r.image_key: r.retries for r in first.records()} == {"finished": 0, "failed": 0, "retry": 1})
        until(lambda: not first._inflight.still_running())
        first.close(drain=False)
    queue, work = full(overflow=overflow)
    assert queue.submit(Task("finished"), timeout=0).result(0) == {}
    with pytest.raises(TaskFailedError):
        queue.submit(Task("failed"), timeout=0).result(0)
    attached = [queue.submit(Task(name), timeout=0) for name in ("running", "waiting", "retry")]
    assert not any(future.done() for future in attached)
    assert queue.metrics.snapshot().duplicates == 5
    work.release()
    assert [future.result(LONG) for future in attached[:2]] == [{}, {}]


def test_never_more_waiting_tasks_than_places(open_queue):
    """A batch comes in as places are given back, at most the free ones in a transaction."""
    queue = open_queue(max_workers=2, queue_size=3)
    insert, sizes = queue._ledger.insert, []
    queue._ledger.insert = lambda drafts: (sizes.append(len(drafts)), insert(drafts))[1]
    queue.submit_many(tasks(50), futures=False)
    assert queue.join(LONG)
    assert sum(sizes) == 50
    assert max(sizes) <= 3
    assert queue.metrics.snapshot().queue_depth_max <= 3


def test_a_batch_that_runs_out_of_time_may_be_accepted_in_part(full):
    """To submit all of it again is safe."""
    queue, work = full()
    work.release()
    assert queue.join(LONG)
    work._go.clear()
    with pytest.raises(QueueFullError):
        queue.submit_many(tasks(5), timeout=0.01)
    accepted = len(queue.records()) - 2
    assert 1 <= accepted < 5
    work.release()
    assert [future.result(LONG) for future in queue.submit_many(tasks(5))] == [{"n": n} for n in range(5)]
    assert len(queue.records()) == 7


def test_who_comes_second_waits_no_longer_than_he_wants(full):
    """The first submit of the key waits for a place, without a limit; the second one has a limit."""
    queue, work = full()
    with threads(1) as pool:
        first = pool.submit(queue.submit, CAT)
        until(lambda: blocked(queue))
        with pytest.raises(QueueFullError):
            queue.submit(CAT, timeout=0.01)
        work.release()
        assert first.result(LONG).result(LONG) == {"n": 1}


def test_who_comes_second_takes_over_when_the_first_gives_up(full):
    """The task gets in all the same, once."""
    queue, work = full()
    with threads(2) as pool:
        first = pool.submit(queue.submit, CAT, timeout=0.2)
        until(lambda: blocked(queue))
        second = pool.submit(queue.submit, CAT)
        assert isinstance(first.exception(LONG), QueueFullError)
        until(lambda: blocked(queue))
        work.release()
        assert second.result(LONG).result(LONG) == {"n": 1}
    assert work.calls.count("cat.jpg") == 1


def test_an_interrupt_during_the_wait_leaves_nothing_behind(full, monkeypatch):
    """Ctrl-C in the thread that waits for a place."""
    queue, work = full()

    def interrupt(timeout=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(queue._places._for_submits, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            queue.submit(CAT)
    assert queue.get(CAT.key) is None
    work.release()
    assert queue.submit(CAT).result(LONG) == {"n": 1}
    assert queue.join(LONG)
    assert queue.submit_many(tasks(20))[-1].result(LONG) == {"n": 19}


def test_closing_ends_the_wait_for_a_place(full):
    """The submit is refused and leaves nothing behind."""
    queue, work = full()
    with threads(2) as pool:
        submitting = pool.submit(queue.submit, CAT)
        until(lambda: blocked(queue))
        closing_ = pool.submit(queue.close, LONG, drain=False)
        assert isinstance(submitting.exception(LONG), QueueClosedError)
        assert queue.get(CAT.key) is None
        work.release()
        closing_.result(LONG)


def test_a_submit_whose_row_cannot_be_written_leaves_nothing_behind(open_queue, path):
    """The error is the ledger's; the place is given back, and the task can be submitted again."""
    queue = open_queue(max_workers=1, queue_size=1)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON tasks BEGIN SELECT RAISE(ABORT, 'not now'); END")
        for _ in range(3):
            with pytest.raises(LedgerError, match="not now"):
                queue.submit(CAT)
        assert queue.join(0)
        database.execute("DROP TRIGGER no")
    assert queue.submit(CAT).result(LONG) == {"n": 1}
    assert sql(path, "SELECT count(*) FROM tasks") == [(1,)]


def test_a_row_that_stands_although_its_submit_was_interrupted_is_run(open_queue):
    """The COMMIT was done when the interrupt came: the caller does not know, the queue does."""
    queue = open_queue()
    insert = queue._ledger.insert

    def interrupted(drafts):
        insert(drafts)
        queue._ledger.insert = insert
        raise KeyboardInterrupt

    queue._ledger.insert = interrupted
    with pytest.raises(KeyboardInterrupt):
        queue.submit(CAT)
    assert queue.join(LONG)
    assert queue.get(CAT.key).value == {"n": 1}
    assert queue.submit(CAT).result(LONG) == {"n": 1}


def test_a_duplicate_beside_the_commit_of_the_result_finds_it(open_queue):
    """There is no moment in which it finds neither the running task nor its result."""
    work = Work()
    queue = open_queue(work)
    pause = Pause(queue._ledger, "succeed", after=True)
    first = queue.submit(CAT)
    pause.wait_reached()
    second = queue.submit(CAT)
    pause.go.set()
    assert first.result(LONG) == second.result(LONG) == {"n": 1}
    assert work.calls == ["cat.jpg"]


def test_interrupts_of_other_submits_do_not_stop_a_key(full):
    """Eight threads give up on one key while a ninth waits on."""
    queue, work = full()
    stop = threading.Event()

    def hammer(_):
        while not stop.is_set():
            with pytest.raises(QueueFullError):
                queue.submit(CAT, timeout=0.001)

    with threads(9) as pool:
        hammering = [pool.submit(hammer, n) for n in range(8)]
        waiting = pool.submit(queue.submit, CAT)
        until(lambda: queue.metrics.snapshot().rejected > 50)
        stop.set()
        for future in hammering:
            future.result(LONG)
        work.release()
        assert waiting.result(LONG).result(LONG) == {"n": 1}
    assert work.calls.count("cat.jpg") == 1
