"""The plugin as people meet it: real pytest processes, comparisons of toys whose verdict is certain."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import toys
from plugin_runs import MET, OUTCOME, QUICK, SAME, SHORT, VERDICT, arms, installed, out, run, together

from pytest_taskqueue import plugin
from pytest_taskqueue.config import OPTIONS

ITEMS = [
    *(f"test_publish[c{{0}}-{arm}-{metric}]" for arm in ("baseline", "optimized") for metric in ("task_time", "p95")),
    *(f"test_gate[c{{0}}-{metric}]" for metric in ("throughput", "p95")),
]
GROUPS = {"task_time": "taskqueue c{}: time per task", "p95": "taskqueue c{}: p95 latency"}

USER_TESTS = """
    import threading

    def test_one(): raise SystemExit("must not run")
    def test_two(): raise SystemExit("must not run")
    class TestThree:
        def test_three(self): raise SystemExit("must not run")
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    """A project with three tests of its own, strict about everything."""
    pytester.mkdir("tests")
    pytester.path.joinpath("tests", "test_user.py").write_text(
        "\n".join(line[4:] for line in USER_TESTS.splitlines()), encoding="utf-8"
    )
    pytester.makeini("""
        [pytest]
        addopts = --strict-markers --strict-config
        filterwarnings = error
        testpaths = tests
        timeout = 0.3
        faulthandler_timeout = 30
    """)
    return pytester.path


