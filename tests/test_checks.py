"""What a test leaves behind of its queues is told after it, and each kind of it can be allowed."""

from __future__ import annotations

import re

import pytest
from plugin_runs import out, run

TOP = """
    import os
    import threading
    import pytest
    from taskqueue_core import LedgerView, PermanentError, RetryPolicy, Task, TaskQueue
    from pytest_taskqueue.testing import assert_dead, assert_enqueued, crash_at, drain

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

    def test_it_stays_open():
        KEPT[0].submit(Task("a")).result(20)

    def test_and_others_use_their_own(tmp_path):
        with TaskQueue(nothing, ledger=tmp_path / "my.db") as queue:
            queue.submit(Task("a")).result(20)

    def test_it_may_be_closed_later():
        KEPT[0].close(20)

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
APP = """
    import functools

    GO = threading.Event()

    def late(task):
        assert GO.wait(20)
        raise PermanentError("no")

    @functools.cache
    def app():
        return TaskQueue(late, ledger="app.db")

    def test_1():
        app().submit(Task("of the first test"))

    def test_2():
        GO.set()
        assert app().join(20)

    def test_3():
        app().submit(Task("of the third test"))
        assert app().join(20)

    def test_4(tmp_path):
        path = tmp_path / "own.db"
        TaskQueue(nothing, ledger=path).close()
        KEPT.append(path.open("rb"))
"""
FAULTS = """
    def commits():
        with TaskQueue(nothing, ledger=":memory:") as queue:
            queue.submit(Task("a")).result(20)

    @pytest.mark.tq_faults("ledger.commit:SQLITE_FULL@999", "ledger.commit:latency=0s@1")
    def test_late():
        commits()

    @pytest.mark.tq_faults("process:error")
    def test_nothing_is_submitted():
        pass

    @pytest.mark.tq_faults("process:error@9")
    def test_with_something_left(tmp_path):
        KEPT.append(TaskQueue(nothing, ledger=tmp_path / "my.db"))

    @pytest.mark.tq_faults("ledger.commit:SQLITE_FULL@999:p=0.5", "process:error:p=0")
    def test_a_share():
        commits()

    @pytest.mark.tq_faults("ledger.commit:SQLITE_FULL@999")
    @pytest.mark.tq_allow("faults", reason="on a slow machine there are so many")
    def test_allowed():
        commits()

    @pytest.mark.tq_faults("ledger.commit:SQLITE_FULL@999")
    def test_it_failed_by_itself():
        assert False, "the test's own"

    @pytest.mark.tq_faults("ledger.commit:SQLITE_FULL@999")
    def test_it_was_skipped():
        pytest.skip("not here")
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

    def test_drained(make_tq_queue):
        queue = make_tq_queue(fail, manual=True)
        queue.submit_many([Task("a"), Task("b")])
        assert drain(queue).failed == 2

    def test_drained_and_not_asked_how_many_failed(make_tq_queue):
        queue = make_tq_queue(fail, manual=True)
        queue.submit(Task("unseen"))
        assert drain(queue).attempts == 1
        queue.submit(Task("seen"))
        assert drain(queue).failed == 1

    def test_replay(failed):
        queue, _ = failed(["a"])
        assert queue.replay(Task("a").key).exception(20)

    def test_inspect(failed):
        queue, _ = failed(["a"])
        queue.close(20)
        with LedgerView.inspect(queue.path) as view:
            assert view.dead_letters()

    @pytest.mark.parametrize("ask", ["get", "records", "dead_letters"])
    def test_view(failed, ask):
        view = failed(["a"])[0].view()
        getattr(view, ask)(*[Task("a").key] * (ask == "get"))

    def test_records_of_others(failed):
        failed(["unseen"])[0].records("success")

    def test_another_in_memory(make_tq_queue):
        queues = [make_tq_queue(fail, ledger=":memory:") for _ in range(3)]
        futures = [queue.submit(Task("memory")) for queue in queues]
        assert all(queue.join(20) for queue in queues)
        assert futures[0].exception()
        assert queues[1].dead_letters()

    def test_read_between_commit_and_news(make_tq_queue, monkeypatch):
        from taskqueue_core import Status, watch
        told, tell = threading.Event(), watch.failed
        monkeypatch.setattr(watch, "failed", lambda *news: told.wait(20) and tell(*news))
        queue = make_tq_queue(fail)
        queue.submit(Task("a"))
        while queue.get(Task("a").key).status is not Status.FAILED:
            pass
        told.set()
        assert queue.join(20)

    def test_what_assertions_read_is_not_shown(failed):
        queue, _ = failed(["unseen"])
        assert assert_enqueued(queue, Task("unseen"))
        queue.close(20)
        assert assert_enqueued(queue.path, Task("unseen"))

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
def inner(pytester):
    """A run of some tests: how each ended, and what was shown."""

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


