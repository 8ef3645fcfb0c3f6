"""The workers: how far ahead tasks are claimed, who takes them, and who gives them back."""

import threading
import time
from types import SimpleNamespace

import pytest
from helpers import LONG, Work, balance, nothing_held, run_python, sql, tasks, threads, until

from taskqueue_core import QueueClosedError, RetryPolicy, Status, Task, TaskFailedError
from taskqueue_core.metrics import Metrics
from taskqueue_core.workers import COMMIT_DELAY, Waiting, Workers

CAT = Task("cat.jpg")
ONCE = RetryPolicy(max_attempts=1, base=0.001, cap=0.001)


def claim_ahead(queue, count):
    """Let the workers claim so many tasks beyond those that run, as where commits are slower than tasks."""
    queue._workers._claims_ahead = lambda: count
    queue._workers._ahead = count


def running(path):
    ((count,),) = sql(path, "SELECT count(*) FROM tasks WHERE status = 'running'")
    return count


# How far ahead


@pytest.fixture
def workers():
    """Workers of a queue with `places`, between whose tasks and commits the times are as the test says."""
    made = []

    def make(*, size, places, task, commit):
        workers = Workers(
            size=size,
            places=places,
            metrics=Metrics(size),
            claim=lambda entries: None,
            run=lambda entry, metrics: False,
            taken=lambda: None,
            help=lambda: False,
            nudge=lambda: None,
            halted=lambda: False,
            busy=lambda: False,
            ended=lambda: None,
            commit_seconds=lambda: commit,
        )
        workers._run_seconds = task

        def over(attempts):
            workers._uncounted.extend(attempts)
            workers._count()

        workers.over = over
        made.append(workers)
        return workers

    yield make
    for workers in made:
        workers._stopping = True
        workers.shutdown(wait=True)


@pytest.mark.parametrize(
    ("task", "commit", "ahead"),
    [(1.0, 0.0001, 0), (0.1, 0.0001, 0), (10.0, 0.1, 1), (0.001, 0.001, 16), (0.0001, 0.01, 100), (0.0, 1.0, 100)],
)
def test_claims_go_as_far_ahead_as_commits_are_slower_than_tasks(workers, task, commit, ahead):
    """None where a commit is short beside a task, and never more than there are places."""
    assert workers(size=4, places=100, task=task, commit=commit)._claims_ahead() == ahead


def test_an_attempt_moves_the_average_and_the_claims_follow(workers):
    """One slow task in a stream of quick ones does not stop them; many slow ones do."""
    crew = workers(size=2, places=50, task=0.0, commit=0.001)
    crew._in_hand = 1000
    crew.over([0.0001])
    assert crew._ahead == 50
    crew.over([0.1])
    assert 1 <= crew._ahead <= 5
    crew.over([1.0] * 100)
    assert crew._ahead == 0
    assert 0.9 < crew._run_seconds <= 1.0


def test_the_oldest_age_is_that_of_the_first_who_waits():
    """Since it was due; nobody waits, or the clock was set back: no age."""
    waiting, now = Waiting(9), time.time()
    assert waiting.oldest_age() == 0.0
    waiting.put_all([SimpleNamespace(due_at=now - 3600), SimpleNamespace(due_at=now - 7200)])
    assert waiting.oldest_age() == pytest.approx(3600, abs=LONG)
    waiting.get_up_to(2)
    waiting.put_all([SimpleNamespace(due_at=now + 3600)])
    assert waiting.oldest_age() == 0.0


def test_a_new_queue_does_not_claim_slow_tasks_far_ahead(open_queue, path):
    """The first attempt tells how slow they are; what is claimed counts as running when the process dies."""
    seen = []

    def slow(task):
        seen.append((queue._workers._in_hand, task))
        time.sleep(0.05)  # the work itself

    queue = open_queue(slow, max_workers=2)
    queue._workers._commit_seconds = lambda: 0.0001
    queue.submit_many(tasks(30), futures=False)
    assert queue.join(LONG)
    assert max(in_hand for in_hand, _ in seen) <= 2 + 2


def test_a_slow_attempt_is_counted_at_once(workers):
    """Beside it a lock costs nothing."""
    crew = workers(size=2, places=50, task=0.0001, commit=0.01)
    crew._in_hand, crew._ahead = 20, 50
    crew.waiting.put_all([None])
    crew._done(0.0001)
    assert (crew._in_hand, crew._ahead) == (20, 50)
    crew._done(1.0)
    assert (crew._in_hand, crew._ahead) == (18, 2)


