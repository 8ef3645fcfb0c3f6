"""One comparison: warm-up, slots in randomized pairs, looks, the verdict."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.config import CompareConfig
from pytest_taskqueue.figures import Measured, combine, histogram, metrics
from pytest_taskqueue.load import clock
from pytest_taskqueue.machine import load_average, machine
from pytest_taskqueue.openloop import poisson_plan
from pytest_taskqueue.results import ARMS, ComparisonResult, Figures, OpenResult, Standing
from pytest_taskqueue.slots import Slot, SlotRunner, SubjectError
from pytest_taskqueue.subjects import SubjectFactory
from pytest_taskqueue.verdict import (
    ALPHA,
    LOOKS,
    Gate,
    GateResult,
    Judgement,
    Noise,
    Pair,
    UnjudgeableError,
    Verdict,
    judge,
    judge_same,
    noise,
)
from pytest_taskqueue.wording import count

WARMUP_WINDOW = 1.0
SHORTEST_WINDOW, LONGEST_WINDOW = 1.0, 5.0
SAME_PAIRS = 12
"""Pairs of an arm against itself (--tq-aa), before the one look at them."""

TELLING = 3
"""Pairs before their interval is shown: that of two reaches from nothing to anything."""

OPEN_TASKS = 500
LONGEST_OPEN = 10.0
"""How many tasks the open loop has, and how many seconds at most."""

SPEED = Gate("throughput", ">=", 1.0)
"""What the noise is measured by."""

NEAR = 0.5
"""Share of the load generator's ceiling from which on it is warned of."""

Progress = Callable[[Standing], None]
"""Told after every slot, but for one that ends the comparison as INVALID."""


