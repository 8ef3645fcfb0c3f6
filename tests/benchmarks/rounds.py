"""Measures a row: every measurement in a process and a folder of its own, the contenders in turn, round by round."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks.rows import PACKAGES, Row

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 5
LONGEST = 900.0
"""Seconds after which a measurement is given up."""
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How to measure: the number of rounds (None: the row's own, or 5), the scale of all counts, where folders go."""

    rounds: int | None = None
    scale: float = 1.0
    sleep: bool = False
    directory: Path | None = None

    def rounds_of(self, row: Row) -> int:
        """How often a row is measured."""
        return self.rounds or row.rounds or ROUNDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one process measured, or why there is nothing; `elapsed_s` with its start and its preparations."""

    figures: Mapping[str, float] = field(default_factory=dict)
    problem: str | None = None
    elapsed_s: float = 0.0


Round = Mapping[str, Measurement]
"""The measurements of one round, by contender."""

Measure = Callable[[Row, str, Plan], Measurement]


def measure_row(row: Row, plan: Plan, measure: Measure, progress: Callable[[str], None]) -> list[Round]:
    """All rounds of a row."""
    rounds = []
    for n in range(plan.rounds_of(row)):
        found = {}
        for contender in turn(row.contenders, n):
            found[contender] = measurement = measure(row, contender, plan)
            told = measurement.problem or ", ".join(f"{k} {v:,.6g}" for k, v in measurement.figures.items())
            progress(f"{row.name} {n + 1}/{plan.rounds_of(row)} {contender}: {told} ({measurement.elapsed_s:.1f} s)")
        rounds.append(found)
    return rounds


def turn(contenders: tuple[str, ...], n: int) -> Iterator[str]:
    """The contenders in the order of round `n`: each round starts at another place, so that none is always first."""
    start = n % len(contenders)
    yield from contenders[start:]
    yield from contenders[:start]


def measure_apart(row: Row, contender: str, plan: Plan) -> Measurement:
    """One measurement in a fresh process and a fresh folder."""
    if not all(find_spec(name) for name in (row.needs, PACKAGES.get(contender)) if name):
        return Measurement(problem=NOT_INSTALLED)
    with tempfile.TemporaryDirectory(dir=plan.directory, prefix="speed-", ignore_cleanup_errors=True) as directory:
        start = time.monotonic()
        try:
            done = subprocess.run(
                _command(row, contender, plan, directory),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=LONGEST,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Measurement(problem=f"failed: not done within {LONGEST:.0f} s", elapsed_s=LONGEST)
        elapsed = time.monotonic() - start
    if done.returncode:
        sys.stderr.write(done.stderr)
        last = done.stderr.strip().rpartition("\n")[2]
        return Measurement(problem=f"failed: {last or f'exit status {done.returncode}'}", elapsed_s=elapsed)
    return Measurement(figures=json.loads(done.stdout), elapsed_s=elapsed)


def _command(row: Row, contender: str, plan: Plan, directory: str) -> list[str]:
    command = [sys.executable, "-m", f"tests.benchmarks.{row.module}", contender, "--directory", directory]
    command += ["--scale", str(plan.scale), "--workers", str(row.workers)]
    return [*command, "--sleep"] if plan.sleep else command