def results(folder: Path) -> list[Any]:
    names = sorted(path for path in folder.glob("bench_results/*-c*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in names]


# --- comparisons


def test_two_client_counts_in_an_empty_directory(pytester: pytest.Pytester) -> None:
    """The real arms, one pair each, so nothing is decided. Everything a run leaves is there, and says the same."""
    options = ("--tq-compare", "--tq-clients=5,10", "--tq-slot=0.3", "--tq-workload=io", "--tq-budget=0.001")
    result = run(pytester, *options, "--benchmark-json=out.json", "-v")
    result.assert_outcomes(passed=8, failed=4)

    shown = out(result)
    assert OUTCOME.findall(shown)[:12] == [
        (item.format(count), "FAILED" if "gate" in item else "PASSED") for count in (5, 10) for item in ITEMS
    ]
    declared = (
        "taskqueue: baseline against optimized, workload io, 5, 10 clients, 8 workers, seed 7",
        "gates throughput>=2x p95<=0.6x; looks at 5 8 12 18 27 40 pairs, alpha 0.025; window 0.3 s, budget 0.001 s",
        "collected 12 items",
        "  warm-up baseline ",
    )
    places = [shown.index(text) for text in declared]
    assert places == sorted(places)
    for count in (5, 10):
        assert f" taskqueue: {count} clients " in shown
        assert re.search(
            rf"^verdict: INCONCLUSIVE c{count} the budget of 0\.001 s ended after 1 pair, before the first look at 5$",
            shown,
            re.MULTILINE,
        )
        assert re.search(
            rf"^report: bench_results.\S+-c{count}\.json  bench_results.\S+-c{count}\.csv$", shown, re.MULTILINE
        )
    slots = r"^  (?:warm-up|pair 1/1) (?:baseline |optimized) [\d,]+/s P95 [\d.]+ m?s \| \d+:\d\d/0:00$"
    assert len(re.findall(slots, shown, re.MULTILINE)) == 2 * 4
    assert shown.count("  window 0.3 s; the budget of 0.001 s buys about 1 pair") == 2

    files = results(pytester.path)
    by_clients = {one["clients"]: one for one in files}
    assert sorted(by_clients) == [5, 10]
    assert json.loads((pytester.path / "bench_results/latest.json").read_text(encoding="utf-8")) == by_clients[10]
    assert "--tq-clients=5,10" in by_clients[5]["command"]
    for path in pytester.path.glob("bench_results/*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.DictReader(file))) == 4

    written = json.loads((pytester.path / "out.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in written["benchmarks"]] == [i.format(c) for c in (5, 10) for i in ITEMS[:4]]
    for one in written["benchmarks"]:
        found = by_clients[one["params"]["clients"]]
        arm, metric = one["params"]["arm"], one["params"]["metric"]
        slots = [slot for slot in found["slots"] if slot["arm"] == arm and slot["pair"] > 0]
        values = [slot["p95_s"] if metric == "p95" else 1 / slot["throughput"] for slot in slots]
        assert one["stats"]["data"] == values
        assert one["group"] == GROUPS[metric].format(found["clients"])
        assert one["fullname"] == f"{plugin.SUITE_ID}::{one['name']}"
        assert one["extra_info"]["taskqueue"]["throughput"] == found["arms"][arm]["throughput"]
        assert one["extra_info"]["taskqueue"]["verdict"] == "INCONCLUSIVE"
    block = written["taskqueue"]["comparisons"]
    assert block == [{**by_clients[count], "slots": 4} for count in (5, 10)]


def test_a_missed_gate_is_a_failed_test_with_its_evidence(pytester: pytest.Pytester, project: Path) -> None:
    """The comparison replaces testpaths: nothing else is collected. With -q the verdict is one line, and all there is.

    Options may stand in the ini file; the time limit of the project is not for a comparison.
    """
    ini = project / "tox.ini"
    more = "tq_clients = 2", "tq_slot = 0.3", "tq_workload = io", "tq_optimized = baseline"
    more = *more, "tq_gate = throughput >= 5000x", "    p95 <= 0.0001x"
    ini.write_text("\n".join([ini.read_text(encoding="utf-8"), *more]), encoding="utf-8")
    result = run(pytester, "--tq-compare", "-q")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.re_match_lines([r"2 failed, 4 passed in .*"])
    shown = out(result)
    (verdict,) = VERDICT.findall(shown)
    assert re.match(r"verdict: FAIL c2 throughput x\d\.\d\d \[.*\] >= 5000\.00  p95 x\S+ \[.*\] <= 0\.0001", verdict)
    told = re.findall(r"^FAIL: (\w+) x[\d.]+, 95 % interval \[.*\] lies (.*) after 5 pairs", shown, re.MULTILINE)
    assert told == [("throughput", "below the gate 5000.00"), ("p95", "above the gate 0.0001")]
    assert not re.search(r"^taskqueue: |^report: |^baseline  |Traceback|^E  ", shown, re.MULTILINE)
    assert shown.index("FAILURES") < shown.index(verdict) < shown.index("short test summary info")


def test_wrong_work_is_an_error_and_no_verdict_on_speed(pytester: pytest.Pytester, project: Path) -> None:
    """The tests of a path that is given are not even collected. A .env file is read. --no-cov leaves nothing to
    refuse, and pytest without its capturing nothing to suspend.

    What publishes comes before what judges, though a plugin shuffles.
    """
    dotenv = installed("dotenv")
    (project / ".env").write_text("PYTEST_TQ_CLIENTS=6\nPYTEST_TQ_SLOT=0.3\nPYTEST_TQ_WORKLOAD=io\n", encoding="utf-8")
    options = ("--tq-compare",) if dotenv else (*SHORT, "--tq-clients=6")
    plugins = ("-p", "no:hypothesispytest", "-p", "no:capture")
    covered = ("--cov=.", "--no-cov") if installed("pytest_cov") else ()
    options = (*plugins, *covered, *options, *arms("Pool", "Doubles"))
    result = pytester.runpytest_subprocess(*options, "-v", "tests/test_user.py")
    result.assert_outcomes(errors=6)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    shown = out(result)
    done = OUTCOME.findall(shown)[:6]
    assert sorted(done) == sorted((item.format(6), "ERROR") for item in ITEMS)
    assert [name.partition("[")[0] for name, _ in done] == ["test_publish"] * 4 + ["test_gate"] * 2
    reason = f"optimized: 1 task worked on more than once: io-{toys.ONE} (slot 1)"
    assert VERDICT.findall(shown) == [f"verdict: INVALID c6 {reason}"]
    assert shown.count(f"INVALID: {reason}") >= 2
    assert shown.count("INVALID, nothing to publish: see test_gate[c6-...]") >= 4
    assert "no speed verdict is given" in shown
    (found,) = results(project)
    assert (found["verdict"], found["gates"], len(found["slots"])) == ("INVALID", [], 2)


def test_without_the_other_plugins_it_still_judges(
    pytester: pytest.Pytester, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without pytest-benchmark nothing is published, without pytest-timeout nothing is limited.

    Not shown is not passed: INCONCLUSIVE fails with a text of its own. Options may stand in the environment.
    """
    (project / "tox.ini").unlink()
    monkeypatch.setenv("PYTEST_TQ_BUDGET", "0.001")
    result = run(pytester, "-p", "no:benchmark", "-p", "no:timeout", *SHORT, *SAME, "-ra", "tests")
    result.assert_outcomes(failed=2, skipped=4)
    shown = out(result)
    reason = "the budget of 0.001 s ended after 1 pair, before the first look at 5"
    assert VERDICT.findall(shown) == [f"verdict: INCONCLUSIVE c2 {reason}"]
    assert shown.count(f"INCONCLUSIVE: not shown\n  {reason}\n  the first look comes after 5 pairs: --tq-budget ") >= 2
    assert re.search(r"^SKIPPED \[4\] .*pytest-benchmark is switched off", shown, re.MULTILINE)
    assert "warm-up baseline" not in shown, "progress is for a terminal, or -v"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
def test_on_a_terminal_the_progress_line_rewrites_itself(pytester: pytest.Pytester) -> None:
    """It ends where the dots begin, and they have a line of their own. Gates that only a wreck would miss: PASS."""
    import pty

    options = (*QUICK, *SHORT, *SAME, *MET)
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *options], cwd=pytester.path, stdout=slave, stderr=slave, stdin=slave
    ) as process:
        os.close(slave)
        shown = "".join(read(master))
    os.close(master)
    assert process.returncode == pytest.ExitCode.OK
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    lines = [line.strip() for line in plain.split("\r\n")]
    warm_up, slots = [
        [part for part in line.split("\r") if part.strip()]
        for line in lines
        if re.match(r"(warm-up|pair 1/\d+) ", line)
    ]
    *warm_up, plan = warm_up
    assert [part.split()[:2] for part in warm_up] == [["warm-up", "baseline"], ["warm-up", "optimized"]]
    assert re.fullmatch(r" +window 0\.3 s; the budget of 300 s buys about \d+ pairs", plan)
    assert [part.split()[1].partition("/")[0] for part in slots] == [str(pair) for pair in range(1, 6) for _ in "AB"]
    assert re.search(r" \| x\d+\.\d\d so far \[\d+\.\d\d, \d+\.\d\d\] \| \d+:\d\d/5:00", slots[-1])
    assert any(re.fullmatch(r"pytest_taskqueue/suite/test_compare\.py \.{6}\s+\[100%\]", line) for line in lines)
    (verdict,) = [line for line in lines if line.startswith("verdict: ")]
    assert re.fullmatch(r"verdict: PASS c2 throughput x.* >= 0\.0001  p95 x.* <= 10000\.00  \(5 pairs\)", verdict)
    assert any(re.fullmatch(r"=+ 6 passed in .* =+", line) for line in lines)


def read(descriptor: int) -> Iterator[str]:
    """What a terminal shows, until the program has gone (Linux tells that as an error)."""
    try:
        while data := os.read(descriptor, 65536):
            yield data.decode(errors="replace")
    except OSError:
        return


# --- other runs


def test_without_the_option_nothing_of_it_runs(pytester: pytest.Pytester) -> None:
    """Not even the shipped comparison by its name; neither queue nor sqlite3 is imported, no file is written."""
    pytester.makepyfile("""
        import sys

        def test_imports():
            loaded = {name.partition(".")[0] for name in sys.modules}
            assert "pytest_taskqueue" in loaded
            assert not loaded & {"taskqueue_core", "sqlite3", "PIL"}
            assert "pytest_taskqueue.load" not in sys.modules
    """)
    run(pytester, "-p", "no:cov").assert_outcomes(passed=1)
    result = run(pytester, "-k", "not imports", str(plugin.SUITE), str(pytester.path))
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.assert_outcomes(deselected=3)
    assert "taskqueue: " not in out(result)
    assert not (pytester.path / "bench_results").exists()


REFUSED = {
    "--tq-clients=0": "--tq-clients '0': expected a number of clients of at least 1",
    "--tq-gate=nonsense": "--tq-gate 'nonsense': gate 'nonsense' is not understood; write METRIC<=RATIOx",
    "--tq-optimized=nope": "--tq-optimized: unknown subject 'nope': use baseline, optimized",
    "--tq-baseline=nope.py:Old": "--tq-baseline: there is no file 'nope.py' to take a subject from",
    "--tq-workload=sleep": "--tq-workload: unknown workload 'sleep': use thumbnail, io, cpu, noop, mixed, ",
    "--tq-report=file": "--tq-report: ",
    "--benchmark-disable": "--tq-compare publishes through pytest-benchmark: leave --benchmark-disable out",
    "--benchmark-skip": "--tq-compare publishes through pytest-benchmark: leave --benchmark-skip out",
    "--benchmark-only": "--tq-compare judges in tests that are no benchmarks: leave --benchmark-only out",
    "-pno:taskqueue": "unrecognized arguments: --tq-compare",
    "--tq-inconclusive=pass": "--tq-inconclusive 'pass': expected fail or skip",
    "--tq-budget=0": "--tq-budget '0': expected a number of seconds above 0",
    "--trace": "cannot judge under coverage, a debugger or another tracer",
    "--dist=load": "cannot share the machine with xdist workers (--dist load): run it on its own",
    "-n2": "cannot share the machine with xdist workers (-n 2): run it on its own, or add -n 0 --dist no",
    "--cov=.": "cannot judge under coverage, a debugger or another tracer",
}
NEEDED = {"-n2": "xdist", "--dist=load": "xdist", "--cov=.": "pytest_cov"}


def test_where_it_cannot_judge_it_says_what_to_change(pytester: pytest.Pytester) -> None:
    """A usage error in one line, before anything is measured; what is not installed here is left out."""
    pytester.path.joinpath("file").touch()
    tried = [option for option in REFUSED if option not in NEEDED or installed(NEEDED[option])]
    shown = together(pytester, *((*SHORT, *arms("NoOpen", "NoOpen"), option) for option in tried))
    for option, text in zip(tried, shown, strict=True):
        assert REFUSED[option] in text
        assert f"exit {int(pytest.ExitCode.USAGE_ERROR)}" in text
        assert "Traceback" not in text
    assert not (pytester.path / "bench_results").exists()


@pytest.mark.parametrize(
    "switch",
    [
        "settrace",
        "setprofile",
        pytest.param("monitoring", marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="new in Python 3.12")),
    ],
)
def test_every_kind_of_tracer_is_seen(switch: str, pytester: pytest.Pytester) -> None:
    """In the thread that starts pytest, or wherever sys.monitoring looks."""
    turn_on = {"monitoring": "sys.monitoring.use_tool_id(1, 'coverage')"}.get(switch, f"sys.{switch}(lambda *_: None)")
    pytester.makeconftest(f"import sys\n{turn_on}")
    (shown,) = together(pytester, (*SHORT, *arms("NoOpen", "NoOpen")))
    assert REFUSED["--cov=."] in shown


def test_a_bad_option_is_told_to_the_tests_that_need_it(pytester: pytest.Pytester) -> None:
    """Without --tq-compare the others go on."""
    pytester.makepyfile(test_it="def test_queue(tq_queue): pass\ndef test_other(): pass")
    (shown,) = together(pytester, ("--tq-workers=many", "test_it.py"))
    assert "--tq-workers 'many': expected a whole number of at least 1" in shown
    assert "1 passed, 1 error" in shown


def test_help_and_fixtures_show_what_there_is(pytester: pytest.Pytester) -> None:
    """And a run without the plugin is a run as ever."""
    help_text, fixtures, off = together(pytester, ("--help",), ("--fixtures",), ("-p", "no:taskqueue", "--fixtures"))
    assert "--tq-compare" in help_text
    wrapped = re.sub(r"\s+", " ", help_text)
    for option in OPTIONS:
        assert option.flag() + (f"={option.metavar}" if option.metavar else "") in wrapped
        assert f"{option.help} (default: {option.default})" in wrapped
        assert f"tq_{option.name} (string): default of {option.flag()}" in wrapped
    names = re.findall(r"^(tq_\w+|make_tq_\w+)( \[session scope\])? -- ", fixtures, re.MULTILINE)
    assert sorted(name for name, _ in names) == [
        "make_tq_queue", "tq_baseline", "tq_clock", "tq_compare", "tq_comparison", "tq_config", "tq_crash_at",
        "tq_faults", "tq_load", "tq_manual_queue", "tq_pool", "tq_processor", "tq_queue",
    ]  # fmt: skip
    assert "no docstring available" not in fixtures.partition("tq_config")[2]
    assert "tq_" not in off
