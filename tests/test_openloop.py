"""The open loop: tasks are sent when the plan says so, and their latency counts from then."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import Future
from statistics import mean
from typing import Any

import pytest
import toys
from helpers import until

from pytest_taskqueue import comparison, export, integrity, report
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.comparison import Comparison
from pytest_taskqueue.config import ConfigError, resolve
from pytest_taskqueue.load import ClosedLoop
from pytest_taskqueue.openloop import poisson_plan
from pytest_taskqueue.results import ComparisonResult
from pytest_taskqueue.verdict import Verdict
from taskqueue_core import Task


def task(client: int, k: int) -> Task:
    return Task(f"{client}/{k}", idempotency_key=f"{client}/{k}", params={"n": 100 * client + k})


class Subject:
    """Does each task at once; the first task of client 0 only when all others are done."""

    def __init__(self, others: int = 0) -> None:
        self._others = others
        self.done: list[str] = []

    def submit(self, task: Task) -> Future[Any]:
        if self._others and task.key == "0/0":
            until(lambda: len(self.done) == self._others)
        self.done.append(task.key)
        future: Future[Any] = Future()
        future.set_result(task.params["n"])
        return future

    def join(self, timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> None:
        pass


def open_loop(subject: Subject, clients: int) -> ClosedLoop:
    return ClosedLoop(subject, clients, task, lambda task, value: None, seed=7)


# --- the plan


def test_a_plan_goes_round_the_clients_in_the_order_of_time() -> None:
    plan = poisson_plan(1000.0, 1.0, 4, seed=7)
    moments = [moment for turn in itertools.zip_longest(*plan) for moment in turn if moment is not None]
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 1.0
    assert max(map(len, plan)) - min(map(len, plan)) <= 1


def test_arrivals_are_poisson_at_the_rate_and_come_from_the_seed() -> None:
    """The gaps of such a process have a standard deviation as large as their mean."""
    (moments,) = poisson_plan(1000.0, 10.0, 1, seed=7)
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert mean(gaps) == pytest.approx(0.001, rel=0.05)
    assert mean((gap - 0.001) ** 2 for gap in gaps) ** 0.5 == pytest.approx(0.001, rel=0.1)
    assert poisson_plan(1000.0, 10.0, 1, seed=7) == [moments]
    assert poisson_plan(1000.0, 10.0, 1, seed=8) != [moments]


def test_even_the_shortest_plan_has_a_task() -> None:
    assert sum(map(len, poisson_plan(0.001, 0.001, 3, seed=7))) == 1


# --- following it


def test_every_task_of_the_plan_is_sent_once_and_counts_from_its_moment() -> None:
    plan = poisson_plan(400.0, 0.1, 3, seed=7)
    subject = Subject()
    log = open_loop(subject, 3).run_plan(plan)
    assert sorted(subject.done) == sorted(f"{c}/{k}" for c, moments in enumerate(plan) for k in range(len(moments)))
    for client, moments in zip(log.clients, plan, strict=True):
        assert [start - log.opens for start in client.starts] == pytest.approx(list(moments))
        assert all(start <= end for start, end in zip(client.starts, client.ends, strict=True))
    assert log.closes == max(end for client in log.clients for end in client.ends)


def test_a_task_that_waited_for_its_client_waited() -> None:
    """While client 0 is held up its later moments pass; their latencies hold that wait."""
    plan = poisson_plan(400.0, 0.1, 2, seed=7)
    log = open_loop(Subject(others=len(plan[1])), 2).run_plan(plan)
    held = log.clients[0]
    passed = [k for k, start in enumerate(held.starts) if k and start < held.ends[0]]
    assert passed
    assert all(held.ends[k] - held.starts[k] > held.ends[0] - held.starts[k] for k in passed)


def test_idle_and_late_clients_are_no_reason_to_distrust_the_clock() -> None:
    log = open_loop(Subject(), 2).run_plan(poisson_plan(200.0, 0.1, 2, seed=7))
    worked = Counter(task(c, k).key for c, client in enumerate(log.clients) for k in range(len(client.ends)))
    assert list(integrity.problems(log, task, worked, lambda task, value: None)) == []
    assert list(integrity.warnings(log)) == []


# --- in a comparison


def compare(baseline: str, optimized: str, **more: str) -> ComparisonResult:
    names = {"baseline": f"{toys.__file__}:{baseline}", "optimized": f"{toys.__file__}:{optimized}"}
    options = {"workload": "io", "slot": "0.05", "rate": "0.7", "gate": "throughput>=0.0001x", **names, **more}
    return Comparison(resolve(options, {}, {}.get), 4).run()


def test_the_companion_is_shown_beside_the_verdict_and_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "OPEN_TASKS", 20)
    monkeypatch.setattr(comparison, "SHORTEST_WINDOW", 0.05)
    result = compare("Slow", "Quick")
    assert result.verdict is Verdict.PASS, result.reason
    found = result.open_loop
    assert found is not None
    assert found.rate == pytest.approx(0.7 * result.arms["baseline"].throughput)
    assert found.arms["baseline"].tasks == found.arms["optimized"].tasks > 0
    assert all(slot.pair <= result.gates[0].pairs for slot in result.slots)
    assert "open loop, no gate" in "\n".join(report.table(result))
    written = export.to_dict(result)["open_loop"]
    assert (written["share"], set(written["arms"])) == (0.7, {"baseline", "optimized"})


def test_without_room_in_the_budget_it_is_left_out_and_said() -> None:
    result = compare("Pool", "Pool", budget="0.001")
    assert result.open_loop is None
    assert "open loop: the budget had no room for it" in report.table(result)
    assert export.to_dict(result)["open_loop"] is None


def test_wrong_work_in_the_open_loop_is_wrong_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was shown before."""
    monkeypatch.setattr(comparison, "OPEN_TASKS", 20)

    def do(self: toys.Pool, task: Task) -> Any:
        if self.setup.directory.name.startswith("slot-13-") and task.key.endswith("-1-1"):
            self.setup.work(task)
        return self.setup.work(task)

    monkeypatch.setattr(Catalogue().subject(f"{toys.__file__}:Quick"), "do", do)
    result = compare("Slow", "Quick")
    assert result.verdict is Verdict.INVALID
    assert "worked on more than once" in result.reason
    assert result.reason.endswith("(open loop)")


@pytest.mark.parametrize("text", ["0", "1", "1.5", "-0.5", "fast", ""])
def test_a_rate_that_no_queue_could_bear_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--tq-rate .*expected off, or a share"):
        resolve({"rate": text}, {}, {}.get)
