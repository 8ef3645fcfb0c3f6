"""One comparison: warm-up, slots in randomized pairs, the verdict."""

from __future__ import annotations

import os
import platform
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from time import perf_counter as clock

from pytest_taskqueue.config import CompareConfig
from pytest_taskqueue.figures import combine
from pytest_taskqueue.results import ARMS, ComparisonResult, Figures, SlotResult
from pytest_taskqueue.slots import Slot, SlotRunner, SubjectError
from pytest_taskqueue.subjects import SubjectFactory, find_subject
from pytest_taskqueue.verdict import Judgement, Verdict, judge
from pytest_taskqueue.workloads import find_workload

PAIRS = 5
"""Measured pairs before the one look at the numbers."""

WARMUP_WINDOW = 1.0
SHORTEST_WINDOW, LONGEST_WINDOW = 1.0, 5.0

Progress = Callable[[Sequence[SlotResult]], None]
"""Told after every slot, with all slots so far."""


class Comparison:
    """Baseline against optimized under one number of clients. The rules are in bench_results/README.md.

    Raises ValueError for a subject or a workload that does not exist.
    """

    def __init__(
        self, config: CompareConfig, clients: int, *, command: str = "", progress: Progress | None = None
    ) -> None:
        self._config = config
        self._clients = clients
        self._command = command
        self._progress = progress
        self._factories: Mapping[str, SubjectFactory] = {
            "baseline": find_subject(config.baseline),
            "optimized": find_subject(config.optimized),
        }
        self._workload = find_workload(config.workload)
        self._slots: list[Slot] = []
        self._pair_seconds: list[float] = []
        self._window = config.slot or WARMUP_WINDOW

    def run(self) -> ComparisonResult:
        """Measure and judge. A queue that does wrong work, or breaks, gives INVALID and no speed verdict."""
        started = clock()
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with tempfile.TemporaryDirectory(prefix="taskqueue-", ignore_cleanup_errors=True) as directory:
            try:
                judgement = self._judge(Path(directory), started + self._config.budget)
            except SubjectError as error:
                judgement = Judgement(Verdict.INVALID, str(error), ())
        return ComparisonResult(
            created=created,
            verdict=judgement.verdict,
            reason=judgement.reason,
            clients=self._clients,
            seed=self._config.seed,
            command=self._command,
            machine=machine(),
            settings=self._settings(),
            gates=judgement.gates,
            arms=self._arms(),
            slots=tuple(slot.result for slot in self._slots),
            elapsed_s=clock() - started,
        )

    def _judge(self, directory: Path, deadline: float) -> Judgement:
        runner = SlotRunner(self._workload, self._config, self._clients, directory)
        for arm in ARMS:
            if (invalid := self._measure(runner, arm, pair=0)) is not None:
                return invalid
        self._window = self._config.slot or self._choose_window()
        for pair, order in enumerate(self._orders(), start=1):
            if pair > 1 and clock() + max(self._pair_seconds) > deadline:
                return self._out_of_budget(pair - 1)
            begin = clock()
            for arm in order:
                if (invalid := self._measure(runner, arm, pair=pair)) is not None:
                    return invalid
            self._pair_seconds.append(clock() - begin)
        return judge(self._config.gates, self._pairs())

    def _measure(self, runner: SlotRunner, arm: str, *, pair: int) -> Judgement | None:
        """Run one slot; a judgement only when it is invalid."""
        slot = runner.run(arm, self._factories[arm], lambda load: load.run(self._window), pair=pair)
        self._slots.append(slot)
        if self._progress is not None:
            self._progress([slot.result for slot in self._slots])
        if not slot.result.problems:
            return None
        return Judgement(Verdict.INVALID, f"{arm}: {slot.result.problems[0]} (slot {slot.result.index})", ())

    def _choose_window(self) -> float:
        """Three times the P95 of the slower arm, within bounds, the same for both."""
        slowest = max(slot.result.figures.p95_s for slot in self._slots)
        return min(max(3 * slowest, SHORTEST_WINDOW), LONGEST_WINDOW)

    def _orders(self) -> Iterator[tuple[str, ...]]:
        """The order of each pair, in blocks of two: AB BA or BA AB, by a seeded coin."""
        coin = random.Random(f"order/{self._config.seed}/{self._clients}")
        first = ARMS
        for pair in range(PAIRS):
            if pair % 2 == 0:
                first = coin.choice((ARMS, ARMS[::-1]))
                yield first
            else:
                yield first[::-1]

    def _out_of_budget(self, pairs: int) -> Judgement:
        reason = (
            f"the budget of {self._config.budget:g} s ended after {pairs} of {PAIRS} pairs; "
            "a larger budget or shorter slots would hold all of them"
        )
        gates = judge(self._config.gates, self._pairs()).gates if pairs > 1 else ()
        return Judgement(
            Verdict.INCONCLUSIVE, reason, tuple(replace(gate, verdict=Verdict.INCONCLUSIVE) for gate in gates)
        )

    def _pairs(self) -> list[tuple[dict[str, float], dict[str, float]]]:
        """The judged metrics of every complete pair: (baseline, optimized)."""
        by_pair: dict[int, dict[str, dict[str, float]]] = {}
        for slot in self._slots:
            by_pair.setdefault(slot.result.pair, {})[slot.result.arm] = _metrics(slot.result.figures)
        return [(pair["baseline"], pair["optimized"]) for number, pair in sorted(by_pair.items()) if number > 0]

    def _arms(self) -> dict[str, Figures]:
        """The figures of each arm over all its measured slots; of its warm-up if there is no other."""
        arms = {}
        for arm in ARMS:
            slots = [slot for slot in self._slots if slot.result.arm == arm]
            measured = [slot.measured for slot in slots if slot.result.pair > 0] or [slot.measured for slot in slots]
            if measured:
                arms[arm] = combine(measured)
        return arms

    def _settings(self) -> dict[str, str | int | float]:
        config = self._config
        return {
            "baseline": config.baseline,
            "optimized": config.optimized,
            "workload": config.workload,
            "work": self._workload.text,
            "workers": config.workers,
            "queue_size": config.queue_size,
            "window_s": round(self._window, 3),
            "budget_s": config.budget,
            "pairs": PAIRS,
            "gates": ", ".join(map(str, config.gates)),
        }


