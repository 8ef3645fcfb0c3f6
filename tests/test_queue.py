"""TaskQueue as its users see it: submit, results, duplicates, replay."""

import copy
from concurrent.futures import CancelledError, Future, wait

import pytest
from helpers import FAST, LONG, NEVER, Pause, Work, at_once, sql, tasks, threads, until

from taskqueue_core import (
    PermanentError,
    QueueClosedError,
    QueueSettings,
    Status,
    Task,
    TaskFailedError,
    TaskQueue,
    TaskQueueError,
    TransientError,
)

CAT = Task("cat.jpg", "200x200", {"n": 1})


def test_a_task_runs_and_its_record_tells_all(open_queue, path):
    """The future has the value, the file has the row."""
    with open_queue() as queue:
        assert queue.submit(CAT).result(LONG) == {"n": 1}
        record = queue.get(CAT.key)
    assert (record.image_key, record.variant, record.params, record.value) == ("cat.jpg", "200x200", {"n": 1}, {"n": 1})
    assert (record.status, record.retries, record.attempt, record.crashes, record.error) == ("success", 0, 1, 0, None)
    assert (record.output_key, record.size, record.sha256) == (None, None, None)
    assert sql(path, "SELECT status, value FROM tasks") == [("success", '{"n":1}')]


def test_the_row_is_in_the_file_when_submit_returns(open_queue, path):
    """Before any worker has taken it."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit(Task("first"))
    queue.submit(CAT)
    assert ("cat.jpg", "queued") in sql(path, "SELECT image_key, status FROM tasks")


def test_success_is_in_the_file_before_the_future_tells_it(open_queue, path):
    """Each change goes to the ledger first, to the callers after its COMMIT."""
    work, seen = Work({"bad": [PermanentError("no")]}, hold=True), []
    with open_queue(work) as queue:
        for name in ("good", "bad"):
            ask = f"SELECT image_key, status FROM tasks WHERE image_key = '{name}'"
            queue.submit(Task(name)).add_done_callback(lambda _, ask=ask: seen.append(*sql(path, ask)))
        work.release()
    assert sorted(seen) == [("bad", "failed"), ("good", "success")]


def test_keys_of_two_parts_do_not_run_into_each_other(open_queue):
    """("a#b", "c") and ("a", "b#c") are two tasks."""
    with open_queue() as queue:
        futures = queue.submit_many([Task("a#b", "c"), Task("a", "b#c"), Task('a","b', "c"), Task("a", 'b","c')])
        wait(futures, LONG)
        assert len(queue.records()) == 4


def test_many_tasks_come_back_in_the_order_of_their_submission(open_queue):
    """More of them than places."""
    with open_queue(queue_size=7) as queue:
        futures = queue.submit_many(tasks(100))
        assert [future.result(LONG) for future in futures] == [{"n": n} for n in range(100)]
        assert [record.params["n"] for record in queue.records(Status.SUCCESS)] == [*range(100)]


def test_without_futures_submit_many_tells_how_many_were_accepted(open_queue):
    """Duplicates count."""
    with open_queue() as queue:
        assert queue.submit_many(tasks(5), futures=False) == 5
        assert queue.submit_many((task for task in tasks(7)), futures=False) == 7
        assert queue.submit_many([]) == []
        assert queue.submit_many([], futures=False) == 0
        assert queue.join(LONG)
        assert len(queue.records()) == 7
        assert queue.metrics.snapshot().duplicates == 5


def test_a_duplicate_in_flight_gets_the_result_of_the_first(open_queue):
    """It is not processed again."""
    work = Work(hold=True)
    with open_queue(work) as queue:
        first = queue.submit(CAT)
        work.wait_started()
        second = queue.submit(copy.deepcopy(CAT))
        assert not second.done()
        work.release()
        assert first.result(LONG) == second.result(LONG) == {"n": 1}
        assert work.calls == ["cat.jpg"]
        snapshot = queue.metrics.snapshot()
        assert (snapshot.enqueued, snapshot.duplicates, snapshot.succeeded) == (1, 1, 1)


def test_one_key_from_32_threads_at_once_is_one_row_one_run_one_result(open_queue):
    """And all of them get the value."""
    work = Work()
    queue = open_queue(work, ledger=":memory:")
    for n in range(25):
        task = Task(f"cat{n}", params={"n": n})
        futures = at_once(lambda _, task=task: queue.submit(task), 32)
        assert [future.result(LONG) for future in futures] == [{"n": n}] * 32
    assert sorted(work.calls) == sorted(f"cat{n}" for n in range(25))
    assert len(queue.records()) == 25
    snapshot = queue.metrics.snapshot()
    assert (snapshot.enqueued, snapshot.duplicates) == (25, 25 * 31)


def test_many_duplicates_in_many_batches_are_one_run_each(open_queue):
    """Batches that overlap in every order cannot wait for each other in a circle."""
    work = Work()
    with open_queue(work, queue_size=5) as queue:
        batch = tasks(20)
        futures = at_once(lambda n: queue.submit_many([*batch[n:], *reversed(batch[:n])]), 8)
        assert all(future.result(LONG) is not None for many in futures for future in many)
    assert sorted(work.calls) == sorted(task.image_key for task in batch)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_duplicate_of_a_finished_task_gets_its_value_at_once(open_queue, reopened):
    """Before and after a restart."""
    queue = open_queue(Work())
    queue.submit(CAT).result(LONG)
    if reopened:
        queue.close()
        queue = open_queue(Work({"cat.jpg": [PermanentError("it must not run again")]}))
    future = queue.submit(CAT)
    assert future.done()
    assert future.result() == {"n": 1}
    assert queue.get(CAT.key).attempt == 1


@pytest.mark.parametrize("reopened", [False, True])
def test_a_duplicate_of_a_failed_task_gets_its_failure(open_queue, reopened):
    """With the record; the original error lives in its own process only."""
    queue = open_queue(Work({"cat.jpg": [PermanentError("no cat")]}))
    with pytest.raises(TaskFailedError) as caught:
        queue.submit(CAT).result(LONG)
    assert isinstance(caught.value.__cause__, PermanentError)
    if reopened:
        queue.close()
        queue = open_queue(Work())
    with pytest.raises(TaskFailedError, match=r"failed after 1 attempt\(s\): PermanentError: no cat") as again:
        queue.submit(CAT).result(LONG)
    assert again.value.record == caught.value.record == queue.get(CAT.key)
    assert again.value.__cause__ is None
    assert again.value.record.status is Status.FAILED


def test_a_duplicate_of_a_task_that_waits_for_its_retry_attaches_to_it(open_queue):
    """It gets the result of the later attempt."""
    with open_queue(Work({"cat.jpg": [TransientError("not yet", retry_after=0.05), "later"]})) as queue:
        first = queue.submit(CAT)
        until(lambda: queue.get(CAT.key).retries == 1)
        second = queue.submit(CAT)
        assert (first.result(LONG), second.result(LONG)) == ("later", "later")
        assert queue.get(CAT.key).attempt == 2


def test_every_future_gets_a_value_of_its_own(open_queue):
    """Who changes his, changes nobody else's, nor what later duplicates get."""
    work = Work({"cat.jpg": [{"list": [1]}]}, hold=True)
    with open_queue(work) as queue:
        futures = [queue.submit(CAT) for _ in range(3)]
        work.release()
        values = [future.result(LONG) for future in futures]
        values[0]["list"].append(2)
        values[1]["list"].append(3)
        assert values[2] == queue.submit(CAT).result(LONG) == queue.get(CAT.key).value == {"list": [1]}


