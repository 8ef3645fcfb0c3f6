"""Each check of a slot fires on a queue that does this one thing wrong, and on no other."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toys
from helpers import NEVER, until

from pytest_taskqueue import integrity, load
from pytest_taskqueue.arms import BUILT_IN
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.config import resolve
from pytest_taskqueue.integrity import IDLE_SHARE, problems, warnings
from pytest_taskqueue.leftovers import Before, leftovers
from pytest_taskqueue.load import ClientLog, ClosedLoop, LoadLog
from pytest_taskqueue.results import SlotResult
from pytest_taskqueue.slots import SlotRunner
from pytest_taskqueue.wording import SHOWN
from taskqueue_core import Status, Task, TaskQueue, TransientError

CLIENTS = 5
IO = f"io-{toys.ONE}"

Measure = Callable[..., SlotResult]


@pytest.fixture
def measure(tmp_path_factory: pytest.TempPathFactory) -> Measure:
    """Run one slot of a queue: so many tasks for each client, or for a window."""

    def measure(factory: Any, workload: str = "io", *, each: int = 10, window: float | None = None) -> SlotResult:
        def drive(loop: ClosedLoop) -> LoadLog:
            return loop.run_tasks(each) if window is None else loop.run(window)

        runner = SlotRunner(
            Catalogue().workload(workload, 7), resolve({}, {}, {}.get), CLIENTS, tmp_path_factory.mktemp("slot")
        )
        return runner.run("optimized", factory, drive).result

    return measure


@pytest.fixture(autouse=True)
def forgotten_threads_end() -> Iterator[None]:
    toys.LeavesThread.stop.clear()
    yield
    toys.LeavesThread.stop.set()


@pytest.mark.parametrize("workload", ["io", "cpu", "noop", "thumbnail"])
def test_an_honest_queue_has_no_problem(measure: Measure, workload: str) -> None:
    result = measure(toys.Pool, workload)
    assert result.problems == ()
    assert result.figures.tasks == 10 * CLIENTS


@pytest.mark.parametrize("arm", BUILT_IN)
def test_both_arms_have_no_problem_in_a_window(measure: Measure, arm: str) -> None:
    result = measure(BUILT_IN[arm], window=0.2)
    assert result.problems == ()


@pytest.mark.parametrize(
    ("kind", "workload", "problem"),
    [
        (toys.Doubles, "io", f"1 task worked on more than once: {IO}"),
        (toys.Invents, "io", f"1 task completed without having been worked on: {IO}"),
        (toys.Miscounts, "io", rf"1 task with a wrong result: {IO}: its result is \d+, expected \d+"),
        (toys.Scribbles, "thumbnail", "1 task with a wrong result: c2-4: its output has wrong bytes"),
        (toys.Fails, "io", f"1 task failed: {IO}: ConnectionResetError: the peer is gone"),
        (toys.TimesOut, "io", f"1 task failed: {IO}: TimeoutError: no answer"),
        (toys.Exits, "io", "client 2 broke: SystemExit: 3"),
        (toys.LeavesThread, "io", "1 thread alive after close: forgotten"),
        (toys.LeavesFile, "io", "1 temporary file left behind: upload.tmp"),
        (toys.LeavesTasks, "io", "3 tasks still waiting after close"),
        (toys.LeavesRunning, "io", "tasks still running after close"),
    ],
)
def test_a_misbehaving_queue_is_told_what_it_did(measure: Measure, kind: Any, workload: str, problem: str) -> None:
    """One problem, with the task it is about."""
    (found,) = measure(kind, workload).problems
    assert re.fullmatch(problem, found)


def test_a_result_before_the_work_is_done_shows_though_all_is_right_in_the_end(measure: Measure) -> None:
    """When the work was done was noted inside it; all of it is complete when the queue is closed."""
    (found,) = measure(toys.Early, each=20).problems
    assert re.fullmatch(r"\d+ tasks? not done when the result arrived: io-\d-\d+.*", found)


def test_a_lost_task_is_named_and_counted(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else is said: that the loser's time does not add up follows from the loss."""
    monkeypatch.setattr(load, "PATIENCE", 0.5)
    result = measure(toys.Loses, window=toys.LONG)
    assert result.problems == (f"1 task submitted and never completed: {IO}",)
    assert (result.figures.lost, result.figures.errors) == (1, 0)


def test_a_client_that_is_not_served_in_the_window_is_named(measure: Measure) -> None:
    """The others' figures would look the better for it."""
    assert measure(toys.Starves, window=0.15).problems == ("1 client not served in the window: client 2",)


def test_doubled_work_and_errors_are_counted(measure: Measure) -> None:
    assert measure(toys.Doubles).figures.doubled == 1
    assert measure(toys.Fails).figures.errors == 1


def test_work_counts_when_it_is_done_not_when_it_begins(measure: Measure) -> None:
    """Work that fails half-way was not done."""
    done: list[bool] = []

    class HalfWay(toys.Pool):
        def close(self, timeout: float) -> object:
            with pytest.raises(KeyError):
                self.setup.work(Task("has no number", idempotency_key="broken"))
            done.append("broken" in self.setup.tally.spans())
            return super().close(timeout)

    assert measure(HalfWay).problems == ()
    assert done == [False]


