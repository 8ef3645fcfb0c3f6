"""Fault plans: what a text means, when it strikes, and what the marker does with it."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest
from helpers import FAST, LONG, Work, failure, tasks
from plugin_runs import run

from taskqueue_core import FaultPlan, LedgerError, Task, TransientError, points

CAT = Task("cat.jpg")


@pytest.fixture
def install():
    """Install plans until the end of the test."""
    plans, installed = [], []

    def make(*texts, seed=0):
        plans.append(FaultPlan(*texts, seed=seed))
        installed.append(points.probing(plans[-1]))
        installed[-1].__enter__()
        return plans[-1]

    yield make
    for plan, probing in zip(reversed(plans), reversed(installed), strict=True):
        plan.release()
        probing.__exit__(None, None, None)


def strikes(plan, point, times):
    """At which of so many times the plan raises."""
    struck = []
    for time in range(1, times + 1):
        try:
            plan(point)
        except Exception:  # noqa: BLE001 - whatever the text says
            struck.append(time)
    return struck


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("process:error", [1, 2, 3, 4, 5]),
        ("process:error@3", [3]),
        ("process:error@3+", [3, 4, 5]),
        ("process:error:p=0", []),
        ("process:error@2:p=1", [2]),
        ("ledger.commit:SQLITE_BUSY", []),
    ],
)
def test_a_fault_strikes_at_its_point_at_its_time(text, expected):
    """@N is that time alone, @N+ from then on."""
    assert strikes(FaultPlan(text), "process", 5) == expected


def test_a_share_is_drawn_by_the_seed():
    """The same seed, the same times; faults do not disturb each other's luck."""
    alone = strikes(FaultPlan("process:error:p=0.3", seed=7), "process", 1000)
    assert 230 < len(alone) < 370
    assert strikes(FaultPlan("process:error:p=0.3", "process:latency=0s:p=0.5", seed=7), "process", 1000) == alone
    assert strikes(FaultPlan("process:error:p=0.3", seed=8), "process", 1000) != alone


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("process:error", TransientError),
        ("process:error=ConnectionError", ConnectionError),
        ("process:error=PermanentError", "PermanentError"),
        ("process:SQLITE_FULL", sqlite3.OperationalError),
        ("ledger.begin:SQLITE_CORRUPT", sqlite3.DatabaseError),
        ("settle.after_rename:SQLITE_IOERR_FSYNC", sqlite3.OperationalError),
    ],
)
def test_the_error_is_as_the_real_one_would_be(text, error):
    """Its class, and SQLite's name and code for it."""
    point, _, effect = text.partition(":")
    with pytest.raises(Exception, match="injected fault") as caught:
        FaultPlan(text)(point)
    assert error in (type(caught.value), type(caught.value).__name__)
    if effect.startswith("SQLITE"):
        assert caught.value.sqlite_errorname == effect
        assert caught.value.sqlite_errorcode == getattr(sqlite3, effect)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ledger.comit:SQLITE_FULL", r"there is no point 'ledger\.comit'; the points are submit\.before_begin, "),
        (
            "ledger.commit:SQLITE_FUL",
            r"there is no effect 'SQLITE_FUL'; they are latency=5ms~20ms, error=\.\.\., SQLITE",
        ),
        ("ledger.commit:error", "error is for the point 'process'; the ledger's errors are SQLITE_BUSY, "),
        ("process:error=Nonsense", "there is no error class 'Nonsense'"),
        ("process:error=KeyboardInterrupt", "there is no error class 'KeyboardInterrupt'"),
        ("process:error=print", "there is no error class 'print'"),
        ("process:latency=20ms~5ms", "a latency is written 5ms, 0.5s or 5ms~20ms, the shorter one first"),
        ("process:latency=5", "there is no effect 'latency=5'"),
        ("process:latency=5.5.5ms", "a latency is written"),
        ("process:error:p=2", "p=2 is no share from 0 to 1"),
        ("process:error:p=x", "p=x is no share from 0 to 1"),
        ("process:error@0", "the N of @N counts from 1"),
        ("process", r"expected POINT:EFFECT\[@N\]\[:p=P\], for example"),
        ("process:error:q=1", "expected POINT:EFFECT"),
        (7, "expected POINT:EFFECT"),
    ],
)
def test_a_text_that_means_nothing_says_why(text, why):
    """And what is allowed."""
    with pytest.raises(ValueError, match=f"fault {text!r}: .*{why}"):
        FaultPlan(text)


def test_the_ledgers_own_classification_does_the_rest(open_queue, install):
    """The third commit fails: its submit says so, and nothing is lost or done twice."""
    work = Work()
    queue = open_queue(work, paused=True)
    plan = install("ledger.commit:SQLITE_FULL@3")
    queue.submit_many(tasks(1, "a"))
    queue.submit_many(tasks(1, "b"))
    with pytest.raises(LedgerError, match=r"injected fault .* \(SQLITE_FULL\)") as caught:
        queue.submit(CAT)
    assert caught.value.code == "SQLITE_FULL"
    assert plan.struck == {"ledger.commit:SQLITE_FULL@3": 1}
    assert plan.reached == {"ledger.commit": 3}
    assert len(queue.records()) == 2
    assert queue.submit(CAT)
    queue.resume()
    assert queue.join(LONG)
    assert Counter(work.calls) == {"a0": 1, "b0": 1, "cat.jpg": 1}


