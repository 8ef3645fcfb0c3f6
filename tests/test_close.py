"""join and close: what they wait for, what they leave, and that they come back."""

import threading
import time

import pytest
from helpers import LONG, NEVER, Pause, Work, at_once, balance, orphans, sql, tasks, threads, until

from taskqueue_core import (
    LedgerError,
    QueueClosedError,
    RetryPolicy,
    Status,
    Task,
    TaskFailedError,
    TaskQueue,
    TaskQueueError,
    TransientError,
)

CAT = Task("cat.jpg")


def test_join_waits_for_waiting_and_running_tasks(open_queue):
    """False when they are not finished in time."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    assert queue.join(0)
    queue.submit_many(tasks(3))
    assert not queue.join(0)
    assert not queue.join(0.01)
    work.release()
    assert queue.join(LONG)
    assert len(queue.records(Status.SUCCESS)) == 3


def test_join_counts_tasks_that_wait_for_their_retry(open_queue):
    """No worker has them, but they are not finished."""
    queue = open_queue(Work({"cat.jpg": [TransientError("later")]}), retry=NEVER)
    queue.submit(CAT)
    until(lambda: queue.get(CAT.key).retries == 1)
    assert not queue.join(0.01)


def test_join_counts_recovered_tasks(open_queue, path):
    """Nobody has submitted them to this queue."""
    orphans(path, ["a", "b"])
    work = Work(hold=True)
    queue = open_queue(work)
    assert not queue.join(0.01)
    work.release()
    assert queue.join(LONG)
    assert [record.status for record in queue.records()] == ["success"] * 2


def test_close_drains(open_queue, path):
    """All tasks are finished, those beyond the places too."""
    queue = open_queue(queue_size=2, max_workers=2)
    queue.submit_many(tasks(20), futures=False)
    report = queue.close()
    assert (report.drained, report.waiting, report.stuck) == (True, 0, ())
    assert balance(path, 20)[Status.SUCCESS] == 20


def test_close_without_drain_waits_only_for_what_is_running(open_queue, path):
    """Waiting tasks are left queued, for the next time; their futures say so."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    futures = queue.submit_many(tasks(3))
    work.wait_started()
    with threads(1) as pool:
        closing = pool.submit(queue.close, LONG, drain=False)
        until(lambda: queue._workers._stopping)
        work.release()
        report = closing.result(LONG)
    assert (report.drained, report.waiting, report.stuck) == (False, 2, ())
    assert futures[0].result(0) == {"n": 0}
    for future in futures[1:]:
        with pytest.raises(QueueClosedError):
            future.result(0)
    assert work.calls == ["t0"]
    balance(path, 3)
    with open_queue() as again:
        assert again.join(LONG)
        assert [record.attempt for record in again.records(Status.SUCCESS)] == [1, 1, 1]