# --- logs made by hand


def task(client: int, k: int) -> Task:
    return Task(f"{client}-{k}", idempotency_key=f"{client}-{k}")


def log(*clients: list[tuple[float, float]], hung: tuple[str, ...] = (), **more: Any) -> LoadLog:
    """A window from 10 s to 20 s, and (submitted, result in hand) of each client's tasks."""
    logs = []
    for tasks in clients:
        starts, ends = array("d", [start for start, _ in tasks]), array("d", [end for _, end in tasks])
        logs.append(ClientLog(starts=starts, ends=ends, values=[None] * len(tasks), **more))
    return LoadLog(10.0, 20.0, tuple(logs), 0.0, (), hung)


def found(made: LoadLog, *, times: int = 1) -> list[str]:
    """The problems of a log whose tasks were all worked on so many times, and rightly."""
    keys = [task(c, k).key for c, client in enumerate(made.clients) for k in range(len(client.starts))]
    return list(problems(made, task, Counter(keys * times), lambda task, value: None))


BUSY = [(9.0, 11.0), (11.0, 15.0), (15.1, 19.9), (20.0, 21.0)]


def test_time_that_adds_up_is_no_problem() -> None:
    """A client waits for a result or is about to submit, all through the window."""
    assert found(log(BUSY, BUSY)) == []


@pytest.mark.parametrize(
    "tasks",
    [
        [(9.0, 11.0), (11.0, 14.0), (11.5, 15.0), (15.0, 21.0)],
        [(9.0, 11.0), (11.0, 15.0)],
        [(9.0, 11.0), (18.0, 12.0), (18.0, 21.0)],
    ],
    ids=["two at a time", "nothing after 15 s", "back in time"],
)
def test_time_that_does_not_add_up_is_a_problem(tasks: list[tuple[float, float]]) -> None:
    (problem,) = found(log(BUSY, tasks))
    assert re.fullmatch(r"the clients' time adds up to \d+\.\d\d s of 20\.00 s: the clock cannot be trusted", problem)


def test_a_client_that_had_done_all_its_tasks_is_out_of_the_sum() -> None:
    """And one that has not begun yet: with a fixed number of tasks clients come and go."""
    assert found(log([(10.0, 12.0), (12.0, 13.0)], left=13.0)) == []
    assert found(log([(15.0, 18.0), (18.0, 20.0)])) == []


def test_of_a_client_that_hangs_only_that_is_said() -> None:
    assert found(log(BUSY, [(9.0, 11.0)], hung=("tq-client-1",))) == [
        "1 thread never came back from the queue: tq-client-1"
    ]


def test_where_the_ramp_never_ended_the_clients_without_a_result_are_named() -> None:
    """There was no window that the time could add up to."""
    made = replace(log(BUSY, []), ramped=False)
    assert found(made) == ["1 client not served: client 1"]
    assert found(replace(log(BUSY, [(9.0, 11.0), (11.0, 15.0)]), ramped=False)) == []


@pytest.mark.parametrize(
    ("judged", "problem"), [(False, ["2 tasks failed: 0-1: E: oh, 1-1: E: oh"]), (True, [])], ids=["no gate", "a gate"]
)
def test_failed_tasks_are_a_problem_unless_a_gate_judges_them(judged: bool, problem: list[str]) -> None:
    """Nor must their work be done, or their result be right."""
    made = log(BUSY, BUSY, errors=[(1, "E: oh")])
    worked = Counter(f"{c}-{k}" for c in range(2) for k in (0, 2, 3))
    looked = lambda task, value: "wrong" if task.key.endswith("-1") else None  # noqa: E731
    assert list(problems(made, task, worked, looked, errors_judged=judged)) == problem


# --- clocks


