"""What a name stands for in a pytest run: hooks, fixtures, classes, paths; and comparisons that a test makes itself."""

from __future__ import annotations

import re
from pathlib import Path

import plugin_runs
import pytest
import toys
from plugin_runs import QUICK, SHORT, UNSHOWN, VERDICT, junit, out, run

TOYS = f"""
import sys
sys.path.insert(0, {str(Path(toys.__file__).parent)!r})
import toys
"""

WORKLOAD = """
import time
from taskqueue_core import Task

class Invoices:
    text = "sums of invoices"
    def __init__(self, seed):
        self.seed = seed
    def task(self, client, k):
        return Task("invoice", params={"lines": [client, k, self.seed]})
    def work(self, task):
        time.sleep(0.001)
        return {"sum": sum(task.params["lines"])}
    def expected(self, task):
        client, k, seed = task.params["lines"]
        return {"sum": client + k + seed}

class Wrong(Invoices):
    def work(self, task):
        return {"sum": 0} if task.params["lines"][1] == 3 else super().work(task)
"""

HOOKS = (
    TOYS
    + WORKLOAD
    + """
def pytest_taskqueue_subjects(config):
    return {"old": toys.Pool, "new": toys.__file__ + ":Pool"}

def pytest_taskqueue_workloads():
    return {"invoices": Invoices}
"""
)

NAMED = ("--tq-baseline=old", "--tq-optimized=new", "--tq-workload=invoices")


# --- hooks


def test_hooks_give_names_to_queues_and_workloads(pytester: pytest.Pytester) -> None:
    """They stand in the header and in the result, and --tq-compare knows them."""
    pytester.makeconftest(HOOKS)
    shown = out(run(pytester, *SHORT, *NAMED, UNSHOWN))
    assert "taskqueue: old against new, workload invoices, 2 clients" in shown
    assert re.search(r"^verdict: INCONCLUSIVE c2 ", shown, re.MULTILINE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{'optimized': toys.Pool}", "subject 'optimized': there is a built-in one of that name, choose another"),
        ("{'old': 7}", "subject 'old' is 7, no class or function"),
        ("{'old': 'nope.py:Old'}", "there is no file 'nope.py' to take a subject from"),
        ("{1: toys.Pool}", "the hook pytest_taskqueue_subjects returned {1: <class 'toys.Pool'>}, expected a dict of"),
        ("'new.py:New'", "the hook pytest_taskqueue_subjects returned 'new.py:New', expected a dict of"),
        ("{}['old']", "the hook pytest_taskqueue_subjects failed: KeyError: 'old'"),
    ],
)
def test_a_hook_that_gives_no_names_says_so(pytester: pytest.Pytester, given: str, message: str) -> None:
    pytester.makeconftest(f"{TOYS}def pytest_taskqueue_subjects():\n    return {given}\n")
    result = run(pytester, *SHORT)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.stderr.str().splitlines()[0].startswith(f"ERROR: {message}")


def test_one_name_from_two_hooks_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(HOOKS)
    pytester.makepyfile(other=f"{TOYS}def pytest_taskqueue_subjects():\n    return {{'old': toys.Slow}}\n")
    result = run(pytester, *SHORT, *NAMED, "-p", "other")
    message = "ERROR: the hook pytest_taskqueue_subjects gives the name 'old' twice"
    assert (int(result.ret), result.stderr.str().splitlines()[0]) == (4, message)


# --- a user's own workload


def test_a_workload_of_ones_own_is_checked_like_any(pytester: pytest.Pytester) -> None:
    """Its class is found by a path, and a value that is not the expected one is wrong work."""
    pytester.makepyfile(mine=WORKLOAD)
    toy = f"{toys.__file__}:Pool"
    pool = f"--tq-baseline={toy}", f"--tq-optimized={toy}"
    good, wrong = (
        out(run(pytester, *SHORT, *pool, UNSHOWN, f"--tq-workload=mine.py:{name}")) for name in ("Invoices", "Wrong")
    )
    assert "verdict: INCONCLUSIVE" in good
    assert re.search(
        r"verdict: INVALID c2 baseline: 2 tasks with a wrong result: 0-3: its result is \{'sum': 0\}", wrong
    )


