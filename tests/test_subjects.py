"""What can be measured: how a subject is named, and what the two built-in ones do."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import LONG

from pytest_taskqueue.arms import BUILT_IN, BaselineSubject, ExecutorSubject, OptimizedSubject, ThreadsSubject
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.subjects import Setup
from pytest_taskqueue.tally import Tally
from taskqueue_core import Task, TaskFailedError

MODULE = """
from dataclasses import dataclass

@dataclass
class Queue:
    setup: object

def make(setup):
    return Queue(setup)

number = 4
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with modules to take subjects from; importable as `found_...`, too."""
    (tmp_path / "queues").mkdir()
    (tmp_path / "queues" / "mine.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "found_mine.py").write_text(MODULE, encoding="utf-8")
    for name in ("broken.py", "found_broken.py"):
        (tmp_path / name).write_text("raise RuntimeError('no licence')", encoding="utf-8")
    for name in ("typo.py", "found_typo.py"):
        (tmp_path / name).write_text("def f(:", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in list(sys.modules):
        if name.startswith(("found_", "taskqueue_file_")):
            del sys.modules[name]


# --- names


def test_built_in_names() -> None:
    assert list(BUILT_IN.items()) == [
        ("baseline", BaselineSubject),
        ("optimized", OptimizedSubject),
        ("executor", ExecutorSubject),
        ("threads", ThreadsSubject),
    ]
    assert [Catalogue().subject(name) for name in BUILT_IN] == list(BUILT_IN.values())


@pytest.mark.parametrize("where", ["found_mine", "queues/mine.py", "{}/queues/mine.py"])
def test_a_subject_is_a_class_or_function_of_a_module_or_a_file(folder: Path, where: str) -> None:
    """Relative to the working directory, or absolute; what the file defines works as in any module."""
    where = where.format(folder)
    kind, make = Catalogue().subject(f"{where}:Queue"), Catalogue().subject(f"{where}:make")
    assert kind("setup").setup == "setup"
    assert type(make("setup")).__name__ == "Queue"
    assert kind("a") == kind("a")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "nonsense",
            "unknown subject 'nonsense': use baseline, optimized, executor, threads, package.module:attr or path/",
        ),
        ("queues/mine.py", "subject 'queues/mine.py' is a file: name what is meant in it, queues/mine.py:Name"),
        ("found_mine:", "unknown subject 'found_mine:': use baseline"),
        (":Queue", "unknown subject ':Queue': use baseline"),
        ("", "unknown subject ''"),
        ("found_nowhere:Queue", "subject module 'found_nowhere' cannot be imported: ModuleNotFoundError: "),
        ("found_broken:Queue", "subject module 'found_broken' cannot be imported: RuntimeError: no licence"),
        ("found_typo:Queue", "subject module 'found_typo' cannot be imported: SyntaxError: "),
        ("queues/nowhere.py:Queue", "there is no file 'queues/nowhere.py' to take a subject from"),
        ("queues.py:Queue", "there is no file 'queues.py' to take a subject from"),
        ("broken.py:Queue", "subject file 'broken.py' cannot be imported: RuntimeError: no licence"),
        ("typo.py:Queue", "subject file 'typo.py' cannot be imported: SyntaxError: "),
        ("found_mine:Other", "subject 'found_mine:Other': found_mine has no class or function 'Other'"),
        (
            "queues/mine.py:number",
            "subject 'queues/mine.py:number': number is an object of class int, expected a class or function",
        ),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_looked_for(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        Catalogue().subject(name)
    assert str(caught.value).replace("\\\\", "/").startswith(message)


def test_a_file_that_cannot_be_imported_leaves_no_module(folder: Path) -> None:
    with pytest.raises(ValueError, match="no licence"):
        Catalogue().subject("broken.py:Queue")
    assert not any("broken" in name for name in sys.modules if name.startswith("taskqueue_file_"))


def test_files_of_the_same_name_are_kept_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """old/queue.py and new/queue.py, or the same relative path from another working directory; each executed once."""
    for name in ("old", "new"):
        (folder / name).mkdir()
        (folder / name / "queue.py").write_text(f"class Queue:\n    name = {name!r}\n", encoding="utf-8")
    old, new = (Catalogue().subject(f"{name}/queue.py:Queue") for name in ("old", "new"))
    assert (old.name, new.name) == ("old", "new")
    assert [sys.modules[kind.__module__].Queue for kind in (old, new)] == [old, new]
    for name, kind in (("old", old), ("new", new)):
        monkeypatch.chdir(folder / name)
        assert Catalogue().subject("queue.py:Queue") is kind


# --- the built-in subjects, with work of the test


@pytest.fixture(params=BUILT_IN)
def open_subject(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Opens a built-in subject with two workers around a function; closed at the end."""
    opened: list[Any] = []

    def make(work: Callable[[Task], Any]) -> Any:
        opened.append(BUILT_IN[request.param](Setup(work=work, workers=2, queue_size=50, directory=tmp_path)))
        return opened[-1]

    yield make
    for subject in opened:
        subject.close(LONG)


