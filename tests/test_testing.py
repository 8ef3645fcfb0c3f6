"""drain, perform and the assertions: what they do with real queues, and what they say when something is otherwise."""

from __future__ import annotations

import re
import threading

import pytest
from helpers import FAST, LONG, NEVER, Work, tasks

from pytest_taskqueue.testing import assert_dead, assert_enqueued, assert_output, drain, perform, refute_enqueued
from taskqueue_core import (
    ObjectStore,
    Output,
    PermanentError,
    Processor,
    RetryPolicy,
    Status,
    Task,
    TaskTimeoutError,
    TransientError,
    points,
)

CAT, DOG = Task("cat.jpg", "200x200", {"quality": 85, "of": {"size": 200}}), Task("dog.jpg", "64x64")


# drain


@pytest.fixture
def manual(make_tq_queue):
    """A queue that begins nothing until it is told, with a processor by plan."""
    works = []

    def make(plan=None, **knobs):
        works.append(Work(plan, hold=knobs.pop("hold", False)))
        queue = make_tq_queue(works[-1], manual=True, **{"retry": NEVER, **knobs})
        queue.work = works[-1]
        return queue

    yield make
    for work in works:
        work.release()


def test_a_manual_queue_begins_nothing_until_it_is_drained(manual):
    """And nothing after that until the next drain."""
    queue = manual()
    queue.submit_many(tasks(7))
    assert queue.work.calls == []
    done = drain(queue)
    assert (done.succeeded, done.failed, done.retried, done.waiting) == (7, 0, 0, 0)
    queue.submit(CAT)
    assert queue.paused
    assert len(queue.work.calls) == 7


def test_what_waits_for_a_later_moment_is_left_and_counted(manual, tq_clock):
    """Until the clock is moved there."""
    queue = manual({"cat.jpg": [TransientError("later")], "dog.jpg": [PermanentError("never")]})
    future = queue.submit_many([CAT, DOG, Task("cow.jpg")])[1]
    done = drain(queue)
    assert repr(done) == "Drained(succeeded=1, failed=1, retried=1, waiting=1)"
    assert (done.succeeded, done.failed, done.retried, done.waiting, done.attempts) == (1, 1, 1, 1, 3)
    assert drain(queue).attempts == 0
    tq_clock.advance(1001)
    done = drain(queue)
    assert (done.succeeded, done.waiting) == (1, 0)
    assert isinstance(future.exception(LONG).__cause__, PermanentError)


def test_a_number_is_exactly_so_many_attempts(manual):
    """The rest waits."""
    queue = manual()
    queue.submit_many(tasks(5))
    done = drain(queue, until=2)
    assert (done.attempts, done.waiting, len(queue.work.calls)) == (2, 3, 2)
    with pytest.raises(AssertionError, match="drain until 4 attempts have ended, but nothing is due any more: 3 succ"):
        drain(queue, until=4)


def test_a_predicate_ends_it(tq_queue, manual):
    """On a queue that works by itself, too; one that cannot come true any more is said at once."""
    done = threading.Event()
    tq_queue.submit(CAT).add_done_callback(lambda future: done.set())
    assert drain(tq_queue, until=done.is_set).waiting == 0
    assert not tq_queue.paused
    queue = manual()
    queue.submit(DOG)
    with pytest.raises(AssertionError, match=r"but nothing is due any more: 1 succeeded, 0 failed, 0 retried, 0 wait"):
        drain(queue, until=lambda: False)
    assert queue.paused


@pytest.mark.parametrize("until", [None, 1, lambda: False], ids=["due", "number", "predicate"])
def test_it_never_hangs_and_names_what_runs(manual, until):
    """The queue is paused again all the same."""
    queue = manual(hold=True)
    queue.submit(CAT)
    with pytest.raises(TimeoutError, match=re.escape(f"1 still running: {CAT.key}")):
        drain(queue, until=until, timeout=0.1)
    assert queue.paused


# perform


def test_a_success_has_its_value_as_it_reads_back():
    """Through JSON, as every caller gets it."""
    done = perform(lambda task: {"size": (1, 2), "of": task.image_key}, CAT)
    assert (done.outcome, done.value) == ("success", {"size": [1, 2], "of": "cat.jpg"})
    assert (done.error, done.delay, done.output) == (None, None, None)
    assert (done.record.attempt, done.record.retries, done.record.params) == (1, 0, CAT.params)