def test_first_and_duplicate_get_the_same_decoded_value(open_queue):
    """What JSON makes of it, not what the processor returned."""
    work = Work({"cat.jpg": [{1: (2, 3), 10: {4: None}}]})
    with open_queue(work) as queue:
        first = queue.submit(CAT).result(LONG)
        assert first == queue.submit(CAT).result(LONG) == {"1": [2, 3], "10": {"4": None}}


def test_a_cancelled_future_hurts_nobody(open_queue):
    """Other callers get their results, and the worker goes on."""
    work = Work(hold=True)
    with open_queue(work, max_workers=1) as queue:
        cancelled, kept = queue.submit(CAT), queue.submit(CAT)
        assert cancelled.cancel()
        work.release()
        assert kept.result(LONG) == {"n": 1}
        with pytest.raises(CancelledError):
            cancelled.result(LONG)
        assert queue.submit(Task("next")).result(LONG) == {}
        assert queue.metrics.snapshot().succeeded == 2


@pytest.mark.parametrize("error", [ValueError("mine"), SystemExit(3), KeyboardInterrupt()])
def test_a_failing_callback_keeps_nobody_from_his_result(open_queue, error):
    """Neither an Exception nor one that is none."""
    work = Work(hold=True)

    def fail(_):
        raise error

    with open_queue(work, max_workers=1) as queue:
        first, second = queue.submit(CAT), queue.submit(CAT)
        first.add_done_callback(fail)
        work.release()
        assert second.result(LONG) == first.result(LONG) == {"n": 1}
        assert queue.submit(Task("next")).result(LONG) == {}
        assert queue.metrics.snapshot().succeeded == 2


