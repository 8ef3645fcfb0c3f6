"""The table of speed: ratios of the same round, judged by their median. Figures here are made up, none is timed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.rounds import NOT_INSTALLED, ROOT, Measurement, Plan, Round, measure_apart, measure_row
from tests.benchmarks.rows import ROWS, UNITS, Goal, Row
from tests.benchmarks.table import Judgement, judge, lines, ratios

GOAL = Goal(contender="ours", reference="theirs", figure="rate", wanted=2.0, floor=1.5)
LATENCY = Goal(contender="ours", reference="theirs", figure="rate", wanted=1.1, floor=1.3, at_most=True)
ROW = Row(name="row", text="", module="none", contenders=("ours", "theirs", "third"), figures=("rate",), goals=(GOAL,))


def rounds(*pairs: tuple[float, float]) -> list[Round]:
    """Rounds in which ours and theirs had these rates."""
    return [
        {name: Measurement(figures={"rate": rate}) for name, rate in zip(("ours", "theirs"), pair, strict=True)}
        for pair in pairs
    ]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_everything_that_is_measured_can_be_measured(row: Row, tmp_path: Path) -> None:
    """At a thousandth of its size, each in its own process; what it measures is of no interest here."""
    for contender in row.contenders:
        found = measure_apart(row, contender, Plan(scale=0.001, directory=tmp_path))
        assert found.problem in (None, NOT_INSTALLED), contender
        assert found.problem or found.figures, contender


def test_a_ratio_is_that_of_one_round() -> None:
    """A machine that slows down for a round slows both; the ratio of the medians would be 1."""
    found = rounds((200, 100), (20, 10), (100, 50))
    assert ratios(GOAL, found) == [2.0, 2.0, 2.0]
    alone = Goal(contender="ours", reference=None, figure="rate", wanted=1)
    assert ratios(alone, found) == [200, 20, 100]


@pytest.mark.parametrize(
    ("goal", "found", "judgement"),
    [
        (GOAL, [0.1, 2.0, 9.0], Judgement.REACHED),
        (GOAL, [1.0, 1.9999, 9.0], Judgement.FLOOR),
        (GOAL, [1.0, 1.4, 9.0], Judgement.MISSED),
        (LATENCY, [0.5, 1.1, 9.0], Judgement.REACHED),
        (LATENCY, [0.5, 1.2, 9.0], Judgement.FLOOR),
        (LATENCY, [0.5, 1.4, 9.0], Judgement.MISSED),
        (Goal(contender="ours", reference="theirs", figure="rate", wanted=2.0), [1.9999], Judgement.MISSED),
    ],
)
def test_the_median_decides(goal: Goal, found: list[float], judgement: Judgement) -> None:
    """Not the best round, and not a rounded figure; without a floor there is nothing between reached and missed."""
    assert judge(goal, rounds(*((ratio, 1.0) for ratio in found))) is judgement


def test_what_was_not_measured_is_not_judged() -> None:
    """An absent peer is said to be absent, and one failed round is not passed over in favour of the others."""
    absent = Measurement(problem=NOT_INSTALLED)
    without = [{**each, "theirs": absent, "third": absent} for each in rounds((5, 1), (5, 1))]
    assert judge(GOAL, without) is Judgement.ABSENT
    assert [line.split()[-2:] for line in list(lines(ROW, without))[2:]] == [["not", "installed"]] * 3
    broken = [*rounds((5, 1)), {**rounds((5, 1))[0], "ours": Measurement(problem="failed: no room")}]
    assert judge(GOAL, broken) is Judgement.FAILED


def test_each_round_starts_with_another_contender() -> None:
    """So that none is always the first, or always behind the same one's disk writes."""
    order: list[str] = []

    def measure(row: Row, contender: str, plan: Plan) -> Measurement:
        order.append(contender)
        return Measurement(figures={"rate": len(order)})

    found = measure_row(ROW, Plan(rounds=3), measure, progress=lambda text: None)
    assert order == ["ours", "theirs", "third", "theirs", "third", "ours", "third", "ours", "theirs"]
    assert [each["ours"].figures["rate"] for each in found] == [1, 6, 8]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_name_what_there_is(row: Row) -> None:
    """Modules, contenders and figures are told by name: a wrong one would show only in a long run."""
    source = (ROOT / "tests" / "benchmarks" / f"{row.module}.py").read_text(encoding="utf-8")
    assert all(f'"{contender}": ' in source for contender in row.contenders)
    assert set(row.figures) <= set(UNITS)
    for goal in row.goals:
        assert {goal.contender, goal.reference} <= {*row.contenders, None}
        assert goal.figure in row.figures


def test_a_row_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    """A real one, as small as it gets; a goal missed at that size is no error."""
    file = tmp_path / "speed.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "single-process", "--json", str(file)]
    command += ["--rounds", "1", "--scale", "0.01"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert "taskqueue-process : litequeue" in done.stdout
    (row,) = json.loads(file.read_text(encoding="utf-8"))["rows"]
    (only,) = row["rounds"]
    assert only["taskqueue-process"]["figures"]["rate"] > 0
    assert "single-process 1/1 taskqueue-process: " in done.stderr