def test_an_output_is_published(tmp_path):
    """The file is where the queue would put it."""
    path = tmp_path / "unfinished.jpg"
    path.write_bytes(b"pixels")
    done = perform(lambda task: Output(path, 3), CAT)
    assert done.output.read_bytes() == b"pixels"
    assert (done.output.name, done.value) == (done.record.output_key, 3)
    assert not path.exists()


@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_the_attempt_has_a_number_and_the_last_one_is_the_end(attempt):
    """The delay of a retry is that of the n-th one; the processor is called once."""
    calls = []

    def work(task):
        calls.append(task)
        raise error

    error = ConnectionError("down")
    done = perform(work, CAT, attempt=attempt, retry=RetryPolicy(base=10.0, cap=2000.0))
    assert (len(calls), done.error, done.record.attempt) == (1, error, attempt)
    if attempt == 3:
        assert (done.outcome, done.delay, done.record.status) == ("dead", None, Status.FAILED)
    else:
        assert (done.outcome, done.record.retries) == ("retry", attempt)
        assert 10.0 <= done.delay <= 10.0 * 2**attempt


def test_the_policy_and_the_queue_decide_as_ever():
    """Permanent errors, results that are no JSON, a classify of the user's, a full disk."""
    assert perform(lambda task: 1 / 0, CAT).outcome == "retry"
    assert perform(raising(ValueError("bad")), CAT).outcome == "dead"
    assert "returned a set" in str(perform(lambda task: {1}, CAT).error)
    assert perform(raising(OSError(28, "no space")), CAT, attempt=3).outcome == "released"
    assert perform(raising(TransientError(retry_after=99.0)), CAT).delay == 99.0
    strict = RetryPolicy(classify=lambda error: classes.append(type(error)) or RetryPolicy().classify(ValueError()))
    classes = []
    assert perform(raising(ConnectionError()), CAT, attempt=2, retry=strict).outcome == "dead"
    assert set(classes) == {ConnectionError}


def raising(error):
    def work(task):
        raise error

    return work


def test_an_attempt_that_never_comes_is_a_mistake_and_one_that_hangs_ends():
    """With the thread let go afterwards."""
    with pytest.raises(ValueError, match=r"attempt 4 never comes: .* has attempts 1 to 3"):
        perform(lambda task: None, CAT, attempt=4)
    go = threading.Event()
    with points.probing(lambda point: point == "settle.after_commit" and go.set()):  # the timeout is on the disk
        done = perform(lambda task: go.wait(LONG), CAT, task_timeout=0.01)
    assert (done.outcome, type(done.error)) == ("retry", TaskTimeoutError)
    go.clear()
    try:
        with pytest.raises(TimeoutError, match=r"attempt 1 at .* was still running after 0.05 s"):
            perform(lambda task: go.wait(LONG), CAT, timeout=0.05)
    finally:
        go.set()


# the assertions


def test_a_task_that_was_submitted_is_found_in_any_state(tq_queue, make_tq_queue):
    """By the task, by its key, by its fields, by a part of its params."""
    tq_queue.submit(CAT).result(LONG)
    (record,) = assert_enqueued(tq_queue, CAT)
    assert record == assert_enqueued(tq_queue, CAT.key)[0]
    assert_enqueued(tq_queue, image_key="cat.jpg", variant="200x200", params={"of": {"size": 200}}, count=1)
    assert_enqueued(tq_queue, status="success")
    refute_enqueued(tq_queue, status=Status.QUEUED)
    refute_enqueued(tq_queue, params={"of": {"size": 100}})
    path = tq_queue.path
    tq_queue.close(LONG)
    assert_enqueued(tq_queue, CAT)
    assert_enqueued(path, CAT)