def test_a_future_somebody_else_has_fulfilled_keeps_nobody_from_his(open_queue):
    """A caller has misused his own."""
    work = Work(hold=True)
    with open_queue(work) as queue:
        first, second = queue.submit(CAT), queue.submit(CAT)
        first.set_result("forged")
        work.release()
        assert second.result(LONG) == {"n": 1}


def test_a_callback_may_submit_the_next_task(open_queue):
    """It runs in no worker, and needs none to come back."""
    following = Future()
    with open_queue(max_workers=1, queue_size=1) as queue:
        queue.submit(CAT).add_done_callback(lambda _: following.set_result(queue.submit(Task("next"))))
        assert following.result(LONG).result(LONG) == {}


def test_a_processor_may_submit_and_need_not_wait(open_queue):
    """Work that leads to more work."""

    def fan_out(task):
        if not task.variant:
            queue.submit_many([Task(task.image_key, f"{n}") for n in range(1, 4)], futures=False)
        return task.variant

    with open_queue(fan_out) as queue:
        queue.submit(Task("root"))
        assert queue.join(LONG)
        assert [record.value for record in queue.records()] == ["", "1", "2", "3"]


def test_a_processor_that_changes_its_params_changes_its_own_copy(open_queue):
    """Neither the next attempt nor the record sees that."""
    seen = []

    def spoil(task):
        seen.append(dict(task.params))
        task.params["n"] = "spoilt"
        raise TransientError("again") if len(seen) < 3 else PermanentError("enough")

    with open_queue(spoil, retry=FAST) as queue:
        with pytest.raises(TaskFailedError) as caught:
            queue.submit(CAT).result(LONG)
        assert seen == [{"n": 1}] * 3
        assert caught.value.record.params == queue.get(CAT.key).params == {"n": 1}


def test_memory_is_a_ledger_that_keeps_nothing(open_queue, tmp_path, monkeypatch):
    """All threads see it, and no file is made."""
    monkeypatch.chdir(tmp_path)
    with open_queue(ledger=":memory:") as queue:
        assert [future.result(LONG) for future in queue.submit_many(tasks(50))] == [{"n": n} for n in range(50)]
        assert at_once(lambda n: queue.get(Task(f"t{n}").key).value, 16) == [{"n": n} for n in range(16)]
    assert [*tmp_path.iterdir()] == []


def test_replay_brings_a_dead_letter_back(open_queue):
    """The same key, all attempts, and what the futures get is the new outcome."""
    with open_queue(Work({"cat.jpg": [TransientError("down")] * 5 + ["better"]})) as queue:
        with pytest.raises(TaskFailedError):
            queue.submit(CAT).result(LONG)
        failed = queue.get(CAT.key)
        assert queue.replay(CAT.key).result(LONG) == "better"
        record = queue.get(CAT.key)
        assert (record.id, record.retries, record.attempt, record.error) == (failed.id, 2, 6, None)
        (letter,) = queue.dead_letters()
        assert (letter.reason, letter.retries, letter.attempt) == ("exhausted", 2, 3)
        assert letter.replayed_at >= letter.failed_at


