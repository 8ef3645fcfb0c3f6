"""What a comparison is to pytest and to the plugins beside it: outcomes, exit status, files, limits, signals."""

from __future__ import annotations

import json
import os
import re
import sys
from xml.etree import ElementTree as ET

import hanging
import plugin_runs
import pytest
from plugin_runs import (
    MET,
    OUTCOME,
    QUICK,
    SAME,
    SHORT,
    TIMEOUT,
    UNSHOWN,
    VERDICT,
    arms,
    each,
    junit,
    out,
    run,
)

GATE = "pytest_taskqueue/suite/test_compare.py::test_gate"
LATE = ("--tq-gate=throughput>=0.0001x", "--tq-gate=p95<=0.0001x")
"""Throughput is met, P95 is missed."""

LEFT = """
    import threading

    def pytest_unconfigure():
        print("left:", sorted(t.name for t in threading.enumerate() if t is not threading.main_thread()), flush=True)
"""

SIGNALS = """
    import os, signal
    from toys import Pool

    class Interrupted(Pool):
        def submit(self, task):
            if task.key.endswith("-1-5"):
                os.kill(os.getpid(), signal.{0})
            return super().submit(task)
"""
"""A queue that has the run ended in the middle of measuring, which would take a minute."""

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


# --- exit status


def test_exit_status_0_says_that_every_gate_passed(pytester: pytest.Pytester) -> None:
    """Whatever was deselected or skipped; where no red test tells the reason, a line does."""
    late, unshown = (*SHORT, *SAME, *LATE), (*SHORT, *SAME, UNSHOWN, "--tq-inconclusive=skip")
    runs = {
        (*late, "-k", "throughput"): (1, "exit status 1: c2 is FAIL", "1 passed, 5 deselected"),
        (*unshown, "-rs"): (1, "exit status 1: c2 is INCONCLUSIVE", "4 passed, 2 skipped"),
        (*unshown, "-k", "publish", "-q"): (1, "exit status 1: c2 is INCONCLUSIVE", "4 passed, 2 deselected"),
        (*unshown, "-k", "gate", "-p", "no:terminal"): (1, "", ""),
        (*unshown, "--setup-only"): (1, "exit status 1: c2 is INCONCLUSIVE", ""),
        (*SHORT, "-k", "nothing"): (5, "", "6 deselected"),
    }
    for (status, shown), (expected, reason, counts) in zip(each(pytester, *runs), runs.values(), strict=True):
        assert status == expected
        assert reason in shown
        assert counts in shown
        assert "Traceback" not in shown


def test_of_two_client_counts_one_may_be_red(pytester: pytest.Pytester) -> None:
    """Each has a verdict of its own. JUnit has the time of measuring in the item that asked first."""
    options = (*SHORT, *MET, *arms("Pool", "Doubles"), "--tq-clients=2,6", "--junitxml=j.xml")
    ((status, shown),) = each(pytester, options)
    assert status == pytest.ExitCode.TESTS_FAILED
    assert [line.split()[1:3] for line in VERDICT.findall(shown)] == [["PASS", "c2"], ["INVALID", "c6"]]
    assert "exit status 1" not in shown, "the red tests have told it"
    suite = next(ET.parse(pytester.path / "j.xml").iter("testsuite")).attrib
    assert [suite[name] for name in ("tests", "failures", "errors", "skipped")] == ["12", "0", "6", "0"]
    cases = junit(pytester.path / "j.xml")
    assert {case.attrib["classname"] for case in cases.values()} == {"pytest_taskqueue.suite.test_compare"}
    longest = sorted(cases, key=lambda name: float(cases[name].attrib["time"]))[-2:]
    assert set(longest) == {"test_publish[c2-baseline-task_time]", "test_publish[c6-baseline-task_time]"}


def test_last_failed_measures_the_red_gate_again(pytester: pytest.Pytester) -> None:
    """Though its file is no file of the project."""
    options, first_run = (*SHORT, *SAME, UNSHOWN), ("--deselect", f"{GATE}[c2-throughput]")
    (_, first), (status, again) = each(pytester, (*options, *first_run), (*options, "--lf", "-v"))
    assert "1 failed, 4 passed, 1 deselected" in first
    assert status == pytest.ExitCode.TESTS_FAILED
    assert OUTCOME.findall(again)[:1] == [("test_gate[c2-p95]", "FAILED")]
    assert "1 failed, 5 deselected" in again
    assert len(VERDICT.findall(again)) == 1


