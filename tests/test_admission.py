"""The way in: places, duplicates that need none, and keys that stand for other work."""

import signal
import sqlite3
import sys
import threading
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Pause, Work, nothing_held, sql, tasks, threads, until

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
    with pytest.raises(QueueFullError, match=r"queue_size 1.*allow more time, or a larger queue_size"):
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
        with pytest.raises(QueueFullError, match="use overflow='block', or a larger queue_size"):
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
        until(lambda: not first._inflight.working())
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
    admit, sizes = queue._ledger.admit, []
    queue._ledger.admit = lambda entries, done: (sizes.append(len(entries)), admit(entries, done))[1]
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


@pytest.mark.parametrize("status", ["running", "queued"])
def test_a_row_that_stands_although_its_submit_was_interrupted_is_run(open_queue, path, status):
    """The COMMIT was done when the interrupt came: the caller does not know, the queue does. It may be there as
    running already, for the free worker, who was never told.
    """
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    if status == "queued":
        queue.submit(Task("first"))
        work.wait_started()
    admit = queue._ledger.admit

    def interrupted(entries, done):
        admit(entries, lambda entries, rows: None)
        assert ("cat.jpg", status) in sql(path, "SELECT image_key, status FROM tasks")
        queue._ledger.admit = admit
        raise KeyboardInterrupt

    queue._ledger.admit = interrupted
    with pytest.raises(KeyboardInterrupt):
        queue.submit(CAT)
    work.release()
    assert queue.join(LONG)
    assert queue.get(CAT.key).value == {"n": 1}
    assert queue.submit(CAT).result(LONG) == {"n": 1}


class AfterCommit:
    """A connection that calls back after each COMMIT."""

    def __init__(self, database, call):
        self._database = database
        self._call = call

    def execute(self, statement, *args):
        result = self._database.execute(statement, *args)
        if statement == "COMMIT":
            self._call()
        return result

    def __getattr__(self, name):
        return getattr(self._database, name)


@pytest.fixture
def interrupt_after_commit(monkeypatch):
    """Ctrl-C comes while the main thread is inside the next COMMIT: Python raises right after it."""

    def prepare(queue):
        def interrupt():
            if threading.current_thread() is threading.main_thread():
                monkeypatch.undo()
                signal.raise_signal(signal.SIGINT)

        writer = queue._ledger.writer
        monkeypatch.setattr(writer, "at_once", lambda database, changes: None)
        monkeypatch.setattr(writer, "_database", AfterCommit(writer._database, interrupt))

    return prepare


def test_an_interrupt_during_the_commit_leaves_nothing_hanging(open_queue, interrupt_after_commit, path):
    """The main thread leads when Ctrl-C comes; its row stands, as running already, and is run."""
    queue = open_queue()
    interrupt_after_commit(queue)
    with pytest.raises(KeyboardInterrupt):
        queue.submit(CAT)
    assert len(sql(path, "SELECT id FROM tasks")) == 1
    assert queue.join(LONG)
    assert queue.submit(CAT).result(LONG) == {"n": 1}
    assert nothing_held(queue)


