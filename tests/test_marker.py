"""Tests that are marked `tq_compare`, among others in an ordinary run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import toys
from plugin_runs import SAME, SHORT, UNSHOWN, VERDICT, each, installed, junit, out, run, together

TOYS = f"""
import pytest

TOYS = {str(Path(toys.__file__))!r}
LOAD = dict(clients=2, slot=0.3, workload="io", baseline=TOYS + ":Pool")
SAME = dict(LOAD, optimized=TOYS + ":Pool")
MET = ["throughput>=0.0001x", "p95<=10000x"]
UNSHOWN = dict(SAME, budget=0.001)
BROKEN = dict(LOAD, optimized=TOYS + ":NoOpen")
"""

OUTCOMES = """
def test_other(): print("ran other")

@pytest.mark.tq_compare(**SAME, gate=MET)
def test_pass(tq_comparison):
    print("ran pass", tq_comparison.verdict.name, tq_comparison.clients, sorted(tq_comparison.arms))

@pytest.mark.tq_compare(**SAME, gate=["throughput>=5000x"])
def test_fail(): print("ran fail")

@pytest.mark.tq_compare(**dict(LOAD, clients=6), optimized=TOYS + ":Doubles")
def test_invalid(): print("ran invalid")

@pytest.mark.tq_compare(**UNSHOWN)
def test_unshown(): print("ran unshown")

@pytest.mark.tq_compare(**UNSHOWN, inconclusive="skip")
def test_skipped(): print("ran skipped")

@pytest.mark.xfail(strict=True)
@pytest.mark.tq_compare(**UNSHOWN)
def test_expected(): print("ran expected")
"""

LEVELS = """
import unittest

pytestmark = pytest.mark.tq_compare(**BROKEN)

def test_module(): print("ran module")

class TestClass:
    @pytest.mark.parametrize("number", [1, 2])
    def test_method(self, number): print("ran method")

    @pytest.mark.tq_compare(**dict(BROKEN, clients=3))
    def test_closest(self): print("ran closest")

class TestUnit(unittest.TestCase):
    def test_unit(self): print("ran unit")
"""

UNFIT = {
    "-n2": "cannot share the machine with xdist workers",
    "--cov=.": "cannot judge under coverage, a debugger or another tracer",
    "--benchmark-disable": "leave --benchmark-disable out",
    "--benchmark-skip": "leave --benchmark-skip out",
}
NEEDED = {"-n2": "xdist", "--cov=.": "pytest_cov"}

BAD = {
    "speed=3": "tq_compare takes options by name, not 'speed': there are clients, workers,",
    "30": "tq_compare takes options by name, not 30: there are clients, workers,",
    "clients=0": "clients of tq_compare '0': expected a number of clients of at least 1",
    "clients=[2, 3]": "clients of tq_compare: a marked test has one number of clients",
    "gate='faster'": "gate of tq_compare 'faster': gate 'faster' is not understood",
    "inconclusive='pass'": "inconclusive of tq_compare 'pass': expected fail or skip",
}


def write(pytester: pytest.Pytester, tests: str, ini: str = "") -> None:
    """A test module, in a project that is strict and has a limit that no comparison keeps."""
    pytester.path.joinpath("test_it.py").write_text(TOYS + tests, encoding="utf-8")
    pytester.makeini(f"[pytest]\naddopts = --strict-markers --strict-config\nfilterwarnings = error\n{ini}")


def test_the_verdict_comes_before_the_test(pytester: pytest.Pytester) -> None:
    """PASS runs it; FAIL fails, INVALID is an error, INCONCLUSIVE fails or skips, and none of them runs it."""
    write(pytester, OUTCOMES, "timeout = 0.3")
    result = run(pytester, "-v", "--junitxml=j.xml", "-o", "junit_logging=all", "-rA")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=2, failed=2, errors=1, skipped=1, xfailed=1)
    shown = out(result)
    ran = set(re.findall(r"^ran .*$", shown, re.MULTILINE))
    assert ran == {"ran other", "ran pass PASS 2 ['baseline', 'optimized']"}
    cases = junit(pytester.path / "j.xml")
    texts = {
        "test_fail": ("failure", "FAIL: the optimized queue misses a gate\n  throughput x"),
        "test_invalid": ("error", "INVALID: optimized: 1 task worked on more than once"),
        "test_unshown": ("failure", "INCONCLUSIVE: not shown\n  the budget of 0.001 s ended after 1 pair"),
        "test_skipped": ("skipped", "INCONCLUSIVE: not shown\n  the budget of 0.001 s ended after 1 pair"),
    }
    for name, (kind, text) in texts.items():
        (told,) = (one for one in cases[name] if one.tag == kind)
        assert text in told.text
    assert not re.search(r"Traceback|^E   ", shown, re.MULTILINE)
    places = [shown.index(f"test_it.py::{name} ") for name in ("test_other", "test_pass", "test_fail")]
    measured = [place.start() for place in re.finditer("  warm-up baseline ", shown)]
    assert places[1] < measured[0] < places[2] < measured[1], "each has a comparison of its own"
    assert len(measured) == 6
    assert not VERDICT.search(shown)


def test_the_closest_mark_counts(pytester: pytest.Pytester) -> None:
    """Of function, class or module; each parameter is compared for itself. Other plugins are not needed."""
    write(pytester, LEVELS)
    result = run(pytester, "-v", "-p", "no:timeout", "-p", "no:benchmark", "-p", "no:xdist")
    result.assert_outcomes(errors=5)
    shown = out(result)
    assert len(re.findall("^  warm-up baseline ", shown, re.MULTILINE)) == 5
    assert len(re.findall("^INVALID: .*no such driver", shown, re.MULTILINE)) == 5
    assert "ran" not in re.findall(r"^\w+", shown, re.MULTILINE)
    names = [path.name for path in pytester.path.glob("bench_results/*-c*.json")]
    assert len(names) == 5, "those of the same second have names of their own"
    assert {re.search(r"-c(\d+)", name)[1] for name in names} == {"2", "3"}


def test_where_nothing_can_be_judged_it_is_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    """The other tests run."""
    write(pytester, "def test_other(): pass\n@pytest.mark.tq_compare(**SAME)\ndef test_marked(): assert 0")
    tried = [option for option in UNFIT if option not in NEEDED or installed(NEEDED[option])]
    for option, (status, shown) in zip(tried, each(pytester, *((one, "-rs") for one in tried)), strict=True):
        assert status == pytest.ExitCode.OK
        assert re.search(rf"^SKIPPED \[1\] test_it.py:\d+: a comparison .*{UNFIT[option]}", shown, re.MULTILINE), shown
        assert "1 passed, 1 skipped" in shown
    assert not (pytester.path / "bench_results").exists()


def test_a_bad_mark_is_told_before_anything_is_run(pytester: pytest.Pytester) -> None:
    """Which option, what it was, and what is allowed."""
    for number, options in enumerate(BAD):
        text = f"import pytest\n@pytest.mark.tq_compare({options})\ndef test_marked(): assert 0"
        pytester.path.joinpath(f"test_bad{number}.py").write_text(text, encoding="utf-8")
    shown = together(pytester, *((f"test_bad{number}.py",) for number in range(len(BAD))))
    for text, told in zip(shown, BAD.values(), strict=True):
        assert told in text
        assert f"exit {int(pytest.ExitCode.USAGE_ERROR)}" in text
        assert "Traceback" not in text


def test_what_a_marked_test_cannot_be_is_an_error_of_its_own(pytester: pytest.Pytester) -> None:
    """The fixture without the mark, a queue that is not there; the others run."""
    tests = """
