"""The feeder: what waits in the ledger only comes in when it is due, first, and one suspect at a time."""

import threading
import time
from contextlib import closing

import pytest
from helpers import FAST, LONG, NEVER, Work, draft, orphans, tasks, threads, until, wait_looks

from taskqueue_core import (
    LedgerError,
    QueueFullError,
    QueueSettings,
    RetryPolicy,
    Status,
    Task,
    TaskFailedError,
    TransientError,
)
from taskqueue_core.arrows import Draft
from taskqueue_core.entries import Call, draft_of
from taskqueue_core.feeder import AT_ONCE, Feeder
from taskqueue_core.inflight import InFlight
from taskqueue_core.ledger import Ledger
from taskqueue_core.places import Places

CAT = Task("cat.jpg")


def leave(path, keys):
    """Tasks that were accepted and never run."""
    with closing(Ledger(path, durability="process")) as ledger:
        ledger.insert([Draft(key, key, "", "{}") for key in keys])


def test_what_was_waiting_last_time_runs_now(open_queue, path):
    """In the order of its submission, without being submitted again."""
    leave(path, [f"t{n}" for n in range(30)])
    work = Work()
    with open_queue(work, max_workers=1, queue_size=4) as queue:
        assert queue.join(LONG)
    assert work.calls == [f"t{n}" for n in range(30)]


def test_a_retry_that_was_waiting_last_time_runs_when_it_is_due(open_queue, path):
    """Neither before nor never."""
    with closing(Ledger(path, durability="process")) as ledger:
        record = ledger.retry(ledger.claim(ledger.insert([draft()])[0]), "late", 0.2)
    at = []
    queue = open_queue(lambda task: at.append(time.time()))
    assert queue.join(LONG)
    assert at[0] >= record.run_at
    assert (queue.get("k").retries, queue.get("k").attempt) == (1, 2)


def test_retries_come_in_the_order_in_which_they_are_due(open_queue, path):
    """The later one was there first."""
    now = time.time()
    with closing(Ledger(path, durability="process", clock=lambda: now)) as ledger:
        for key, delay in (("slow", 0.1), ("quick", 0.05), ("now", 0)):
            ledger.retry(ledger.claim(ledger.insert([Draft(key, key, "", "{}")])[0]), "late", delay)
    work = Work()
    with open_queue(work, max_workers=1) as queue:
        assert queue.join(LONG)
    assert work.calls == ["now", "quick", "slow"]


class Times:
    """A clock that stands at the first time for one look, then at the second one."""

    def __init__(self, first, second):
        self.times = [first]
        self.second = second

    def __call__(self):
        return self.times.pop() if self.times else self.second


def test_a_task_that_becomes_due_during_a_look_does_not_fall_between(path):
    """The look came too early for it, and the question for the next one too late."""
    with closing(Ledger(path, durability="process", clock=lambda: 10.0)) as ledger:
        ledger.insert([draft()])
        came = threading.Event()
        feeder = Feeder(
            ledger=ledger,
            inflight=InFlight(),
            places=Places(1),
            retrying_limit=1,
            batch=10,
            enqueue=lambda entry: came.set(),
            clock=Times(9.0, 11.0),
        )
        thread = threading.Thread(target=feeder.run)
        thread.start()
        try:
            assert came.wait(LONG)
        finally:
            feeder.close()
            thread.join(LONG)


def test_the_feeder_sleeps_no_longer_than_the_wall_clock_can_be_trusted(path):
    """A retry in a year does not make it deaf, nor break its sleep."""
    with closing(Ledger(path, durability="process", clock=lambda: 1e12)) as ledger:
        ledger.insert([draft()])
        feeder = Feeder(ledger=ledger, inflight=InFlight(), places=Places(1), retrying_limit=1, batch=10, enqueue=print)
        assert feeder._feed() == 60.0


def test_close_is_not_lost_between_two_looks(path, monkeypatch):
    """It comes after the loop has seen that the feeder is open, and before it forgets the wakes of the past."""
    with closing(Ledger(path, durability="process")) as ledger:
        feeder = Feeder(ledger=ledger, inflight=InFlight(), places=Places(1), retrying_limit=1, batch=10, enqueue=print)
        clear = feeder._awake.clear

        def close_first():
            monkeypatch.setattr(feeder._awake, "clear", clear)
            feeder.close()
            clear()

        monkeypatch.setattr(feeder._awake, "clear", close_first)
        thread = threading.Thread(target=feeder.run, daemon=True)
        thread.start()
        thread.join(LONG)
        assert not thread.is_alive()


