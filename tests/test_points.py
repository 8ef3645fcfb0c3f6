"""The named points: which are reached, in which order, and what a fault there does to the queue."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Work, failure, orphans, output, sql

from taskqueue_core import LedgerError, PermanentError, Task, TransientError, output_key, points
from taskqueue_core.ledger import Ledger

CAT = Task("cat.jpg")


class Seen:
    """Notes the points that are reached, and what the file holds as others see it at one of them."""

    def __init__(self, path=None, look_at=None):
        self.points = []
        self.rows = None
        self._path = path
        self._look_at = look_at
        self._lock = threading.Lock()

    def __call__(self, point):
        with self._lock:
            self.points.append(point)
            if point == self._look_at and self.rows is None:
                self.rows = sql(self._path, "SELECT status, attempt FROM tasks ORDER BY id")


def of(seen, *arrows):
    return [point for point in seen.points if point.split(".")[0] in arrows]


def around(*arrows):
    """The points of a transaction with these arrows, in their order."""
    begin = ["ledger.begin", *(f"{arrow}.before_begin" for arrow in arrows)]
    commit = [*(f"{arrow}.before_commit" for arrow in arrows), "ledger.commit"]
    return begin + commit + [f"{arrow}.after_commit" for arrow in arrows]


def test_there_are_three_moments_of_each_arrow_and_a_few_more():
    """The names are what users write."""
    assert len(points.POINTS) == len(set(points.POINTS)) == 8 * 3 + 4
    assert {"submit.before_begin", "claim.before_commit", "settle.after_commit", "settle.after_rename"} <= {
        *points.POINTS
    }
    assert {"ledger.begin", "ledger.commit", "process"} <= {*points.POINTS}


def test_a_task_passes_submit_process_and_settle(open_queue):
    """A free worker's claim is in the transaction of the insert."""
    seen = Seen()
    with points.probing(seen), open_queue(max_workers=1) as queue:
        queue.submit(CAT).result(LONG)
    assert seen.points == [*around("submit", "claim"), "process", *around("settle")]


@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_output_is_renamed_between_begin_and_commit(open_queue, tmp_path, durability):
    """And not committed yet."""
    seen, there = Seen(tmp_path / "tasks.db", "settle.after_rename"), []

    def look(point):
        if point == "settle.after_rename":
            there.extend(file.name for file in tmp_path.glob("*.jpg"))

    with (
        points.probing(seen),
        points.probing(look),
        open_queue(Work({"cat.jpg": [output(tmp_path)]}), durability=durability) as queue,
    ):
        queue.submit(CAT).result(LONG)
    expected = around("settle")
    assert seen.points[-len(expected) - 1 :] == [*expected[:2], "settle.after_rename", *expected[2:]]
    assert seen.rows == [("running", 1)]
    assert there == [output_key(CAT.key, ".jpg")]


@pytest.mark.parametrize(
    ("point", "rows"),
    [
        ("submit.before_begin", []),
        ("submit.before_commit", []),
        ("submit.after_commit", [("running", 1)]),
        ("process", [("running", 1)]),
        ("settle.before_begin", [("running", 1)]),
        ("settle.before_commit", [("running", 1)]),
        ("settle.after_commit", [("success", 1)]),
    ],
)
def test_before_is_before_the_commit_and_after_is_after_it(open_queue, path, point, rows):
    """As a second connection sees the file from the very point."""
    seen = Seen(path, point)
    with points.probing(seen), open_queue() as queue:
        queue.submit(CAT).result(LONG)
    assert seen.rows == rows


def test_every_other_arrow_has_its_points(open_queue, path):
    """Recovery, a claim of its own, failure, replay, cancel, release and purge."""
    orphans(path, ["an orphan"])
    seen = Seen()
    work = Work({"cat.jpg": [PermanentError("no")], "slow": [TransientError("later")]})
    with points.probing(seen):
        queue = open_queue(work, max_workers=1, retry=NEVER)
        assert queue.wait_idle(LONG)
        assert of(seen, "recover", "claim") == [*points_of("recover"), *points_of("claim")]
        failure(queue, CAT)
        queue.replay(CAT.key).result(LONG)
        assert of(seen, "replay") == points_of("replay")
        waiting = queue.submit(Task("slow"))
        assert queue.wait_idle(LONG)
        assert waiting.cancel()
        assert of(seen, "cancel") == points_of("cancel")
        assert queue.purge(CAT.key)
        assert of(seen, "purge") == points_of("purge")
        queue.close(LONG)
    with points.probing(seen), closing(Ledger(path)) as ledger:
        (row,) = ledger.insert([("k", "k", "", "{}")])
        ledger.claim(row)
        ledger.release(ledger.get("k"))
    assert of(seen, "release") == points_of("release")


