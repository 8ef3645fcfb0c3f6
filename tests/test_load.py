"""The closed loop: what the clients do, and that their logs say what happened."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from time import perf_counter
from typing import Any

import pytest
from helpers import until
from toys import LONG

from pytest_taskqueue import load
from pytest_taskqueue.ceiling import ceiling
from pytest_taskqueue.load import ClosedLoop
from taskqueue_core import Task

CLIENTS = 4
Do = Callable[[Task], Any]


class Subject:
    """Does each task when it is submitted, and keeps the order of events."""

    def __init__(self, do: Do = lambda task: task.params["n"]) -> None:
        self._do = do
        self.events: list[tuple[str, str, float]] = []

    def submit(self, task: Task) -> Future[Any]:
        self.events.append(("submit", task.key, perf_counter()))
        future: Future[Any] = Future()
        try:
            future.set_result(self._do(task))
        except Exception as error:  # noqa: BLE001
            future.set_exception(error)
        self.events.append(("done", task.key, perf_counter()))
        return future

    def join(self, timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> None:
        pass


class Deep(Subject):
    """Tells how many tasks wait: 3. Only first tasks are done before it was asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        super().__init__(lambda task: task.key.endswith("/0") or self.asked.wait(LONG))

    def depth(self) -> int:
        self.asked.set()
        return 3


def task(client: int, k: int) -> Task:
    return Task(f"{client}/{k}", idempotency_key=f"{client}/{k}", params={"n": 100 * client + k})


def loop(
    subject: Any, look: Any = lambda task, value: None, *, clients: int = CLIENTS, seed: int = 7, **end: float
) -> ClosedLoop:
    return ClosedLoop(subject, clients, task, look, seed=seed, **end)


def failing(*keys: str, error: type[Exception] = ValueError) -> Do:
    """Work that raises for the tasks of these keys."""

    def do(task: Task) -> Any:
        if task.key in keys:
            raise error("bad luck")
        return task.params["n"]

    return do


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("tq-")]


# --- what the clients do


def test_each_client_submits_its_own_tasks_one_after_the_other() -> None:
    """A task only when the one before has its result; each result goes to the client that asked."""
    subject = Subject()
    log = loop(subject).run_tasks(5)
    for client in range(CLIENTS):
        own = [(what, key) for what, key, _ in subject.events if key.startswith(f"{client}/")]
        assert own == [(what, f"{client}/{k}") for k in range(5) for what in ("submit", "done")]
        assert log.clients[client].values == [100 * client + k for k in range(5)]


def test_all_clients_are_at_work_at_the_same_time() -> None:
    """The first tasks only finish when every client has submitted one."""
    together = threading.Barrier(CLIENTS)
    log = loop(Subject(lambda task: together.wait(LONG))).run_tasks(1)
    assert [len(client.ends) for client in log.clients] == [1] * CLIENTS


def test_latency_runs_from_before_submit_until_the_result_is_there() -> None:
    """So a submit that is held back counts; each log entry encloses what the subject saw."""
    subject = Subject()
    log = loop(subject).run_tasks(5)
    seen = {(what, key): when for what, key, when in subject.events}
    for c, client in enumerate(log.clients):
        for k, (start, end) in enumerate(zip(client.starts, client.ends, strict=True)):
            assert start <= seen["submit", f"{c}/{k}"] <= seen["done", f"{c}/{k}"] <= end


def test_the_window_opens_when_every_client_has_finished_a_task() -> None:
    """One client's first task takes until the others have done ten."""
    others = threading.Semaphore(0)

    def do(task: Task) -> int:
        if task.key == "2/0":
            for _ in range(10):
                assert others.acquire(timeout=LONG)
        others.release()
        return task.params["n"]

    log = loop(Subject(do)).run(0.02)
    assert all(client.ends[0] <= log.opens for client in log.clients)
    assert sum(end < log.clients[2].ends[0] for client in log.clients for end in client.ends) >= 10


def test_the_load_goes_on_until_every_task_of_the_window_has_finished() -> None:
    """Each client has a task that ends after the window; none that was submitted in it is missing."""
    log = loop(Subject()).run(0.02)
    for client in log.clients:
        assert len(client.starts) == len(client.ends)
        assert client.ends[-1] >= log.closes
        assert log.closes < client.left < float("inf")
    assert log.hung == ()
    assert log.cpu_s > 0


def test_the_load_does_not_ease_while_a_task_of_the_window_is_unfinished() -> None:
    """The others go on submitting at full rate, or the last tasks would be the fastest."""

    def do(task: Task) -> int:
        if task.key == "0/1":
            until(lambda: measured._closes < float("inf"))
            now = len(subject.events)
            until(lambda: len(subject.events) > now + 200, timeout=5)
        return task.params["n"]

    subject = Subject(do)
    measured = loop(subject)
    log = measured.run(0.02)
    assert log.clients[0].errors == []
    assert sum(start > log.closes for client in log.clients for start in client.starts) > 50