def test_a_claim_beside_an_interrupted_commit_is_not_lost(open_queue, interrupt_after_commit):
    """The main thread leads a transaction with somebody else's claim in it, and Ctrl-C comes after the COMMIT."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit(Task("running"))
    work.wait_started()
    queue.submit(Task("waiting"))
    interrupt_after_commit(queue)
    commits = queue._ledger.commits
    commits._led = True  # nobody else leads for a moment
    work.release()
    until(lambda: queue._ledger.claims.items)
    commits._led = False
    with pytest.raises(KeyboardInterrupt):
        queue.submit(CAT)
    assert queue.join(LONG)
    assert sorted(work.calls) == ["cat.jpg", "running", "waiting"]
    assert nothing_held(queue)


class Gate:
    """The gate at which a caller waits for the leader; Ctrl-C comes while he does. `go` is set when he waits again."""

    def __init__(self, gate, before, go):
        self._gate = gate
        self._before = before
        self._go = go

    def acquire(self, timeout=-1):
        if self._before is not None:
            before, self._before = self._before, None
            assert before.wait(LONG)
            signal.raise_signal(signal.SIGINT)
        self._go.set()
        return self._gate.acquire(timeout=timeout)

    def release(self):
        self._gate.release()


@pytest.mark.parametrize("busy", [False, True])
def test_an_interrupt_while_another_thread_writes_the_row_waits_for_the_outcome(open_queue, busy):
    """The row is being written, and may become running already: the interrupt goes on once that is known."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    if busy:
        queue.submit(Task("first"))
        work.wait_started()
    commits = queue._ledger.commits
    first, second = (threading.Event(), threading.Event()), (threading.Event(), threading.Event())

    def stop_at(entered, go):
        def apply(transaction, items):
            entered.set()
            assert go.wait(LONG)
            return items

        return apply

    wait = commits._wait

    def watched(request):
        if threading.current_thread() is threading.main_thread():
            request.gate = Gate(request.gate, second[0], second[1])
            first[1].set()
        wait(request)

    commits._wait = watched
    with threads(2) as pool:
        leading = pool.submit(commits.write, stop_at(*first), [1])
        assert first[0].wait(LONG)
        next_ = pool.submit(commits.write, stop_at(*second), [2])
        until(lambda: commits._waiting)
        with pytest.raises(KeyboardInterrupt):
            queue.submit(CAT)
        assert queue.get(CAT.key) is not None
        assert (leading.result(LONG), next_.result(LONG)) == ([1], [2])
    work.release()
    assert queue.join(LONG)
    assert queue.submit(CAT).result(LONG) == {"n": 1}
    assert nothing_held(queue)


@pytest.mark.parametrize("left", range(1, 100, 7))
def test_a_submit_on_a_full_stack_refuses_at_once(open_queue, left):
    """Rather than break off in the middle of a transaction for everybody."""
    queue = open_queue(ledger=":memory:", max_workers=1)

    def deep(frames):
        return deep(frames - 1) if frames else queue.submit(CAT)

    def frames():
        frame, count = sys._getframe(1), 0
        while frame is not None:
            frame, count = frame.f_back, count + 1
        return count

    with pytest.raises(RecursionError):
        deep(sys.getrecursionlimit() - frames() - left)
    assert queue.get(CAT.key) is None
    assert nothing_held(queue)
    assert queue.submit(CAT).result(LONG) == {"n": 1}


def test_submits_from_a_nearly_full_stack_harm_nobody(open_queue):
    """One thread submits deeper and deeper, another one as usual; what was accepted is done, and nobody hangs."""
    queue = open_queue(max_workers=2)
    stop = threading.Event()

    def deep(frames, task):
        return deep(frames - 1, task) if frames else queue.submit(task)

    def dive():
        accepted, refused = [], 0
        for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
            try:
                accepted.append(deep(depth, Task(f"deep{depth}")))
            except (RecursionError, LedgerError):
                refused += 1
        return accepted, refused

    def submit():
        futures = []
        while not stop.is_set():
            futures.append(queue.submit(Task(f"t{len(futures)}")))
        return futures

    with threads(2) as pool:
        other = pool.submit(submit)
        try:
            accepted, refused = pool.submit(dive).result(LONG)
        finally:
            stop.set()
        futures = other.result(LONG)
    assert accepted
    assert refused
    assert [future.result(LONG) for future in accepted + futures] == [{}] * len(accepted + futures)
    assert queue.join(LONG)
    assert nothing_held(queue)


@pytest.mark.parametrize("known_first", [True, False])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_known_key_keeps_no_worker_from_its_neighbour(open_queue, known_first, reopened):
    """A worker was reserved for it, and is free again; the other task of the batch gets it."""
    queue = open_queue(max_workers=1)
    queue.submit(CAT).result(LONG)
    if reopened:
        queue.close()
        queue = open_queue(max_workers=1)
    batch = [CAT, Task("new", params={"n": 1})]
    futures = queue.submit_many(batch if known_first else batch[::-1])
    assert [future.result(LONG) for future in futures] == [{"n": 1}, {"n": 1}]
    assert queue.join(LONG)
    assert nothing_held(queue)


def test_a_duplicate_beside_the_commit_of_the_result_finds_it(open_queue):
    """There is no moment in which it finds neither the running task nor its result."""
    work = Work()
    queue = open_queue(work)
    pause = Pause(queue._ledger.successes, "done")
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