def test_a_clock_that_was_replaced_makes_no_time_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its module, in the harness, or before the harness was imported."""
    replaced = ["time.perf_counter was replaced: no time can be trusted"]
    other = time.perf_counter

    def half() -> float:
        return other() / 2

    with monkeypatch.context() as patch:
        patch.setattr(time, "perf_counter", half)
        assert found(log(BUSY)) == replaced
    with monkeypatch.context() as patch:
        patch.setattr(load, "clock", half)
        assert found(log(BUSY)) == replaced
    with monkeypatch.context() as patch:
        for module, name in ((time, "perf_counter"), (load, "clock"), (integrity, "CLOCK")):
            patch.setattr(module, name, half)
        assert found(log(BUSY)) == replaced
    assert found(log(BUSY)) == []


@pytest.mark.parametrize(
    ("other", "wrong"), [(10.0, False), (10.21, False), (9.79, False), (10.23, True), (9.77, True)]
)
def test_two_clocks_must_agree_on_the_window(other: float, wrong: bool) -> None:
    """Within 2 %, and 20 ms for a thread that is stopped between two readings."""
    problem = f"the window is 10.000 s by time.perf_counter and {other:.3f} s by time.monotonic"
    assert found(replace(log(BUSY), monotonic_s=other)) == [problem] * wrong


# --- ledgers


@pytest.mark.parametrize("state", [Status.SUCCESS, Status.QUEUED, Status.RUNNING])
@pytest.mark.parametrize("tasks", [1, 2])
def test_rows_that_are_queued_or_running_in_a_ledger_are_left_over(
    open_queue: Callable[..., TaskQueue], tmp_path: Path, state: Status, tasks: int
) -> None:
    """Wherever the ledger lies; the queued ones wait for a retry."""
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    go = threading.Event()

    def work(task: Task) -> None:
        if state is Status.QUEUED:
            raise TransientError("later")
        assert state is Status.SUCCESS or go.wait(toys.LONG)

    queue = open_queue(work, ledger=folder / "left.db", max_workers=tasks, retry=NEVER)
    for number in range(tasks):
        queue.submit(Task(f"t{number}"))
    until(lambda: [record.attempt for record in queue.records(state)] == [1] * tasks)
    left = [problem for problem in left_behind(tmp_path) if "still open" not in problem]  # the queue is at work
    go.set()
    rows = "1 row" if tasks == 1 else f"{tasks} rows"
    assert left == [f"{rows} of left.db still queued or running after close"] * (state is not Status.SUCCESS)


def test_a_database_of_another_program_tells_nothing(tmp_path: Path) -> None:
    """Nor does a file that only has the name of one."""
    with closing(sqlite3.connect(tmp_path / "other.db")) as other, other:
        other.execute("CREATE TABLE tasks (status TEXT)")
        other.execute("INSERT INTO tasks VALUES ('queued')")
    (tmp_path / "text.db").write_text("queued", encoding="utf-8")
    (tmp_path / "cut.db").write_bytes(b"SQLite format 3\0 and no more")
    (tmp_path / "folder.db").mkdir()
    assert left_behind(tmp_path) == []


def left_behind(folder: Path) -> list[str]:
    return list(leftovers(Before.now(), (), folder, None, seconds=0.0))


def test_a_problem_names_only_the_first_tasks() -> None:
    """Of many: how many, a few names, and that there are more."""
    (problem,) = found(log([(9.0 + k, 10.0 + k) for k in range(11)]), times=2)
    assert problem == f"11 tasks worked on more than once: {', '.join(f'0-{k}' for k in range(SHOWN))}, ..."


def test_clients_that_are_the_bottleneck_are_a_warning() -> None:
    """Idle for more than a tenth of the window; no problem, because nothing is wrong."""
    assert IDLE_SHARE == 0.1
    assert list(warnings(log([(9.0, 19.1), (20.0, 21.0)]))) == []
    (warning,) = warnings(log([(9.0, 18.0), (20.0, 21.0)]))
    assert warning == "the clients were idle for 20% of the window: they are the bottleneck"
    assert list(warnings(log([(10.0, 12.0)], left=12.0))) == []


def test_clients_that_wait_for_a_lost_task_are_not_idle() -> None:
    lossy = log([(9.0, 10.0)])
    lossy.clients[0].lost = 1
    assert list(warnings(lossy)) == []


def test_a_wrong_result_is_not_called_early() -> None:
    """Early is what was not there at first, and is right in the end."""
    seen = log([(9.0, 10.0), (10.0, 11.0)])
    seen.clients[0].early += ["0-0: its result is 5, expected 4", "0-1: no output"]
    worked = Counter({"0-0": 1, "0-1": 1})
    told = {"0-0": "its result is 5, expected 4"}
    shown = list(problems(seen, task, worked, lambda task, value: told.get(task.key)))
    assert [text for text in shown if "result" in text] == [
        "1 task not done when the result arrived: 0-1: no output",
        "1 task with a wrong result: 0-0: its result is 5, expected 4",
    ]


def test_threads_that_end_in_time_are_no_problem(tmp_path: Path) -> None:
    """Nor those that were there before."""
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, args=(toys.LONG,)) for _ in range(2)]
    threads[0].start()
    before = Before.now()
    threads[1].start()
    threading.Timer(0.05, go.set).start()
    assert list(leftovers(before, (), tmp_path, None, seconds=toys.LONG)) == []


def test_every_unfinished_file_is_found_wherever_it_is(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in (".tq-1", "a/b/x.tmp", "a/fine.jpg", "tasks.db"):
        (tmp_path / name).touch()
    (problem,) = left_behind(tmp_path)
    assert sorted(re.split(r": |, ", problem)) == [".tq-1", "2 temporary files left behind", "x.tmp"]


def test_a_client_is_unserved_only_where_others_were_served_three_times_over() -> None:
    """In a window of 10 s: not by a fair queue whose tasks take longer than a third of it."""
    quick = [(9.0 + n, 10.0 + n) for n in range(12)]
    slow = [(5.0, 12.0), (12.0, 21.0)]
    waits = [(9.5, 20.5)]
    assert found(log(quick, quick, waits)) == ["1 client not served in the window: client 2"]
    assert found(log(slow, slow, waits)) == []
