"""No queue gets a speed verdict that it has not earned: whatever it does wrong, the comparison is INVALID."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import cheats
import pytest
import toys

from pytest_taskqueue import load
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.comparison import Comparison
from pytest_taskqueue.config import resolve
from pytest_taskqueue.results import ComparisonResult
from pytest_taskqueue.slots import SlotRunner
from pytest_taskqueue.subjects import SubjectFactory
from pytest_taskqueue.verdict import Verdict

CLIENTS = 10
CLOCK = r"time\.perf_counter was replaced: no time can be trusted"
NO_FILE = r"\d+ tasks? not done when the result arrived: c\d-\d+: no output \(No such file"


@pytest.fixture(autouse=True)
def all_is_put_right_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a cheat has replaced or left behind in this process."""
    monkeypatch.setattr(time, "perf_counter", time.perf_counter)
    monkeypatch.setattr(load, "clock", load.clock)
    cheats.begin()
    yield
    cheats.end()


def compare(optimized: str, **more: str) -> ComparisonResult:
    """Slots of 0.3 s under ten clients, against an honest queue that is as fast as the cheat would be without it."""
    subjects = {"baseline": "cheats:Steady", "optimized": optimized}
    options = {"workload": "io", "slot": "0.3", "gate": "throughput>=0.1x", **subjects, **more}
    return Comparison(resolve(options, {}, {}.get), CLIENTS).run()


def test_honest_queues_are_judged_with_the_same_settings() -> None:
    """No false alarm in any of twelve slots, and as many tasks as one in a thousand needs to be there."""
    result = compare("cheats:Steady")
    assert result.verdict is Verdict.PASS, result.reason
    assert [slot.problems for slot in result.slots] == [()] * 12
    assert result.arms["optimized"].tasks + result.slots[1].figures.tasks > cheats.FIRST


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("Loses", r"\d tasks? submitted and never completed: io-\d-\d+(, io-\d-\d+)*"),
        ("Doubles", r"1 task worked on more than once: io-\d-\d+"),
        ("Miscounts", r"1 task with a wrong result: io-(\d-\d+): its result is \d+, expected \d+"),
        ("Guesses", r"1 task completed without having been worked on: io-\d-\d+"),
    ],
)
def test_one_wrong_task_in_a_thousand_is_found(kind: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not yet in the warm-up: in a measured pair, before there is a verdict."""
    monkeypatch.setattr(load, "PATIENCE", 1.0)
    result = compare(f"cheats:{kind}")
    assert result.verdict is Verdict.INVALID, result.reason
    assert re.fullmatch(rf"optimized: {reason} \(slot \d+\)", result.reason)
    assert result.slots[-1].pair > 0
    assert result.gates == ()


@pytest.mark.parametrize(
    ("kind", "workload", "reason"),
    [
        ("cheats:Promises", "io", r"[\d,]+ tasks? not done when the result arrived: io-\d-\d+"),
        ("cheats:Promises", "thumbnail", r"\d+ tasks? (not done when the result arrived: c\d-\d+: no output|with)"),
        ("cheats:Writes", "thumbnail", NO_FILE),
        (f"{toys.__file__}:Scribbles", "thumbnail", r"1 task with a wrong result: c2-4: its output has wrong bytes"),
        ("cheats:IgnoresLater", "io", r"1 client not served in the window: client 3"),
        ("cheats:LeavesThread", "io", r"1 thread alive after close: leaked"),
        ("cheats:LeavesFile", "io", r"1 temporary file left behind: \.tq-half"),
        ("cheats:LeavesQueuedRow", "io", r"1 row of tasks\.db still queued or running after close"),
        ("cheats:LeavesRunningRow", "io", r"1 row of tasks\.db still queued or running after close"),
        ("cheats:PatchesTime", "io", CLOCK),
        ("cheats:SlowsClients", "io", CLOCK),
        ("cheats:SlowsAll", "io", CLOCK),
        ("cheats:SlowsAllUnseen", "io", r"the window is 0\.3\d\d s by time\.perf_counter and \d\.\d+ s by time\.mono"),
        ("cheats:ForgesTasks", "io", r"\d+ tasks completed without having been worked on: io-\d-\d+"),
    ],
)
def test_a_queue_that_cheats_gets_no_speed_verdict(kind: str, workload: str, reason: str) -> None:
    """The first of its slots, the warm-up, shows it, and nothing more is measured."""
    result = compare(kind, workload=workload)
    assert result.verdict is Verdict.INVALID, result.reason
    assert re.match(f"optimized: {reason}", result.reason)
    assert [(slot.arm, slot.pair) for slot in result.slots] == [("baseline", 0), ("optimized", 0)]


def test_a_client_that_is_never_served_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The window waits for its first result, and there is none: the other clients' speed is not measured."""
    monkeypatch.setattr(load, "PATIENCE", 1.0)
    result = compare("cheats:Ignores")
    assert result.verdict is Verdict.INVALID
    assert result.slots[-1].problems == (
        "1 task submitted and never completed: io-3-0",
        "1 client not served: client 3",
    )


def test_a_ledger_with_nothing_but_finished_rows_is_no_problem() -> None:
    """Its queue's report, which the cheats with a ledger hide, is not needed."""
    result = compare("cheats:Durable", budget="0.1")
    assert result.verdict is Verdict.INCONCLUSIVE, result.reason


@pytest.mark.parametrize(
    ("kind", "workload", "reason"),
    [
        (
            cheats.WritesWhenAsked,
            "thumbnail",
            r"\d+ tasks with a wrong result: c0-0: no output before it was asked for",
        ),
        (cheats.WorksAhead, "io", r"\d+ tasks worked on before being submitted: io-"),
        (cheats.CountsByHand, "io", r"\d[\d,]* tasks completed without having been worked on: io-"),
        (cheats.Agrees, "io", r"[\d,]+ tasks with a wrong result: io-"),
        (cheats.ManyHands, "io", r"\d+ threads worked at the same time, where 8 may"),
        (cheats.SlowsClientsUnseen, "io", r"[\d,]+ tasks not done when the result arrived: io-"),
        (cheats.ForgesStarts, "io", r"[\d,]+ tasks worked on before being submitted: io-"),
        (cheats.ForgesEnds, "io", r"[\d,]+ tasks not done when the result arrived: io-"),
        (cheats.LeavesRawThread, "io", r"1 thread unknown to threading alive after close: \d+"),
        (cheats.LeavesProcess, "io", r"1 child process alive after close: \d+"),
        (cheats.LeavesOpenFile, "io", "1 file still open after close: journal"),
        (cheats.LeavesPart, "io", "1 temporary file left behind: half.part"),
    ],
)
def test_one_slot_finds_a_cheat_out(kind: SubjectFactory, workload: str, reason: str, tmp_path: Path) -> None:
    """Around each task's work stand two readings of the clock that no client knows."""
    runner = SlotRunner(Catalogue().workload(workload, 7), resolve({}, {}, {}.get), CLIENTS, tmp_path)
    problems = runner.run("optimized", kind, lambda loop: loop.run(0.3)).result.problems
    assert [problem for problem in problems if re.match(reason, problem)], problems
