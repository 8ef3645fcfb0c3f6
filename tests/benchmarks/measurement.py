"""What every measurement shares: its command line, its one line of JSON, and the work that costs nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from taskqueue_core import Task

PAUSE = 0.0002
"""Seconds that a task sleeps under --sleep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one process is to measure: in an empty `directory`, with counts and durations times `scale`."""

    directory: Path
    scale: float
    workers: int
    sleep: bool

    @property
    def ledger(self) -> Path:
        """Where the queue under test keeps its ledger."""
        return self.directory / "tasks.db"

    def count(self, full: int) -> int:
        """A count at this scale, 1 or more."""
        return max(1, round(full * self.scale))


Figures = dict[str, float]
"""What one process measured, by name. Rates are per second; the other units end the name: first_task_s, p99_ms."""


def main(contenders: Mapping[str, Callable[[Setting], Figures]]) -> None:
    """Measure the contender named on the command line and print its figures as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("contender", choices=contenders)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--sleep", action="store_true")
    options = vars(parser.parse_args())
    measure = contenders[options.pop("contender")]
    print(json.dumps(measure(Setting(**options))), flush=True)


def make_tasks(count: int, name: str = "t") -> list[Task]:
    """Tasks with keys of their own."""
    return [Task(f"{name}{n}") for n in range(count)]


def nothing(task: Task) -> None:
    """The no-op task."""


def check_done(expected: int, found: int) -> None:
    """A rate counts only when the work was done. Raises RuntimeError."""
    if found != expected:
        raise RuntimeError(f"{found:,} of {expected:,} tasks were done")
