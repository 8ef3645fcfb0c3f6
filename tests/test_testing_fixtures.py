"""The fixtures for users' tests, in a project of their own: what they give, and that nothing of them stays."""

from __future__ import annotations

import pytest
from plugin_runs import run

STORY = """
    from datetime import timedelta

    import pytest
    from pytest_taskqueue.testing import assert_enqueued, drain
    from taskqueue_core import Task, TaskQueue, clock

    class Folder:
        def __init__(self, path):
            self.path = path

    def work(task):
        return "done"

    def story(folder):
        with TaskQueue(work, ledger=folder.path / "tasks.db") as queue:
            queue.submit(Task("a")).result()

    def test_nothing_is_lost(tq_crash_at, make_tq_queue, tmp_path):
        crash = tq_crash_at("settle.before_commit", story, Folder(tmp_path))
        assert crash.reached["process"] == 1
        queue = make_tq_queue(work, ledger=tmp_path / "tasks.db")
        assert queue.submit(Task("a")).result(20) == "done"

    def test_manual(tq_manual_queue, make_tq_queue):
        for queue in (tq_manual_queue, make_tq_queue(manual=True)):
            queue.submit(Task("a"))
            assert queue.wait_idle(20)
            assert_enqueued(queue, Task("a"), status="queued")
            assert drain(queue).succeeded == 1

    def test_the_clock_goes_forward(tq_clock, tq_queue):
        tq_clock.advance(86400)
        assert tq_clock.now() == pytest_approx(clock.now())
        assert clock.shift() == 86400
        tq_clock.advance(timedelta(hours=1))
        assert clock.shift() == 90000
        with pytest.raises(TypeError, match="expected seconds or a timedelta, got '1h'"):
            tq_clock.advance("1h")

    def pytest_approx(value):
        return pytest.approx(value, abs=60)
"""
AFTER = """
    from taskqueue_core import clock

    def test_the_clock_is_right_again():
        assert clock.shift() == 0.0
"""


@pytest.mark.parametrize(("mode", "name"), [("prepend", "tests"), ("importlib", "tests.v1")])
def test_they_serve_a_project_that_is_not_ours(pytester: pytest.Pytester, mode: str, name: str) -> None:
    """Also where the test file cannot be imported by a name: a story's arguments are of one of its classes."""
    folder = pytester.mkdir(name)
    for file, text in (("test_a", STORY), ("test_b", AFTER)):
        pytester.makepyfile(**{file: text}).rename(folder / f"{file}.py")
    run(pytester, f"--import-mode={mode}", "-p", "no:cacheprovider").assert_outcomes(passed=4)
