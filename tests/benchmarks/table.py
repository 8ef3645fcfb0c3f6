"""From rounds to the table: medians, ratios of the same round, and what they say about the goals. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from statistics import median
from typing import Any, Self

from tests.benchmarks.rounds import NOT_INSTALLED, Round
from tests.benchmarks.rows import UNITS, Goal, Row


class Judgement(StrEnum):
    """What the median says about a goal."""

    REACHED = "reached"
    FLOOR = "floor"
    MISSED = "missed"
    ABSENT = NOT_INSTALLED
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, smallest and largest of one figure or ratio over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


def figures(rounds: Sequence[Round], contender: str, figure: str) -> list[float]:
    """One figure of one contender, from each round that has it."""
    found = [each[contender].figures for each in rounds if contender in each]
    return [of[figure] for of in found if figure in of]


def ratios(goal: Goal, rounds: Sequence[Round]) -> list[float]:
    """The goal's figure divided by that of its reference in the same round; rounds that lack one do not count."""
    found = []
    for each in rounds:
        values = [each[name].figures.get(goal.figure) for name in (goal.contender, goal.reference) if name]
        if None not in values:
            mine, *reference = values
            found.append(mine / reference[0] if reference else mine)
    return found


def judge(goal: Goal, rounds: Sequence[Round]) -> Judgement:
    """By the median of the ratios, not rounded."""
    if problem := _problem(goal, rounds):
        return Judgement.ABSENT if problem == NOT_INSTALLED else Judgement.FAILED
    found = median(ratios(goal, rounds))
    floor = goal.wanted if goal.floor is None else goal.floor
    if found <= goal.wanted if goal.at_most else found >= goal.wanted:
        return Judgement.REACHED
    return Judgement.FLOOR if (found <= floor if goal.at_most else found >= floor) else Judgement.MISSED


def lines(row: Row, rounds: Sequence[Round]) -> Iterator[str]:
    """The row as text: a heading, a line for each contender, a line for each goal."""
    yield f"{row.name}: {row.text} ({len(rounds)} {'round' if len(rounds) == 1 else 'rounds'})"
    for contender in row.contenders:
        yield f"  {contender:<34} {_contender(row, rounds, contender)}"
    for goal in row.goals:
        yield f"  {_name(goal):<34} {_goal(goal, rounds)}"


def to_dict(row: Row, rounds: Sequence[Round]) -> dict[str, Any]:
    """The row with all its rounds, for JSON."""
    return {
        "name": row.name,
        "text": row.text,
        "workers": row.workers,
        "rounds": [{name: asdict(measurement) for name, measurement in each.items()} for each in rounds],
        "goals": [_goal_to_dict(goal, rounds) for goal in row.goals],
    }


def _goal_to_dict(goal: Goal, rounds: Sequence[Round]) -> dict[str, Any]:
    found = ratios(goal, rounds)
    spread = asdict(Spread.of(found)) if found else None
    return {**asdict(goal), "ratios": found, "found": spread, "judgement": judge(goal, rounds)}


def _contender(row: Row, rounds: Sequence[Round], contender: str) -> str:
    parts = []
    for figure in row.figures:
        if values := figures(rounds, contender, figure):
            spread = Spread.of(values)
            span = f" ({_text(spread.low)}-{_text(spread.high)})" if len(values) > 1 else ""
            parts.append(f"{_text(spread.median)}{span} {UNITS[figure]}")
    problems = {each[contender].problem for each in rounds} - {None}
    return "   ".join([*parts, *sorted(map(str, problems))])


def _goal(goal: Goal, rounds: Sequence[Round]) -> str:
    sign, floor = "<=" if goal.at_most else ">=", "" if goal.floor is None else f" (floor {goal.floor:g})"
    wanted = f"{UNITS[goal.figure]}, wanted {sign} {goal.wanted:g}{floor}: {judge(goal, rounds)}"
    found = ratios(goal, rounds)
    if not found:
        return wanted
    spread = Spread.of(found)
    span = f" [{_text(spread.low)}, {_text(spread.high)}]" if len(found) > 1 else ""
    return f"{'x' if goal.reference else ''}{_text(spread.median)}{span} {wanted}"


def _name(goal: Goal) -> str:
    return f"{goal.contender} : {goal.reference}" if goal.reference else goal.contender


def _problem(goal: Goal, rounds: Sequence[Round]) -> str | None:
    """Why a goal cannot be judged. A round that failed is not passed over: the others may be the lucky ones."""
    problems = [each[name].problem for each in rounds for name in (goal.contender, goal.reference) if name]
    return next((problem for problem in problems if problem), None)


def _text(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