def test_a_stuck_task_goes_back_to_queued_at_the_deadline(open_queue, path):
    """Within timeout + 1 s; no attempt is used, and the late result is refused."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=2)
    stuck = queue.submit(CAT)
    work.wait_started()
    started = time.monotonic()
    report = queue.close(timeout=0.1)
    assert time.monotonic() - started < 1.1
    assert (report.drained, report.waiting, report.stuck) == (False, 1, (CAT.key,))
    assert 0.1 <= report.elapsed_s < 1.1
    with pytest.raises(QueueClosedError):
        stuck.result(0)
    with open_queue(Work({"cat.jpg": ["second"]})) as again:
        work.release()
        until(lambda: not any(thread.is_alive() for thread in work.threads))
        assert again.submit(CAT).result(LONG) == "second"
        record = again.get(CAT.key)
        assert (record.retries, record.crashes, record.attempt) == (0, 0, 2)
    assert balance(path, 1)[Status.SUCCESS] == 1


def test_a_task_taken_while_close_gives_up_is_released_too(open_queue, path):
    """A worker has taken it and stands before its processor when the deadline passes: close neither waits for that
    processor nor leaves the task running.
    """
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    pause = Pause(queue._workers, "_run")
    queue.submit(CAT)
    pause.wait_reached()
    with threads(1) as pool:
        closing = pool.submit(queue.close, 0.0, drain=False)
        until(lambda: queue._workers._stopping)
        pause.go.set()
        report = closing.result(LONG)
    assert report.elapsed_s < 1
    assert (report.stuck, report.waiting) == ((CAT.key,), 1)
    work.release()
    counts = balance(path, 1)
    assert counts[Status.QUEUED] == 1


@pytest.mark.parametrize("timeout", [0.0, LONG])
def test_a_task_that_is_being_claimed_while_the_queue_closes_is_not_begun(open_queue, path, timeout):
    """It has left the bounded queue, and its claim is on its way: close waits for that moment, and queues it again."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit(Task("first"))
    work.wait_started()
    waiting = queue.submit(CAT)
    pause = Pause(queue._workers, "_claim")
    work.release()
    pause.wait_reached()
    with threads(1) as pool:
        closing = pool.submit(queue.close, timeout, drain=False)
        until(lambda: queue._workers._stopping)
        pause.go.set()
        report = closing.result(LONG)
    assert (report.waiting, report.stuck, work.calls) == (1, (), ["first"])
    with pytest.raises(QueueClosedError):
        waiting.result(0)
    with open_queue() as again:
        assert again.join(LONG)
        record = again.get(CAT.key)
        assert (record.retries, record.crashes) == (0, 0)


def test_a_task_that_is_claimed_while_the_queue_closes_is_not_begun(open_queue, path):
    """Its claim is written, and no worker has been told: close waits until it can take the task back."""
    work = Work()
    queue = open_queue(work, max_workers=1)
    pause = Pause(queue._workers, "ready")
    with threads(2) as pool:
        submitting = pool.submit(queue.submit, CAT)
        pause.wait_reached()
        closing = pool.submit(queue.close, LONG, drain=False)
        until(lambda: queue._workers._stopping)
        assert sql(path, "SELECT status FROM tasks") == [("running",)]
        pause.go.set()
        future = submitting.result(LONG)
        report = closing.result(LONG)
    assert (report.waiting, report.stuck, work.calls) == (1, (), [])
    with pytest.raises(QueueClosedError):
        future.result(0)
    with open_queue() as again:
        assert again.join(LONG)
        record = again.get(CAT.key)
        assert (record.retries, record.crashes) == (0, 0)


def test_a_success_that_its_worker_leaves_behind_while_the_queue_closes_is_written(open_queue, path):
    """The worker finds that it has to go, and nobody else has anything to write: its result is not lost."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    future = queue.submit(CAT)
    work.wait_started()
    with threads(1) as pool:
        closing = pool.submit(queue.close, 5.0, drain=False)
        until(lambda: queue._workers._stopping)
        work.release()
        report = closing.result(LONG)
    assert (report.drained, report.stuck) == (True, ())
    assert report.elapsed_s < 5
    assert future.result(0) == {}
    assert balance(path, 1)[Status.SUCCESS] == 1


def test_close_does_not_wait_for_a_callback_that_is_stuck(open_queue, monkeypatch):
    """Its task is finished; what the callback does is its author's affair."""
    monkeypatch.setattr("taskqueue_core.closing.GRACE", 0.1)
    stuck, inside = threading.Event(), threading.Event()
    work = Work(hold=True)
    queue = open_queue(work)

    def callback(_):
        inside.set()
        stuck.wait(LONG)

    queue.submit(CAT).add_done_callback(callback)
    work.release()
    assert inside.wait(LONG)
    report = queue.close(timeout=0.1)
    stuck.set()
    assert (report.drained, report.stuck) == (True, ())
    assert report.elapsed_s < 1.1