def test_a_worker_counts_its_attempt_without_waiting_for_the_others(workers):
    """Somebody else has the lock; what is over is counted by whoever asks next."""
    crew = workers(size=2, places=50, task=0.0001, commit=0.01)
    crew._in_hand, crew._ahead = 20, 50
    with crew._lock, threads(1) as pool:
        for _ in range(12):
            pool.submit(crew._done, 0.0001).result(LONG)
        assert crew._in_hand == 20
    assert crew.reserve(0) == 0
    assert crew._in_hand == 8


def test_what_is_over_counts_at_once_for_whoever_asks(workers):
    """Also when no worker has counted it yet: there is room for new tasks, and nothing is in hand."""
    crew = workers(size=2, places=50, task=1.0, commit=0.0)
    assert crew.reserve(2) == 2
    crew.ready([])
    crew._uncounted.extend([1.0, 1.0])
    assert crew.at_rest() == (True, False)
    assert crew.reserve(2) == 2
    crew._uncounted.extend([1.0, 1.0])
    assert crew.reserve(2) == 2
    crew._uncounted.extend([1.0, 1.0])
    claimed = []
    crew._claim = claimed.extend
    crew.waiting.put_all([1, 2, 3])
    crew._post_claims()
    assert claimed == [1, 2]
    crew._uncounted.extend([1.0, 1.0])
    crew._active = 1
    assert crew._may_leave()


def test_the_workers_say_how_long_a_commit_may_be_put_off(open_queue):
    """To the group commit of their queue."""
    queue = open_queue()
    assert queue._ledger.commits.delay == queue._workers.commit_delay


def test_claims_go_further_ahead_while_commits_are_put_off(workers):
    """Else the workers would miss the commits that bring their next tasks."""
    crew = workers(size=4, places=100, task=0.004, commit=0.0005)
    assert crew._claims_ahead() == 2
    crew.waiting.put_all([None] * 4)
    assert crew._claims_ahead() == 4


@pytest.mark.parametrize(
    ("waiting", "task", "delay"), [(3, 1.0, 0.0), (4, 1.0, COMMIT_DELAY), (9, 0.0004, 0.0001), (9, 0.0, 0.0)]
)
def test_commits_are_put_off_only_while_every_worker_has_another_task(workers, waiting, task, delay):
    """And not long beside the tasks."""
    crew = workers(size=4, places=10, task=task, commit=0.0)
    crew.waiting.put_all([None] * waiting)
    assert crew.commit_delay() == pytest.approx(delay)


def test_what_comes_of_claims_from_before_a_limit_does_not_change_it(workers):
    """`allow(1)` after two claims were posted: whether these are made or lost, one more is claimed, and not three."""
    for answers in ((2, 0), (1, 1), (0, 2)):
        crew = workers(size=4, places=10, task=1.0, commit=0.0)
        assert crew.reserve(2) == 2
        crew.allow(0)
        crew.allow(1)
        ready, lost = answers
        crew.ready([None] * ready)
        if lost:
            crew.lost(lost)
        assert crew.reserve(3) == 1
        assert crew.paused
        crew.lost(1)
        assert not crew.paused, "one that was counted and lost is made again"
        assert crew.reserve(3) == 1


def test_what_was_claimed_and_never_taken_is_not_counted(workers):
    """When all workers are stuck: the limit is of attempts that are begun."""
    crew = workers(size=4, places=10, task=1.0, commit=0.0)
    crew.allow(3)
    assert crew.reserve(3) == 3
    for entry in (untaken := [object(), object()]):
        crew._ready.put(entry)
    assert crew.take_untaken() == untaken
    assert crew.reserve(5) == 2