MISFITS = """
from taskqueue_core import Task

class Whole:
    def __init__(self, seed): pass
    def task(self, client, k): return Task("t")
    def work(self, task): return 0
    def expected(self, task): return 0

class NoExpected:
    def __init__(self, seed): pass
    task = work = lambda self, *a: None

class NoTask(Whole):
    def task(self, client, k): return {"image_key": "t"}

class NoSeed(Whole):
    def __init__(self): pass

class Fails(Whole):
    def task(self, client, k): raise KeyError("t")
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoExpected", "has no method expected: write def expected(self, task: 'Task') -> 'Any'"),
        ("NoTask", "task(0, 0) returned {'image_key': 't'}, expected a taskqueue_core.Task"),
        ("NoSeed", "cannot be made with the seed 7: TypeError: "),
        ("Fails", "fails at its first task: KeyError: 't'"),
    ],
)
def test_a_workload_that_is_none_is_told_what_is_missing(pytester: pytest.Pytester, name: str, message: str) -> None:
    pytester.makepyfile(mine=MISFITS)
    result = run(pytester, *SHORT, f"--tq-workload=mine.py:{name}")
    assert result.ret == 4
    shown = result.stderr.str().splitlines()[0]
    assert shown.startswith("ERROR: --tq-workload: workload 'mine.py:")
    assert message in shown


# --- a comparison that a test makes itself

COMPARES = (
    TOYS
    + """
import pytest

LOAD = dict(clients=2, slot=0.3, workload="io")
MET = ["throughput>=0.0001x", "p95<=10000x"]

@pytest.fixture
def my_queue():
    return toys.Pool

def test_passes(tq_compare):
    result = tq_compare(baseline=toys.Pool, optimized="my_queue", gates=MET, **LOAD)
    assert result.passed, result
    assert result.settings["baseline"] == "Pool"
    assert result.settings["optimized"] == "my_queue"

def test_misses(tq_compare):
    result = tq_compare(baseline=toys.Pool, optimized=toys.Pool, gates=["throughput>=5000x"], **LOAD)
    print("still runs")
    assert result.passed, result

def test_alike(tq_compare):
    def queue():
        class Queue(toys.Pool): pass
        return Queue
    result = tq_compare(baseline=queue(), optimized=queue(), budget=0.001, **LOAD)
    assert result.settings["baseline"] == "Queue"
    assert result.settings["optimized"] == __name__ + ".Queue"

def test_is_content(tq_compare):
    assert not tq_compare(baseline="my_queue", optimized=toys.NoOpen, **LOAD).passed

def test_unknown(tq_compare):
    tq_compare(optimized="nobody", **LOAD)

def test_misspelt(tq_compare):
    tq_compare(optimised=toys.Pool)

@pytest.mark.tq_compare(baseline=toys.Pool, optimized="my_queue", gates=MET, **LOAD)
def test_marked(tq_comparison):
    assert tq_comparison.passed
"""
)


def test_a_test_compares_and_decides_itself(pytester: pytest.Pytester) -> None:
    """A class, or the name of a fixture that gives one; whatever fails then shows the evidence."""
    pytester.makepyfile(COMPARES)
    result = run(pytester, "--junitxml=out.xml", "-p", "no:cacheprovider")
    shown = out(result)
    result.assert_outcomes(passed=4, failed=3)
    cases = junit(pytester.path / "out.xml")
    (missed,) = cases["test_misses"]
    assert re.search(r"AssertionError: <verdict: FAIL c2 throughput x[\d.]+ \[.*\] >= 5000\.00", missed.text or "")
    evidence = shown.partition("taskqueue: what was compared")[2]
    assert "FAIL: the optimized queue misses a gate" in evidence
    assert re.search(r"^baseline +[\d,]+ /s.*\noptimized +[\d,]+ /s", evidence, re.MULTILINE)
    assert evidence.count("FAIL: the optimized queue") == 1
    assert "optimized of tq_compare: unknown subject 'nobody': use baseline, optimized, executor" in shown
    assert "tq_compare takes options by name, not 'optimised'" in shown
    assert len(re.findall(r"^test_\w+\.py::test_\w+: verdict: ", shown, re.MULTILINE)) == 5
    assert len(VERDICT.findall(evidence)) >= 1


def test_no_time_limit_of_the_ini_file_ends_a_comparison(pytester: pytest.Pytester) -> None:
    """Each has a budget; a limit that was asked for on the command line stays."""
    pytester.makepyfile(COMPARES)
    pytester.makeini("[pytest]\ntimeout = 1\n")
    run(pytester, "-k", "test_passes").assert_outcomes(passed=1)
    limited = out(run(pytester, "-k", "test_passes", "--timeout=0.2"))
    assert "Timeout" in limited
    assert "1 passed" not in limited


def test_where_nothing_can_be_judged_the_test_is_skipped(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(COMPARES)
    result = pytester.runpytest_subprocess(*QUICK, "-k", "test_passes", "-n", "1", "-rs", timeout=plugin_runs.TIMEOUT)
    result.assert_outcomes(skipped=1)
    assert "a comparison measures with real threads" in re.sub(r"\s+", " ", out(result))
