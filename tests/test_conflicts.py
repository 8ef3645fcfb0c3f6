"""Keys that stand for other work, and tasks that cannot be stored."""

import sys

import pytest
from helpers import LONG, NEVER, Work, at_once, draft, nested, until

from taskqueue_core import InvalidKeyError, KeyConflictError, PermanentError, QueueClosedError, Task, TransientError
from taskqueue_core.entries import Call
from taskqueue_core.inflight import InFlight

CAT = Task("cat.jpg", params={"n": 1})
OTHER = Task("cat.jpg", params={"n": 2})
DOG = Task("dog.jpg")


@pytest.mark.parametrize("state", ["in flight", "finished", "failed", "waiting for its retry"])
@pytest.mark.parametrize("reopened", [False, True])
def test_a_key_that_stands_for_other_work_is_refused(open_queue, state, reopened):
    """Never a stale answer; the task that has the key is not touched."""
    outcome = {"failed": PermanentError("no"), "waiting for its retry": TransientError("later")}.get(state, "done")
    work = Work({"cat.jpg": [outcome]}, hold=state == "in flight")
    queue = open_queue(work, retry=NEVER)
    future = queue.submit(CAT)
    work.wait_started()
    if state != "in flight":
        until(lambda: not queue._inflight.working())
    if reopened:
        queue.close(timeout=0.01)
        queue = open_queue(Work(hold=True), retry=NEVER)
    before = queue.get(CAT.key)
    with pytest.raises(KeyConflictError, match=r"already stands for 'cat.jpg' '' with params \{\"n\":1\}, not for.*2"):
        queue.submit(OTHER)
    assert len(queue.records()) == 1
    if not (reopened and state == "in flight"):  # there the feeder is about to bring it in
        assert queue.get(CAT.key) == before
    assert queue.metrics.snapshot().duplicates == 0
    work.release()
    if not reopened and state in ("in flight", "finished"):
        assert future.result(LONG) == "done"


def test_the_image_is_part_of_the_work(open_queue):
    """Under a key of one's own."""
    with open_queue() as queue:
        queue.submit(Task("cat.jpg", "a", idempotency_key="k")).result(LONG)
        assert queue.submit(Task("cat.jpg", "a", idempotency_key="k")).result(LONG) == {}
        for other in (Task("dog.jpg", "a", idempotency_key="k"), Task("cat.jpg", "b", idempotency_key="k")):
            with pytest.raises(KeyConflictError):
                queue.submit(other)


def test_a_conflict_does_not_keep_its_neighbours_out(open_queue):
    """Its future has the error; without futures it is raised once the others are in."""
    with open_queue() as queue:
        queue.submit(CAT).result(LONG)
        first, conflict, last = queue.submit_many([Task("a"), OTHER, Task("b")])
        assert (first.result(LONG), last.result(LONG)) == ({}, {})
        with pytest.raises(KeyConflictError):
            conflict.result(LONG)
        with pytest.raises(KeyConflictError):
            queue.submit_many([Task("c"), OTHER, Task("d")], futures=False)
        assert queue.join(LONG)
        assert [record.image_key for record in queue.records()] == ["cat.jpg", "a", "b", "c", "d"]


def test_two_kinds_of_work_for_one_key_in_a_batch(open_queue):
    """The first one gets in, the second one is refused; a duplicate of the first attaches."""
    with open_queue() as queue:
        first, conflict, again = queue.submit_many([CAT, OTHER, CAT])
        assert first.result(LONG) == again.result(LONG) == {"n": 1}
        with pytest.raises(KeyConflictError):
            conflict.result(LONG)


def test_the_ledger_decides_which_of_a_batch_is_refused(open_queue):
    """Not the order in the batch."""
    with open_queue() as queue:
        queue.submit(OTHER).result(LONG)
    with open_queue() as queue:
        conflict, known = queue.submit_many([CAT, OTHER])
        assert known.result(LONG) == {"n": 2}
        with pytest.raises(KeyConflictError):
            conflict.result(LONG)


def test_params_are_compared_as_json(open_queue):
    """Neither the order of the keys nor their kind makes other work; true is not 1."""
    with open_queue() as queue:
        queue.submit(Task("a", params={"n": {2: "x", 10: "y"}})).result(LONG)
        queue.submit(Task("b", params={"n": 1})).result(LONG)
    with open_queue() as queue:
        assert queue.submit(Task("a", params={"n": {10: "y", 2: "x"}})).result(LONG) == {"n": {"2": "x", "10": "y"}}
        for params in ({"n": True}, {"n": 1.0}, {"n": "1"}):
            with pytest.raises(KeyConflictError):
                queue.submit(Task("b", params=params))


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"x": object()}, TypeError),
        ({"x": {1, 2}}, TypeError),
        ({("a", "b"): 1}, TypeError),
        ({"x": float("nan")}, ValueError),
        ({"x": float("inf")}, ValueError),
        ({"x": "\ud800"}, ValueError),
        ({"x": 10**5000}, ValueError),
        ({"x": nested(400)}, ValueError),
        ({"x": nested(100_000)}, ValueError),
    ],
    ids=["object", "set", "tuple key", "nan", "inf", "surrogate", "huge int", "deep", "very deep"],
)
def test_params_that_are_no_json_are_refused(open_queue, params, error):
    """With the key, before anything of the batch gets in."""
    queue = open_queue()
    with pytest.raises(error, match=r"cat\.jpg.*no JSON object"):
        queue.submit_many([DOG, Task("cat.jpg", params=params)])
    assert queue.records() == []


def test_params_as_deep_as_allowed_come_back(open_queue):
    """Every caller gets them, whatever stack he has."""
    with open_queue() as queue:
        params = {"x": nested(99)}
        futures = [queue.submit(Task("cat.jpg", params=params)) for _ in range(3)]
        assert [future.result(LONG) for future in futures] == [params] * 3


@pytest.mark.parametrize("key", ["", 7, None, "a\0b", "\ud800"])
def test_a_bad_key_is_refused_when_the_task_is_made(key):
    """It never gets as far as the queue."""
    with pytest.raises(InvalidKeyError):
        Task(key)


@pytest.mark.parametrize(("task", "match"), [("a", "takes a Task"), (Task("a", params={1: 2}), "the key 1 is no text")])
def test_what_is_no_task_is_refused_in_submit(open_queue, task, match):
    """And leaves nothing behind."""
    with open_queue() as queue:
        with pytest.raises(TypeError, match=match):
            queue.submit(task)
        assert queue.records() == []


def test_a_closed_queue_says_so(open_queue, tmp_path):
    """Whatever is asked of it."""
    queue = open_queue()
    queue.close()
    for ask in (queue.records, queue.dead_letters, lambda: queue.get("a"), lambda: queue.replay("a"),
                lambda: queue.export(tmp_path / "copy.db")):  # fmt: skip
        with pytest.raises(QueueClosedError, match="closed"):
            ask()


def test_of_all_submits_of_a_key_one_leads():
    """Threads that change places at every step: each new key is registered by exactly one of them."""
    inflight, keys = InFlight(), [f"k{n}" for n in range(2_000)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        led = at_once(lambda _: [len(inflight.begin([Call(draft(key), None)])[0]) for key in keys], 4)
    finally:
        sys.setswitchinterval(interval)
    assert [sum(counts) for counts in zip(*led, strict=True)] == [1] * len(keys)