def test_no_more_is_claimed_than_workers_are_free_when_tasks_are_slow(open_queue, path):
    """What waits can still be cancelled, and is not held up by a worker that is stuck."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=2)
    claim_ahead(queue, 0)
    queue.submit_many(tasks(20), futures=False)
    work.wait_started(2)
    assert running(path) == 2
    work.release()
    assert queue.join(LONG)
    assert nothing_held(queue)


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_never_more_is_claimed_than_asked_for(open_queue, ahead):
    """Seen before each attempt: those that run, and those that are claimed ahead; the others hold their places."""
    seen = []
    queue = open_queue(lambda task: seen.append((queue._workers._in_hand, queue._places._free)), max_workers=2)
    claim_ahead(queue, ahead)
    for _ in range(5):
        queue.submit_many([Task(f"{len(seen)}-{n}") for n in range(40)], futures=False)
        assert queue.join(LONG)
    assert max(in_hand for in_hand, _ in seen) <= 2 + ahead
    assert min(free for _, free in seen) >= 0
    assert nothing_held(queue)


def test_a_place_is_given_back_when_a_worker_takes_the_task(open_queue):
    """Not when it is claimed: what is claimed ahead still waits."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1, queue_size=10)
    claim_ahead(queue, 5)
    queue.submit_many(tasks(8), futures=False)
    work.wait_started()
    until(lambda: queue._workers._in_hand == 6)
    assert queue._places._free == 10 - 7
    work.release()
    assert queue.join(LONG)
    assert nothing_held(queue, places=10)


def test_while_all_workers_are_busy_claims_are_made_in_larger_lots(open_queue):
    """Not one by one, as a transaction each; but all are made."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    claim_ahead(queue, 20)
    sizes, claim = [], queue._workers._claim

    def watched(entries):
        sizes.append(len(entries))
        claim(entries)

    queue._workers._claim = watched
    queue.submit_many(tasks(100), futures=False)
    work.release()
    assert queue.join(LONG)
    assert sum(sizes) == 100 - 21
    assert len(sizes) < 40


# Who takes them


def test_a_slow_task_does_not_hold_those_that_were_claimed_with_it(open_queue):
    """They are anybody's: the other worker takes them all."""
    slow, quick = Work(hold=True), Work()
    queue = open_queue(lambda task: (slow if task.image_key == "slow" else quick)(task), max_workers=2)
    claim_ahead(queue, 50)
    futures = queue.submit_many([*tasks(5), Task("slow"), *tasks(300, "u")])
    others = [*futures[:5], *futures[6:]]
    assert [future.result(LONG)["n"] for future in others] == [*range(5), *range(300)]
    assert not futures[5].done()
    slow.release()
    assert futures[5].result(LONG) == {}


def test_a_slow_task_after_many_quick_ones_holds_nobody(open_queue):
    """The real averages: what was claimed ahead of it, and behind it, is done meanwhile."""
    slow, quick = Work(hold=True), Work()
    queue = open_queue(lambda task: (slow if task.image_key == "slow" else quick)(task), max_workers=2)
    queue.submit_many(tasks(1000), futures=False)
    late = queue.submit(Task("slow"))
    futures = queue.submit_many(tasks(300, "u"))
    assert [future.result(LONG)["n"] for future in futures] == [*range(300)]
    slow.release()
    assert late.result(LONG) == {}
    assert queue.join(LONG)


@pytest.mark.parametrize("size", [1, 2])
def test_nothing_stays_claimed_behind_workers_that_are_all_stuck(open_queue, path, size):
    """What was claimed ahead is queued again, without an attempt used; it runs once a thread is back."""
    stuck, quick = Work(hold=True), Work()

    def work(task):
        return (stuck if task.image_key.startswith("stuck") else quick)(task)

    queue = open_queue(work, max_workers=size, task_timeout=0.2, retry=ONCE)
    claim_ahead(queue, 10)
    late = queue.submit_many([Task(f"stuck{n}") for n in range(size)])
    stuck.wait_started(size)
    waiting = queue.submit_many(tasks(20))
    for future in late:
        with pytest.raises(TaskFailedError):
            future.result(LONG)
    until(lambda: running(path) == 0)
    assert quick.calls == []
    assert not any(future.done() for future in waiting)
    stuck.release()
    assert [future.result(LONG) for future in waiting] == [{"n": n} for n in range(20)]
    assert {(record.retries, record.crashes) for record in queue.records(Status.SUCCESS)} == {(0, 0)}
    assert queue.join(LONG)
    assert nothing_held(queue)


def test_a_submit_behind_stuck_workers_is_not_claimed(open_queue, path):
    """No worker is free for it, and none will be soon."""
    stuck = Work(hold=True)
    queue = open_queue(stuck, max_workers=1, task_timeout=0.02, retry=ONCE)
    claim_ahead(queue, 10)
    with pytest.raises(TaskFailedError):
        queue.submit(CAT).result(LONG)
    until(lambda: queue._inflight.all_stuck(1))
    future = queue.submit(Task("next"))
    assert sql(path, "SELECT status FROM tasks WHERE image_key = 'next'") == [("queued",)]
    stuck.release()
    assert future.result(LONG) == {}