def test_a_fixed_number_of_tasks_is_measured_as_a_whole() -> None:
    """The window is from the first submit to the last result."""
    log = loop(Subject()).run_tasks(3)
    assert log.opens == min(client.starts[0] for client in log.clients)
    assert log.closes == max(client.ends[-1] for client in log.clients)
    assert all(log.opens < client.left for client in log.clients)


def test_depth_is_sampled_where_the_subject_tells_it() -> None:
    assert set(loop(Deep()).run(0.2).depths) == {3}
    assert loop(Subject()).run(0.02).depths == ()


def test_a_long_load_that_gets_on_does_not_count_as_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole may take longer than patience lasts, a single task may not."""
    monkeypatch.setattr(load, "PATIENCE", 0.2)
    log = loop(Subject(lambda task: time.sleep(0.06))).run_tasks(10)
    assert log.hung == ()
    assert [len(client.ends) for client in log.clients] == [10] * CLIENTS


# --- what goes wrong


def test_a_failing_task_is_an_error_and_the_load_goes_on() -> None:
    log = loop(Subject(failing("1/2", "3/0"))).run_tasks(4)
    unlucky = "ValueError: bad luck"
    assert [client.errors for client in log.clients] == [[], [(2, unlucky)], [], [(0, unlucky)]]
    assert log.clients[1].values == [100, 101, None, 103]
    assert all(len(client.ends) == 4 for client in log.clients)


def test_a_timeout_of_the_task_itself_is_an_error_not_a_loss() -> None:
    """It comes long before the client's patience ends."""
    log = loop(Subject(failing("1/2", error=TimeoutError))).run_tasks(4)
    assert log.clients[1].errors == [(2, "TimeoutError: bad luck")]
    assert log.clients[1].lost is None
    assert len(log.clients[1].ends) == 4


def test_a_task_without_a_result_is_lost_and_ends_the_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client stops after the task it has; what was submitted has a start and no end."""
    monkeypatch.setattr(load, "PATIENCE", 0.2)

    class Loses(Subject):
        def submit(self, task: Task) -> Future[Any]:
            return Future() if task.key == "2/3" else super().submit(task)

    log = loop(Loses()).run(LONG)
    assert [client.lost for client in log.clients] == [None, None, 3, None]
    assert (len(log.clients[2].starts), len(log.clients[2].ends)) == (4, 3)
    assert all(len(client.starts) == len(client.ends) for c, client in enumerate(log.clients) if c != 2)
    assert log.hung == ()
    assert log.closes - log.opens < LONG, "the window is cut short"


@pytest.mark.parametrize("error", [SystemExit, KeyError])
def test_a_client_that_breaks_says_why_and_ends_the_load(error: type[BaseException]) -> None:
    """Nobody hears what a thread raises: SystemExit from the subject, or an error from the look at an output."""

    def look(task: Task, value: Any) -> str | None:
        raise error("oh")

    log = loop(Subject(), look).run(LONG)
    broken = [client.broke for client in log.clients if client.broke]
    assert broken
    assert set(broken) == {f"{error.__name__}: {error('oh')}"}
    assert log.closes - log.opens < LONG, "the window is cut short"


def test_the_clients_stop_when_the_load_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As by Ctrl-C: the one who runs the load must not leave them at a closed subject."""

    def interrupt(moment: float) -> None:
        raise KeyboardInterrupt

    before, interrupted = set(threading.enumerate()), loop(Subject())
    monkeypatch.setattr(interrupted, "_wait_until", interrupt)
    with pytest.raises(KeyboardInterrupt):
        interrupted.run(LONG)
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG)
    assert ours() == []


# --- patience


