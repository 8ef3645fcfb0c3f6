"""What the outside knows: the acknowledged submits and told results, on the disk of the one who is not killed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.proof.process import Event


class Journal:
    """An fsynced list of everything a child has told, and what follows from it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        self.accepted: set[str] = set()
        self.results: dict[str, str] = {}
        self.failures: set[str] = set()
        self.cancelled: set[str] = set()
        self.runs: list[str] = []  # keys, a run each
        self.findings: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def keep(self, events: Iterable[Event]) -> None:
        """Write the events down, and bring them to the disk."""
        for event in events:
            self._file.write(f"{json.dumps(event)}\n")
            self._sort(event)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _sort(self, event: Event) -> None:
        match event:
            case ["accepted", key]:
                self.accepted.add(key)
            case ["result", key, token]:
                if self.results.setdefault(key, token) != token:
                    self.findings.append(f"task {key!r} was told two results, {self.results[key]} and {token}")
            case ["failure", key]:
                self.failures.add(key)
            case ["cancelled", key]:
                self.cancelled.add(key)
            case ["ran", key, _]:
                self.runs.append(key)
            case ["error" | "logged" as kind, text]:
                self.findings.append(f"{kind}: {text}")
