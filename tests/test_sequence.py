"""When a comparison ends and what it says then. No queue is run: the slots are prepared, on a clock that they turn."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from pytest_taskqueue import comparison
from pytest_taskqueue.arms import BUILT_IN
from pytest_taskqueue.comparison import SAME_PAIRS, Comparison
from pytest_taskqueue.config import resolve
from pytest_taskqueue.export import to_dict
from pytest_taskqueue.figures import Measured, combine, metrics
from pytest_taskqueue.report import failure_text, gate_text, progress_line, table, verdict_line
from pytest_taskqueue.results import ComparisonResult, SlotResult, Standing
from pytest_taskqueue.slots import Slot
from pytest_taskqueue.verdict import LOOKS, Gate, Noise, Pair, Verdict, judge

Run = Callable[..., ComparisonResult]
SPEED = [Gate("throughput", ">=", 2.0)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work on this machine."""
    monkeypatch.setattr(comparison, "load_average", lambda: 0.0)


@dataclass
class Queues:
    """Two queues with known figures: `speed` and `delay` are optimized / baseline, each slot has seeded jitter."""

    speed: float = 4.0
    delay: float = 0.25
    jitter: float = 0.01
    delay_jitter: float = 0.01
    seed: int = 7
    second: float = 1.0  # how fast the second slot of a pair is
    moods: Sequence[tuple[float, float]] = ((1.0, 1.0),)  # of the pairs in turn: speed of the machine, of optimized
    warm_up: float = 1.0
    seconds: Callable[[int], float] = lambda index: 1.0
    errors: Callable[[int], int] = lambda index: 0
    problem: tuple[int, str] = (-1, "")
    memory: float | None = 1.0
    ceiling: float = 1e7
    now: float = 1000.0
    factories: list[Any] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    told: list[Standing] = field(default_factory=list)
    watched: bool = True

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)

    def clock(self) -> float:
        return self.now

    def run(self, arm: str, factory: Any, drive: Any, *, pair: int = 0, end: float = math.inf) -> Slot:
        """What SlotRunner.run would have measured."""
        index, better = len(self.factories), arm == "optimized"
        self.factories.append(factory)
        self.ends.append(end)
        self.now += self.seconds(index)
        mood, edge = self.moods[pair % len(self.moods)]
        scale = mood * (edge if better else 1.0) * (self.second if pair and index % 2 else 1.0)
        scale *= math.exp(self.draw.gauss(0, self.jitter)) * (1.0 if pair else self.warm_up)
        delay = 0.2 * (self.delay if better else 1.0) * math.exp(self.draw.gauss(0, self.delay_jitter))
        measured = Measured(
            window_s=1.0, latencies=[delay] * 20, finished=round(100_000 * scale * (self.speed if better else 1.0)),
            longest_gap_s=0.01 * (1 + index), cpu_s=1.0, depths=(), errors=self.errors(index), lost=0, doubled=0,
            rss_growth_mb=self.memory,
        )  # fmt: skip
        wrong = (self.problem[1],) if self.problem[0] == index else ()
        figures = combine([measured])
        result = SlotResult(arm=arm, index=index, pair=pair, window_s=1.0, figures=figures, problems=wrong)
        return Slot(result, measured, ("thread w: somewhere",) if wrong else ())


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Compare two such queues, with these options."""

    def run(queues: Queues, **options: str) -> ComparisonResult:
        monkeypatch.setattr(comparison, "clock", queues.clock)
        monkeypatch.setattr(comparison.SlotRunner, "run", lambda _, *args, **more: queues.run(*args, **more))
        monkeypatch.setattr(comparison.SlotRunner, "ceiling", lambda runner, window: queues.ceiling)
        config = resolve({"workload": "noop", "slot": "1", **options}, {}, {}.get)
        return Comparison(config, 5, progress=queues.told.append if queues.watched else None).run()

    return run


def pairs(result: ComparisonResult) -> list[Pair]:
    """The measured pairs of a result, from its slots alone."""
    slots = [slot for slot in result.slots if slot.pair]
    both = [{slot.arm: metrics(slot.figures) for slot in slots[at : at + 2]} for at in range(0, len(slots), 2)]
    return [Pair(pair["baseline"], pair["optimized"], slots[2 * k].arm == "baseline") for k, pair in enumerate(both)]


def verdicts(result: ComparisonResult) -> list[tuple[str, Verdict, int]]:
    return [(gate.metric, gate.verdict, gate.pairs) for gate in result.gates]


# --- looks


@pytest.mark.parametrize(
    ("speed", "seed", "verdict", "count"),
    [
        (2.3, 2, Verdict.PASS, 5), (2.5, 1, Verdict.PASS, 8), (2.3, 9, Verdict.PASS, 12), (2.3, 3, Verdict.PASS, 18),
        (2.3, 1, Verdict.PASS, 27), (2.3, 6, Verdict.PASS, 40), (1.7, 19, Verdict.FAIL, 5), (1.7, 1, Verdict.FAIL, 8),
        (1.7, 3, Verdict.FAIL, 12), (1.7, 17, Verdict.FAIL, 40), (2.3, 5, Verdict.INCONCLUSIVE, 40),
    ],
)  # fmt: skip
def test_it_ends_at_the_first_look_that_decides(
    run: Run, speed: float, seed: int, verdict: Verdict, count: int
) -> None:
    """As the rule says of its pairs at each look; no look comes between two looks, and no pair after the last."""
    result = run(Queues(speed=speed, jitter=0.15, seed=seed), gate="throughput>=2x", budget="1000")
    judged = [judge(SPEED, pairs(result)[:look]) for look in LOOKS if look <= count]
    assert (result.verdict, len(pairs(result)), len(result.slots)) == (verdict, count, 2 + 2 * count)
    assert [look.verdict for look in judged] == [Verdict.INCONCLUSIVE] * (len(judged) - 1) + [verdict]
    assert result.looks == tuple(look.gates for look in judged)
    assert (result.gates, result.reason) == (judged[-1].gates, judged[-1].reason)


def test_pass_needs_every_gate_at_the_same_look(run: Run) -> None:
    """The p95 gate reaches its bound at the first look, and is asked again with the others."""
    result = run(Queues(speed=2.4, jitter=0.15, seed=18))
    assert (result.verdict, len(pairs(result))) == (Verdict.PASS, 8)
    assert [gate.verdict for gate in result.looks[0]] == [Verdict.INCONCLUSIVE, Verdict.PASS]
    assert verdicts(result) == [(name, Verdict.PASS, len(pairs(result))) for name in ("throughput", "p95")]


def test_it_fails_as_soon_as_one_gate_fails(run: Run) -> None:
    """The others are shown as they stand; more pairs would not make it pass."""
    result = run(Queues(speed=2.0, jitter=0.2, delay=0.9))
    assert verdicts(result) == [("throughput", Verdict.INCONCLUSIVE, 5), ("p95", Verdict.FAIL, 5)]
    assert result.verdict is Verdict.FAIL
    assert result.reason.startswith("p95 x0.9")


def test_after_40_pairs_nothing_more_is_measured(run: Run) -> None:
    """A ratio at its gate is never decided; no budget is named that would have helped."""
    result = run(Queues(speed=2.0, jitter=0.2, seed=2), gate="throughput>=2x", budget="100000")
    assert (result.verdict, len(pairs(result)), len(result.looks)) == (Verdict.INCONCLUSIVE, 40, len(LOOKS))
    assert result.gates == result.looks[-1]
    assert result.most_pairs == 40
    assert "budget" not in result.reason


def test_the_warm_up_is_in_no_gate_no_noise_and_no_arm(run: Run) -> None:
    """Hundred times slower in one run; all that is decided is the same."""
    slow, usual = run(Queues(warm_up=0.01)), run(Queues())
    assert slow.slots[0].figures.throughput < usual.slots[0].figures.throughput / 50
    assert (slow.gates, slow.noise, slow.arms) == (usual.gates, usual.noise, usual.arms)


# --- the budget


@pytest.mark.parametrize(("budget", "count"), [("120", 5), ("139.9", 5), ("140", 6), ("179", 7), ("180", 8)])
def test_at_the_end_of_the_budget_the_last_look_stands(run: Run, budget: str, count: int) -> None:
    """Another look at a moment of our choice is one that the error rate has not paid for. A pair takes 20 s here."""
    result = run(Queues(speed=2.0, jitter=0.2, seconds=lambda index: 10.0), gate="throughput>=2x", budget=budget)
    looks = [look for look in LOOKS if look <= count]
    assert (len(pairs(result)), verdicts(result)) == (count, [("throughput", Verdict.INCONCLUSIVE, looks[-1])])
    assert result.looks == tuple(judge(SPEED, pairs(result)[:look]).gates for look in looks)
    assert result.gates == result.looks[-1]
    assert result.reason.startswith(f"the budget of {budget} s ended after {count} pairs; throughput x")


@pytest.mark.parametrize(
    ("budget", "ended"),
    [
        ("0.001", "the budget of 0.001 s ended after 1 pair, before the first look at 5"),
        ("59", "the budget of 59 s ended after 1 pair, before the first look at 5"),
        ("60", "the budget of 60 s ended after 2 pairs, before the first look at 5"),
        ("119", "the budget of 119 s ended after 4 pairs, before the first look at 5"),
    ],
)
def test_before_the_first_look_nothing_is_decided_however_clear_it_is(run: Run, budget: str, ended: str) -> None:
    """The first pair is always measured; the gates show what they would say, and say nothing."""
    result = run(Queues(seconds=lambda index: 10.0), budget=budget)
    assert (result.verdict, result.reason, result.looks) == (Verdict.INCONCLUSIVE, ended, ())
    assert verdict_line(result).startswith("verdict: INCONCLUSIVE c5 ")
    both = ["throughput", "p95"] if len(pairs(result)) > 1 else []
    assert verdicts(result) == [(name, Verdict.INCONCLUSIVE, len(pairs(result))) for name in both]


@pytest.mark.parametrize("budget", ["60", "119"])
def test_before_the_first_look_the_advice_is_a_larger_budget(run: Run, budget: str) -> None:
    """Clear ratios lack nothing but pairs."""
    text = gate_text(run(Queues(seconds=lambda index: 10.0), budget=budget), "p95")
    assert "--tq-budget" in text
    assert "holds the gate" not in text


@pytest.mark.parametrize("seed", range(8))
def test_the_budget_is_never_exceeded_by_more_than_one_pair(run: Run, seed: int) -> None:
    """However unlike the pairs are: only one that is longer than all before it can end too late."""
    draw = random.Random(seed)
    lengths = [draw.uniform(1, 20) for _ in range(82)]
    queues = Queues(speed=2.0, jitter=0.2, seed=seed, seconds=lengths.__getitem__)
    budget = draw.uniform(1, 800)
    result = run(queues, gate="throughput>=2x", budget=repr(budget))
    took = [sum(lengths[at : at + 2]) for at in range(2, len(result.slots), 2)]
    assert result.elapsed_s == pytest.approx(sum(lengths[:2]) + sum(took))
    assert result.elapsed_s <= max(budget, sum(lengths[:2])) + took[-1]
    assert len(took) == 40 or result.elapsed_s + max(took) > budget, "a pair that would fit is measured"
    assert result.pair_s == pytest.approx(sum(took) / len(took))


def test_every_slot_knows_when_the_budget_ends(run: Run) -> None:
    """So that one that hangs is given up in time."""
    queues = Queues()
    run(queues, budget="77")
    assert set(queues.ends) == {1000.0 + 77.0}
    assert len(queues.ends) == 12


@pytest.mark.parametrize(("scale", "grace"), [(1.0, 3 * 0.2), (100.0, 3 * 5.0)])
def test_a_slot_that_was_begun_may_end_as_slowly_as_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch, scale: float, grace: float
) -> None:
    """An honest slow queue at the end of its budget has lost nothing; past the longest window nobody waits."""
    p99 = comparison.combine
    monkeypatch.setattr(f"{__name__}.combine", lambda slots: replace(p99(slots), p99_s=0.2 * scale))
    queues = Queues(seconds=lambda index: 10.0)
    result = run(queues, budget="0.5", slot="1.5")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert queues.ends == [1000.5, *(pytest.approx(1000.0 + 10 * n + 1.5 + grace) for n in (1, 2, 3))]


def test_wrong_work_in_the_open_loop_is_not_excused_by_the_end_of_the_budget(run: Run) -> None:
    """A right one that came too late is left out."""
    late = {"seconds": lambda index: 1000.0 if index == 12 else 1.0}
    assert run(Queues(**late), rate="0.7", budget="100").open_loop is None
    wrong = run(Queues(**late, problem=(12, "2 tasks lost")), rate="0.7", budget="100")
    assert (wrong.verdict, wrong.reason) == (Verdict.INVALID, "baseline: 2 tasks lost (open loop)")


def test_the_plan_is_told_after_the_warm_up_and_each_slot_says_how_far_it_is(run: Run) -> None:
    """Warm-up and pairs take 20 s: 300 s buy 14 pairs; ratios are shown from three pairs on."""
    queues = Queues(seconds=lambda index: 10.0)
    result = run(queues, budget="300")
    assert [told.plan for told in queues.told] == [False] * 2 + [True] + [False] * 10
    assert [told.elapsed_s for told in queues.told] == [10, 20, 20, *range(30, 121, 10)]
    assert [len(told.ratios) for told in queues.told] == [0] * 8 + [2] * 5
    lines = [progress_line(told) for told in queues.told]
    assert lines[0].startswith("  warm-up baseline ")
    assert lines[2] == "  window 1 s; the budget of 300 s buys about 14 pairs"
    assert [line[:11] for line in lines[4::2]] == [f"  pair {pair}/14" for pair in range(1, 6)]
    assert re.fullmatch(r".* \| x\d\.\d\d so far \[3\.\d\d, 4\.\d\d\] \| 2:00/5:00", lines[-1])
    assert result.most_pairs == 14


def test_no_slot_is_of_a_pair_beyond_the_most(run: Run) -> None:
    """Nor do the most change while all slots take the same time."""
    queues = Queues(speed=2.0, jitter=0.2, seconds=lambda index: 10.0)
    run(queues, gate="throughput>=2x", budget="300")
    assert {told.most for told in queues.told if told.slot.pair} == {14}


# --- what the pairs tell of the machine


def test_the_order_within_a_pair_is_known_and_warned_of(run: Run) -> None:
    """The second slot of each pair runs at 80 %: that is 0.64 on the ratio where the baseline went first."""
    result = run(Queues(speed=2.0, second=0.8, jitter=0.001), gate="throughput>=2x")
    assert result.noise is not None
    assert result.noise.order == pytest.approx(-0.36, abs=0.02)
    assert result.warnings == ("the ratio came out -36% where the baseline went first: slots of a pair are not alike",)
    assert run(Queues(speed=2.0, jitter=0.2, seed=2), gate="throughput>=2x").warnings == ()


@pytest.mark.parametrize(("ceiling", "share"), [(500_000.0, "80%"), (790_000.0, "51%"), (810_000.0, None)])
def test_an_arm_near_what_the_clients_can_do_is_warned_of(run: Run, ceiling: float, share: str | None) -> None:
    result = run(Queues(ceiling=ceiling, jitter=0.001))
    text = f"an arm reached {share} of what the clients can do at all, which pulls every ratio towards 1"
    assert result.warnings == ((text,) if share else ())
    assert result.ceiling == ceiling
    assert sum(line.startswith("load generator: at most ") for line in table(result)) == 1


def test_a_ratio_over_all_tasks_on_the_other_side_of_the_gate_is_warned_of(run: Run) -> None:
    """Where the machine is ten times as fast the queue is 1.5 times as fast, else 3 times: x2.1, or x1.6 of tasks."""
    mixed = {"speed": 1.0, "jitter": 0.001, "delay": 0.9, "moods": ((1.0, 3.0), (10.0, 1.5))}
    result = run(Queues(**mixed), gate="throughput>=2x,p99<=1s", budget="14")
    assert result.warnings == (
        "throughput x1.64 over the tasks of all slots lies on the other side of the gate 2.00 than x2.12 of the pairs",
    )
    assert run(Queues(**mixed), gate="throughput>=1.2x", budget="14").warnings == ()
    assert run(Queues(**mixed), gate="throughput>=2x", budget="14", aa="yes").warnings == ()
    assert run(Queues(**mixed), gate="throughput>=800000/s", budget="14").warnings == (), "a limit has no ratio"


NOISE = Noise(floor=0.0214, repeats=2, spread=0.052, drift=-0.031, order=-0.012, order_error=0.1, correlation=0.25)


def test_the_noise_lines_tell_the_floor_what_could_be_proved_and_how_the_machine_behaved(run: Run) -> None:
    """Provable is what the looks within the budget allow: of 10 pairs that is the one at 8, +-1.506 x 5.2 %."""
    made = replace(run(Queues()), arms={}, ceiling=None, most_pairs=10, noise=NOISE)
    floor, proof, drift, _ = table(made)
    assert floor == "noise floor: the same arm against itself +-2.1 % (2 blocks), ratios of pairs +-5.2 %"
    assert proof == "this budget could prove throughput x2.16, p95 x0.55"
    assert drift == (
        "drift: both arms 3.1 % slower in the second half, ratio -1.2 % where the baseline went first, "
        "correlation of neighbouring pairs +0.25"
    )
    few = replace(made, most_pairs=4, noise=replace(NOISE, repeats=1, drift=None, order=None, correlation=None))
    assert table(few)[:-1] == [floor.replace("2 blocks", "1 block")]
    assert "both arms 20 % faster" in table(replace(made, noise=replace(NOISE, drift=0.2)))[2]
    for unknown in ({"floor": None}, {"spread": None}):
        assert len(table(replace(made, noise=replace(NOISE, **unknown)))) == 1
    assert proof not in table(replace(made, settings={"aa": True}))


# --- an arm against itself


def test_an_arm_against_itself_passes_after_12_pairs_without_a_difference(run: Run) -> None:
    """One look at the end; both arms are the baseline, whatever else was named."""
    queues = Queues(speed=1.0, delay=1.0)
    result = run(queues, aa="yes", gate="throughput>=2x,p99<=50ms")
    assert set(queues.factories) == {BUILT_IN["baseline"]}
    assert (result.verdict, len(result.looks), result.most_pairs) == (Verdict.PASS, 1, SAME_PAIRS)
    assert verdicts(result) == [("throughput", Verdict.PASS, SAME_PAIRS)]
    assert result.reason.startswith("no difference: throughput x")
    assert verdict_line(result).startswith("verdict: PASS c5 no difference throughput x")
    assert (result.settings["aa"], result.settings["looks"]) == (True, "12")
    assert result.settings["optimized"] == "baseline"


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_an_arm_that_differs_from_itself_fails(run: Run, speed: float) -> None:
    """Faster as well as slower: what sees a difference where there is none cannot be trusted."""
    result = run(Queues(speed=speed, delay=1.0), aa="yes")
    assert result.verdict is Verdict.FAIL
    assert verdicts(result) == [("throughput", Verdict.FAIL, 12), ("p95", Verdict.PASS, 12)]
    assert failure_text(result).startswith(
        "FAIL: the queue differs from itself\n  a difference where there is none: thr"
    )


def test_an_arm_against_itself_is_not_judged_before_its_look(run: Run) -> None:
    result = run(Queues(speed=1.1, seconds=lambda index: 1.0), aa="yes", budget="24")
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason == "the budget of 24 s ended after 11 pairs, before the first look at 12"
    assert {gate.verdict for gate in result.gates} == {Verdict.INCONCLUSIVE}
    assert result.looks == ()


# --- limits, and what is wrong


def test_a_limit_for_each_slot_is_judged_by_the_worst(run: Run) -> None:
    """One slot of the optimized arm with four errors among ten; the warm-up is not asked."""
    four = Queues(errors=lambda index: 4 if index in (1, 6, 7) else 0)
    result = run(four, gate="errors<=3")
    assert (result.verdict, gate_text(result, "errors")) == (
        Verdict.FAIL, "FAIL: errors 4 in the worst slot, beyond the gate 3"
    )  # fmt: skip
    assert run(Queues(errors=lambda index: 9 if index == 1 else 3), gate="errors<=3").verdict is Verdict.PASS


def test_a_gate_on_what_is_not_known_here_is_invalid_after_the_warm_up(run: Run) -> None:
    result = run(Queues(memory=None), gate="throughput>=2x,rss<=20MB")
    assert (result.verdict, result.gates, len(result.slots)) == (Verdict.INVALID, (), 2)
    assert result.reason == "gate rss<=20MB: rss of the optimized arm is not known here (None): leave the gate out"
    assert run(Queues(memory=1.0), gate="rss<=20MB").verdict is Verdict.PASS


def test_a_slot_that_is_wrong_ends_it_with_its_stacks_and_without_gates(run: Run) -> None:
    """Nothing is looked at, and no pair is made of it."""
    result = run(Queues(problem=(11, "1 task lost")))
    arm = result.slots[-1].arm
    assert (result.verdict, result.reason) == (Verdict.INVALID, f"{arm}: 1 task lost (slot 11)")
    assert (len(result.slots), result.gates, result.looks) == (12, (), ())
    assert result.stacks == ("thread w: somewhere",)
    assert "thread w: somewhere" in failure_text(result)
    assert to_dict(result)["stacks"] == ["thread w: somewhere"]


@pytest.mark.parametrize("watched", [True, False])
def test_the_number_of_pairs_is_the_same_whoever_watches(run: Run, watched: bool) -> None:
    """It stands in the result, and what the budget could prove follows from it."""
    queues = Queues(speed=2.0, jitter=0.2, seconds=lambda index: 10.0, watched=watched)
    assert run(queues, gate="throughput>=2x", budget="300").most_pairs == 14