def points_of(arrow):
    return [f"{arrow}.{moment}" for moment in points.MOMENTS]


def test_a_transaction_that_changes_nothing_passes_no_point(open_queue):
    """Opening and closing an empty ledger, for instance: the third commit is the third change."""
    seen = Seen()
    with points.probing(seen):
        open_queue().close(LONG)
    assert seen.points == []


def test_an_error_before_the_commit_leaves_nothing_and_one_after_it_everything(open_queue):
    """Both are reported as failed; after the second, submitting again finds the task."""
    queue = open_queue(paused=True)
    for point, left in [("submit.before_commit", 0), ("submit.after_commit", 1)]:
        with points.probing(raising(point)), pytest.raises(LedgerError, match="fails here"):
            queue.submit(CAT)
        assert len(queue.records()) == left
    with points.probing(lambda point: None):
        queue.submit(CAT)
    assert len(queue.records()) == 1


def raising(wanted):
    def probe(point):
        if point == wanted:
            raise LedgerError(f"{point} fails here")

    return probe


def test_an_error_before_the_processor_is_the_attempts(open_queue):
    """It uses an attempt, as one of the processor's own would."""

    def probe(point):
        if point == "process" and not work.calls and not raised:
            raised.append(point)
            raise TransientError("injected")

    work, raised = Work(), []
    with points.probing(probe), open_queue(work) as queue:
        queue.submit(CAT).result(LONG)
        assert queue.get(CAT.key).retries == 1
    assert (work.calls, raised) == (["cat.jpg"], ["process"])


def test_probes_inside_each_other_are_all_called_and_taken_out_again(open_queue):
    """Also when the block ends in an error."""
    outer, inner = Seen(), Seen()
    with open_queue() as queue:
        with points.probing(outer):
            with pytest.raises(ZeroDivisionError), points.probing(inner):
                1 / len(queue.submit(CAT).result(LONG))
            queue.submit(Task("dog.jpg")).result(LONG)
        queue.submit(Task("cow.jpg")).result(LONG)
    assert points.probe is None
    assert Counter(inner.points)["process"] == 1
    assert Counter(outer.points)["process"] == 2


def test_without_a_probe_transactions_stay_single_statements(open_queue):
    """The way of nearly all of them, which a probe turns off and on again."""
    queue = open_queue(max_workers=1)
    counted, real = [], queue._ledger.writer.at_once

    def at_once(database, changes):
        counted.append(len(changes))
        return real(database, changes)

    queue._ledger.writer.at_once = at_once
    with points.probing(lambda point: None):
        queue.submit(CAT).result(LONG)
    assert counted == []
    queue.submit(Task("dog.jpg")).result(LONG)
    assert len(counted) == 2


def test_probes_are_taken_away_in_whatever_order_their_blocks_are_left():
    """A fixture may hold one longer than a marker does."""
    first, second, seen = (
        points.probing(lambda p: seen.append("first")),
        points.probing(lambda p: seen.append("second")),
        [],
    )
    first.__enter__()
    second.__enter__()
    points.reach("process")
    first.__exit__(None, None, None)
    points.reach("process")
    second.__exit__(None, None, None)
    points.reach("process")
    assert seen == ["first", "second", "second"]
    assert points.probe is None


@pytest.mark.parametrize("point", [points.BEGIN, points.COMMIT, "settle.after_commit", "process"])
def test_a_probe_ends_no_thread_of_the_queue(open_queue, point):
    """SystemExit, or what a test framework raises, is one more error there."""
    left = [SystemExit("enough")] * 3

    def probe(reached):
        if reached == point and threading.current_thread() is not threading.main_thread() and left:
            raise left.pop()

    queue = open_queue(Work(), max_workers=2)
    with points.probing(probe):
        futures = queue.submit_many([Task(f"t{n}") for n in range(6)])
        assert queue.join(LONG)  # which, unlike a wait for a result, writes nothing itself
        assert [future.exception(LONG) for future in futures] == [None] * 6
    assert len(left) < 3
