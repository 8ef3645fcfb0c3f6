"""One comparison, on queues whose verdict is certain: the work is sleep, the ratios are large."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import toys

from pytest_taskqueue import comparison, load, report
from pytest_taskqueue.campaign import Campaign
from pytest_taskqueue.comparison import PAIRS, Comparison, declaration, machine
from pytest_taskqueue.config import CompareConfig, ConfigError, resolve
from pytest_taskqueue.results import ARMS, ComparisonResult, SlotResult
from pytest_taskqueue.verdict import Verdict

WARMUP = [("baseline", 0), ("optimized", 0)]


def config(baseline: str, optimized: str, **more: str) -> CompareConfig:
    """Names of toys, or of built-in subjects; short slots of the io workload."""
    names = {"baseline": baseline, "optimized": optimized}
    named = {arm: f"{toys.__file__}:{name}" if hasattr(toys, name) else name for arm, name in names.items()}
    return resolve({"workload": "io", "slot": "0.1", **named, **more}, {}, {}.get)


def compare(
    baseline: str, optimized: str, *, clients: int = 6, progress: comparison.Progress | None = None, **more: str
) -> ComparisonResult:
    return Comparison(config(baseline, optimized, **more), clients, command="pytest", progress=progress).run()


def places(result: ComparisonResult) -> list[tuple[str, int]]:
    return [(slot.arm, slot.pair) for slot in result.slots]


def test_a_queue_that_is_six_times_as_fast_passes() -> None:
    """With all its evidence: both gates, the figures of both arms, every slot in the order it was run."""
    told: list[Sequence[SlotResult]] = []
    result = compare("Slow", "Quick", gate="throughput>=1.2x,p95<=2x", progress=lambda slots: told.append(list(slots)))
    assert result.verdict is Verdict.PASS, result.reason
    assert [(gate.metric, gate.verdict, gate.pairs) for gate in result.gates] == [
        ("throughput", Verdict.PASS, PAIRS),
        ("p95", Verdict.PASS, PAIRS),
    ]
    speed, delay = result.gates
    assert 1.2 < speed.low <= speed.ratio <= speed.high
    assert delay.low <= delay.ratio <= delay.high < 2

    assert places(result)[:2] == WARMUP
    assert places(result)[2:] == [(arm, pair) for pair, order in enumerate(orders(7, clients=6), 1) for arm in order]
    assert [slot.index for slot in result.slots] == list(range(2 + 2 * PAIRS))
    assert told == [list(result.slots[:count]) for count in range(1, len(result.slots) + 1)]

    for arm in ARMS:
        measured = [slot.figures.tasks for slot in result.slots if slot.arm == arm and slot.pair > 0]
        assert result.arms[arm].tasks == sum(measured), "the warm-up is in no figure of an arm"
    assert (result.clients, result.seed, result.command) == (6, 7, "pytest")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result.created)
    assert result.settings["pairs"] == PAIRS
    assert result.settings["window_s"] == 0.1
    assert result.settings["gates"] == "throughput>=1.2x, p95<=2x"
    assert result.machine == machine()
    assert report.to_dict(result)["verdict"] == "PASS"


def test_the_original_against_itself_fails() -> None:
    """It is not many times as fast as it is: the interval lies wholly below the gate."""
    result = compare("baseline", "baseline", slot="0.06", clients=2, gate="throughput>=50x")
    assert result.verdict is Verdict.FAIL, result.reason
    (speed,) = result.gates
    assert (speed.metric, speed.verdict) == ("throughput", Verdict.FAIL)
    assert speed.high < 50


# --- INVALID


def test_a_queue_that_loses_a_task_gets_no_speed_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warm-up shows it, and nothing more is measured."""
    monkeypatch.setattr(load, "PATIENCE", 0.5)
    result = compare("Pool", "Loses")
    assert result.verdict is Verdict.INVALID
    assert result.reason == f"optimized: 1 task submitted and never completed: io-{toys.ONE} (slot 1)"
    assert result.gates == ()
    assert places(result) == WARMUP