@pytest.mark.parametrize("state", ["unknown", "queued", "success"])
def test_only_a_failed_task_can_be_replayed(open_queue, state):
    """The error tells the state."""
    work = Work({"cat.jpg": [TransientError("later") if state == "queued" else "done"]})
    queue = open_queue(work, retry=NEVER)
    if state != "unknown":
        queue.submit(CAT)
        until(lambda: queue.get(CAT.key).attempt and queue.get(CAT.key).status is not Status.RUNNING)
    with pytest.raises(TaskQueueError, match=state):
        queue.replay(CAT.key)


def test_a_replay_beside_the_worker_that_just_failed_the_task_gets_the_new_result(open_queue):
    """The failure is in the ledger, and its futures have not been told yet: the replay does not attach to them."""
    work = Work({"cat.jpg": [PermanentError("no"), "better"]})
    queue = open_queue(work)
    pause = Pause(queue._ledger, "fail", after=True)
    first = queue.submit(CAT)
    pause.wait_reached()
    assert queue.get(CAT.key).status is Status.FAILED
    with threads(1) as pool:
        replay = pool.submit(queue.replay, CAT.key)
        until(lambda: replay.done() or queue._inflight._landed._waiters)
        pause.go.set()
        assert replay.result(LONG).result(LONG) == "better"
    with pytest.raises(TaskFailedError):
        first.result(LONG)
    assert queue.join(LONG)


def test_two_replays_at_once_bring_the_task_back_once(open_queue):
    """Both get the new result."""
    work = Work({"cat.jpg": [PermanentError("no"), "better"]})
    with open_queue(work) as queue:
        with pytest.raises(TaskFailedError):
            queue.submit(CAT).result(LONG)
        results = at_once(lambda _: _outcome(queue), 4)
        assert set(results) <= {"better", "not failed"}
        assert "better" in results
        assert len(work.calls) == 2
        assert len(queue.dead_letters()) == 1


def _outcome(queue):
    try:
        return queue.replay(CAT.key).result(LONG)
    except TaskQueueError:
        return "not failed"


def test_a_worker_that_is_about_to_leave_sees_the_task_that_has_just_come(open_queue):
    """It has found the queue empty; the submit still counts on it, so it looks a second time."""
    with open_queue(max_workers=1) as queue:
        pause = Pause(queue._workers, "_may_leave")
        queue.submit(CAT).result(LONG)
        pause.wait_reached()
        following = queue.submit(Task("next"))
        pause.go.set()
        assert following.result(LONG) == {}


def test_knobs_may_come_as_settings(open_queue):
    """All together, and not in two places."""
    settings = QueueSettings(max_workers=2, queue_size=3, durability="process")
    queue = open_queue(settings=settings)
    assert queue.settings is settings
    with pytest.raises(TypeError, match="max_workers"):
        TaskQueue(print, ledger=":memory:", settings=settings, max_workers=5)


def test_bad_arguments_are_refused_before_anything_is_opened(tmp_path):
    """No file is made."""
    path = tmp_path / "tasks.db"
    with pytest.raises(TypeError, match="processor must be a callable"):
        TaskQueue("no processor", ledger=path)
    with pytest.raises(ValueError, match="max_workers"):
        TaskQueue(print, ledger=path, max_workers=0)
    with pytest.raises(TypeError, match="ledger"):
        TaskQueue(print)
    assert [*tmp_path.iterdir()] == []


def test_a_closed_queue_takes_nothing(open_queue):
    """Neither new tasks nor known ones, and it leaves nothing behind."""
    queue = open_queue()
    queue.submit(CAT).result(LONG)
    queue.close()
    for call in (lambda: queue.submit(CAT), lambda: queue.submit_many(tasks(2), futures=False)):
        with pytest.raises(QueueClosedError):
            call()
    with open_queue() as again:
        assert len(again.records()) == 1