# Who gives them back


def test_close_queues_again_what_is_claimed_and_was_not_taken(open_queue, path):
    """No attempt is used; the next owner runs each once."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=2)
    claim_ahead(queue, 10)
    futures = queue.submit_many(tasks(30))
    work.wait_started(2)
    until(lambda: running(path) == 12)
    with threads(1) as pool:
        closing = pool.submit(queue.close, LONG, drain=False)
        until(lambda: queue._workers._stopping)
        work.release()
        report = closing.result(LONG)
    assert (report.waiting, report.stuck, report.drained) == (28, (), False)
    counts = balance(path, 30)
    assert (counts[Status.SUCCESS], counts[Status.QUEUED], counts[Status.RUNNING]) == (2, 28, 0)
    assert sql(path, "SELECT DISTINCT retries, crashes FROM tasks") == [(0, 0)]
    assert len(work.calls) == 2
    for future in futures:
        if not (future.done() and future.exception() is None):
            assert isinstance(future.exception(0), QueueClosedError)
    with open_queue(work) as again:
        assert again.join(LONG)
        assert again.metrics.snapshot().recovered == 0
    assert sorted(work.calls) == sorted(f"t{n}" for n in range(30))


def test_close_beside_claims_that_are_being_made_leaves_nothing_running(open_queue, path):
    """Tasks are claimed, taken and finished all the time; whatever state the end finds them in."""
    for round_ in range(10):
        queue = open_queue(max_workers=3)
        claim_ahead(queue, 10)
        queue.submit_many([Task(f"{round_}-{n}") for n in range(100)], futures=False)
        report = queue.close(timeout=5.0, drain=False)
        assert report.stuck == ()
        counts = balance(path, 100 * (round_ + 1))
        assert counts[Status.RUNNING] == 0
        assert counts[Status.QUEUED] == report.waiting
        assert sql(path, "SELECT DISTINCT retries, crashes FROM tasks") == [(0, 0)]
    with open_queue() as queue:
        assert queue.join(LONG)


@pytest.mark.parametrize("busy", [False, True])
def test_close_at_once_beside_claims_leaves_nothing_running(open_queue, path, busy):
    """With no time at all; a worker that is stuck is named, those behind it are not."""
    work = Work(hold=busy)
    queue = open_queue(work, max_workers=1)
    claim_ahead(queue, 10)
    queue.submit_many(tasks(30), futures=False)
    work.wait_started()
    report = queue.close(timeout=0.0, drain=False)
    assert report.elapsed_s < 1
    assert len(report.stuck) <= 1
    assert not busy or report.stuck == (tasks(1)[0].key,)
    assert running(path) == 0
    work.release()


# Threads


def test_idle_workers_leave_and_come_back(open_queue, monkeypatch):
    """A queue without work has no thread at work; the next task gets one."""
    monkeypatch.setattr("taskqueue_core.workers.LINGER", 0.01)
    queue = open_queue(max_workers=4)
    for _ in range(3):
        futures = queue.submit_many(tasks(20, f"{_}-"))
        assert all(future.result(LONG) is not None for future in futures)
        until(lambda: queue._workers._active == 0)
        assert queue._workers._idents == set()
        assert nothing_held(queue)
    assert queue.metrics.snapshot().succeeded == 60


def test_no_more_threads_than_workers(open_queue):
    """However the tasks come."""
    work = Work()
    with open_queue(work, max_workers=3) as queue:
        for n in range(30):
            queue.submit_many(tasks(1 + n % 5, f"{n}-"), futures=False)
        assert queue.join(LONG)
        assert queue._workers._active <= 3
    assert len(work.threads) <= 3
    assert work.most <= 3


def test_one_task_needs_one_thread(open_queue):
    """Workers begin as they are needed."""
    queue = open_queue(max_workers=8)
    for n in range(5):
        queue.submit(Task(f"t{n}")).result(LONG)
        assert nothing_held(queue)
    assert queue._workers._active == 1


def test_a_thread_that_cannot_be_started_costs_no_task(open_queue, monkeypatch, caplog):
    """The system has none to give; the one that is there does the work, or the next one that can be started."""
    queue = open_queue(max_workers=2)
    submit, failed = queue._workers._executor.submit, []

    def broken(call):
        if not failed:
            failed.append(call)
            raise RuntimeError("can't start new thread")
        return submit(call)

    monkeypatch.setattr(queue._workers._executor, "submit", broken)
    first = queue.submit(CAT)
    second = queue.submit(Task("next"))
    assert (first.result(LONG), second.result(LONG)) == ({}, {})
    assert "a worker could not be started" in caplog.text


def test_an_idle_queue_does_not_keep_its_program_from_exiting(path):
    """Nor does one whose workers have just had their last task."""
    code = """