def declaration(config: CompareConfig) -> list[str]:
    """What is compared and how it is decided, told before the first slot."""
    clients = ", ".join(f"{count}" for count in config.clients)
    window = f"{config.slot:g} s" if config.slot else f"{SHORTEST_WINDOW:g} to {LONGEST_WINDOW:g} s"
    return [
        (
            f"taskqueue: {config.baseline} against {config.optimized}, workload {config.workload}, {clients} clients, "
            f"{config.workers} workers, seed {config.seed}"
        ),
        (
            f"           gates {' '.join(map(str, config.gates))}; {PAIRS} pairs, one look, 95 % intervals; "
            f"window {window}; budget {config.budget:g} s"
        ),
    ]


def machine() -> dict[str, str | int | float | bool]:
    """What the numbers depend on: system, Python, cores, the GIL, versions."""
    affinity = getattr(os, "sched_getaffinity", None)
    gil = getattr(sys, "_is_gil_enabled", None)
    return {
        "platform": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        "gil": gil() if gil is not None else True,
        "switch_interval_s": sys.getswitchinterval(),
        "pytest_taskqueue": _version("pytest-taskqueue"),
        "pillow": _version("Pillow"),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _metrics(figures: Figures) -> dict[str, float]:
    return {
        "throughput": figures.throughput,
        "mean": figures.mean_s,
        "p50": figures.p50_s,
        "p95": figures.p95_s,
        "p99": figures.p99_s,
    }
