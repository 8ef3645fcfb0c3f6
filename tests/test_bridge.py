"""The hand-over to pytest-benchmark, through real pytest processes.

The values are recorded ones: what is tested is that they arrive, not how long anything takes.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_taskqueue import bridge

GROUPS = {"task_time": "taskqueue c100: time per task", "p95": "taskqueue c100: p95 latency"}

RECORDED = {
    "baseline-task_time": [0.002013, 0.0019871, 0.00205, 0.1 + 0.2],
    "baseline-p95": [0.31, 0.3, 0.29, 0.30000000000000004],
    "optimized-task_time": [0.00051, 1 / 3000, 0.0005],
    "optimized-p95": [0.071, 1e-9, 12.5],
}
"""Seconds, with floats that come out wrong by a bit when they are added to a start and the start is taken off again."""

SUITE = """
    import json
    import pathlib
    from time import perf_counter

    import pytest
    from pytest_taskqueue import bridge

    benchmark = bridge.benchmark_or_skip

    CLOCK = bridge.ReplayClock()
    RECORDED = json.loads(pathlib.Path("recorded.json").read_text())
    GROUPS = json.loads(pathlib.Path("groups.json").read_text())

    def pytest_generate_tests(metafunc):
        def item(key):
            arm, metric = key.split("-")
            marks = [bridge.marker(CLOCK, group=GROUPS[metric])] if bridge.available(metafunc.config) else []
            return pytest.param("c100", arm, metric, marks=marks)

        metafunc.parametrize(("clients", "arm", "metric"), [item(key) for key in RECORDED])

    def test_publish(clients, arm, metric, benchmark):
        before = perf_counter()
        bridge.publish(benchmark, CLOCK, RECORDED[f"{arm}-{metric}"], {"arm": arm, "p99_s": 0.75})
        assert before <= CLOCK() <= perf_counter(), "the clock is back to real time"
"""

INI = """
    [pytest]
    addopts = --strict-markers --strict-config -p no:randomly -p no:hypothesispytest
    filterwarnings = error
"""

HOOK = """
    import pytest
    from pytest_taskqueue import bridge

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_json(output_json):
        bridge.update_json(output_json, [{"clients": 100, "verdict": "PASS"}])