class Comparison:
    """Baseline against optimized under one number of clients. The rules are in bench_results/README.md.

    Raises ValueError for a subject or a workload that does not exist.
    """

    def __init__(
        self,
        config: CompareConfig,
        clients: int,
        *,
        catalogue: Catalogue | None = None,
        command: str = "",
        progress: Progress | None = None,
    ) -> None:
        catalogue = catalogue or Catalogue()
        self._config = config
        self._clients = clients
        self._command = command
        self._progress = progress
        self._factories: Mapping[str, SubjectFactory] = {
            "baseline": catalogue.subject(config.baseline),
            "optimized": catalogue.subject(config.baseline if config.aa else config.optimized),
        }
        self._workload = catalogue.workload(config.workload, config.seed)
        self._slots: list[Slot] = []
        self._pairs: list[Pair] = []
        self._pair_seconds: list[float] = []
        self._looks: list[Judgement] = []
        self._most = self._all_pairs()
        self._window = config.slot or WARMUP_WINDOW
        self._ceiling: float | None = None
        self._stacks: tuple[str, ...] = ()
        self._open: OpenResult | None = None
        self._load = load_average()
        self._started = self._end = clock()

    def run(self) -> ComparisonResult:
        """Measure and judge. A queue that does wrong work, or breaks, gives INVALID and no speed verdict."""
        self._started = clock()
        self._end = self._started + self._config.budget
        created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with tempfile.TemporaryDirectory(prefix="taskqueue-", ignore_cleanup_errors=True) as directory:
            try:
                runner = SlotRunner(self._workload, self._config, self._clients, Path(directory).resolve())
                judgement = self._judge(runner)
                if judgement.verdict is not Verdict.INVALID and self._config.rate is not None:
                    judgement = self._open_loop(runner, self._config.rate) or judgement
            except UnjudgeableError as error:
                judgement = Judgement(Verdict.INVALID, str(error), ())
            except SubjectError as error:
                self._stacks = error.stacks
                judgement = Judgement(Verdict.INVALID, str(error), ())
        return ComparisonResult(
            created=created,
            verdict=judgement.verdict,
            reason=judgement.reason,
            clients=self._clients,
            seed=self._config.seed,
            command=self._command,
            machine={**machine(), "load": self._load},
            settings=self._settings(),
            gates=judgement.gates,
            arms=self._arms(),
            slots=tuple(slot.result for slot in self._slots),
            elapsed_s=clock() - self._started,
            looks=tuple(look.gates for look in self._looks),
            noise=self._noise(),
            most_pairs=self._most,
            pair_s=sum(self._pair_seconds) / len(self._pair_seconds) if self._pair_seconds else None,
            ceiling=self._ceiling,
            histograms={arm: histogram(self._measured(arm)) for arm in ARMS},
            open_loop=self._open,
            stacks=self._stacks,
            warnings=tuple(self._warnings()),
        )

    def _judge(self, runner: SlotRunner) -> Judgement:
        for arm in ARMS:
            if (invalid := self._measure(runner, arm, pair=0)) is not None:
                return invalid
        self._ceiling = runner.ceiling(self._window)
        self._plan()
        for pair, order in enumerate(self._orders(), start=1):
            if pair > 1 and clock() + max(self._pair_seconds) > self._end:
                return self._out_of_budget()
            begin = clock()
            for arm in order:
                if (invalid := self._measure(runner, arm, pair=pair)) is not None:
                    return invalid
            self._pair_seconds.append(clock() - begin)
            self._most = self._affordable()
            if (decided := self._look()) is not None:
                return decided
        return self._looks[-1]

    def _measure(self, runner: SlotRunner, arm: str, *, pair: int) -> Judgement | None:
        """Run one slot; a judgement only when it is invalid."""
        slot = runner.run(
            arm, self._factories[arm], lambda load: load.run(self._window), pair=pair, end=self._slot_end()
        )
        self._slots.append(slot)
        if slot.result.problems:
            self._stacks = slot.stacks
            return Judgement(Verdict.INVALID, f"{arm}: {slot.result.problems[0]} (slot {slot.result.index})", ())
        if pair and self._slots[-2].result.pair == pair:
            self._pairs.append(self._pair(self._slots[-2], slot))
        self._tell()
        return None

    def _slot_end(self) -> float:
        """When patience with a slot ends: with the budget, but a pair that was begun may be as slow as the others."""
        known = [slot.result.figures.p99_s for slot in self._slots if slot.result.figures.p99_s > 0]
        if not known:
            return self._end
        return max(self._end, clock() + self._window + 3 * min(max(known), LONGEST_WINDOW))

    def _pair(self, first: Slot, second: Slot) -> Pair:
        """Two neighbouring slots, whichever arm came first. Raises UnjudgeableError when a gate cannot judge them."""
        figures = {slot.result.arm: metrics(slot.result.figures) for slot in (first, second)}
        pair = Pair(figures["baseline"], figures["optimized"], baseline_first=first.result.arm == "baseline")
        for gate in (*self._config.gates, SPEED):
            gate.sample([pair])
        return pair

    def _plan(self) -> None:
        """After the warm-up: the window, and how many pairs the budget buys."""
        self._pair(*self._slots[-2:])
        before = self._window
        self._window = self._config.slot or self._choose_window()
        took = (clock() - self._started) / 2  # a bit too much: it holds the making of inputs and expected outputs
        affordable = int((self._end - clock()) / (2 * max(took - before + self._window, self._window)))
        self._most = max(1, min(self._most, affordable))
        self._tell(plan=True)

    def _choose_window(self) -> float:
        """Three times the P95 of the slower arm, within bounds, the same for both."""
        slowest = max(slot.result.figures.p95_s for slot in self._slots)
        return min(max(3 * slowest, SHORTEST_WINDOW), LONGEST_WINDOW)

    def _orders(self) -> Iterator[tuple[str, ...]]:
        """The order of each pair, in blocks of two: AB BA or BA AB, by a seeded coin."""
        coin = random.Random(f"order/{self._config.seed}/{self._clients}")
        first = ARMS
        for pair in range(self._all_pairs()):
            if pair % 2 == 0:
                first = coin.choice((ARMS, ARMS[::-1]))
                yield first
            else:
                yield first[::-1]

    def _look(self) -> Judgement | None:
        """After a pair: a judgement once it is decided."""
        measured = len(self._pairs)
        if self._config.aa:
            if measured < SAME_PAIRS:
                return None
            self._looks.append(judge_same(self._config.gates, self._pairs))
            return self._looks[-1]
        if measured not in LOOKS:
            return None
        self._looks.append(judge(self._config.gates, self._pairs))
        return None if self._looks[-1].verdict is Verdict.INCONCLUSIVE else self._looks[-1]

    def _out_of_budget(self) -> Judgement:
        """No further pair fits. The last look stands as it was: another one at a moment of our choice would be one
        that the error rate has not paid for.
        """
        budget = f"the budget of {self._config.budget:g} s ended after {count(len(self._pairs), 'pair')}"
        if self._looks:
            return replace(self._looks[-1], reason=f"{budget}; {self._looks[-1].reason}")
        first = SAME_PAIRS if self._config.aa else LOOKS[0]
        gates = judge(self._config.gates, self._pairs).gates if len(self._pairs) > 1 else ()
        undecided = tuple(
            replace(
                gate,
                verdict=Verdict.INCONCLUSIVE,
                needed=gate.needed if gate.verdict is Verdict.INCONCLUSIVE else first,
            )
            for gate in gates
        )
        return Judgement(Verdict.INCONCLUSIVE, f"{budget}, before the first look at {first}", undecided)

    def _open_loop(self, runner: SlotRunner, share: float) -> Judgement | None:
        """Both arms under the same plan, if the budget has room for it; a judgement only when one did wrong work."""
        rate = share * combine(self._measured("baseline")).throughput
        seconds = min(max(OPEN_TASKS / rate, SHORTEST_WINDOW), LONGEST_OPEN)
        if clock() + 3 * seconds > self._end:
            return None
        plan = poisson_plan(rate, seconds, self._clients, self._config.seed)
        figures = {}
        for arm in ARMS:
            slot = runner.run(arm, self._factories[arm], lambda load: load.run_plan(plan), end=self._slot_end())
            if slot.result.problems:
                self._stacks = slot.stacks
                return Judgement(Verdict.INVALID, f"{arm}: {slot.result.problems[0]} (open loop)", ())
            if clock() > self._end:  # the plan may have been cut short
                return None
            figures[arm] = slot.result.figures
        self._open = OpenResult(rate=rate, share=share, seconds=seconds, arms=figures)
        return None

    def _tell(self, *, plan: bool = False) -> None:
        if self._progress is None:
            return
        now = clock()
        self._progress(
            Standing(
                slot=self._slots[-1].result,
                pairs=len(self._pairs),
                most=self._most,
                elapsed_s=now - self._started,
                budget_s=self._config.budget,
                window_s=self._window,
                ratios=self._so_far(),
                plan=plan,
            )
        )

    def _affordable(self) -> int:
        """How many pairs the budget holds, if each further one takes as long as the longest so far."""
        measured = len(self._pairs)
        more = int((self._end - clock()) / max(self._pair_seconds))
        return max(measured, min(self._all_pairs(), measured + more))

    def _so_far(self) -> tuple[GateResult, ...]:
        return judge(self._config.gates, self._pairs).gates if len(self._pairs) >= TELLING else ()

    def _all_pairs(self) -> int:
        return SAME_PAIRS if self._config.aa else LOOKS[-1]

    def _noise(self) -> Noise | None:
        return noise(self._pairs, SPEED.metric) if self._pairs else None

    def _warnings(self) -> Iterator[str]:
        """What does not change the verdict, and should be known."""
        arms, found = self._arms(), self._noise()
        cores = int(machine()["cores"])
        if self._load is not None and self._load > cores:
            yield f"other programs were at work at the beginning (load {self._load:g} on {cores} cores): this is noise"
        if found is not None and found.order is not None and found.order_matters:
            yield f"the ratio came out {found.order:+.0%} where the baseline went first: slots of a pair are not alike"
        fastest = max((figures.throughput for figures in arms.values()), default=0.0)
        if self._ceiling is not None and fastest > NEAR * self._ceiling:
            share = fastest / self._ceiling
            yield f"an arm reached {share:.0%} of what the clients can do at all, which pulls every ratio towards 1"
        if len(self._pairs) > 1 and not self._config.aa:
            yield from self._pooled_warnings(Pair(metrics(arms["baseline"]), metrics(arms["optimized"])))

    def _pooled_warnings(self, pooled: Pair) -> Iterator[str]:
        """The ratio over the tasks of all slots should lie on the same side of the gate as that of the pairs."""
        for result in judge(self._config.gates, self._pairs).gates:
            gate = result.gate
            if not gate.relative:
                continue
            (log_ratio,) = gate.sample([pooled])
            paired, together = result.value, gate.shown(log_ratio)
            if (paired >= gate.bound) != (together >= gate.bound):
                yield (
                    f"{gate.metric} x{together:.2f} over the tasks of all slots lies on the other side of the gate "
                    f"{gate.limit} than x{paired:.2f} of the pairs"
                )

    def _arms(self) -> dict[str, Figures]:
        """The figures of each arm over all its measured slots; of its warm-up if there is no other."""
        return {arm: combine(measured) for arm in ARMS if (measured := self._measured(arm))}

    def _measured(self, arm: str) -> list[Measured]:
        slots = [slot for slot in self._slots if slot.result.arm == arm]
        return [slot.measured for slot in slots if slot.result.pair > 0] or [slot.measured for slot in slots]

    def _settings(self) -> dict[str, str | int | float]:
        config = self._config
        return {
            "baseline": config.baseline,
            "optimized": config.baseline if config.aa else config.optimized,
            "workload": config.workload,
            "work": self._workload.text,
            "workers": config.workers,
            "queue_size": config.queue_size,
            "window_s": round(self._window, 3),
            "budget_s": config.budget,
            "gates": ", ".join(map(str, config.gates)),
            "looks": " ".join(map(str, [SAME_PAIRS] if config.aa else LOOKS)),
            "alpha": ALPHA,
            "aa": config.aa,
            "rate": config.rate or 0,
        }


def declaration(config: CompareConfig) -> list[str]:
    """What is compared and how it is decided, told before the first slot."""
    clients = ", ".join(f"{count}" for count in config.clients)
    window = f"{config.slot:g} s" if config.slot else f"{SHORTEST_WINDOW:g} to {LONGEST_WINDOW:g} s"
    rule = f"gates {' '.join(map(str, config.gates))}; looks at {' '.join(map(str, LOOKS))} pairs, alpha {ALPHA:g}"
    if config.aa:
        rule = f"no gates: do the 99 % intervals hold 1 after {SAME_PAIRS} pairs?"
    return [
        (
            f"taskqueue: {config.baseline} against {'itself' if config.aa else config.optimized}, "
            f"workload {config.workload}, {clients} clients, {config.workers} workers, seed {config.seed}"
        ),
        f"           {rule}; window {window}, budget {config.budget:g} s",
    ]