def test_how_much_is_shown_changes_no_outcome(pytester: pytest.Pytester) -> None:
    """The verdict stands in each, the evidence of a red gate unless tracebacks are off; JUnit has it always."""
    wrong, unshown = (*SHORT, *arms("Pool", "Doubles"), "--tq-clients=6"), (*SHORT, *SAME, UNSHOWN)
    runs = [
        *((*wrong, *options) for options in (("-qq",), ("-vv", "--tb=short"), ("--tb=line", "-s"))),
        *((*unshown, *options) for options in (("--tb=no",), ("--ff", "--durations=3", "-W", "error"))),
        (*unshown, "-p", "no:cacheprovider", "-p", "no:xdist", "--tq-inconclusive=skip", "-rs"),
    ]
    shown = each(pytester, *((*options, f"--junitxml={number}.xml") for number, options in enumerate(runs)))
    for number, (options, (status, text)) in enumerate(zip(runs, shown, strict=True)):
        verdict = "INVALID" if options[: len(wrong)] == wrong else "INCONCLUSIVE"
        assert status == pytest.ExitCode.TESTS_FAILED, options
        (line,) = VERDICT.findall(text)
        assert line.startswith(f"verdict: {verdict} c"), options
        assert ("no speed verdict is given" in text) is (verdict == "INVALID"), options
        assert ("the first look comes after 5 pairs" in text) is (
            verdict == "INCONCLUSIVE" and "--tb=no" not in options
        ), options
        assert not re.search(r"Traceback|^E   ", text, re.MULTILINE), options

        kind = {"INVALID": "error"}.get(verdict, "skipped" if "-rs" in options else "failure")
        cases = junit(pytester.path / f"{number}.xml")
        told = {name: found for name, case in cases.items() for found in case}
        assert {name for name in cases if name in told or verdict == "INVALID"} == set(told)
        assert len(cases) == 6
        for name, one in told.items():
            assert one.tag == kind
            assert name.startswith("test_publish") or f"{verdict}: " in (one.text or "")


def test_asking_what_there_is_measures_nothing(pytester: pytest.Pytester) -> None:
    """Neither subject is used for --collect-only and --setup-plan."""
    options = (*SHORT, *arms("NoOpen", "NoOpen"))
    (listed, collected), (planned, plan) = each(
        pytester, (*options, "--collect-only", "-q"), (*options, "--setup-plan")
    )
    assert f"{GATE}[c2-throughput]" in collected
    assert not VERDICT.search(collected + plan)
    assert (listed, planned) == (0, 0)
    assert not list(pytester.path.glob("bench_results/*"))


def test_the_folder_of_the_run_is_not_that_of_the_files(pytester: pytest.Pytester) -> None:
    """With --rootdir the reports are written and shown there."""
    root = pytester.mkdir("root")
    elsewhere = pytester.mkdir("elsewhere")
    os.chdir(elsewhere)
    result = run(pytester, f"--rootdir={root}", *SHORT, *SAME, UNSHOWN)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert len(list(root.glob("bench_results/*-c2.json"))) == 1
    assert not list(elsewhere.glob("bench_results"))
    assert f"report: {root / 'bench_results'}" in out(result)


def test_a_debugger_opens_when_all_is_measured(pytester: pytest.Pytester) -> None:
    """At the red gate; its end ends the run, and the verdict is shown all the same."""
    command = (sys.executable, "-m", "pytest", *plugin_runs.QUICK, *SHORT, *SAME, UNSHOWN, "--pdb")
    result = pytester.run(*command, stdin=b"", timeout=TIMEOUT)
    assert result.ret == pytest.ExitCode.INTERRUPTED
    shown = out(result)
    assert shown.index("INCONCLUSIVE: not shown") < shown.index("(Pdb)") < shown.index("verdict: INCONCLUSIVE c2")
    result.assert_outcomes(passed=4, failed=1)


# --- pytest-benchmark


