"""One slot: a fresh queue in a fresh folder, a load, and a look at everything it did."""

from __future__ import annotations

import gc
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_taskqueue import integrity
from pytest_taskqueue.ceiling import ceiling
from pytest_taskqueue.config import CompareConfig
from pytest_taskqueue.figures import Measured, combine, measure
from pytest_taskqueue.hangs import Hand, Hang, stacks
from pytest_taskqueue.leftovers import Before, leftovers
from pytest_taskqueue.load import ClosedLoop, LoadLog, Look, patience
from pytest_taskqueue.machine import resident_mb
from pytest_taskqueue.results import SlotResult
from pytest_taskqueue.subjects import ProtocolError, Setup, Subject, SubjectFactory, opened
from pytest_taskqueue.tally import Tally
from pytest_taskqueue.wording import said
from pytest_taskqueue.workloads import Workload
from taskqueue_core import Task

CLOSE_TIMEOUT = 10.0
"""Seconds that a subject has for closing."""

OVERTIME = 0.5
"""Seconds beyond that after which it counts as hanging."""

END_TIMEOUT = 1.0
"""Seconds that its threads have for ending once it is closed."""

HOPELESS = 0.5
"""Seconds for anything more from a subject that hangs already: a call, its close, the end of its threads."""

CEILING_WINDOW, CEILING_TRIES = 0.1, 3
"""Seconds for which the clients are measured alone, and how often: the best counts, another program may only hinder."""

SHOWN_CALLS = 3
"""How many of the innermost calls are shown of an error that a subject raised."""

Drive = Callable[[ClosedLoop], LoadLog]
"""How to run the load: for a window, for a number of tasks, or by a plan."""


