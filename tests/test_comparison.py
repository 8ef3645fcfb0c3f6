"""One comparison, on queues whose verdict is certain: the work is sleep, the ratios are large."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toys

from pytest_taskqueue import comparison, export, load, report, slots
from pytest_taskqueue.arms import BUILT_IN
from pytest_taskqueue.campaign import Campaign, Interrupted
from pytest_taskqueue.comparison import Comparison, declaration
from pytest_taskqueue.config import CompareConfig, ConfigError, resolve
from pytest_taskqueue.machine import machine
from pytest_taskqueue.report import failure_text, gate_text, table
from pytest_taskqueue.results import ARMS, ComparisonResult, Standing
from pytest_taskqueue.verdict import LOOKS, Gate, GateResult, Verdict
from taskqueue_core import Task

WARMUP = [("baseline", 0), ("optimized", 0)]
PAIRS = LOOKS[0]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is at work on this machine."""
    monkeypatch.setattr(comparison, "load_average", lambda: 0.0)


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
    told: list[Standing] = []
    result = compare("Slow", "Quick", gate="throughput>=1.2x,p95<=2x", progress=told.append)
    assert result.verdict is Verdict.PASS, result.reason
    count = result.slots[-1].pair
    assert count in LOOKS
    assert [(gate.metric, gate.verdict, gate.pairs) for gate in result.gates] == [
        ("throughput", Verdict.PASS, count),
        ("p95", Verdict.PASS, count),
    ]
    speed, delay = result.gates
    assert 1.2 < speed.low <= speed.value <= speed.high
    assert delay.low <= delay.value <= delay.high < 2
    assert result.looks[-1] == result.gates

    assert places(result)[:2] == WARMUP
    assert places(result)[2:] == [
        (arm, pair) for pair, order in enumerate(orders(7, clients=6)[:count], 1) for arm in order
    ]
    assert [slot.index for slot in result.slots] == list(range(2 + 2 * count))
    assert [standing.slot for standing in told if not standing.plan] == list(result.slots)
    assert [standing.pairs for standing in told] == [0, 0, 0, *(slot // 2 for slot in range(1, 2 * count + 1))]
    assert [standing.plan for standing in told].index(True) == 2

    for arm in ARMS:
        measured = [slot.figures.tasks for slot in result.slots if slot.arm == arm and slot.pair > 0]
        assert result.arms[arm].tasks == sum(measured), "the warm-up is in no figure of an arm"
    assert (result.clients, result.seed, result.command) == (6, 7, "pytest")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", result.created)
    assert (result.settings["looks"], result.settings["alpha"]) == ("5 8 12 18 27 40", 0.025)
    assert (result.settings["aa"], result.settings["budget_s"]) == (False, 300.0)
    assert result.settings["window_s"] == 0.1
    assert result.settings["gates"] == "throughput>=1.2x, p95<=2x"
    assert result.machine == {**machine(), "load": 0.0}
    assert result.noise is not None
    assert result.noise.repeats == count // 2
    fastest = max(figures.throughput for figures in result.arms.values())
    assert result.ceiling is not None
    assert result.ceiling > fastest
    assert result.pair_s is not None
    assert 2 * 0.1 < result.pair_s < result.elapsed_s / count
    found = export.to_dict(result)
    assert (found["verdict"], found["noise"]["repeats"], found["most_pairs"]) == ("PASS", count // 2, result.most_pairs)
    assert (found["looks"][-1], len(found["looks"]), found["stacks"]) == (found["gates"], len(result.looks), [])
    assert (found["ceiling"], found["pair_s"]) == (result.ceiling, result.pair_s)


def test_the_original_against_itself_fails() -> None:
    """It is not many times as fast as it is: the interval lies wholly below the gate."""
    result = compare("baseline", "baseline", slot="0.2", clients=2, gate="throughput>=50x")
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
    """A slot without a single result is in no pair; where its tasks hang is shown."""
    monkeypatch.setattr(load, "PATIENCE", 0.5)
    result = compare("Pool", "LosesLater")
    assert result.verdict is Verdict.INVALID
    assert re.match(r"optimized: 6 tasks submitted and never completed: .*\(slot [23]\)", result.reason)
    assert result.slots[-1].figures.throughput == 0
    assert re.search(r"^optimized +\d", "\n".join(table(result)), re.MULTILINE)
    assert result.noise is None


@pytest.mark.parametrize(
    ("kind", "workload", "reason"),
    [
        ("NoOpen", "io", "could not be opened: RuntimeError: no such driver"),
        ("NoClose", "io", "could not be closed: RuntimeError: the door is jammed"),
        ("NoDepth", "io", "broke under load: RuntimeError: lost count"),
    ],
)
def test_a_queue_that_breaks_is_invalid_and_says_where(kind: str, workload: str, reason: str) -> None:
    result = compare("Pool", kind, workload=workload, clients=5, slot="0.3")
    reason = f"optimized ({toys.__file__}:{kind}) {reason}"
    assert (result.verdict, result.reason) == (Verdict.INVALID, reason)
    assert places(result) == WARMUP[:1]
    assert set(result.arms) == {"baseline"}
    assert report.verdict_line(result) == f"verdict: INVALID c5 {reason}"


# --- limits


class FailsFirst(toys.Pool):
    """Fails the first task of one client, which is done in every slot."""

    def do(self, task: Task) -> object:
        if task.key == "io-2-0":
            raise ConnectionResetError("the peer is gone")
        return super().do(task)


@pytest.mark.parametrize(("gate", "verdict"), [("errors<=1", Verdict.PASS), ("errors<=0", Verdict.FAIL)])
def test_failed_tasks_are_judged_by_their_gate(monkeypatch: pytest.MonkeyPatch, gate: str, verdict: Verdict) -> None:
    """Then they are no reason for INVALID; every slot of this queue has one of them."""
    monkeypatch.setitem(BUILT_IN, "failing", FailsFirst)
    result = compare("Pool", "failing", gate=gate, slot="0.2")
    assert (result.verdict, len(result.looks)) == (verdict, 1), result.reason
    assert result.gates[0].value == 1
    assert result.arms["optimized"].errors == PAIRS


def test_failed_tasks_that_no_gate_judges_are_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN, "failing", FailsFirst)
    result = compare("Pool", "failing", slot="0.2")
    assert result.verdict is Verdict.INVALID
    assert result.reason.startswith("optimized: 1 task failed: io-2-0: ConnectionResetError: ")


def test_a_gate_on_memory_where_nobody_knows_it_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the warm-up, and not after 300 seconds."""
    monkeypatch.setattr(slots, "resident_mb", lambda: None)
    result = compare("Pool", "Pool", gate="rss<=20MB")
    assert (result.verdict, places(result)) == (Verdict.INVALID, WARMUP)
    assert result.reason == "gate rss<=20MB: rss of the optimized arm is not known here (None): leave the gate out"


# --- the window


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
        assert len(made) == LOOKS[-1]
        assert all(sorted(pair) == sorted(ARMS) for pair in made)
        assert all(made[k] == made[k + 1][::-1] for k in range(0, len(made), 2))


def test_the_order_is_drawn_from_seed_and_client_count() -> None:
    """A coin for every block: the same seed gives the same order, and among seeds all orders occur."""
    assert orders(7) == orders(7)
    assert len({tuple(orders(seed)[:6]) for seed in range(60)}) == 2**3
    assert len({tuple(orders(7, clients)[:6]) for clients in range(1, 60)}) == 2**3
    assert len({tuple(orders(seed)) for seed in range(60)}) == 60


# --- around it


def test_the_declaration_says_beforehand_what_will_be_decided_and_how() -> None:
    first, second = declaration(config("baseline", "optimized", clients="50,100", seed="3", slot="0.5", budget="90"))
    assert first == "taskqueue: baseline against optimized, workload io, 50, 100 clients, 8 workers, seed 3"
    assert second.split("; ") == [
        "           gates throughput>=2x p95<=0.6x",
        "looks at 5 8 12 18 27 40 pairs, alpha 0.025",
        "window 0.5 s, budget 90 s",
    ]
    assert "window 1 to 5 s" in declaration(config("baseline", "optimized", slot="auto"))[1]
    first, second = declaration(config("baseline", "optimized", aa="yes"))
    assert first.startswith("taskqueue: baseline against itself, workload io")
    assert second.startswith("           no gates: do the 99 % intervals hold 1 after 12 pairs?; window")


def test_the_machine_is_described() -> None:
    """What the numbers depend on."""
    found = machine()
    assert found["cores"] >= 1
    assert {"platform", "python", "gil", "switch_interval_s", "pytest_taskqueue", "pillow"} <= set(found)


def campaign(root: Path, progress: comparison.Progress = lambda standing: None, **more: str) -> Campaign:
    return Campaign(config("Pool", "Pool", **more), root, "pytest", progress)


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
    ("error", "text"),
    [
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (pytest.fail.Exception("Timeout >360.0s"), "Failed: Timeout >360.0s"),
        (MemoryError("full"), "MemoryError: full"),
    ],
)
def test_a_comparison_that_was_ended_is_not_measured_again(tmp_path: Path, error: BaseException, text: str) -> None:
    """By Ctrl-C or a time limit: each of its tests would take minutes. Other client counts have theirs."""
    told: list[Standing] = []

    def progress(standing: Standing) -> None:
        told.append(standing)
        if len(told) == 1:
            raise error

    made = campaign(tmp_path, progress, budget="0.001", slot="0.05")
    with pytest.raises(type(error)) as caught:
        made.result(5)
    assert caught.value is error
    for _ in range(2):
        with pytest.raises(Interrupted) as ended:
            made.result(5)
        assert str(ended.value) == f"the comparison was ended before it was over: {text}"
    assert (len(told), made.results(), made.files) == (1, [], {})
    assert made.result(6).clients == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workload": "sleep"}, "--tq-workload: unknown workload 'sleep': use thumbnail, io"),
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
        Campaign(resolve(options, {}, {}.get), tmp_path, "pytest", lambda standing: None)


def test_results_that_cannot_be_written_are_an_error_and_stay_there(tmp_path: Path) -> None:
    """After minutes of measuring the verdict must not be lost with its files."""
    made = campaign(tmp_path, budget="0.001", slot="0.05")
    made.directory.rmdir()
    made.directory.touch()
    with pytest.raises(OSError, match="bench_results"):
        made.result(5)
    assert [result.clients for result in made.results()] == [5]
    assert made.files[5] == []


# --- what would decide it


FAST = GateResult(Gate("throughput", ">=", 2.0), 4.02, 3.81, 4.25, 5, Verdict.INCONCLUSIVE, noise=31.0)
TAIL = GateResult(Gate("p95", "<=", 0.6), 0.27, 0.25, 0.30, 5, Verdict.INCONCLUSIVE, noise=31.0)


def ended(verdict: Verdict, *gates: GateResult, reason: str = "it holds the gate", **more: Any) -> ComparisonResult:
    """A comparison made by hand; a pair took 6 s."""
    return ComparisonResult(
        created="", verdict=verdict, reason=reason, clients=5, seed=7, command="", machine={}, arms={}, slots=(),
        settings={"window_s": 2.0, "budget_s": 60.0}, gates=gates, elapsed_s=1.0, pair_s=6.0, **more,
    )  # fmt: skip


def undecided(*needed: int | None, **more: Any) -> ComparisonResult:
    """As many gates as there are numbers of pairs that would decide them."""
    gates = [replace(gate, needed=count) for gate, count in zip((FAST, TAIL), needed, strict=False)]
    return ended(Verdict.INCONCLUSIVE, *gates, **more)


QUIETER = "  a quieter machine helps; rerunning until it turns green proves nothing"


@pytest.mark.parametrize(
    ("needed", "advice"),
    [
        ((12, 27), "about 27 pairs would decide it: --tq-budget 200"),
        ((5,), "about 5 pairs would decide it: --tq-budget 66"),
        ((40,), "about 40 pairs would decide it: --tq-budget 290"),
        ((41,), "about 41 pairs would decide it, and 40 are the most: --tq-slot 3 --tq-budget 300 is as much"),
        (
            (12, 1234),
            "about 1,300 pairs would decide it, and 40 are the most: --tq-slot 62 --tq-budget 8900 is as much",
        ),
        ((27, None), "the ratio is too near to its gate: no number of pairs that anybody runs would decide it"),
        ((), "the first look comes after 5 pairs: --tq-budget 51, or shorter slots (--tq-slot)"),
    ],
)
def test_an_inconclusive_text_says_what_would_decide_it(needed: tuple[int | None, ...], advice: str) -> None:
    """More pairs up to the last look, beyond it longer slots: of all gates the one that needs most."""
    text = failure_text(undecided(*needed)).splitlines()
    assert text == ["INCONCLUSIVE: not shown", "  it holds the gate", f"  {advice}", QUIETER]


def test_the_text_of_a_gate_that_is_not_decided_has_interval_and_advice() -> None:
    """And that the budget ended, where it did; what other gates found is told in their own tests."""
    about = "throughput x4.02, 95 % interval [3.81, 4.25] reaches the gate 2.00 after 5 pairs (noise 31 %)"
    advice = ["  about 27 pairs would decide it: --tq-budget 200", QUIETER]
    assert gate_text(undecided(27), "throughput").splitlines() == ["INCONCLUSIVE: not shown", f"  {about}", *advice]
    late = undecided(27, reason="the budget of 60 s ended after 7 pairs; it holds the gate")
    assert gate_text(late, "throughput").splitlines()[1:] == [
        f"  {about}", "  the budget of 60 s ended after 7 pairs", *advice
    ]  # fmt: skip
    assert gate_text(undecided(reason="the budget ended; it holds the gate"), "p95").splitlines() == [
        "INCONCLUSIVE: not shown", "  the budget ended", "  it holds the gate",
        "  the first look comes after 5 pairs: --tq-budget 51, or shorter slots (--tq-slot)", QUIETER,
    ]  # fmt: skip


def test_the_text_of_a_gate_that_failed_is_its_own_interval_and_another_waits_for_no_more() -> None:
    """No advice: more pairs are not what the others lacked."""
    failed = replace(FAST, value=1.5, low=1.4, high=1.6, verdict=Verdict.FAIL, noise=2.5)
    made = ended(Verdict.FAIL, failed, TAIL)
    assert gate_text(made, "throughput") == (
        "FAIL: throughput x1.50, 95 % interval [1.40, 1.60] lies below the gate 2.00 after 5 pairs (noise 2.5 %)"
    )
    assert gate_text(made, "p95").splitlines() == [
        "INCONCLUSIVE: not shown",
        "  p95 x0.27, 95 % interval [0.25, 0.30] reaches the gate 0.60 after 5 pairs (noise 31 %)",
        "  measuring ended here because throughput failed",
    ]


def test_an_invalid_comparison_has_one_text_for_every_gate_with_the_stacks() -> None:
    made = ended(Verdict.INVALID, FAST, TAIL, reason="optimized hangs", stacks=('thread w:\n  File "q.py", line 3',))
    text = gate_text(made, "throughput")
    assert text == gate_text(made, "p95") == failure_text(made)
    assert text.splitlines()[:3] == ["INVALID: optimized hangs", "  thread w:", '    File "q.py", line 3']
    assert "4.02" not in text