def test_the_feeder_goes_before_submits_that_wait(open_queue, path):
    """Its rows were accepted long ago."""
    leave(path, ["old1", "old2", "old3"])
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=1)
    work.wait_started()
    until(lambda: queue._places._feeder_waits)
    submitting = threading.Thread(target=queue.submit, args=[CAT])
    submitting.start()
    until(lambda: queue._places._for_submits._waiters)
    work.release()
    submitting.join(LONG)
    assert queue.join(LONG)
    assert work.calls == ["old1", "old2", "old3", "cat.jpg"]


def retrying(queue):
    """Two tasks that wait for their retries."""
    queue.submit_many(tasks(2, "late"), futures=False)
    until(lambda: sum(record.retries for record in queue.records()) == 2)
    until(lambda: queue._inflight.retrying() == 2)


LATE = {"late0": [TransientError("")], "late1": [TransientError("")]}


@pytest.mark.parametrize("reopened", [False, True])
def test_many_waiting_retries_hold_submits_back(open_queue, path, reopened):
    """More than max_retrying of them, before and after a restart; a duplicate still needs no place."""
    settings = QueueSettings(max_workers=2, queue_size=5, max_retrying=1, retry=NEVER, durability="process")
    queue = open_queue(Work(LATE), settings=settings)
    queue.submit(CAT).result(LONG)
    retrying(queue)
    if reopened:
        queue.close(drain=False)
        queue = open_queue(Work(), settings=settings)
    until(lambda: queue._places._held_back)
    with pytest.raises(QueueFullError):
        queue.submit(Task("new"), timeout=0.01)
    assert queue.submit(CAT, timeout=0).result(0) == {}
    assert not queue.submit(tasks(1, "late")[0], timeout=0).done()


def test_submits_go_on_when_the_retries_have_been_taken_up(open_queue):
    """The wait ends by itself."""
    settings = QueueSettings(max_workers=2, queue_size=5, max_retrying=1, retry=NEVER, durability="process")
    with open_queue(Work(LATE), settings=settings) as queue:
        retrying(queue)
        until(lambda: queue._places._held_back)
        with threads(1) as pool:
            submitting = pool.submit(queue.submit, CAT)
            until(lambda: queue._places._for_submits._waiters)
            queue._feeder._clock = lambda: time.time() + 2000
            queue._feeder.wake()
            assert submitting.result(LONG).result(LONG) == {}
        assert queue.join(LONG)


def test_as_many_retries_as_allowed_hold_nobody_back(open_queue):
    """Two of two."""
    settings = QueueSettings(max_workers=2, queue_size=5, max_retrying=2, retry=NEVER, durability="process")
    queue = open_queue(Work(LATE), settings=settings)
    retrying(queue)
    assert queue.submit(CAT, timeout=LONG).result(LONG) == {}


def test_recovered_tasks_run_again_and_are_told_to_discard(open_queue, path):
    """T6: crashes are counted, retries are not; the processor may remove what was left."""
    orphans(path, ["a", "b"])
    work = Work()
    with open_queue(work) as queue:
        assert queue.join(LONG)
        assert [(r.status, r.crashes, r.retries, r.attempt) for r in queue.records()] == [("success", 1, 0, 2)] * 2
        assert queue.metrics.snapshot().recovered == 2
    assert [task.key for task in work.discarded] == ["a", "b"]


def test_a_duplicate_attaches_to_a_recovered_task(open_queue, path):
    """It gets the result of the new attempt."""
    orphans(path, ["a"])
    work = Work({"a": ["again"]}, hold=True)
    with open_queue(work) as queue:
        task = Task("a", idempotency_key="a")
        futures = [queue.submit(task) for _ in range(2)]
        work.release()
        assert [future.result(LONG) for future in futures] == ["again", "again"]
        assert work.calls == ["a"]


def test_the_third_crash_is_poison(open_queue, path):
    """The task fails with its dead letter and is not run; its duplicates are told."""
    orphans(path, ["a"], crashes=3)
    work = Work()
    with open_queue(work) as queue:
        with pytest.raises(TaskFailedError, match="died 3 times while this task was running"):
            queue.submit(Task("a", idempotency_key="a")).result(LONG)
        assert [(letter.reason, letter.crashes) for letter in queue.dead_letters()] == [("poison", 3)]
        assert work.calls == []
        assert [task.key for task in work.discarded] == ["a"]
        assert queue.replay("a").result(LONG) == {}
        assert queue.get("a").crashes == 0


@pytest.mark.parametrize("outcome", ["success", "retry", "failure"])
def test_tasks_with_a_crash_behind_them_run_one_at_a_time(open_queue, path, outcome):
    """So that the one that kills the process does not get its neighbours blamed; others run beside it."""
    suspects = [f"s{n}" for n in range(4)]
    orphans(path, suspects)
    error = {"retry": TransientError("once"), "failure": ValueError("no")}.get(outcome)
    work = Work({key: [error] for key in suspects} if error else None, hold=True)
    beside = Work(hold=True)
    queue = open_queue(lambda task: (work if task.image_key in suspects else beside)(task), max_workers=4, retry=FAST)
    free = queue.submit_many(tasks(2))
    beside.wait_started(2)
    work.wait_started()
    wait_looks(queue, 3)
    assert len(work.calls) == 1
    work.release()
    until(lambda: sum(record.finished for record in queue.records()) == 4)
    beside.release()
    assert [future.result(LONG) for future in free] == [{"n": 0}, {"n": 1}]
    assert queue.join(LONG)
    assert work.most == 1
    assert sorted(set(work.calls)) == suspects


