"""What a test leaves behind of its queues is told after it, and each kind of it can be allowed."""

from __future__ import annotations

import pytest
from plugin_runs import nothing_from_outside, out, run

TOP = """
    import os
    import threading
    import pytest
    from taskqueue_core import LedgerView, PermanentError, RetryPolicy, Task, TaskQueue
    from pytest_taskqueue.testing import assert_dead, crash_at

    def fail(task):
        raise PermanentError("no")

    def nothing(task):
        pass

    KEPT = []
"""
OPEN = """
    def opens(path):
        KEPT.append(TaskQueue(nothing, ledger=path))

    def test_open(tmp_path):
        opens(tmp_path / "my.db")

    def test_it_was_closed_for_the_next_one():
        assert KEPT[0].closed
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("taskqueue-")]

    @pytest.mark.tq_allow("open", reason="the next test closes it")
    def test_open_and_allowed(tmp_path):
        opens(tmp_path / "my.db")

    def test_it_was_not_closed():
        KEPT[1].close(20)

    def test_a_fixture_closes_its_own(make_tq_queue):
        make_tq_queue().submit(Task("a"))

    def test_a_failure_is_not_told_twice(tmp_path):
        opens(tmp_path / "my.db")
        assert False, "the test's own"
"""
SHARED = """
    @pytest.fixture(scope="module")
    def mine(tmp_path_factory):
        with TaskQueue(nothing, ledger=tmp_path_factory.mktemp("module") / "my.db") as queue:
            yield queue

    def test_first(mine):
        mine.submit(Task("a")).result(20)

    def test_second(mine):
        mine.submit(Task("b")).result(20)
"""
ERRORS = """
    @pytest.fixture
    def failed(make_tq_queue):
        def queue_of(keys):
            queue = make_tq_queue(fail)
            futures = [queue.submit(Task(key)) for key in keys]
            assert queue.join(20)
            return queue, futures
        return queue_of

    def test_unread(failed):
        failed(["seen", "unseen"])[1][0].exception()

    def test_a_task_without_a_future(make_tq_queue):
        queue = make_tq_queue(fail)
        queue.submit_many([Task("unseen")], futures=False)
        assert queue.join(20)

    @pytest.mark.tq_allow("errors", reason="how it fails does not matter here")
    def test_allowed(failed):
        failed(["a"])

    def test_result(failed):
        with pytest.raises(Exception):
            failed(["a"])[1][0].result()

    def test_callback(make_tq_queue):
        queue = make_tq_queue(fail)
        queue.submit(Task("a")).add_done_callback(print)

    def test_callback_of_a_done_future(failed):
        failed(["a"])[1][0].add_done_callback(print)

    def test_get(failed):
        failed(["a"])[0].get(Task("a").key)

    def test_dead_letters(failed):
        assert len(failed(["a", "b"])[0].dead_letters()) == 2

    def test_assert_dead(failed):
        assert_dead(failed(["a"])[0], Task("a"))

    def test_assert_dead_of_another(failed):
        assert_dead(failed(["a", "unseen"])[0], Task("a"))

    def test_replay(failed):
        queue, _ = failed(["a"])
        assert queue.replay(Task("a").key).exception(20)

    def test_inspect(failed):
        queue, _ = failed(["a"])
        queue.close(20)
        with LedgerView.inspect(queue.path) as view:
            assert view.dead_letters()

    def test_fails_by_itself(failed):
        failed(["a"])
        assert False, "the test's own"
"""
RUNNING = """
    def story(ledger):
        with TaskQueue(nothing, ledger=ledger) as queue:
            queue.submit(Task("a")).result(20)

    def crash(path):
        TaskQueue(nothing, ledger=path).close()
        crash_at("process", story, path)

    def test_running(tmp_path):
        crash(tmp_path / "my.db")

    @pytest.mark.tq_allow("running", reason="it stays as the crash left it")
    def test_running_and_allowed(tmp_path):
        crash(tmp_path / "my.db")

    def test_recovered(tmp_path):
        crash(tmp_path / "my.db")
        with TaskQueue(nothing, ledger=tmp_path / "my.db") as queue:
            assert queue.join(20)

    def test_gone(tmp_path):
        crash(tmp_path / "my.db")
        for file in tmp_path.glob("my.db*"):
            file.unlink()
"""
THREADS = """
    GO = threading.Event()

    def stuck(path):
        begun = threading.Event()
        queue = TaskQueue(lambda task: begun.set() or GO.wait(20), ledger=path)
        queue.submit(Task("a"))
        assert begun.wait(20)
        assert queue.close(0.0).stuck

    def test_thread(tmp_path):
        stuck(tmp_path / "my.db")

    @pytest.mark.tq_allow("threads", reason="it cannot be ended")
    def test_thread_and_allowed(tmp_path):
        stuck(tmp_path / "my.db")

    def test_others_are_not_blamed(tmp_path):
        TaskQueue(nothing, ledger=tmp_path / "my.db").close()

    def test_released():
        GO.set()
"""
FILES = """
    def reads(path):
        TaskQueue(nothing, ledger=path).close()
        KEPT.append(path.open("rb"))

    def test_file(tmp_path):
        reads(tmp_path / "my.db")

    @pytest.mark.tq_allow("files", reason="the next test closes it")
    def test_file_and_allowed(tmp_path):
        reads(tmp_path / "my.db")

    def test_closed():
        for file in KEPT:
            file.close()
"""