def test_a_result_that_cannot_be_recorded_is_kept(open_queue, install):
    """Until the ledger takes it: the attempt is not repeated."""
    install("settle.before_commit:SQLITE_IOERR@1")
    work = Work()
    with open_queue(work) as queue:
        assert queue.submit(CAT).result(LONG) == {}
        assert queue.get(CAT.key).retries == 0
    assert work.calls == ["cat.jpg"]


def test_errors_of_attempts_are_retried(open_queue, install):
    """As many as the plan says."""
    install("process:error=ConnectionError@1", "process:error=PermanentError@3")
    work = Work()
    queue = open_queue(work, retry=FAST)
    assert queue.submit(CAT).result(LONG) == {}
    assert queue.get(CAT.key).retries == 1
    assert "injected fault 'process:error=PermanentError@3' (time 3 at this point)" in str(failure(queue, Task("dog")))
    assert work.calls == ["cat.jpg"]


def test_a_wait_ends_when_it_is_released(open_queue, install):
    """However long it was to be."""
    plan = install("process:latency=1000s")
    queue = open_queue(max_workers=1)
    future = queue.submit(CAT)
    assert not queue.wait_idle(0.0)
    plan.release()
    assert future.result(LONG) == {}


MARKED = """
    import pytest
    from taskqueue_core import LedgerError, RetryPolicy, Task, TaskQueue, points

    pytestmark = pytest.mark.tq_faults("process:error=ConnectionError@1")
    FAST = RetryPolicy(base=0.001, cap=0.002)

    @pytest.mark.tq_faults("submit.before_commit:SQLITE_FULL@2", seed=3)
    def test_every_queue_of_the_test(tmp_path):
        with TaskQueue(lambda task: None, ledger=tmp_path / "my.db", retry=FAST) as queue:
            queue.submit(Task("a")).result(20)
            assert queue.get(Task("a").key).retries == 1
            with pytest.raises(LedgerError) as caught:
                queue.submit(Task("b"))
            assert caught.value.code == "SQLITE_FULL"

    @pytest.mark.tq_faults("process:latency=1000s")
    @pytest.mark.tq_allow("faults", reason="the test may end before its task begins")
    def test_a_wait_does_not_outlive_the_test(tq_queue):
        tq_queue.submit(Task("a"))

    @pytest.mark.tq_faults("process:error:p=0.5")
    @pytest.mark.tq_allow("faults", reason="there is no task")
    def test_the_seed_is_that_of_the_run(tq_faults, tq_config):
        assert tq_config.seed == 11
        assert tq_faults(error_rate=0.5).error_rate == 0.5  # the fixture of that name is there as ever

    class TestUnmarked:
        pytestmark = []

        def test_counts_begin_anew(self, make_tq_queue):
            queue = make_tq_queue(retry=FAST)
            assert queue.submit(Task("a")).result(20) == {}
            assert queue.get(Task("a").key).retries == 1
"""
AFTER = """
    from taskqueue_core import points

    def test_nothing_is_installed():
        assert points.probe is None
"""


def test_the_marker_is_for_one_test(pytester: pytest.Pytester) -> None:
    """All of its markers count, on whatever queue; nothing is left of them."""
    pytester.makepyfile(test_a=MARKED, test_b=AFTER)
    run(pytester, "--tq-seed=11").assert_outcomes(passed=5)


FIRST = """
    import threading
    from taskqueue_core import points

    BEGUN = threading.Event()
    PROBING = points.probing(lambda point: point == "process" and BEGUN.set())
    PROBING.__enter__()  # before the plan of any test
"""
INTERRUPTED = """
    import signal
    import pytest
    from conftest import BEGUN
    from taskqueue_core import Task

    @pytest.mark.tq_faults("process:latency=1000s")
    def test_interrupted(tq_queue):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever shell the tests run in
        tq_queue.submit(Task("a"))
        assert BEGUN.wait(20)
        {}
"""


@pytest.mark.parametrize("end", ["signal.raise_signal(signal.SIGINT)", "pytest.exit('enough')"])
def test_a_wait_does_not_outlive_an_interruption(pytester: pytest.Pytester, end: str) -> None:
    """Such a test has no teardown: a real process ends, and its queue is closed as ever."""
    pytester.makeconftest(FIRST)
    pytester.makepyfile(INTERRUPTED.format(end))
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", timeout=LONG)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    shown = result.stdout.str() + result.stderr.str()
    assert "no tests ran" in shown
    assert "still running" not in shown


def test_a_text_that_means_nothing_is_an_error_of_its_test(pytester: pytest.Pytester) -> None:
    """With the test's id, before its fixtures are set up; the others run."""
    for marker, why in [
        (
            '"ledger.comit:SQLITE_FULL"',
            "fault 'ledger.comit:SQLITE_FULL': there is no point 'ledger.comit'; the points",
        ),
        ("", "tq_faults takes one text or more, such as 'ledger.commit:SQLITE_FULL@3', and a seed=7"),
        ('"process:error", seed="x"', "tq_faults takes one text or more"),
    ]:
        file = (
            f"import pytest\n@pytest.mark.tq_faults({marker})\ndef test_marked(fixture): pass\ndef test_other(): pass"
        )
        fixture = "@pytest.fixture\ndef fixture(): raise KeyError('it was set up')"
        pytester.makepyfile(test_wrong=f"{file}\n{fixture}")
        result = run(pytester)
        result.assert_outcomes(passed=1, errors=1)
        assert f"\ntest_wrong.py::test_marked: {why}" in result.stdout.str()
        result.stdout.no_fnmatch_line("*it was set up*")