"""

ODD = """
    import pytest
    from pytest_taskqueue import bridge

    CLOCK = bridge.ReplayClock()

    @bridge.marker(CLOCK, group="odd")
    def test_red_after_publishing(benchmark):
        bridge.publish(benchmark, CLOCK, [0.25, 0.5], {})
        assert "throughput" == "enough"

    @bridge.marker(CLOCK, group="odd")
    def test_not_profiled(benchmark):
        bridge.publish(benchmark, CLOCK, [0.25, 0.5], {})

    @pytest.mark.benchmark(timer=CLOCK, group="odd")
    def test_profiled(benchmark):
        bridge.publish(benchmark, CLOCK, [0.25, 0.5], {})

    @bridge.marker(CLOCK, group="odd")
    class TestMarked:
        @pytest.mark.benchmark(group="closer")
        def test_lost_its_timer(self, benchmark):
            bridge.publish(benchmark, CLOCK, [0.25, 0.5], {})

    @bridge.marker(CLOCK, group="odd")
    @pytest.mark.parametrize("values", [[], [0.5, 0.0], [-0.5], [float("nan")], [float("inf")]], ids=str)
    def test_refused_at_first(benchmark, values):
        with pytest.raises(ValueError, match="cannot publish"):
            bridge.publish(benchmark, CLOCK, values, {})
        bridge.publish(benchmark, CLOCK, [0.25, 0.5], {})

    @bridge.marker(CLOCK, group="odd")
    def test_measures_real_time(benchmark):
        benchmark(lambda: None)
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run pytest in a process of its own, on a project that publishes as the suite does."""
    for outer in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):  # with the first, pytest-benchmark disables itself
        monkeypatch.delenv(outer, raising=False)
    pytester.makeini(INI)
    pytester.makeconftest(HOOK)
    pytester.makepyfile(test_suite=SUITE)
    pytester.path.joinpath("groups.json").write_text(json.dumps(GROUPS))
    record(pytester, RECORDED)

    def run(*args: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*args, timeout=50)

    return run


def record(pytester: pytest.Pytester, recorded: Mapping[str, list[float]]) -> None:
    pytester.path.joinpath("recorded.json").write_text(json.dumps(recorded))


def slower(factors: Mapping[str, float]) -> dict[str, list[float]]:
    return {key: [value * factors.get(key, 1.0) for value in values] for key, values in RECORDED.items()}


def load(pytester: pytest.Pytester, pattern: str) -> Any:
    (path,) = pytester.path.glob(pattern)
    return json.loads(path.read_text())


def by_name(report: Any) -> dict[str, Any]:
    return {one["name"]: one for one in report["benchmarks"]}


def test_files_hold_the_very_values(run: Run, pytester: pytest.Pytester) -> None:
    """--benchmark-json and --benchmark-save give back each float as it was handed in, and `ops` is 1 / mean."""
    result = run("--benchmark-json=out.json", "--benchmark-save=first", "--benchmark-save-data", "--benchmark-only")
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines([f"*benchmark '{group}': 2 tests*" for group in sorted(GROUPS.values())])

    written, saved = load(pytester, "out.json"), load(pytester, ".benchmarks/*/0001_first.json")
    assert written["taskqueue"] == {"schema": 1, "comparisons": [{"clients": 100, "verdict": "PASS"}]}
    assert saved["taskqueue"] == written["taskqueue"]
    assert saved["benchmarks"] == written["benchmarks"]

    assert list(by_name(written)) == [f"test_publish[c100-{key}]" for key in RECORDED]
    for one, (key, values) in zip(written["benchmarks"], RECORDED.items(), strict=True):
        arm, metric = key.split("-")
        stats = one["stats"]
        assert stats["data"] == values
        assert (stats["rounds"], stats["iterations"]) == (len(values), 1)
        assert stats["mean"] == statistics.mean(values)
        assert stats["ops"] == len(values) / sum(values)
        assert one["fullname"] == f"test_suite.py::test_publish[c100-{key}]"
        assert one["group"] == GROUPS[metric]
        assert one["params"] == {"clients": "c100", "arm": arm, "metric": metric}
        assert one["extra_info"] == {"taskqueue": {"schema": 1, "arm": arm, "p99_s": 0.75}}
        assert one["options"]["timer"] == "ReplayClock()"


def test_later_runs_are_compared_with_saved_ones(run: Run, pytester: pytest.Pytester) -> None:
    """An equal run passes --benchmark-compare-fail, a slower one fails on just the slower items; the CSV has both."""
    limit = ("--benchmark-compare=0001", "--benchmark-compare-fail=mean:10%")
    run("--benchmark-save=first").assert_outcomes(passed=4)

    equal = run(*limit, "--benchmark-save=equal", "--benchmark-group-by=param:metric")
    assert equal.ret == pytest.ExitCode.OK
    equal.stdout.fnmatch_lines(["*benchmark 'metric=p95': 4 tests*", "*benchmark 'metric=task_time': 4 tests*"])
    for key in RECORDED:
        for source in ("0001_first", "NOW"):
            equal.stdout.fnmatch_lines([f"test_publish?c100-{key}? ({source}) *"])

    factors = {"baseline-p95": 1.2, "optimized-task_time": 1.5, "optimized-p95": 1.09, "baseline-task_time": 0.5}
    record(pytester, slower(factors))
    slow = run(*limit, "--benchmark-save=slow")
    assert slow.ret != pytest.ExitCode.OK
    said = [line.split() for line in slow.errlines if "has failed PercentageRegressionCheck" in line]
    assert [(words[0], round(float(words[-3]))) for words in said] == [
        ("test_publish[c100-baseline-p95]", 20),
        ("test_publish[c100-optimized-task_time]", 50),
    ]

    command = (sys.executable, "-m", "pytest_benchmark", "compare", "0001", "0003", "--csv=both.csv", "--sort=fullname")
    assert pytester.run(*command, timeout=50).ret == 0
    with pytester.path.joinpath("both.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for key, values in RECORDED.items():
        before, after = (row for row in rows if row["name"] == f"test_suite.py::test_publish[c100-{key}]")
        for row, data in ((before, values), (after, slower(factors)[key])):
            assert float(row["mean"]) == statistics.mean(data)
            assert float(row["max"]) == max(data)
            assert float(row["ops"]) == len(data) / sum(data)
            assert int(row["rounds"]) == len(data)
            assert [row["param:arm"], row["param:metric"]] == key.split("-")


def test_odd_uses_publish_the_truth_or_nothing(run: Run, pytester: pytest.Pytester) -> None:
    """A red test keeps its numbers, a profiler adds none, a lost timer or an impossible value publishes nothing."""
    pytester.path.joinpath("test_suite.py").unlink()
    pytester.makepyfile(test_odd=ODD)
    profile = ("--benchmark-cprofile=cumtime", "--benchmark-cprofile-loops=3")
    result = run("--benchmark-json=out.json", "--benchmark-max-time=0.001", *profile)
    result.assert_outcomes(passed=8, failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "E *assert 'throughput' == 'enough'*",
            "E *RuntimeError: ReplayClock() does not time this test: *",
        ]
    )
    found = by_name(load(pytester, "out.json"))
    real = found.pop("test_measures_real_time")["stats"]
    assert real["min"] > 0
    assert real["rounds"] >= 5
    assert len(found) == 3 + 5
    assert "test_lost_its_timer" not in found
    for name, one in found.items():
        assert one["stats"]["data"] == [0.25, 0.5]
        assert ("cprofile" in one) == (name == "test_profiled")


@pytest.mark.parametrize("options", [("--benchmark-disable",), ("-n2", "-Wdefault")], ids="".join)
def test_disabled_benchmarks_pass_and_record_nothing(
    run: Run, pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    """With --benchmark-disable, and under xdist, which disables them with a warning, every publishing test passes."""
    if "-n2" in options:
        pytest.importorskip("xdist")
    run(*options, "--benchmark-save=none").assert_outcomes(passed=4)
    assert not list(pytester.path.glob(".benchmarks/**/*.json"))


@pytest.mark.parametrize("option", ["-pno:benchmark", "--benchmark-skip"])
def test_without_benchmarks_publishing_is_skipped(run: Run, option: str) -> None:
    """Without pytest-benchmark, or told to skip, publishing tests skip and say why, with strict markers too."""
    result = run(option, "-rs")
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(
        ["SKIPPED *no:benchmark*" if option == "-pno:benchmark" else "SKIPPED *--benchmark-skip*"]
    )


def test_another_plugins_fixture_is_left_alone() -> None:
    """pytest-codspeed's `benchmark` has `pedantic` and `extra_info` too, but would time the empty target."""

    class Codspeed:
        def __init__(self) -> None:
            self.extra_info: dict[str, object] = {}

        def pedantic(self, *args: object, **kwargs: object) -> None:
            pytest.fail("something was published")

    benchmark = Codspeed()
    bridge.publish(benchmark, bridge.ReplayClock(), [0.5], {"arm": "baseline"})
    assert benchmark.extra_info == {}


def test_update_json_is_idempotent() -> None:
    """The hook runs once per file; a run without a comparison leaves the file as it was."""
    output: dict[str, object] = {"version": "5"}
    bridge.update_json(output, [])
    assert output == {"version": "5"}
    for _ in range(2):
        bridge.update_json(output, [{"clients": 100}])
        assert output == {"version": "5", "taskqueue": {"schema": 1, "comparisons": [{"clients": 100}]}}