def test_a_queue_that_is_left_open_is_told_once_and_stays_open(inner):
    """With its ledger and the remedy; the tests after it are not disturbed."""
    found, shown = inner(OPEN)
    assert found["error"] == {"test_open"}
    assert found["failed"] == {"test_a_failure_is_not_told_twice"}
    assert len(found["passed"]) == 7
    assert "the test left something of its task queues behind:" in shown
    assert (
        "/my.db' is still open, and stays so: use `with TaskQueue(...)`, close() it, or take it from the fixture "
        "make_tq_queue; what the application keeps open, a fixture of the session closes" in shown
    )
    assert "if that is as it should be: @pytest.mark.tq_allow('open', reason='...')" in shown


def test_a_queue_that_the_application_keeps_serves_the_tests_after_the_first(inner):
    """Each is blamed for what is its own: its tasks, its files."""
    found, shown = inner(APP)
    assert found["error"] == {"test_1", "test_3", "test_4"}
    assert shown.count("is still open, and stays so") == 1
    assert "QueueClosedError" not in shown
    assert "of the first test" not in shown.split("ERRORS", 1)[1].split('["of the third test",""]', 1)[0]
    assert "own.db' is still open in this process" in shown


def test_a_fault_that_never_struck_is_told(inner):
    """With how often its point was reached; not one for a share of the times, nor when the test failed anyway."""
    found, shown = inner(FAULTS)
    assert found["error"] == {"test_late", "test_nothing_is_submitted", "test_with_something_left"}
    assert found["failed"] == {"test_it_failed_by_itself"}
    late = re.search(
        r"fault 'ledger.commit:SQLITE_FULL@999' never struck: its point was reached (\d) times\n(.*)", shown
    )
    assert int(late[1]) > 1
    assert late[2] == "if that is as it should be: @pytest.mark.tq_allow('faults', reason='...')"
    assert "latency=0s@1' never" not in shown
    assert "fault 'process:error' never struck: its point was reached 0 times" in shown
    both = shown.split("fault 'process:error@9' never struck: its point was reached 0 times\n", 1)[1]
    assert both.startswith("the test left something of its task queues behind:\n- queue '/")
    assert "@pytest.mark.tq_allow('open', 'faults', reason='...')" in both
    assert inner(FAULTS, "-o", "tq_checks=no")[0]["error"] == set()


def test_a_queue_of_a_module_is_left_to_it(inner):
    """And so are its threads and files."""
    assert inner(SHARED)[0]["error"] == set()


def test_an_error_that_nobody_reads_is_told(inner):
    """With the task, the ledger and the error; each way to read it counts."""
    found, shown = inner(ERRORS)
    drained = "test_drained_and_not_asked_how_many_failed"
    unread = {"test_unread", "test_a_task_without_a_future", "test_assert_dead_of_another", drained}
    more = {"test_records_of_others", "test_another_in_memory", "test_what_assertions_read_is_not_shown"}
    assert found["error"] == unread | more
    assert shown.count('task \'["memory",""]\' of the queue in memory failed') == 1
    assert found["failed"] == {"test_fails_by_itself"}
    assert shown.count('task \'["unseen",""]\' of queue \'/') == 6
    assert (
        "failed, and nobody read its error, 'PermanentError: no': ask its future for result() or exception()" in shown
    )
    assert '["seen"' not in shown


def test_rows_that_a_crash_has_left_running_are_told(inner):
    """Unless the ledger was opened again, or is gone."""
    found, shown = inner(RUNNING)
    assert found["error"] == {"test_running"}
    assert 'my.db\' is closed and has 1 task in state running (["a",""]): their process died' in shown


def test_a_thread_that_does_not_end_is_told(inner):
    """With where it is; only to the test that began it."""
    found, shown = inner(THREADS)
    assert found["error"] == {"test_thread"}
    assert "1 thread of queue '/" in shown
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
        ('["open"], reason="x"', "there is no check ['open']; the checks are"),
        ('reason="x"', "no check is named; the checks are"),
        ('"open"', "tq_allow('open') needs a reason='...', and nothing else"),
        ('"open", reason=" "', "tq_allow('open') needs a reason"),
        ('"open", reason="x", because="y"', "tq_allow('open') needs a reason='...', and nothing else"),
    ],
)
def test_a_marker_without_sense_is_an_error_of_its_test(pytester, marker, why):
    """With the test's id; the others run."""
    test = f"@pytest.mark.tq_allow({marker})\ndef test_marked(): assert False, 'it ran'\ndef test_other(): pass"
    pytester.makepyfile(test_a=f"import pytest\n{test}")
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=1)
    assert "\ntest_a.py::test_marked: tq_allow" in out(result)
    assert why in out(result)
    assert "Traceback" not in out(result)
    assert "During handling" not in out(result)


def test_who_does_not_use_the_queue_does_not_load_it(pytester):
    """The plugin is loaded in every run of everybody."""
    pytester.makepyfile("""
        import sys

        def test_the_queue_is_not_loaded(tmp_path, monkeypatch):
            assert not [name for name in sys.modules if name.startswith(("taskqueue_core", "sqlite3"))]
            assert not [name for name in sys.modules if name.startswith("pytest_taskqueue.testing")]
    """)
    run(pytester, "-p", "no:cov").assert_outcomes(passed=1)