import sys
from taskqueue_core import Task, TaskQueue
queue = TaskQueue(lambda task: 1, ledger=sys.argv[1], max_workers=4)
print([future.result(9) for future in queue.submit_many([Task(f"t{n}") for n in range(10)])])
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stdout, program.stderr) == (0, f"{[1] * 10}\n", "")
    assert balance(path, 10)[Status.SUCCESS] == 10


def test_what_was_claimed_when_the_interpreter_ends_is_queued_again(path):
    """Python starts no threads from then on: those that submit are refused, and no row is left as running."""
    code = """
import sys, threading
from taskqueue_core import QueueClosedError, Task, TaskQueue
from taskqueue_core import workers

workers.LINGER = 0.001
queue = TaskQueue(lambda task: 1, ledger=sys.argv[1], max_workers=2, durability="process")
main, done = threading.main_thread(), threading.Event()

def submit():
    queue.submit(Task("first")).result(9)
    done.set()
    main.join()
    while queue._workers._active:  # idle workers leave by themselves
        pass
    try:
        for n in range(1000):
            queue.submit(Task(f"t{n}"))
    except QueueClosedError:
        print("refused", flush=True)

threading.Thread(target=submit).start()
done.wait(9)
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stdout, program.stderr) == (0, "refused\n", "")
    assert running(path) == 0
    states = dict(sql(path, "SELECT image_key, status FROM tasks"))
    assert states.pop("first") == "success"
    assert set(states.values()) <= {"queued"}
    assert sql(path, "SELECT DISTINCT retries, crashes FROM tasks") == [(0, 0)]


def test_nothing_is_claimed_again_once_the_interpreter_has_ended(path):
    """The feeder may still look: what it finds stays queued, because a program that exits meanwhile would leave it
    running, and be blamed for a crash.
    """
    code = """
import sys, threading
from taskqueue_core import QueueClosedError, Task, TaskQueue

queue = TaskQueue(lambda task: 1, ledger=sys.argv[1], durability="process")
main = threading.main_thread()

def submit():
    main.join()
    queue.submit(Task("late"))
    for _ in range(3):
        queue._feeder._feed()
        queue._ledger.commits.help()

threading.Thread(target=submit).start()
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stdout, program.stderr) == (0, "", "")
    assert sql(path, "SELECT status, retries, crashes FROM tasks") == [("queued", 0, 0)]
    ((attempts,),) = sql(path, "SELECT attempt FROM tasks")
    assert attempts <= 1


def test_who_waits_for_a_task_that_nobody_can_run_any_more_is_told(path):
    """The interpreter ends: the task is kept for the next time, and its caller does not wait for ever."""
    code = """
import sys, threading
from taskqueue_core import QueueClosedError, Task, TaskQueue

queue = TaskQueue(lambda task: 1, ledger=sys.argv[1], durability="process")
main = threading.main_thread()

def submit():
    main.join()
    try:
        queue.submit(Task("late")).result(5)
    except QueueClosedError:
        print("refused", flush=True)

threading.Thread(target=submit).start()
"""
    program = run_python(code, str(path))
    assert (program.returncode, program.stdout, program.stderr) == (0, "refused\n", "")
    assert set(sql(path, "SELECT status, retries, crashes FROM tasks")) <= {("queued", 0, 0)}


def test_is_worker_tells_workers_from_other_threads(open_queue):
    """While they are at work."""
    seen = []
    queue = open_queue(lambda task: seen.append(queue._workers.is_worker()))
    queue.submit(CAT).result(LONG)
    assert seen == [True]
    assert not queue._workers.is_worker()
    assert threading.get_ident() not in queue._workers._idents