def test_what_is_not_there_is_told_with_what_comes_near(manual):
    """Nearest first, with what is otherwise."""
    queue = manual()
    refute_enqueued(queue)
    with pytest.raises(AssertionError, match="found none\n  there is no task at all"):
        assert_enqueued(queue, CAT)
    queue.submit_many([DOG, CAT, *tasks(5)])
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(queue, image_key="cat.jpg", params={"quality": 90, "of": {"size": 200, "unit": "px"}})
    first, nearest, why, *_ = str(caught.value).splitlines()
    assert first == (
        "a task with image_key='cat.jpg', params={'quality': 90, 'of': {'size': 200, 'unit': 'px'}} "
        f"should have been enqueued in queue {str(queue.path)!r}, found none"
    )
    assert nearest == "  'cat.jpg' '200x200' params {'of': {'size': 200}, 'quality': 85}, queued"
    assert why.strip() == "params['quality'] is 85, not 90; params['of']['unit'] is missing"
    assert str(caught.value).endswith("  ... and 2 more")
    with pytest.raises(AssertionError, match=r"exactly 3 tasks with image_key='cat.jpg' .*, found 1\n"):
        assert_enqueued(queue, image_key="cat.jpg", count=3)
    with pytest.raises(AssertionError, match=r"no task with variant='64x64' should .*\n  'dog.jpg' '64x64', queued"):
        refute_enqueued(queue, variant="64x64")
    with pytest.raises(TypeError, match="expected a Task, its key or None, got 3"):
        assert_enqueued(queue, 3)
    with pytest.raises(ValueError, match="there is no status 'waiting'; the states are queued, running, success, fail"):
        assert_enqueued(queue, status="waiting")


def test_a_task_is_compared_whole(manual):
    """Its key alone is not the task: its params, and under a key of one's own the image and variant, are more."""
    queue = manual()
    english = Task("a", "v", {"lang": "en", "sizes": (1, 2)})
    queue.submit_many([english, Task("b", idempotency_key="mine"), Task("c", params={"n": 1})])
    assert_enqueued(queue, english, count=1)
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(queue, Task("a", "v", {"lang": "de", "dpi": 96}))
    first, nearest, why, *_ = str(caught.value).splitlines()
    assert first.startswith(
        """a task with key='["a","v"]', exactly params={'lang': 'de', 'dpi': 96} should have been"""
    )
    assert nearest.startswith("  'a' 'v' params {'lang': 'en', 'sizes': [1, 2]}, queued")
    missing = "params['sizes'] is [1, 2], and the task given has none"
    assert why.strip() == f"{missing}; params['lang'] is 'en', not 'de'; params['dpi'] is missing"
    refute_enqueued(queue, Task("a", "v", {"lang": "de", "sizes": [1, 2]}))
    refute_enqueued(queue, Task("a", "v"))
    refute_enqueued(queue, Task("c"))
    refute_enqueued(queue, Task("other", idempotency_key="mine"))
    with pytest.raises(AssertionError, match=re.escape("with key='mine', exactly params={} should")):
        refute_enqueued(queue, Task("b", idempotency_key="mine"))
    assert_enqueued(queue, english.key)


def test_what_is_no_queue_is_a_mistake_that_is_named():
    """Not an AttributeError from within."""
    with pytest.raises(TypeError, match=r"expected a TaskQueue, got \[1\]"):
        drain([1])
    for ask in (assert_enqueued, refute_enqueued, assert_dead):
        with pytest.raises(TypeError, match=r"expected a TaskQueue or the path of its ledger, got \[1\]"):
            ask([1])
    with pytest.raises(TypeError, match=r"expected a TaskQueue or the path of its ledger, got \[1\]"):
        assert_output([1], CAT, "folder")


def test_a_task_that_waits_for_its_retry_says_so(manual, tmp_path):
    """How many attempts, the last error, when the next is due, and how to get there."""
    queue = manual({"cat.jpg": [TransientError("busy")]})
    queue.submit_many([CAT, DOG])
    drain(queue, until=1)
    waits = r"queued, 1 attempt so far, last error 'TransientError: busy', due in [\d,]+\.\d s"
    with pytest.raises(AssertionError, match=rf"should be dead in .*\n  'cat.jpg' '200x200' params .*, {waits}\n"):
        assert_dead(queue, CAT)
    with pytest.raises(AssertionError, match=rf"but it is {waits}: move the clock there with tq_clock\.advance"):
        assert_output(queue, CAT, tmp_path)
    with pytest.raises(AssertionError, match=r"but it is queued: drain\(queue\) first, which waits until it is done"):
        assert_output(queue, DOG, tmp_path)
    queue = manual(hold=True)
    queue.submit(CAT)
    queue.resume()
    queue.work.wait_started()
    with pytest.raises(AssertionError, match=r"but it is running: drain\(queue\) first"):
        assert_output(queue, CAT, tmp_path)