def test_a_queue_that_goes_wrong_after_the_warm_up_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a slot without a single result there is no ratio to show, and the progress line does without."""
    monkeypatch.setattr(load, "PATIENCE", 0.5)
    lines: list[str] = []
    result = compare("Pool", "LosesLater", progress=lambda slots: lines.append(report.progress_line(slots)))
    assert result.verdict is Verdict.INVALID
    assert re.match(r"optimized: 6 tasks submitted and never completed: .*\(slot [23]\)", result.reason)
    assert result.slots[-1].figures.throughput == 0
    assert re.fullmatch(r"  pair 1  optimized  0/s  P95 -", lines[-1])


@pytest.mark.parametrize(
    ("kind", "workload", "reason"),
    [
        ("NoOpen", "io", "optimized could not be opened: RuntimeError: no such driver"),
        ("NoClose", "io", "optimized could not be closed: RuntimeError: the door is jammed"),
        ("NoDepth", "io", "optimized broke under load: RuntimeError: lost count"),
        ("NoOutput", "thumbnail", "optimized could not tell where an output is: RuntimeError: no map"),
    ],
)
def test_a_queue_that_breaks_is_invalid_and_says_where(kind: str, workload: str, reason: str) -> None:
    result = compare("Pool", kind, workload=workload, clients=5)
    assert (result.verdict, result.reason) == (Verdict.INVALID, reason)
    assert places(result) == WARMUP[:1]
    assert set(result.arms) == {"baseline"}
    assert report.verdict_line(result) == f"verdict: INVALID c5 {reason}"


# --- the budget and the window


class Clock:
    """Ten seconds pass with every slot."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def slot_ended(self, slots: Sequence[SlotResult]) -> None:
        self.now += 10


@pytest.mark.parametrize(("budget", "pairs"), [("59", 1), ("60", 2), ("120", 5)])
def test_no_pair_begins_that_would_not_end_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, budget: str, pairs: int
) -> None:
    """Warm-up and each pair take 20 s here. The first pair is always measured; without all five nothing is decided."""
    clock = Clock()
    monkeypatch.setattr(comparison, "clock", clock)
    monkeypatch.setattr(comparison.SlotRunner, "run", quickly(comparison.SlotRunner.run))
    result = compare("Pool", "Pool", progress=clock.slot_ended, budget=budget, clients=4)
    assert len(result.slots) == 2 + 2 * pairs
    if pairs == PAIRS:
        assert "budget" not in result.reason
        return
    assert result.verdict is Verdict.INCONCLUSIVE
    assert result.reason.startswith(f"the budget of {budget} s ended after {pairs} of 5 pairs; a larger budget")
    assert [gate.verdict for gate in result.gates] == [Verdict.INCONCLUSIVE] * (2 if pairs > 1 else 0)
    assert "INCONCLUSIVE" in report.verdict_line(result)


def quickly(run: Callable[..., Any]) -> Callable[..., Any]:
    """Run a slot with a few tasks in place of a window."""

    def short(self: Any, arm: str, factory: Any, drive: Any, *, pair: int) -> Any:
        return run(self, arm, factory, lambda loop: loop.run_tasks(3), pair=pair)

    return short