def test_a_stuck_suspect_does_not_stop_the_others_for_good(open_queue, path):
    """Once it has timed out, the next one may run."""
    orphans(path, ["s0", "s1"])
    work = Work(hold=True)
    queue = open_queue(
        lambda task: work(task) if task.image_key == "s0" else 1, task_timeout=0.2, retry=RetryPolicy(max_attempts=2)
    )
    until(lambda: queue.get("s1").status is Status.SUCCESS)
    assert queue.get("s0").status is Status.QUEUED
    work.release()
    assert queue.join(LONG)


@pytest.mark.parametrize("error", [LedgerError("disk I/O error"), RuntimeError("a bug")])
def test_the_feeder_survives_what_it_cannot_read(open_queue, path, monkeypatch, caplog, error):
    """It tries again a little later: without it, what waits in the ledger would wait for ever."""
    monkeypatch.setattr("taskqueue_core.feeder.PAUSE", 0.01)
    queue = open_queue(Work({"cat.jpg": [TransientError("late", retry_after=0.05)]}))
    due, broken = queue._ledger.due, []

    def fail_twice(*args):
        if len(broken) < 2:
            broken.append(args)
            raise error
        return due(*args)

    queue._ledger.due = fail_twice
    assert queue.submit(CAT).result(LONG) == {}
    assert str(error) in caplog.text


def test_a_task_that_runs_while_its_row_is_looked_at_is_not_fed_again(path):
    """All rows are compared with what is in hand before the first is brought in, which may have to wait for a place."""
    with closing(Ledger(path, durability="process")) as ledger:
        ledger.insert([draft("first"), draft("second"), draft("third")])
        inflight = InFlight()
        running = [inflight.bring_in(ledger.get(key), 0) for key in ("second", "third")]
        fed = []

        def enqueue(entries):
            fed.extend(entry.draft.key for entry in entries)
            inflight.finish([(entry, None, "null") for entry in running], None)

        feeder = Feeder(ledger=ledger, inflight=inflight, places=Places(9), retrying_limit=9, batch=9, enqueue=enqueue)
        feeder._feed()
    assert fed == ["first"]


def test_a_large_queue_does_not_read_all_its_rows_at_once(path, monkeypatch):
    """They would be old before the last of them is brought in."""
    with closing(Ledger(path, durability="process")) as ledger:
        limits = []
        monkeypatch.setattr(ledger, "due", lambda now, after, limit: limits.append(limit) or [])
        for batch in (3, 10**6):
            Feeder(
                ledger=ledger,
                inflight=InFlight(),
                places=Places(9),
                retrying_limit=9,
                batch=batch,
                enqueue=lambda _: None,
            )._feed()
    assert limits == [3, AT_ONCE]


def test_a_submit_that_comes_while_its_key_is_brought_in_is_not_lost(path, monkeypatch):
    """Its entry stays: the submit finds the row, and has the feeder look again."""
    with closing(Ledger(path, durability="process")) as ledger:
        ledger.insert([draft()])
        inflight, begun = InFlight(), []

        def submitted_just_now(record):
            if not begun:
                begun.extend(inflight.begin([Call(draft_of(record), None)])[0])
            return draft_of(record)

        monkeypatch.setattr("taskqueue_core.inflight.draft_of", submitted_just_now)
        assert inflight.bring_in(ledger.get("k"), 0) is None
        assert inflight.abandon(begun) == ["k"]
        assert inflight.bring_in(ledger.get("k"), 0) is not None


def test_a_row_read_before_its_task_moved_on_is_passed_by(path):
    """It waited for a place while the task ran, failed and waits for its retry now."""
    with closing(Ledger(path, durability="process")) as ledger:
        ledger.insert([draft()])
        stale = ledger.get("k")
        inflight = InFlight()
        entry = inflight.bring_in(stale, 0)
        assert inflight.claiming([entry]) == [entry]
        assert ledger.claim(stale) is not None
        inflight.claimed([entry])
        moved = ledger.retry(entry.row, "late", 1000)
        inflight.put_back(entry, moved, retrying=True)
        assert inflight.must_wait(stale)
        assert inflight.bring_in(stale, 0) is None
        assert inflight.retrying() == 1
        assert inflight.bring_in(moved, 0) is entry
        assert inflight.retrying() == 0