def test_within_waits_for_what_is_still_to_come(tq_queue):
    """And refuse looks until the end of it."""
    timer = threading.Timer(0.05, tq_queue.submit, [CAT])
    timer.start()
    assert_enqueued(tq_queue, CAT, within=LONG)
    assert_enqueued(tq_queue, CAT, status="success", within=LONG)
    timer.join()
    timer = threading.Timer(0.05, tq_queue.submit, [DOG])
    timer.start()
    with pytest.raises(AssertionError, match=r"no task with image_key='dog\.jpg'"):
        refute_enqueued(tq_queue, image_key="dog.jpg", within=LONG)
    timer.join()


def test_a_dead_task_is_found_with_its_reason(make_tq_queue):
    """As an error class or a part of the text; a replayed letter does not count."""
    queue = make_tq_queue(Work({"cat.jpg": [PermanentError("no cat")], "dog.jpg": [OSError("dog")] * 3}), retry=FAST)
    queue.submit_many([CAT, DOG, Task("cow.jpg")], futures=False)
    assert queue.join(LONG)
    assert assert_dead(queue, CAT, reason="permanent", error=PermanentError).error == "PermanentError: no cat"
    assert assert_dead(queue, image_key="dog.jpg", reason="exhausted", error="dog").retries == 2
    with pytest.raises(AssertionError) as caught:
        assert_dead(queue, CAT, reason="poison", error=ValueError)
    lines = str(caught.value).splitlines()
    assert lines[1].strip().endswith("dead (permanent: PermanentError: no cat)")
    assert lines[2].strip() == "reason is 'permanent', not 'poison'; error is 'PermanentError: no cat'"
    assert lines[-2].strip() == "'cow.jpg' '', success"
    queue.replay(CAT.key).result(LONG)
    with pytest.raises(AssertionError, match="should be dead"):
        assert_dead(queue, CAT)


def test_an_output_is_compared_with_its_record(make_tq_queue, tmp_path):
    """In a store or a folder: there, unchanged, and with the bytes that are expected."""
    store = ObjectStore(tmp_path / "store")
    store.write("a.txt", [b"a" * 100_000])
    processor = Processor(store)
    processor._pillow = None  # compressed bytes do
    queue = make_tq_queue(processor)
    text = Task("a.txt", "x")
    queue.submit(text).result(LONG)
    record = assert_output(queue, text, store)
    content = (tmp_path / "store" / record.output_key).read_bytes()
    assert assert_output(queue, text.key, tmp_path / "store", content=content) == record
    for wrong in (content + b"!", content[:-1], b"", b"x" * len(content)):
        with pytest.raises(AssertionError, match=rf"has other bytes \({len(content)} of them\) than expected"):
            assert_output(queue, text, store, content=wrong)
    (tmp_path / "store" / record.output_key).write_bytes(b"x" * len(content))
    with pytest.raises(AssertionError, match="it was changed after it was published"):
        assert_output(queue, text, store)
    for place in (store, tmp_path / "store"):
        (tmp_path / "store" / record.output_key).unlink(missing_ok=True)
        with pytest.raises(AssertionError, match="is not in"):
            assert_output(queue, text, place)


def test_a_task_without_an_output_says_what_it_is(tq_queue, make_tq_queue, tmp_path):
    """Unknown, failed, or a success with a value alone."""
    tq_queue.submit(CAT).result(LONG)
    with pytest.raises(AssertionError, match=r"task .* should have an output, but it has no output"):
        assert_output(tq_queue, CAT, tmp_path)
    with pytest.raises(AssertionError, match=r"there is no task .*cat.*\n.*\n *params\['quality'\] is 85, not 90"):
        assert_output(tq_queue, Task("cat.jpg", "200x200", {**CAT.params, "quality": 90}), tmp_path)
    with pytest.raises(AssertionError, match=r"there is no task .*dog.*\n  'cat.jpg'"):
        assert_output(tq_queue, DOG, tmp_path)
    queue = make_tq_queue(raising(PermanentError("no")))
    assert queue.submit(CAT).exception(LONG)
    with pytest.raises(AssertionError, match="but it is failed: PermanentError: no"):
        assert_output(queue, CAT, tmp_path)