def test_patience_shrinks_towards_the_end_of_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never goes to nothing: the last pair may end after the budget."""
    monkeypatch.setattr(load, "clock", lambda: 100.0)
    ends = (float("inf"), 131.0, 130.0, 110.0, 102.0, 101.0, 100.0, 50.0)
    least = load.LEAST_PATIENCE
    assert [load.patience(end) for end in ends] == [load.PATIENCE] * 3 + [10.0, 2.0] + [least] * 3


@pytest.mark.parametrize("over", [True, False])
def test_once_the_budget_is_used_up_a_client_waits_for_the_least_time(
    monkeypatch: pytest.MonkeyPatch, over: bool
) -> None:
    """What it does not get in that time is lost; with time left it waits as long as ever."""
    monkeypatch.setattr(load, "PATIENCE", 0.4)
    monkeypatch.setattr(load, "LEAST_PATIENCE", 0.1)
    waited: list[float | None] = []

    class Waits(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            waited.append(timeout)
            return super().result(timeout)

    class Loses(Subject):
        def submit(self, task: Task) -> Future[Any]:
            return Waits() if task.key == "2/3" else super().submit(task)

    log = loop(Loses(), end=perf_counter() + (0.0 if over else LONG)).run(LONG)
    assert waited == [0.1 if over else 0.4]
    assert [client.lost for client in log.clients] == [None, None, 3, None]


@pytest.mark.parametrize("lost", [True, False])
def test_a_ramp_that_never_ends_leaves_no_window(monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
    """A client whose first result never comes gives up; one whose submit never returns is named."""
    monkeypatch.setattr(load, "PATIENCE", 0.2)
    monkeypatch.setattr(load, "MARGIN", 0.1)
    released = threading.Event()

    class NeverBegins(Subject):
        def depth(self) -> int:
            return 3

        def submit(self, task: Task) -> Future[Any]:
            if task.key.startswith("2/"):
                if lost:
                    return Future()
                released.wait(LONG)
            return super().submit(task)

    log = loop(NeverBegins()).run(LONG)
    released.set()
    assert not log.ramped
    assert [bool(client.ends) for client in log.clients] == [True, True, False, True]
    assert log.clients[2].lost == (0 if lost else None)
    assert log.hung == (() if lost else ("tq-client-2",))
    assert (log.depths, log.monotonic_s) == ((), None)
    assert log.opens <= log.clients[0].starts[0]
    until(lambda: not ours())


def test_a_window_is_timed_by_another_clock_too() -> None:
    log = loop(Subject()).run(0.02)
    assert log.ramped
    assert log.monotonic_s == pytest.approx(log.closes - log.opens, abs=0.02)


def test_a_depth_that_never_comes_back_does_not_hold_the_load_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for in a thread of its own, which is named as hanging."""
    monkeypatch.setattr(load, "MARGIN", 0.05)
    released = threading.Event()

    class Hangs(Deep):
        def depth(self) -> int:
            super().depth()
            released.wait(LONG)
            return 3

    log = loop(Hangs()).run(0.2)
    released.set()
    assert log.hung == ("tq-depth",)
    assert log.ramped
    assert all(client.ends[-1] >= log.closes for client in log.clients)
    until(lambda: not ours())


def test_a_depth_that_cannot_be_told_ends_the_load() -> None:
    """Whoever runs the load hears why; the clients stop."""

    class Breaks(Subject):
        def depth(self) -> int:
            raise RuntimeError("lost count")

    measured, begun = loop(Breaks()), perf_counter()
    with pytest.raises(RuntimeError, match="lost count"):
        measured.run(LONG)
    assert measured._closes - begun < LONG, "the window is cut short"
    until(lambda: not ours())


def test_no_depth_is_asked_for_in_the_ramp() -> None:
    """Nor by a load of a fixed number of tasks, which has no window."""
    ramped: list[bool] = []

    class Asked(Deep):
        def depth(self) -> int:
            ramped.append(all(log.ends for log in measured._logs))
            return super().depth()

    measured = loop(Asked())
    measured.run(0.2)
    assert ramped
    assert all(ramped)
    ramped.clear()
    assert loop(Asked()).run_tasks(1).depths == ()
    assert ramped == []


def test_the_ceiling_is_what_the_clients_do_alone() -> None:
    """More than over any queue; its threads end."""
    assert ceiling(2, task, 0.05) > 0
    until(lambda: not ours())


# --- looks


def test_a_seeded_share_of_the_outputs_is_looked_at_when_they_arrive() -> None:
    """About one in twenty: the same ones with the same seed, after the clock has stopped."""
    looked: dict[int, list[str]] = {7: [], 8: []}
    for seed, keys in looked.items():
        for _ in range(2):
            log = loop(Subject(), lambda task, value, keys=keys: keys.append(task.key), clients=2, seed=seed)
            log.run_tasks(200)
    same, other = sorted(looked[7]), sorted(looked[8])
    assert same[::2] == same[1::2]
    assert same != other
    assert 2 * 5 <= len(same) <= 2 * 50


def test_what_is_wrong_at_the_look_is_kept_with_its_task() -> None:
    looked: list[str] = []

    def look(task: Task, value: Any) -> str:
        looked.append(task.key)
        return f"saw {value}"

    log = loop(Subject(), look, clients=2).run_tasks(100)
    found = [text for client in log.clients for text in client.early]
    assert looked
    assert sorted(found) == sorted(f"{key}: saw {task(*map(int, key.split('/'))).params['n']}" for key in looked)