def test_a_result_beside_the_deadline_is_told_once(open_queue, path, caplog, monkeypatch):
    """One task is committed and its future not told yet, another is stuck: close fails neither itself nor the
    first one's result.
    """
    monkeypatch.setattr("taskqueue_core.closing.GRACE", 0.1)
    work = Work(hold=True)
    quick = Work()
    queue = open_queue(lambda task: work(task) if task.image_key == "stuck" else quick(task), max_workers=2)
    stuck = queue.submit(Task("stuck"))
    work.wait_started()
    pause = Pause(queue._ledger.successes, "done")
    done = queue.submit(CAT)
    pause.wait_reached()
    with threads(1) as pool:
        closing = pool.submit(queue.close, 0.05)
        report = closing.result(LONG)
    pause.go.set()
    assert report.stuck == (Task("stuck").key,)
    with pytest.raises(QueueClosedError):
        stuck.result(LONG)
    with pytest.raises(QueueClosedError):
        done.result(LONG)
    work.release()
    until(lambda: not any(thread.is_alive() for thread in work.threads | quick.threads))
    assert "unexpected state" not in caplog.text
    assert balance(path, 2)[Status.SUCCESS] == 1


def test_close_twice_returns_the_same_report(open_queue):
    """Also from many threads at once, and after leaving the with block."""
    with open_queue() as queue:
        queue.submit(CAT).result(LONG)
    report = queue.close()
    assert at_once(lambda _: queue.close(), 4) == [report] * 4


def test_a_second_close_does_not_wait_longer_than_its_own_timeout(open_queue, monkeypatch):
    """The first one has more time."""
    monkeypatch.setattr("taskqueue_core.closing.GRACE", 0.1)
    work = Work(hold=True)
    queue = open_queue(work)
    queue.submit(CAT)
    work.wait_started()
    with threads(1) as pool:
        first = pool.submit(queue.close, LONG)
        until(queue._closing._lock.locked)
        started = time.monotonic()
        with pytest.raises(TaskQueueError, match="another close"):
            queue.close(timeout=0.05)
        assert time.monotonic() - started < 1.05
        work.release()
        assert first.result(LONG).drained


@pytest.mark.parametrize("name", ["close", "join"])
def test_a_processor_must_not_wait_for_itself(open_queue, name):
    """It gets a TaskQueueError, and the queue goes on."""
    queue = open_queue(lambda task: getattr(queue, name)())
    with pytest.raises(TaskFailedError) as caught:
        queue.submit(CAT).result(LONG)
    assert isinstance(caught.value.__cause__, TaskQueueError)
    assert f"{name}() was called by a processor" in str(caught.value.__cause__)
    with pytest.raises(TaskFailedError):
        queue.submit(Task("next")).result(LONG)


def test_a_callback_of_a_timed_out_task_must_not_close_the_queue(open_queue):
    """It runs in a thread that close waits for."""
    refused, work = [], Work(hold=True)

    def callback(_):
        try:
            queue.close()
        except TaskQueueError as error:
            refused.append(str(error))

    queue = open_queue(work, task_timeout=0.02, retry=RetryPolicy(max_attempts=1))
    queue.submit(CAT).add_done_callback(callback)
    until(lambda: refused)
    assert "was called by a processor" in refused[0]


def test_leaving_the_with_block_drains(open_queue, path):
    """Without an error on its way."""
    with open_queue(max_workers=1) as queue:
        queue.submit_many(tasks(10), futures=False)
    assert balance(path, 10)[Status.SUCCESS] == 10


