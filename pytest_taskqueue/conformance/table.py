"""What came out, as people and as programs read it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

import pytest_taskqueue.conformance.outcomes as found
from pytest_taskqueue.machine import machine
from pytest_taskqueue.wording import printable

WIDTH = 100
SCHEMA = 1


def lines(outcomes: Sequence[found.Outcome]) -> list[str]:
    """One row for each promise: its name, what was found, and by what that was seen, unless the row above says it."""
    seen = [_flat(outcome) for outcome in outcomes]
    seen = [text if text != above else "as above" for above, text in zip(["", *seen], seen, strict=False)]
    rows = [("promise", "", "evidence")]
    rows += [(outcome.name, str(outcome.status), text) for outcome, text in zip(outcomes, seen, strict=True)]
    names, states = (max(len(row[column]) for row in rows) for column in (0, 1))
    return [line for row in rows for line in _row(row, names, states)]


def _row(row: tuple[str, str, str], names: int, states: int) -> Iterable[str]:
    name, state, evidence = row
    margin = f"{'':{names}}  {'':{states}}  "
    first, *rest = wrap(evidence, WIDTH - len(margin)) or [""]
    yield f"{name:{names}}  {state:{states}}  {first}".rstrip()
    for line in rest:
        yield margin + line


def _flat(outcome: found.Outcome) -> str:
    """On one line, without what a terminal would not show."""
    return printable(" ".join(outcome.evidence.split()))


def summary(outcomes: Iterable[found.Outcome]) -> str:
    """'conformance: 14 kept, 1 broken, 2 not promised'."""
    states = [outcome.status for outcome in outcomes]
    counts = [f"{states.count(status)} {status}" for status in found.Status if status in states]
    return f"conformance: {', '.join(counts)}"


def failure_text(outcome: found.Outcome) -> str:
    """What a red test says."""
    return "\n".join([f"broken: {outcome.evidence}", f"  promised: {outcome.text}", *_indented(outcome.stacks)])


def unfit_text(unfit: found.Unfit) -> str:
    """What is said where nothing can be examined."""
    return "\n".join([str(unfit), *_indented(unfit.stacks)])


def _indented(stacks: Iterable[str]) -> Iterable[str]:
    return [f"  {line}" for stack in stacks for line in stack.splitlines()]


def to_json(subject: str, outcomes: Iterable[found.Outcome]) -> str:
    """The whole, as --tq-conformance-json writes it."""
    content = {
        "schema": SCHEMA,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "subject": subject,
        "versions": {name: machine()[name] for name in ("pytest_taskqueue", "python")},
        "machine": machine(),
        "promises": [plain(outcome) for outcome in outcomes],
    }
    return json.dumps(content, indent=2, ensure_ascii=True) + "\n"


def plain(outcome: found.Outcome) -> dict[str, Any]:
    """One outcome as JSON holds it."""
    simple = {"status": outcome.status.value, "seconds": round(outcome.seconds, 3), "stacks": list(outcome.stacks)}
    return {**asdict(outcome), **simple}


def outcome_of(content: dict[str, Any]) -> found.Outcome:
    """The way back."""
    status, stacks = found.Status(content["status"]), tuple(content["stacks"])
    return found.Outcome(**{**content, "status": status, "stacks": stacks})
