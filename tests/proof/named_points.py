"""Proof 2: kill -9 at named points: before BEGIN, before COMMIT, after COMMIT, after the renaming of an output.

A statement that is a transaction of its own has the same points: before it, when all is written inside it, after it;
and a number of steps of SQLite's machine between them.

Each transition is rehearsed first, which tells the number of its transaction and the rows before and after it. Then
the same story is played again and ends at the point. All these rows must be as before or all as after, never anything
between.
"""

from __future__ import annotations

import random
import signal
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import Any

from tests.proof import audit
from tests.proof.journal import Journal
from tests.proof.notes import Case, Notes, Proof
from tests.proof.process import Voice, run
from tests.proof.stories import TRANSITIONS, Stage, Story, Transition
from tests.proof.trap import AFTER, AT_ONCE, BEFORE, LAST, RENAMED, WITHIN, Point, State, Transaction, Trap
from tests.proof.work import finish

MOMENTS = (BEFORE, LAST, AFTER)
STEPS = 4
"""Kills within each statement that is a transaction of its own, for each kill at another moment."""
DURABILITIES = ("process", "power")


def cases(campaign: bool) -> list[Case]:
    """Each point twice, or 25 times."""
    times = 25 if campaign else 2
    return [_case(transition, times) for transition in TRANSITIONS]


def _case(transition: Transition, times: int) -> Case:
    moments = [*MOMENTS, *([RENAMED] * transition.publishes), *([WITHIN] * (STEPS * (transition.way == AT_ONCE)))]
    return Case(transition.name, times * len(moments), partial(play, transition, moments, times))


def play(
    transition: Transition, moments: list[str], times: int, folder: Path, rng: random.Random, notes: Notes
) -> None:
    """Rehearse, then kill at each moment so many times."""
    for n in range(times):
        durability = DURABILITIES[n % 2]
        rehearsed = _rehearse(transition, folder / f"rehearsal {n}", durability, notes)
        if rehearsed is None:
            return
        for place, moment in enumerate(moments):
            step = rng.randint(1, max(rehearsed.steps, 1))
            at = Point(moment, rehearsed.number, step, rehearsed.beginnings)
            where = f"{moment}, at step {step} of {rehearsed.steps}" if moment == WITHIN else moment
            finding = f"killed {where} ({durability}): "
            point = Notes()
            _kill(transition, at, rehearsed, folder / f"{n}-{place}", durability, point)
            notes.find(finding + text for text in point.findings)
            notes.counts.update(point.counts)


def _rehearse(transition: Transition, folder: Path, durability: str, notes: Notes) -> Transaction | None:
    """The transaction that makes the transition, on the way that it is to go."""
    folder.mkdir()
    _live_the_past(transition, folder, durability)
    rows = {key: _state(row) for key, row in audit.read(folder).items()}
    child, status = run(_victim, folder, transition.story, Trap(), durability, rows)
    found = transition.find([_transaction(*told) for told in child.told("transaction")])
    notes.check(status == 0 and found, f"the rehearsal ended with {status}: {child.heard}")
    inside = found is None or found.way != AT_ONCE or (found.beginnings > 0 and found.steps > 0)
    notes.check(inside, f"the rehearsal did not see into the statement: {found}")
    return found


def _transaction(number: int, way: str, steps: int, beginnings: int, changes: dict[str, list[Any]]) -> Transaction:
    """As the child has told it."""
    states = {key: (before and tuple(before), tuple(after)) for key, (before, after) in changes.items()}
    return Transaction(number, way, steps, beginnings, states)


def _kill(
    transition: Transition, point: Point, rehearsed: Transaction, folder: Path, durability: str, notes: Notes
) -> None:
    """Play the story to the point, look at what it left, let somebody else finish, and look again."""
    folder.mkdir()
    with Journal(folder / "journal") as journal:
        _live_the_past(transition, folder, durability, journal)
        victim, status = run(_victim, folder, transition.story, Trap(point), durability, {})
        journal.keep(victim.heard)
        notes.count_ways(victim.heard)
        notes.check(status == -signal.SIGKILL, f"the victim did not come to the point, it ended with {status}")
        notes.counts["kills"] += status == -signal.SIGKILL
        notes.counts[f"kills {point.moment}"] += status == -signal.SIGKILL
        rows, found = audit.look(folder, journal, {})
        for key, (before, after) in rehearsed.changes.items():
            state, expected = key in rows and _state(rows[key]), after if point.moment == AFTER else before
            notes.check((state or None) == expected, f"the row of {key!r} is {state}, not {expected}")
        child, status = run(finish, folder)
        journal.keep(child.heard)
        notes.check(status == 0 and child.told("drained") == [[True]], f"the next owner ended with {status}")
        notes.find(found + audit.look_at_the_end(folder, journal, rows))


def _live_the_past(transition: Transition, folder: Path, durability: str, journal: Journal | None = None) -> None:
    for story in transition.past:
        child, _ = run(_victim, folder, story, Trap(Point("never")), durability, {})
        if journal is not None:
            journal.keep(child.heard)


def _victim(voice: Voice, folder: Path, story: Story, trap: Trap, durability: str, rows: dict[str, State]) -> None:
    """Play a story with the trap laid; in a rehearsal tell what it changed."""
    trap.way = lambda way: voice.say("way", way)
    trap.set(rows)
    story(Stage(voice, folder, trap, durability))
    for transaction in trap.transactions:
        voice.say("transaction", *astuple(transaction))


def _state(row: audit.Row) -> State:
    return row["status"], row["retries"], row["crashes"], row["version"]


PROOF = Proof(2, "kill -9 at named points", cases)