def test_unmarked(tq_comparison): print("ran")
@pytest.mark.tq_compare(**LOAD, optimized="nope.py:New")
def test_nowhere(): print("ran")
def test_other(): pass
"""
    write(pytester, tests)
    result = run(pytester)
    result.assert_outcomes(passed=1, errors=2)
    shown = out(result)
    assert "tq_comparison is for tests that are marked tq_compare(...)" in shown
    assert "optimized of tq_compare: there is no file 'nope.py' to take a subject from" in shown


def test_a_limit_that_was_asked_for_ends_it(pytester: pytest.Pytester) -> None:
    """By the command line or by a mark; the next test is run as ever."""
    marked = "@pytest.mark.tq_compare(**dict(SAME, slot=60))\ndef test_marked(): assert 0\n"
    limited = (
        "class TestLimited:\n    @pytest.mark.tq_compare(**dict(SAME, slot=60))\n    def test_it(self): assert 0\n"
    )
    write(pytester, f"{marked}@pytest.mark.timeout(0.5)\n{limited}def test_other(): pass")
    by_mark, by_option = each(pytester, ("-k", "Limited or other"), ("-k", "marked or other", "--timeout=0.5"))
    for status, shown in (by_mark, by_option):
        assert status == pytest.ExitCode.TESTS_FAILED
        assert "1 passed, 1 deselected, 1 error" in shown
        assert "Timeout (>0.5s)" in shown


def test_under_tq_compare_it_is_left_out(pytester: pytest.Pytester) -> None:
    """Nothing else is run then."""
    write(pytester, OUTCOMES)
    result = run(pytester, *SHORT, *SAME, UNSHOWN, "test_it.py")
    result.assert_outcomes(passed=4, failed=2)
    assert len(VERDICT.findall(out(result))) == 1


def test_pytest_shows_the_mark(pytester: pytest.Pytester) -> None:
    """And what it takes."""
    with_it, without = together(pytester, ("--markers",), ("--markers", "-p", "no:taskqueue"))
    assert "@pytest.mark.tq_compare(**options): compare two queues before the test" in with_it
    assert "tq_compare" not in without
