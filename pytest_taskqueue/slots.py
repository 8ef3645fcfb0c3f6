"""One slot: a fresh queue in a fresh folder, a load, and a look at everything it did."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_taskqueue import integrity
from pytest_taskqueue.config import CompareConfig
from pytest_taskqueue.figures import Measured, combine, measure
from pytest_taskqueue.load import ClosedLoop, LoadLog
from pytest_taskqueue.results import SlotResult
from pytest_taskqueue.subjects import Setup, Subject, SubjectFactory, Tally
from pytest_taskqueue.workloads import Workload
from taskqueue_core import Task

CLOSE_TIMEOUT = 10.0
"""Seconds that a subject has for closing."""

Drive = Callable[[ClosedLoop], LoadLog]
"""How to run the load: for a window, or for a number of tasks."""


class SubjectError(Exception):
    """A subject could not be opened or closed."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as shown, and the raw measurements behind it."""

    result: SlotResult
    measured: Measured


class SlotRunner:
    """Runs slots of one workload under a number of clients, below `directory`."""

    def __init__(self, workload: Workload, config: CompareConfig, clients: int, directory: Path) -> None:
        self._workload = workload
        self._config = config
        self._clients = clients
        self._directory = directory
        self._count = 0
        workload.prepare(directory, config.seed)

    def run(self, arm: str, factory: SubjectFactory, drive: Drive, *, pair: int = 0) -> Slot:
        """Open a subject, drive the load over it, close it, check all it did. Raises SubjectError."""
        index, self._count = self._count, self._count + 1
        folder = self._directory / f"slot-{index}"
        folder.mkdir()
        gc.collect()
        memory = resident_mb()
        try:
            log, worked, problems = self._load(arm, factory, drive, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        gc.collect()
        measured = measure(
            log,
            lost=len(integrity.lost_tasks(log, self._workload.task)),
            doubled=len(integrity.doubled_tasks(worked)),
            rss_growth_mb=_difference(resident_mb(), memory),
        )
        result = SlotResult(
            arm=arm,
            index=index,
            pair=pair,
            window_s=measured.window_s,
            figures=combine([measured]),
            problems=tuple(problems),
            warnings=tuple(integrity.warnings(log)),
        )
        return Slot(result, measured)

    def _load(
        self, arm: str, factory: SubjectFactory, drive: Drive, folder: Path
    ) -> tuple[LoadLog, Counter[str], list[str]]:
        """What the clients saw, how often each task was worked on, and every reason to call the slot invalid."""
        threads, tally = threading.enumerate(), Tally()
        subject = self._open(arm, factory, folder, tally)
        look = self._look(subject, folder)
        try:
            log = drive(ClosedLoop(subject, self._clients, self._workload.task, look, seed=self._config.seed))
        finally:
            report = self._close(arm, subject)
        worked = Counter(tally.keys())
        problems = list(integrity.problems(log, self._workload.task, worked, look))
        problems += integrity.leftovers(threads, folder, report)
        return log, worked, problems

    def _open(self, arm: str, factory: SubjectFactory, folder: Path, tally: Tally) -> Subject:
        work = self._workload.work(folder)

        def counted(task: Task) -> Any:
            value = work(task)
            tally.count(task.key)
            return value

        setup = Setup(
            work=counted,
            workers=self._config.workers,
            queue_size=self._config.queue_size,
            directory=folder,
            images=self._workload.images(folder),
            tally=tally,
        )
        try:
            return factory(setup)
        except Exception as error:
            raise SubjectError(f"{arm} could not be opened: {type(error).__name__}: {error}") from error

    def _close(self, arm: str, subject: Subject) -> object:
        try:
            return subject.close(CLOSE_TIMEOUT)
        except Exception as error:
            raise SubjectError(f"{arm} could not be closed: {type(error).__name__}: {error}") from error

    def _look(self, subject: Subject, folder: Path) -> Callable[[Task, Any], str | None]:
        images = self._workload.images(folder)
        if images is None:
            return lambda task, value: self._workload.problem(task, value, None)
        place = getattr(subject, "output", images.output)
        return lambda task, value: self._workload.problem(task, value, place(task))


def resident_mb() -> float | None:
    """Memory of this process in MiB; None where the system does not tell it cheaply (only Linux does)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no path of ours
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