def test_saved_runs_are_compared_by_task_time_and_p95(pytester: pytest.Pytester) -> None:
    """An equal run passes, a slower one fails."""
    options = (*SHORT, *MET, "--benchmark-columns=min,ops", "--benchmark-group-by=param:metric")
    toy = pytester.makepyfile(queues="from toys import Slow\nclass Slower(Slow): pause = 0.05")
    fail = ("--benchmark-compare", "--benchmark-compare-fail=median:150%")
    _, (status, equal), (_, slower) = each(
        pytester,
        (*options, *SAME, UNSHOWN, "--benchmark-save=one", "--benchmark-json=one.json"),
        (*options, *SAME, *fail),
        (*options, *SAME, f"--tq-optimized={toy}:Slower", "--tq-slot=0.4", UNSHOWN, *fail),
    )
    assert status == pytest.ExitCode.OK
    assert equal.count("(0001_one)") == equal.count("(NOW)") == 4
    assert "benchmark 'metric=p95'" in equal
    assert "benchmark 'metric=task_time'" in equal
    for metric in ("task_time", "p95"):
        assert re.search(rf"test_publish\[c2-optimized-{metric}\] \(0001_one\) - Field 'median' has failed", slower)
        assert not re.search(rf"test_publish\[c2-baseline-{metric}\] \(0001_one\) - Field", slower)


# --- limits and signals


@pytest.mark.parametrize("asked", ["option", "environment"])
def test_a_limit_that_was_asked_for_ends_the_comparison(
    asked: str, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No verdict, for all that want one; nothing is measured again, no thread goes on."""
    if asked == "environment":
        monkeypatch.setenv("PYTEST_TIMEOUT", "0.5")
    pytester.makeconftest(LEFT)
    given = ("--timeout=0.5",) if asked == "option" else ()
    result = run(pytester, *SHORT, *SAME, "--tq-slot=60", "--tb=line", *given)
    result.assert_outcomes(errors=6)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    shown = out(result)
    assert shown.count("no verdict: the comparison was ended before it was over: Failed: Timeout") >= 5
    assert not VERDICT.search(shown)
    assert "left: []" in shown
    assert not list(pytester.path.glob("bench_results/*"))


@posix
def test_a_limit_that_ends_the_process_leaves_no_verdict(pytester: pytest.Pytester) -> None:
    """The method `thread` of pytest-timeout."""
    result = run(pytester, *SHORT, *SAME, "--tq-slot=60", "--timeout=0.5", "--timeout-method=thread")
    assert result.ret not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}
    assert "Timeout" in result.stderr.str() + out(result)
    assert not VERDICT.search(out(result))


@posix
def test_ctrl_c_in_the_middle_of_measuring_ends_it_at_once(pytester: pytest.Pytester) -> None:
    """Without a traceback, and no thread goes on."""
    toy = pytester.makepyfile(queues=SIGNALS.format("SIGINT"))
    pytester.makeconftest(LEFT)
    result = run(pytester, *SHORT, *arms("Interrupted", "Interrupted", str(toy)), "--tq-slot=60")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    shown = out(result) + result.stderr.str()
    assert "!!! KeyboardInterrupt !!!" in shown
    assert "Traceback" not in shown
    assert "left: []" in shown
    assert "no tests ran" in shown


HOST = """
import json, sys, time
import pytest
from pytest_taskqueue import hangs

hangs.GRACE = 0.01
status = int(pytest.main(json.loads(sys.argv[1])))
time.sleep(0.5)  # much longer than the process would be left alone
print("goes on after", status)
sys.stdout.flush()
__import__("os")._exit(7)
"""


def test_a_program_that_calls_pytest_goes_on_after_a_queue_that_hangs(pytester: pytest.Pytester) -> None:
    """Only pytest's own process is left without waiting for the threads that the queue has left behind."""
    options = [*QUICK, *SHORT, "--tq-budget=0.5", *arms("Pool", "Close", hanging.__file__)]
    result = pytester.run(sys.executable, pytester.makepyfile(host=HOST), json.dumps(options), timeout=TIMEOUT)
    assert "could not be closed: no answer within" in out(result)
    assert out(result).splitlines()[-1] == "goes on after 1"
    assert result.ret == 7