def test_leaving_the_with_block_with_an_error_does_not_drain(open_queue, path):
    """Only what is running is waited for, and the error comes through."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit_many(tasks(10), futures=False)
    work.wait_started()
    queue._attempts.close = release_at_the_end(queue, work)
    with pytest.raises(RuntimeError, match="mine"), queue:
        raise RuntimeError("mine")
    counts = balance(path, 10)
    assert (counts[Status.SUCCESS], counts[Status.QUEUED]) == (1, 9)


def release_at_the_end(queue, work):
    """Let the running task end once nothing more is begun."""
    close = queue._attempts.close

    def closed():
        close()
        work.release()

    return closed


def test_submits_that_race_with_close_are_refused_or_on_disk(open_queue, path):
    """Each of eight threads submits until it is refused."""
    queue = open_queue(max_workers=2, queue_size=5)
    enough = threading.Semaphore(0)

    def submit_until_refused(n):
        for count in range(10_000):
            try:
                queue.submit(Task(f"{n}-{count}"))
            except QueueClosedError:
                return count
            enough.release()
        return None

    with threads(8) as pool:
        accepted = [pool.submit(submit_until_refused, n) for n in range(8)]
        for _ in range(40):
            assert enough.acquire(timeout=LONG)
        queue.close(drain=False)
        total = sum(future.result(LONG) for future in accepted)
    assert balance(path, total)[Status.RUNNING] == 0


def test_a_submit_that_writes_its_row_while_the_queue_closes_is_accepted(open_queue, path):
    """Its place was taken before; the task is there when the ledger is opened again."""
    queue = open_queue(Work(hold=True), max_workers=1, queue_size=1)
    pause = Pause(queue._ledger, "admit")
    with threads(2) as pool:
        submitting = pool.submit(queue.submit, CAT)
        pause.wait_reached()
        closing = pool.submit(queue.close, 0.3, drain=False)
        until(lambda: closing.done() or queue._inflight._landed._waiters)
        pause.go.set()
        future = submitting.result(LONG)
        closing.result(LONG)
    with pytest.raises(QueueClosedError):
        future.result(LONG)
    assert balance(path, 1)[Status.QUEUED] == 1


def test_a_submit_that_has_the_last_place_while_the_queue_closes_is_accepted(open_queue, path):
    """All workers are busy, the one place is taken, and its row is just being written."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=2, queue_size=1)
    queue.submit(Task("a"))
    work.wait_started()
    queue.submit(Task("b"))
    work.wait_started()
    pause = Pause(queue._ledger, "admit")
    with threads(2) as pool:
        submitting = pool.submit(queue.submit, CAT)
        pause.wait_reached()
        closing = pool.submit(queue.close, 5.0, drain=False)
        until(lambda: queue._inflight._landed._waiters)
        pause.go.set()
        submitting.result(LONG)
        until(lambda: queue._workers._stopping)
        work.release()
        assert closing.result(LONG).waiting == 1
    balance(path, 3)


def test_a_queue_whose_recovery_fails_is_closed(path):
    """The ledger is free again."""
    orphans(path, ["a"])

    class Broken(Work):
        def discard(self, found):
            raise RuntimeError("no such folder")

    with pytest.raises(RuntimeError, match="no such folder"):
        TaskQueue(Broken(), ledger=path)
    with TaskQueue(Work(), ledger=path) as queue:
        assert queue.join(LONG)


@pytest.mark.parametrize(
    ("failing", "told"),
    [(["unfinished"], (True, 0)), (["counts"], (False, -1)), (["unfinished", "counts"], (False, -1))],
)
def test_close_comes_back_when_the_ledger_fails(open_queue, monkeypatch, failing, told):
    """With what can be told, and nothing is left open."""
    queue = open_queue()
    queue.submit(CAT).result(LONG)

    def fail():
        raise LedgerError("disk I/O error")

    for read in failing:
        monkeypatch.setattr(queue._ledger, read, fail)
    report = queue.close()
    assert (report.drained, report.waiting, report.stuck) == (*told, ())
    with open_queue() as again:
        assert again.get(CAT.key).status is Status.SUCCESS


def test_a_late_caller_meets_a_closed_ledger_and_raises_no_alarm(open_queue, caplog):
    """A worker that was stuck, say: nothing is wrong with the disk, and nothing will be tried again."""
    queue = open_queue()
    commits = queue._ledger.commits
    queue.close()
    with pytest.raises(LedgerError, match="closed database"):
        commits.write(lambda transaction, items: items, [1])
    assert not commits.troubled
    assert caplog.text == ""


def test_close_waits_for_every_thread_of_the_queue(open_queue):
    """It knows them all; a thread that is left would read a closed ledger."""
    queue = open_queue(task_timeout=LONG)
    named = {thread.name for thread in (*queue._closing.threads, queue._closing.commit_thread)}
    assert named == {"taskqueue-feeder", "taskqueue-timeouts", "taskqueue-commits"}