def test_a_result_comes_through(open_subject: Any) -> None:
    """The work gets the task as it was submitted."""
    got: list[Task] = []
    subject = open_subject(lambda task: got.append(task) or task.params["n"] + 1)
    task = Task("image", "64x64", {"n": 4}, "key")
    assert subject.submit(task).result(LONG) == 5
    assert got == [task]


def test_an_error_comes_through(open_subject: Any) -> None:
    def work(task: Task) -> Any:
        raise ValueError("no good")

    with pytest.raises((ValueError, TaskFailedError), match="no good"):
        open_subject(work).submit(Task("a")).result(LONG)


def test_waiting_for_a_result_has_an_end(open_subject: Any) -> None:
    """And tasks that wait are told as depth."""
    go, begun = threading.Event(), threading.Semaphore(0)

    def work(task: Task) -> None:
        begun.release()
        go.wait(LONG)

    subject = open_subject(work)
    futures = [subject.submit(Task(f"t{k}")) for k in range(10)]
    assert begun.acquire(timeout=LONG)
    with pytest.raises(TimeoutError):
        futures[-1].result(0.01)
    if hasattr(subject, "depth"):
        assert subject.depth() >= 8
    go.set()
    assert [future.result(LONG) for future in futures] == [None] * 10
    assert getattr(subject, "depth", int)() == 0


def test_close_waits_for_what_was_submitted(open_subject: Any) -> None:
    done: list[str] = []
    subject = open_subject(lambda task: done.append(task.image_key))
    for k in range(20):
        subject.submit(Task(f"t{k}"))
    subject.close(LONG)
    assert sorted(done) == sorted(f"t{k}" for k in range(20))


def test_the_optimized_one_is_durable_against_power_loss(tmp_path: Path) -> None:
    """Its ledger is a file, so that the comparison pays for what the queue promises."""
    subject = OptimizedSubject(Setup(work=lambda task: None, workers=3, queue_size=5, directory=tmp_path))
    try:
        settings = subject._queue.settings
        assert (settings.durability, settings.max_workers, settings.queue_size) == ("power", 3, 5)
        assert (tmp_path / "tasks.db").is_file()
    finally:
        subject.close(LONG)


def test_raw_threads_that_were_stuck_at_close_end_when_they_come_back(tmp_path: Path) -> None:
    """With fewer places than threads; what waited is cancelled."""
    go = threading.Event()
    subject = ThreadsSubject(Setup(work=lambda task: go.wait(LONG), workers=6, queue_size=2, directory=tmp_path))
    futures = [subject.submit(Task(f"t{k}")) for k in range(8)]
    subject.close(0.05)
    assert [future.cancelled() for future in futures] == [False] * 6 + [True] * 2
    go.set()
    for thread in subject._threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in subject._threads)
    assert all(future.result(0) for future in futures[:6])


# --- the tally


def test_the_tally_adds_up_what_all_threads_counted() -> None:
    tally, barrier = Tally(), threading.Barrier(4)

    def count(number: int) -> None:
        barrier.wait(LONG)
        for k in range(200):
            tally.count(f"own {number} {k}")
            tally.count("shared")

    threads = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = tally.total()
    assert total.pop("shared") == 800
    assert total == {f"own {number} {k}": 1 for number in range(4) for k in range(200)}
    assert tally.spans().keys() == {*total, "shared"}
