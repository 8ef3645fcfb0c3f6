"""Plays the cases of a proof, two at a time, each in a folder of its own, and adds up what they noted."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.proof.notes import Case, Notes, Proof, way_count
from tests.proof.process import Child, Voice
from tests.proof.trap import WAYS

JOBS = 2
ENOUGH = 20
"""Seconds spent on broken cases after which a player gives up: something hangs, and will again."""


@dataclass(slots=True)
class Outcome:
    """A proof's result. `verdict` is "held", "broken", or "skipped" when no case could be played."""

    number: int
    title: str
    rounds: int = 0
    findings: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """What the findings come to."""
        if self.findings:
            return "broken"
        return "held" if self.rounds else "skipped"

    def to_json(self) -> dict[str, Any]:
        """For the report."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "verdict": self.verdict}

    def add(self, case: Case, played: dict[str, Any]) -> None:
        """Add what a case noted."""
        self.findings += [f"{case.name}: {finding}" for finding in played["findings"]]
        self.counts.update(played["counts"])
        if played["skipped"]:
            self.skipped[case.name] = played["skipped"]
        else:
            self.rounds += case.rounds

    def demand_both_ways(self) -> None:
        """A proof in which all transactions went one way proves nothing of the other."""
        missing = [way for way in WAYS if self.rounds and not self.counts[way_count(way)]]
        self.findings += [f"the harness itself: no transaction was made {way}" for way in missing]


def prove(proof: Proof, *, campaign: bool, seed: int) -> Outcome:
    """Play a proof's cases. The seed and the case's name decide every choice within a case."""
    cases = proof.cases(campaign)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="proof-") as folder:
        players = [Child(_play, Path(folder), n, cases[n::JOBS], f"{seed}/{proof.number}", hang=0) for n in range(JOBS)]
        for player in players:
            with player:
                player.rest()
                if player.wait() != 0:
                    raise RuntimeError(f"the harness itself failed: {player.heard}")
        outcome = Outcome(proof.number, proof.title)
        for n in range(JOBS):
            notes = json.loads(_result(Path(folder), n).read_text())
            for case, played in zip(cases[n::JOBS], notes, strict=True):
                outcome.add(case, played)
    outcome.demand_both_ways()
    outcome.seconds = round(time.monotonic() - started, 2)
    return outcome


def _play(voice: Voice, folder: Path, n: int, cases: list[Case], seed: str) -> None:
    """One of the players: a process without threads, so that it may fork."""
    results: list[Notes] = []
    spent = 0.0
    for number, case in enumerate(cases):
        if spent > ENOUGH:
            results.append(Notes(skipped="enough is broken"))
            continue
        started = time.monotonic()
        results.append(_play_one(case, folder / f"{n}-{number}", random.Random(f"{seed}/{case.name}")))
        spent += bool(results[-1].findings) * (time.monotonic() - started)
    _result(folder, n).write_text(json.dumps([notes.to_json() for notes in results]))


def _play_one(case: Case, place: Path, rng: random.Random) -> Notes:
    notes = Notes()
    place.mkdir()
    try:
        case.play(place, rng, notes)
    except Exception:  # noqa: BLE001 - a story that breaks off is no success
        notes.findings.append(traceback.format_exc())
    shutil.rmtree(place, ignore_errors=True)
    return notes


def _result(folder: Path, n: int) -> Path:
    return folder / f"{n}.json"