def test_the_window_is_three_times_the_slower_p95_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for both arms, within bounds."""
    monkeypatch.setattr(comparison, "WARMUP_WINDOW", 0.1)
    monkeypatch.setattr(comparison, "SHORTEST_WINDOW", 0.001)
    result = compare("Pool", "Pool", slot="auto", budget="0.001", clients=4)
    chosen = 3 * max(slot.figures.p95_s for slot in result.slots[:2])
    assert result.settings["window_s"] == round(chosen, 3)
    assert all(slot.window_s >= chosen for slot in result.slots if slot.pair)

    for bound in ("SHORTEST_WINDOW", "LONGEST_WINDOW"):
        monkeypatch.setattr(comparison, bound, 0.05)
    assert compare("Pool", "Pool", slot="auto", budget="0.001", clients=4).settings["window_s"] == 0.05


# --- the order


def orders(seed: int, clients: int = 100) -> list[tuple[str, ...]]:
    return list(Comparison(config("Pool", "Pool", seed=str(seed)), clients)._orders())


def test_pairs_come_in_blocks_of_two_that_mirror_each_other() -> None:
    """AB BA or BA AB, so that a machine that slows down slows both arms."""
    for seed in range(20):
        made = orders(seed)
        assert len(made) == PAIRS
        assert all(sorted(pair) == sorted(ARMS) for pair in made)
        assert all(made[k] == made[k + 1][::-1] for k in range(0, PAIRS - 1, 2))


def test_the_order_is_drawn_from_seed_and_client_count() -> None:
    """A coin for every block: the same seed gives the same order, and among seeds all orders occur."""
    assert orders(7) == orders(7)
    assert len({tuple(orders(seed)) for seed in range(60)}) == 2 ** math.ceil(PAIRS / 2)
    assert len({tuple(orders(7, clients)) for clients in range(1, 60)}) == 2 ** math.ceil(PAIRS / 2)


# --- around it


def test_the_declaration_says_beforehand_what_will_be_decided_and_how() -> None:
    first, second = declaration(config("baseline", "optimized", clients="50,100", seed="3", slot="0.5", budget="90"))
    assert first == "taskqueue: baseline against optimized, workload io, 50, 100 clients, 8 workers, seed 3"
    assert second.split("; ") == [
        "           gates throughput>=2x p95<=0.6x",
        "5 pairs, one look, 95 % intervals",
        "window 0.5 s",
        "budget 90 s",
    ]
    assert "window 1 to 5 s" in declaration(config("baseline", "optimized", slot="auto"))[1]


def test_the_machine_is_described() -> None:
    """What the numbers depend on."""
    found = machine()
    assert found["cores"] >= 1
    assert {"platform", "python", "gil", "switch_interval_s", "pytest_taskqueue", "pillow"} <= set(found)


def campaign(root: Path, **more: str) -> Campaign:
    return Campaign(config("Pool", "Pool", **more), root, "pytest", lambda slots: None)


def test_a_campaign_measures_each_client_count_once(tmp_path: Path) -> None:
    """Whoever asks again gets the same result; its files lie below the root folder."""
    made = campaign(tmp_path, budget="0.001", slot="0.05", report="a/b")
    assert made.results() == []
    first = made.result(5)
    assert made.result(5) is first
    assert made.result(6) is not first
    assert made.results() == [made.result(5), made.result(6)]
    assert {path.suffix for path in made.files[5]} == {".json", ".csv"}
    assert all(path.parent == tmp_path / "a" / "b" and path.is_file() for path in made.files[5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "sleep"}, "--tq-workload: unknown workload 'sleep': there are"),
        ({"optimized": "nope"}, "--tq-optimized: unknown subject 'nope': use"),
        ({"baseline": "nope.py:Old"}, "--tq-baseline: there is no file 'nope.py'"),
        ({"report": "file"}, "--tq-report: .*file"),
    ],
)
def test_what_cannot_be_used_is_told_before_anything_is_measured(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=message):
        Campaign(resolve(options, {}, {}.get), tmp_path, "pytest", lambda slots: None)


def test_results_that_cannot_be_written_are_an_error_and_stay_there(tmp_path: Path) -> None:
    """After minutes of measuring the verdict must not be lost with its files."""
    made = campaign(tmp_path, budget="0.001", slot="0.05")
    made.directory.rmdir()
    made.directory.touch()
    with pytest.raises(OSError, match="bench_results"):
        made.result(5)
    assert [result.clients for result in made.results()] == [5]
    assert made.files[5] == []