@pytest.fixture
def inner(pytester, monkeypatch):
    """A run of some tests: how each ended, and what was shown."""
    nothing_from_outside(monkeypatch)

    def make(tests, *options):
        pytester.makepyfile(TOP + tests)
        result = run(pytester, "-rA", *options)
        found = {"passed": set(), "error": set(), "failed": set()}
        for line in out(result).splitlines():
            outcome, _, name = line.partition(" ")
            if outcome.lower() in found and "::" in name:
                found[outcome.lower()].add(name.partition("::")[2].split()[0])
        return found, out(result)

    return make


def test_a_queue_that_is_left_open_is_told_and_closed(inner):
    """With its ledger and the remedy."""
    found, shown = inner(OPEN)
    assert found["error"] == {"test_open"}
    assert found["failed"] == {"test_a_failure_is_not_told_twice"}
    assert len(found["passed"]) == 5
    assert "the test left something of its task queues behind:" in shown
    assert (
        "/my.db' is still open: use `with TaskQueue(...)`, close() it, or take it from the fixture make_tq_queue"
        in shown
    )
    assert "if that is as it should be: @pytest.mark.tq_allow('open', reason='...')" in shown


def test_a_queue_of_a_module_is_left_to_it(inner):
    """And so are its threads and files."""
    assert inner(SHARED)[0]["error"] == set()


def test_an_error_that_nobody_reads_is_told(inner):
    """With the task, the ledger and the error; each way to read it counts."""
    found, shown = inner(ERRORS)
    assert found["error"] == {"test_unread", "test_a_task_without_a_future", "test_assert_dead_of_another"}
    assert found["failed"] == {"test_fails_by_itself"}
    assert shown.count('task \'["unseen",""]\' of queue \'/') == 3
    assert (
        "failed, and nobody read its error, 'PermanentError: no': ask its future for result() or exception()" in shown
    )
    assert '["seen"' not in shown


def test_rows_that_a_crash_has_left_running_are_told(inner):
    """Unless the ledger was opened again, or is gone."""
    found, shown = inner(RUNNING)
    assert found["error"] == {"test_running"}
    assert 'my.db\' is closed and has 1 tasks in state running (["a",""]): their process died' in shown


def test_a_thread_that_does_not_end_is_told(inner):
    """With where it is; only to the test that began it."""
    found, shown = inner(THREADS)
    assert found["error"] == {"test_thread"}
    assert "1 threads of queue '/" in shown
    assert "begun.set() or GO.wait(20)" in shown


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux tells which files are open")
def test_a_file_that_is_still_open_is_told(inner):
    """Whoever opened it."""
    found, shown = inner(FILES)
    assert found["error"] == {"test_file"}
    assert "my.db of queue '/" in shown
    assert "my.db' is still open in this process: close what reads it" in shown


def test_the_ini_option_turns_all_of_it_off(inner):
    """For a suite that does such things on purpose."""
    assert inner(OPEN, "-o", "tq_checks=no", "-k", "test_open or test_a_fixture")[0]["error"] == set()


@pytest.mark.parametrize(
    ("marker", "why"),
    [
        (
            '"opne", reason="x"',
            "there is no check 'opne'; the checks are 'open', 'threads', 'files', ",
        ),
        ('reason="x"', "no check is named; the checks are"),
        ('"open"', "tq_allow('open') needs a reason='...', and nothing else"),
        ('"open", reason=" "', "tq_allow('open') needs a reason"),
        ('"open", reason="x", because="y"', "tq_allow('open') needs a reason='...', and nothing else"),
    ],
)
def test_a_marker_without_sense_is_a_usage_error(pytester, monkeypatch, marker, why):
    """With the test's id."""
    nothing_from_outside(monkeypatch)
    pytester.makepyfile(test_a=f"import pytest\n@pytest.mark.tq_allow({marker})\ndef test_marked(): pass")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: test_a.py::test_marked: tq_allow" in result.stderr.str()
    assert why in result.stderr.str()


def test_who_does_not_use_the_queue_does_not_load_it(pytester, monkeypatch):
    """The plugin is loaded in every run of everybody."""
    nothing_from_outside(monkeypatch)
    pytester.makepyfile("""
        import sys

        def test_the_queue_is_not_loaded(tmp_path, monkeypatch):
            assert not [name for name in sys.modules if name.startswith(("taskqueue_core", "sqlite3"))]
            assert not [name for name in sys.modules if name.startswith("pytest_taskqueue.testing")]
    """)
    run(pytester, "-p", "no:cov").assert_outcomes(passed=1)
