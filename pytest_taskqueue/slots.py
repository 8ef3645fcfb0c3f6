"""One slot: a fresh queue in a fresh folder, a load, and a look at everything it did."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_taskqueue import integrity
from pytest_taskqueue.config import CompareConfig
from pytest_taskqueue.figures import Measured, combine, measure
from pytest_taskqueue.load import ClosedLoop, LoadLog, Look
from pytest_taskqueue.results import SlotResult
from pytest_taskqueue.subjects import Setup, Subject, SubjectFactory, Tally
from pytest_taskqueue.workloads import Workload
from taskqueue_core import Task

CLOSE_TIMEOUT = 10.0
"""Seconds that a subject has for closing."""

Drive = Callable[[ClosedLoop], LoadLog]
"""How to run the load: for a window, or for a number of tasks."""


class SubjectError(Exception):
    """A subject could not be opened, loaded or closed."""


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
        folder = Path(tempfile.mkdtemp(prefix=f"slot-{index}-", dir=self._directory))
        gc.collect()
        memory = resident_mb()
        # The folder stays until the comparison is over: some file systems (ext4 without a journal, for one) make new
        # files several times dearer for a while after many were deleted, and the next slot would pay for this one.
        log, worked, problems = self._load(arm, factory, drive, folder)
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
        look = self._look(arm, subject, folder)
        try:
            with _blaming(f"{arm} broke under load"):
                log = drive(self._loop(subject, tally, look))
        finally:
            with _blaming(f"{arm} could not be closed"):
                report = subject.close(CLOSE_TIMEOUT)
        worked = tally.total()
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
        with _blaming(f"{arm} could not be opened"):
            return factory(setup)

    def _loop(self, subject: Subject, tally: Tally, look: Look) -> ClosedLoop:
        """The load; when a result arrives its work must be done, and not only be right in the end."""

        def early(task: Task, value: Any) -> str | None:
            return look(task, value) if tally.done(task.key) else "its work is not done"

        return ClosedLoop(subject, self._clients, self._workload.task, early, seed=self._config.seed)

    def _look(self, arm: str, subject: Subject, folder: Path) -> Look:
        images = self._workload.images(folder)
        if images is None:
            return lambda task, value: self._workload.problem(task, value, None)
        place = getattr(subject, "output", images.output)

        def look(task: Task, value: Any) -> str | None:
            with _blaming(f"{arm} could not tell where an output is"):
                output = place(task)
            return self._workload.problem(task, value, output)

        return look


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever a subject raises into a SubjectError that says what was going on."""
    try:
        yield
    except Exception as error:
        raise SubjectError(f"{what}: {type(error).__name__}: {error}") from error


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
