"""crash_at: a real process dies at the point that was named, and what cannot be done is said."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import LONG, balance, sql

from pytest_taskqueue.testing import crash_at
from taskqueue_core import Output, RetryPolicy, Status, Task, TaskQueue, clock, points

FAST = RetryPolicy(base=0.001, cap=0.002)
TASK = Task("a")


class Note:
    """An argument of a class of this file."""

    def __init__(self, text: str) -> None:
        self.text = text


def work(task: Task) -> Output:
    path = Path(task.params["folder"]) / f"unfinished {os.getpid()}"
    path.write_text(task.image_key, encoding="utf-8")
    return Output(path, "done")


def story(ledger: Path) -> None:
    print("the story begins")
    with TaskQueue(work, ledger=ledger, max_workers=1) as queue:
        queue.submit(Task("a", params={"folder": str(ledger.parent)})).result(LONG)


def two_tasks(ledger: Path, note: Note) -> None:
    print(note.text)
    with TaskQueue(lambda task: None, ledger=ledger, max_workers=1) as queue:
        for name in ("a", "b"):
            queue.submit(Task(name)).result(LONG)


def loses_heart(ledger: Path) -> None:
    with TaskQueue(lambda task: None, ledger=ledger) as queue:
        queue.submit(TASK).result(LONG)
        raise ZeroDivisionError("the story is wrong")


HOLDS = "import os, sys, time; file = open(sys.argv[1], 'wb'); os.close(2); time.sleep(1000)"


def has_a_child(ledger: Path, fifo: Path) -> None:
    """It has our stdout, and the fifo open, for as long as it lives."""
    with subprocess.Popen([sys.executable, "-c", HOLDS, fifo], stderr=subprocess.PIPE) as child:
        child.stderr.read()
        two_tasks(ledger, Note("it is born"))


def never_ends(ledger: Path) -> None:
    print("still here", flush=True)
    with TaskQueue(lambda task: None, ledger=ledger, paused=True) as queue:
        queue.submit(TASK).result()


def leaves(ledger: Path) -> None:
    os._exit(3)


def tomorrow(ledger: Path) -> None:
    with TaskQueue(lambda task: None, ledger=ledger) as queue:
        queue.submit(TASK).result(LONG)


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("submit.before_begin", []),
        ("submit.before_commit", []),
        ("submit.after_commit", ["running"]),
        ("process", ["running"]),
        ("settle.before_begin", ["running"]),
        ("settle.after_rename", ["running"]),
        ("settle.before_commit", ["running"]),
        ("settle.after_commit", ["success"]),
    ],
)
def test_the_ledger_is_as_it_was_at_the_point(path, point, left):
    """A real process has died there; the queue goes on from it, and the task is done once."""
    crash = crash_at(point, story, ledger=path)
    assert crash.output == "the story begins\n"
    assert crash.reached[point] == 1
    if point != "submit.before_begin":
        assert [status for (status,) in sql(path, "SELECT status FROM tasks")] == left
    with TaskQueue(work, ledger=path) as queue:
        assert queue.submit(Task("a", params={"folder": str(path.parent)})).result(LONG) == "done"
        assert queue.get(TASK.key).crashes == left.count("running")
    assert balance(path, 1)[Status.SUCCESS] == 1
    assert (path.parent / queue_output(path)).read_text(encoding="utf-8") == "a"


def queue_output(path):
    ((name,),) = sql(path, "SELECT output_key FROM tasks")
    return name


def test_it_may_be_the_second_time(path):
    """Arguments may be of classes of the test file; the points before it were counted."""
    crash = crash_at("process", two_tasks, path, nth=2, note=Note("as told"))
    assert (crash.point, crash.nth, crash.output) == ("process", 2, "as told\n")
    assert (crash.reached["process"], crash.reached["settle.after_commit"]) == (2, 1)
    assert sql(path, "SELECT image_key, status FROM tasks ORDER BY id") == [("a", "success"), ("b", "running")]


def test_the_clock_of_the_test_goes_along(path, tq_clock):
    """Stored times of the other process follow it."""
    tq_clock.advance(86400)
    crash_at("settle.after_commit", tomorrow, path)
    ((created,),) = sql(path, "SELECT created_at FROM tasks")
    assert clock.now() - 3600 < created <= clock.now()


def test_a_point_that_is_never_reached_is_told_with_those_that_were(path):
    """Or too seldom."""
    with pytest.raises(AssertionError) as caught:
        crash_at("cancel.before_commit", story, path)
    text = str(caught.value)
    assert text.startswith("story ended and never reached 'cancel.before_commit'; it reached ledger.begin x2, submit.b")
    assert "process x1" in text
    assert text.endswith("its output:\nthe story begins\n")
    with pytest.raises(AssertionError, match=r"never reached 'process' 3 times; it reached .*process x1"):
        crash_at("process", story, path.with_name("other.db"), nth=3)


def test_a_story_that_raises_is_told_with_its_error(path):
    """In full, and where it was."""
    with pytest.raises(AssertionError) as caught:
        crash_at("cancel.before_commit", loses_heart, path)
    text = str(caught.value)
    assert text.startswith("loses_heart raised before it reached 'cancel.before_commit'; it reached ledger.begin x2, ")
    assert 'raise ZeroDivisionError("the story is wrong")' in text
    assert text.endswith("ZeroDivisionError: the story is wrong")


def test_a_process_that_ends_in_another_way_is_told(path):
    """Its status, and what it printed before it was given up."""
    with pytest.raises(AssertionError, match="the process of leaves ended with status 3 before it reached 'process'"):
        crash_at("process", leaves, path)
    late = r"neither ended nor reached 'process' within 3 s, and was killed\nits output:\nstill here"
    with pytest.raises(TimeoutError, match=late):
        crash_at("process", never_ends, path, timeout=3.0)


@pytest.mark.skipif("sys.platform == 'win32'", reason="there are no groups of processes")
@pytest.mark.parametrize("point", ["process", "cancel.before_commit"])
def test_what_the_story_has_started_dies_with_it(path, tmp_path, point):
    """Nobody waits for it, though it has the output open; also when the point is never reached."""
    os.mkfifo(tmp_path / "fifo")
    end = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        if point == "process":
            assert crash_at(point, has_a_child, path, tmp_path / "fifo", timeout=LONG).output == "it is born\n"
        else:
            with pytest.raises(TimeoutError, match="its output:\nit is born"):
                crash_at(point, has_a_child, path, tmp_path / "fifo", timeout=3.0)
        assert select.select([end], [], [], LONG)[0]
        assert os.read(end, 1) == b""
    finally:
        os.close(end)


def test_what_cannot_be_done_is_said_before_anything_is_started(path, monkeypatch):
    """An unknown point, a story that no other process can import, an argument that cannot be sent."""
    monkeypatch.setattr("subprocess.Popen", None)
    with pytest.raises(ValueError, match=r"there is no point 'settle.comit'; the points are submit.before_begin, "):
        crash_at("settle.comit", story, path)
    with pytest.raises(ValueError, match="nth counts from 1, got 0"):
        crash_at("process", story, path, nth=0)

    def nested(ledger):
        raise AssertionError

    for wrong in (nested, lambda ledger: None, TaskQueue.close, "story"):
        with pytest.raises(ValueError, match="make it a function at the top level of a file"):
            crash_at("process", wrong, path)
    with pytest.raises(ValueError, match="the arguments of 'story' cannot be given to a new process: "):
        crash_at("process", story, lambda: path)
    assert points.probe is None