class SubjectError(Exception):
    """A subject could not be opened, loaded or closed; `stacks` shows where it hangs, if it does."""

    def __init__(self, message: str, stacks: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.stacks = tuple(stacks)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot as shown, the raw measurements behind it, and where its threads hang, if they do."""

    result: SlotResult
    measured: Measured
    stacks: tuple[str, ...] = ()


class SlotRunner:
    """Runs slots of one workload under a number of clients, below `directory`."""

    def __init__(self, workload: Workload, config: CompareConfig, clients: int, directory: Path) -> None:
        self._workload = workload
        self._config = config
        self._clients = clients
        self._directory = directory
        self._count = 0
        self._before = Before.now()  # once: what a queue leaves between two slots was not there before
        workload.prepare(directory)

    def run(
        self,
        arm: str,
        factory: SubjectFactory,
        drive: Drive,
        *,
        pair: int = 0,
        end: float = float("inf"),
    ) -> Slot:
        """Open a subject, drive the load over it, close it, check all it did. Raises SubjectError.

        Once the clock has reached `end`, nothing is waited for long.
        """
        index, self._count = self._count, self._count + 1
        folder = Path(tempfile.mkdtemp(prefix=f"slot-{index}-", dir=self._directory))
        gc.collect()
        memory = resident_mb()
        # The folder stays until the comparison is over: some file systems (ext4 without a journal, for one) make new
        # files several times dearer for a while after many were deleted, and the next slot would pay for this one.
        run = _Run(self._workload, self._config, self._clients, arm, folder, end, self._before)
        log, worked, problems = run.load(factory, drive)
        hung = run.stacks
        del run  # and with it the queue, whose memory is not to be counted as growth
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
        return Slot(result, measured, hung)

    def ceiling(self, window: float) -> float:
        """Tasks per second that the clients do over a queue that does nothing."""
        window = min(window, CEILING_WINDOW)
        return max(ceiling(self._clients, self._workload.task, window) for _ in range(CEILING_TRIES))


class _Run:
    """One subject's life: opened, loaded, closed and looked through, each within its time."""

    def __init__(
        self,
        workload: Workload,
        config: CompareConfig,
        clients: int,
        arm: str,
        folder: Path,
        end: float,
        before: Before,
    ) -> None:
        self._workload = workload
        self._config = config
        self._clients = clients
        self._who = _called(arm, config)
        self._folder = folder
        self._end = end
        self._before = before
        self._tally = Tally()
        self._outputs: set[Path] | None = None  # the files that were there before the queue was asked for any
        self._hands: list[threading.Thread] = []
        self._hand = self._new_hand()  # whatever the subject does alone, it does in one thread, which may hang
        self.stacks: tuple[str, ...] = ()

    def load(self, factory: SubjectFactory, drive: Drive) -> tuple[LoadLog, Counter[str], list[str]]:
        """What the clients saw, how often each task was worked on, and every reason to call the slot invalid."""
        try:
            subject = self._open(factory)
            look = self._look(subject)
            try:
                with _blaming(f"{self._who} broke under load"):
                    log = drive(self._loop(subject, look))
                self._note_hangs(log)
            finally:
                report = self._close(subject)
            worked, spans = self._tally.total(), self._tally.spans()
            self._outputs = set(self._folder.rglob("*"))
            errors_judged = any(gate.metric == "errors" for gate in self._config.gates)
            if self.stacks:  # it is found wrong, and not asked for its outputs any more
                look = _not_asked
            with _blaming(f"the outputs of {self._who} could not be looked at"):
                problems = self._bounded(
                    lambda: [*integrity.problems(log, self._workload.task, worked, look, errors_judged=errors_judged)]
                )
        finally:
            self._hand.end()
        hung = [thread for thread in threading.enumerate() if thread.name in log.hung]
        seconds = HOPELESS if self.stacks else END_TIMEOUT
        left = leftovers(self._before, [*hung, *self._hands], self._folder, report, seconds=seconds)
        spanned = integrity.span_problems(log, self._workload.task, spans, self._config.workers)
        return log, worked, [*problems, *spanned, *left]

    def _open(self, factory: SubjectFactory) -> Subject:
        work, tally, images = self._workload.work(self._folder), self._tally, self._workload.images(self._folder)

        def counted(task: Task, now: Callable[[], float] = integrity.CLOCK) -> Any:
            begun = now()
            value = work(task)
            tally.count(task.key, begun)
            return value

        setup = Setup(
            work=counted,
            workers=self._config.workers,
            queue_size=self._config.queue_size,
            directory=self._folder,
            images=images,
            tally=tally if images is not None else Tally(),  # whoever is given the work has nothing to tell
        )
        with _blaming(f"{self._who} could not be opened"):
            subject: Subject = self._bounded(lambda: opened(factory, setup))
        return subject

    def _close(self, subject: Subject) -> object:
        """Its report. One that hangs under load, or once the time is over, gets no long time for it."""
        timeout = HOPELESS if self.stacks else min(CLOSE_TIMEOUT, patience(self._end))
        with _blaming(f"{self._who} could not be closed"):
            try:
                return self._hand.call(lambda: subject.close(timeout), timeout + OVERTIME)
            except Hang:
                if not self.stacks:
                    raise
                self._hand = self._new_hand()  # that it hangs was found before; what is left to do needs another hand
                return None

    def _new_hand(self) -> Hand:
        hand = Hand("tq-slot")
        self._hands.append(hand.thread)
        return hand

    def _bounded(self, call: Callable[[], Any]) -> Any:
        return self._hand.call(call, HOPELESS if self.stacks else patience(self._end))

    def _note_hangs(self, log: LoadLog) -> None:
        """Where the threads are that came with the subject, and the clients, while they still hang there."""
        if log.hung or not log.ramped or any(client.lost is not None for client in log.clients):
            known = {*self._before.threads, *self._hands}
            strangers = [thread for thread in threading.enumerate() if thread not in known]
            self.stacks = tuple(stacks(sorted(strangers, key=lambda thread: thread.name not in log.hung)))

    def _loop(self, subject: Subject, look: Look) -> ClosedLoop:
        return ClosedLoop(subject, self._clients, self._workload.task, look, seed=self._config.seed, end=self._end)

    def _look(self, subject: Subject) -> Look:
        images = self._workload.images(self._folder)
        if images is None:
            return lambda task, value: self._workload.problem(task, value, None)
        with _blaming(f"{self._who} could not tell where an output is"):
            place = self._bounded(lambda: getattr(subject, "output", images.output))

        def look(task: Task, value: Any) -> str | None:
            with _blaming(f"{self._who} could not tell where an output is"):
                output = place(task)
            if self._outputs is not None and output not in self._outputs:
                return "no output before it was asked for"
            return self._workload.problem(task, value, output)

        return look


def _called(arm: str, config: CompareConfig) -> str:
    """An arm and its subject, where that is called otherwise."""
    subject = {"baseline": config.baseline, "optimized": config.baseline if config.aa else config.optimized}.get(
        arm, arm
    )
    return arm if subject == arm else f"{arm} ({subject})"


def _not_asked(task: Task, value: Any) -> None:  # noqa: ARG001
    return None


@contextmanager
def _blaming(what: str) -> Iterator[None]:
    """Turn whatever a subject raises into a SubjectError that says what was going on."""
    try:
        yield
    except SubjectError:
        raise
    except ProtocolError as error:
        raise SubjectError(f"{what}: {error}") from error
    except Hang as hang:
        raise SubjectError(f"{what}: {hang}", hang.stacks) from None
    except Exception as error:
        calls = traceback.format_tb(error.__traceback__)[-SHOWN_CALLS:]
        raise SubjectError(f"{what}: {said(error)}", ["raised in:\n" + "".join(calls)]) from error


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
