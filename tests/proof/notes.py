"""What a case writes down: how much it did, what it found, and why it could not be played."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


def way_count(way: str) -> str:
    """Under which name it is counted that a process went this way."""
    return f"processes with transactions {way}"


@dataclass(slots=True)
class Notes:
    """`findings` are broken promises; `skipped` is the reason when a case cannot be played on this machine."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    skipped: str = ""

    def to_json(self) -> dict[str, object]:
        """For the process that adds the notes up."""
        return {"counts": self.counts, "findings": self.findings, "skipped": self.skipped}

    def check(self, holds: object, finding: str) -> None:
        """A promise, and how it reads when it is broken."""
        if not holds:
            self.findings.append(finding)

    def count_ways(self, events: Iterable[Sequence[object]]) -> None:
        """Count the processes that told of transactions in one statement, and of those with BEGIN and COMMIT."""
        self.counts.update(way_count(str(event[1])) for event in events if event[0] == "way")

    def find(self, findings: Iterable[str]) -> None:
        """Broken promises that somebody else found."""
        self.findings += findings


@dataclass(frozen=True, slots=True)
class Case:
    """One story of so many rounds: `play(folder, rng, notes)` in an empty folder of its own."""

    name: str
    rounds: int
    play: Callable[[Path, random.Random, Notes], None]


@dataclass(frozen=True, slots=True)
class Proof:
    """A numbered proof. `cases(campaign)` is what one run of it plays."""

    number: int
    title: str
    cases: Callable[[bool], list[Case]]
