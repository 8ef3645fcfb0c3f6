"""Queues that reach beyond their slot: each is found, or at least harms nothing but its own verdict."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import toys

from pytest_taskqueue import load
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.config import resolve
from pytest_taskqueue.slots import SlotRunner, SubjectError
from taskqueue_core import Task

released = threading.Event()


@pytest.fixture(autouse=True)
def put_back() -> Iterator[None]:
    """What these queues change or start."""
    released.clear()
    folder, interval = Path.cwd(), sys.getswitchinterval()
    yield
    released.set()
    os.chdir(folder)
    sys.setswitchinterval(interval)
    threading.settrace(None)  # type: ignore[arg-type]
    gc.enable()


@pytest.fixture
def runner(tmp_path: Path) -> SlotRunner:
    return SlotRunner(Catalogue().workload("io", 7), resolve({}, {}, {}.get), 5, tmp_path)


def problems(runner: SlotRunner, kind: Any) -> tuple[str, ...]:
    return runner.run("optimized", kind, lambda loop: loop.run(0.1)).result.problems


class StartsLater(toys.Pool):
    """Starts a thread when it is thrown away, after everything was looked at."""

    def __del__(self) -> None:
        threading.Thread(target=released.wait, args=(toys.LONG,), name="later", daemon=True).start()


def test_a_thread_that_begins_between_two_slots_was_not_there_before(runner: SlotRunner) -> None:
    """It would work against the other arm."""
    assert problems(runner, StartsLater) == ()
    gc.collect()
    assert problems(runner, toys.Pool) == ("1 thread alive after close: later",)


SETTINGS = {
    "garbage collection": gc.disable,
    "switch interval": lambda: sys.setswitchinterval(0.1),
    "trace function": lambda: threading.settrace(lambda *_: None),
    "working directory": lambda: os.chdir("/"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_the_process_are_put_back(runner: SlotRunner, name: str) -> None:
    """Left changed they slow the other arm down."""

    class Changes(toys.Pool):
        def close(self, timeout: float) -> object:
            super().close(timeout)
            SETTINGS[name]()
            return None

    assert problems(runner, Changes) == (f"1 setting of the process not put back: {name}",)


@pytest.mark.parametrize("where", ["open", "close", "depth"])
def test_leaving_the_program_is_an_error_of_the_queue(runner: SlotRunner, where: str) -> None:
    """And no way to end with status 0."""

    class Leaves(toys.Pool):
        def __init__(self, setup: Any) -> None:
            super().__init__(setup)
            if where == "open":
                sys.exit(0)

        def close(self, timeout: float) -> object:
            super().close(timeout)
            return sys.exit(0) if where == "close" else None

        def depth(self) -> int:
            return sys.exit(0) if where == "depth" else 0

    with pytest.raises(SubjectError, match="SystemExit: 0"):
        problems(runner, Leaves)


def test_a_module_that_leaves_the_program_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)", encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be imported: SystemExit: 0"):
        Catalogue().subject(f"{tmp_path / 'leaves.py'}:Queue")


def test_a_subject_may_import_its_neighbours(tmp_path: Path) -> None:
    """As a script does."""
    (tmp_path / "old_neighbour.py").write_text("class Base: pass", encoding="utf-8")
    (tmp_path / "new.py").write_text("from old_neighbour import Base\nclass New(Base): pass", encoding="utf-8")
    before = list(sys.path)
    assert Catalogue().subject(f"{tmp_path / 'new.py'}:New").__name__ == "New"
    assert sys.path == before


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


def test_a_client_that_dies_of_an_error_without_words_is_noticed(runner: SlotRunner) -> None:
    """Among many clients one is too few to be seen by the time that is missing."""

    class Dies(toys.Pool):
        def submit(self, task: Task) -> Future[Any]:
            if task.key.endswith(toys.ONE):
                raise UnspeakableError
            return super().submit(task)

    assert "client 2 broke: ValueError: no words" in problems(runner, Dies)


def test_a_look_that_breaks_tells_where_the_queue_was_asked(tmp_path: Path) -> None:
    runner = SlotRunner(Catalogue().workload("thumbnail", 7), resolve({}, {}, {}.get), 5, tmp_path)
    try:
        found = " ".join(problems(runner, toys.NoOutput))
    except SubjectError as error:  # none of the sampled outputs came before the last look
        found = str(error)
    assert "optimized could not tell where an output is: RuntimeError: no map" in found


def test_clients_that_cannot_all_be_started_do_not_wait_for_the_others(
    runner: SlotRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has no more threads."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "tq-client-3":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(SubjectError, match="can't start new thread"):
        problems(runner, toys.Pool)
    assert [thread.name for thread in load.still_alive(_clients(), toys.LONG)] == []


def _clients() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("tq-client-")]


def test_names_from_a_queue_cannot_command_the_terminal(runner: SlotRunner) -> None:
    class Writes(toys.Pool):
        def close(self, timeout: float) -> object:
            (self.setup.directory / "a\x1b[2J\n.tmp").touch()
            return super().close(timeout)

    assert problems(runner, Writes) == ("1 temporary file left behind: a\\x1b[2J\\n.tmp",)


def test_failed_tasks_are_not_asked_for_their_result_as_well(tmp_path: Path) -> None:
    """With a gate on errors they are its business alone."""
    config = resolve({"gate": "errors<=100000"}, {}, {}.get)
    runner = SlotRunner(Catalogue().workload("io", 7), config, 5, tmp_path)

    class Fails(toys.Pool):
        def do(self, task: Task) -> Any:
            if task.key.endswith("3"):
                raise ConnectionResetError("gone")
            return super().do(task)

    result = runner.run("optimized", Fails, lambda loop: loop.run(0.3)).result
    assert result.problems == ()
    assert result.figures.errors > 0
