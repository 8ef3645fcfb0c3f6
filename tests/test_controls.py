"""The controls of the comparison: what counts as wanted, on made-up results; and the command, as short as it gets."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.config import resolve
from pytest_taskqueue.results import ComparisonResult
from pytest_taskqueue.subjects import Setup
from pytest_taskqueue.verdict import GateResult, Verdict, parse_gate
from taskqueue_core import Task
from tests.benchmarks import arms, controls
from tests.benchmarks.controls import CONTROLS, Control, Run, find_controls, line, main, table
from tests.benchmarks.rounds import ROOT

PASS, FAIL, OPEN, INVALID = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID
LONG = 20.0  # seconds: a limit that only a hang reaches


def result(
    verdict: Verdict, throughput: Verdict, p95: Verdict, *, seed: int = 7, elapsed: float = 1.0
) -> ComparisonResult:
    """A comparison that ended like this after five pairs."""
    gates = tuple(
        GateResult(parse_gate(text), value=1.0, low=0.9, high=1.1, pairs=5, verdict=each)
        for text, each in (("throughput>=2x", throughput), ("p95<=0.6x", p95))
    )
    return ComparisonResult(
        created="2026-01-01T00:00:00Z",
        verdict=verdict,
        reason="made up",
        clients=100,
        seed=seed,
        command="",
        machine={},
        settings={},
        gates=gates,
        arms={},
        slots=(),
        elapsed_s=elapsed,
    )


def control(name: str) -> Control:
    (found,) = find_controls([name])
    return found


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("each", CONTROLS, ids=lambda each: each.name)
def test_no_other_verdict_is_as_good_as_the_wanted_one(each: Control, verdict: Verdict) -> None:
    """INCONCLUSIVE is no FAIL, and INVALID neither."""
    throughput = PASS if each.alone else verdict
    assert each.met(result(verdict, throughput, verdict)) is (verdict is each.wanted)


@pytest.mark.parametrize(
    ("throughput", "p95", "met"), [(PASS, FAIL, True), (OPEN, FAIL, True), (FAIL, FAIL, False), (FAIL, PASS, False)]
)
def test_an_unfair_queue_must_fail_on_its_p95_alone(throughput: Verdict, p95: Verdict, met: bool) -> None:
    """A FAIL of the throughput would show nothing about the gate that is on trial."""
    assert control("unfair-2.5").met(result(FAIL, throughput, p95)) is met


def test_the_table_counts_by_control() -> None:
    """In the order of the controls, those that ran, with the longest run of each."""
    aa, io = control("aa"), control("io")
    runs = [Run(io, result(PASS, PASS, PASS, elapsed=9.5))]
    runs += [Run(aa, result(verdict, verdict, verdict, elapsed=70)) for verdict in (FAIL, PASS, FAIL)]
    assert [row.split() for row in table(runs)] == [
        ["control", "wanted", "got", "longest"],
        ["aa", "FAIL", "2", "of", "3", "70.0", "s"],
        ["io", "PASS", "1", "of", "1", "9.5", "s"],
    ]


def test_a_line_tells_the_run_its_verdict_and_whether_it_was_wanted() -> None:
    unfair = control("unfair-2.5")
    assert line(Run(unfair, result(FAIL, FAIL, FAIL, seed=9))).startswith("unfair-2.5  seed 9  verdict: FAIL c100 ")
    assert line(Run(unfair, result(FAIL, FAIL, FAIL))).endswith("  1.0 s  WANTED FAIL on p95 alone")
    assert line(Run(unfair, result(FAIL, PASS, FAIL))).endswith("  1.0 s  as wanted")


@pytest.mark.parametrize(("odd", "status"), [(None, 0), (FAIL, 1), (OPEN, 1), (INVALID, 1)])
def test_one_verdict_that_was_not_wanted_is_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], odd: Verdict | None, status: int
) -> None:
    """However many were right. Run k has the seed + k, and the options reach the comparison."""

    def compare(each: Control, seed: int, given: Mapping[str, str]) -> Run:
        assert given == {"slot": "0.5"}
        verdict = odd if odd is not None and seed == 6 else each.wanted
        return Run(each, result(verdict, verdict, verdict, seed=seed))

    monkeypatch.setattr(controls, "compare", compare)
    assert main(["--only", "own", "true-3", "--runs", "3", "--seed", "5", "--slot", "0.5"]) == status
    lines = capsys.readouterr().out.splitlines()
    assert [text.split()[:3] for text in lines[:6]] == [[n, "seed", s] for n in ("true-3", "own") for s in "567"]
    assert [text.split()[2:5] for text in lines[8:]] == [["3" if odd is None else "2", "of", "3"]] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nope"], "unknown control 'nope': there are aa, "),
        (["--runs", "0"], "0 is below 1"),
        (["--slot", "soon"], "--slot 'soon': expected a number of seconds above 0"),
    ],
)
def test_what_cannot_be_run_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(options)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("each", CONTROLS, ids=lambda each: each.name)
def test_controls_name_what_there_is(each: Control) -> None:
    """The defaults hold where a control says nothing: 100 clients, 8 workers, slots chosen by themselves."""
    config = resolve(each.options, {}, {}.get)
    assert (config.clients, config.workers, config.slot) == ((100,), 8, None)
    assert all(map(callable, map(Catalogue().subject, (config.baseline, config.optimized))))
    assert Catalogue().workload(config.workload, 7)


def test_the_arms_have_the_ratios_that_they_are_named_after() -> None:
    """Eight workers that sleep for `pause`; a twelfth put aside is more than the twentieth that a P95 leaves out."""
    found = [arms.PAUSE / arm.pause for arm in (arms.HalfAsFastAgain, arms.ThriceAsFast, arms.Unfair)]
    assert found == pytest.approx([1.5, 3, 2.5])
    assert 1 / arms.Unfair.every > 0.05
    assert arms.Unfair.aside > 0.6 * 12.5 * arms.PAUSE


def test_a_task_put_aside_is_done_later_and_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its error reaches the client, too, and no thread is left."""
    monkeypatch.setattr(arms.Unfair, "pause", 0.0)
    monkeypatch.setattr(arms.Unfair, "aside", 0.0)
    worked: list[str] = []

    def work(task: Task) -> str:
        worked.append(task.key)
        if task.key == "t12":
            raise ConnectionResetError("the peer is gone")
        return task.key

    before = threading.active_count()
    unfair = arms.Unfair(Setup(work=work, workers=2, queue_size=9, directory=tmp_path))
    futures = {f"t{n}": unfair.submit(Task(f"t{n}", idempotency_key=f"t{n}")) for n in range(30)}
    with pytest.raises(ConnectionResetError):
        futures.pop("t12").result(LONG)
    assert all(future.result(LONG) == key for key, future in futures.items())
    unfair.close(LONG)
    assert sorted(worked) == sorted([*futures, "t12"])
    assert threading.active_count() == before


def test_every_control_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    """Real ones, one pair each: their verdicts mean nothing, but the status says whether one was not wanted."""
    file = tmp_path / "controls.json"
    command = [sys.executable, "-m", "tests.benchmarks.controls", "--json", str(file)]
    command += ["--slot", "0.1", "--clients", "8", "--budget", "0.2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    names = [each.name for each in CONTROLS]
    first_words = [text.split()[0] for text in done.stdout.splitlines() if text]
    assert first_words == [*names, "control", *names], done.stderr
    assert done.returncode == int("WANTED" in done.stdout)
    runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
    assert [run["control"] for run in runs] == names
    assert "warm-up baseline" in done.stderr
