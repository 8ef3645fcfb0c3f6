"""Client threads. Under a closed loop each submits, waits for the result, and submits again; under a plan each sends
its tasks when their moments come.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any

from pytest_taskqueue.hangs import still_alive
from pytest_taskqueue.subjects import ProtocolError, Subject, checked_future
from pytest_taskqueue.wording import said
from taskqueue_core import Task

clock = time.perf_counter
"""Captured at import: whoever replaces it in its module later does not change it here."""

PATIENCE = 30.0
"""Seconds after which a client gives up on a result, and the harness on a client."""

LEAST_PATIENCE = 1.5
"""The same once the budget is used up."""

MARGIN = 0.5
"""Seconds for which the harness waits longer than a client, who can say what is missing."""

SAMPLE = 0.05
"""Share of the outputs that are looked at the moment their result arrives."""

_DEPTH_EVERY = 0.02
_NOTHING = object()


@dataclass(slots=True)
class ClientLog:
    """What one client saw. Task k was submitted at starts[k] and its result was in hand at ends[k].

    `lost` is the task it gave up waiting for, `broke` the error that ended the client itself, `left` when it had done
    all it was to do.
    """

    starts: array[float] = field(default_factory=lambda: array("d"))
    ends: array[float] = field(default_factory=lambda: array("d"))
    values: list[Any] = field(default_factory=list)
    errors: list[tuple[int, str]] = field(default_factory=list)
    early: list[str] = field(default_factory=list)
    lost: int | None = None
    broke: str | None = None
    left: float = float("inf")


@dataclass(frozen=True, slots=True)
class LoadLog:
    """One run of the load. Times are readings of `time.perf_counter`.

    ramped       every client had finished a task before the window opened; else there was no window
    monotonic_s  length of the window by `time.monotonic`
    hung         names of the threads that never came back
    planned      tasks were sent at planned moments, from which their latencies count, so clients may be idle or late
    """

    opens: float
    closes: float
    clients: tuple[ClientLog, ...]
    cpu_s: float
    depths: tuple[int, ...]
    hung: tuple[str, ...]
    ramped: bool = True
    monotonic_s: float | None = None
    planned: bool = False


Look = Callable[[Task, Any], str | None]
"""Looks at a finished task's output at once: what is wrong with it, or None."""


def patience(end: float) -> float:
    """For how many seconds anything is waited for: PATIENCE, and less as the clock comes to `end`."""
    return min(PATIENCE, max(LEAST_PATIENCE, end - clock()))


class ClosedLoop:
    """`clients` threads over one subject. Client c submits task(c, 0), task(c, 1), ... one after the other.

    Latency is from just before `submit` (a submit that is held back counts) to the result in the client's hand.
    Nothing is waited for longer than PATIENCE, and once the clock has reached `end` longer than LEAST_PATIENCE.
    """

    def __init__(
        self,
        subject: Subject,
        clients: int,
        task: Callable[[int, int], Task],
        look: Look,
        *,
        seed: int,
        end: float = float("inf"),
    ) -> None:
        self._subject = subject
        self._task = task
        self._look = look
        self._seed = seed
        self._end = end
        self._logs = tuple(ClientLog() for _ in range(clients))
        self._barrier = threading.Barrier(clients + 1)
        self._ramp = _Countdown(clients)
        self._last = _Countdown(clients)
        self._stop = threading.Event()
        self._closes = float("inf")
        self._due: Callable[[int, int], float] | None = None
        self._fault: ProtocolError | None = None

    def run(self, window: float) -> LoadLog:
        """Load the subject and measure for `window` seconds.

        The window opens when every client has finished one task. When it closes the load goes on until every task
        that was submitted in it has finished. There is no window when some client never finishes its first task.
        """
        begun = clock()
        threads = self._start(lambda number, k: self._stop.is_set())  # noqa: ARG005
        sampler = _Sampler(self._subject, self._stop)
        try:
            ramped = self._ramp.wait(self._patience() + MARGIN) and not self._stop.is_set()
            opens, cpu, monotonic = clock(), time.process_time(), time.monotonic()
            if ramped:
                sampler.begin()
                self._wait_until(opens + window)
            closes, cpu, monotonic = clock(), time.process_time() - cpu, time.monotonic() - monotonic
            self._closes = closes
            sampler.end()
            came = ramped and self._last.wait(self._patience() + MARGIN)
        finally:  # on Ctrl-C, too: the clients must not go on at a closed subject
            self._stop.set()
            sampler.end()
        hung = _join(threads, self._patience() if came else MARGIN) + sampler.hung()
        self._raise_fault()
        if not ramped:
            return LoadLog(begun, closes, self._logs, cpu, (), hung, ramped=False)
        return LoadLog(opens, closes, self._logs, cpu, sampler.depths(), hung, monotonic_s=monotonic)

    def run_tasks(self, each: int) -> LoadLog:
        """Let every client do `each` tasks; the window is from the first submit to the last result."""
        return self.run_each(lambda _: each)

    def run_each(self, count: Callable[[int], int]) -> LoadLog:
        """The same with a number of tasks for each client."""
        cpu, begun = time.process_time(), clock()
        threads = self._start(lambda number, k: self._stop.is_set() or k >= count(number) or clock() > self._end)
        done = -1
        try:
            while (hung := _join(threads, 2 * self._patience())) and done < (done := self._finished()):
                pass  # not there yet, and getting on
        finally:
            self._stop.set()
        self._raise_fault()
        opens = min((log.starts[0] for log in self._logs if log.starts), default=begun)
        closes = max((log.ends[-1] for log in self._logs if log.ends), default=clock())
        return LoadLog(opens, closes, self._logs, time.process_time() - cpu, (), hung)

    def run_plan(self, plan: Sequence[Sequence[float]]) -> LoadLog:
        """An open loop: client c sends its task k `plan[c][k]` seconds from now, however slow the queue is, and the
        latency counts from then; a task that had to wait for its client waited, too (the correction for coordinated
        omission of Gil Tene's wrk2).
        """
        begun = clock()
        self._due = lambda client, k: begun + plan[client][k]
        return replace(self.run_each(lambda client: len(plan[client])), opens=begun, planned=True)

    def _finished(self) -> int:
        return sum(len(log.ends) for log in self._logs)

    def _raise_fault(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _patience(self) -> float:
        return patience(self._end)

    def _wait_until(self, moment: float) -> None:
        while (left := moment - clock()) > 0 and not self._stop.wait(left):
            pass

    def _start(self, ends: Callable[[int, int], bool]) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._client, args=(number, ends), name=f"tq-client-{number}", daemon=True)
            for number in range(len(self._logs))
        ]
        try:
            for thread in threads:
                thread.start()
            self._barrier.wait(PATIENCE)
        except BaseException:  # the system has no more threads, or Ctrl-C: those that wait must not wait for more
            self._stop.set()
            self._barrier.abort()
            raise
        return threads

    def _client(self, number: int, ends: Callable[[int, int], bool]) -> None:
        log, rng, k = self._logs[number], random.Random(f"{self._seed}/{number}"), 0
        try:
            self._barrier.wait(PATIENCE)
            while not ends(number, k) and self._one(number, k, rng):
                self._ramp.count(number)
                if log.ends[-1] >= self._closes:
                    self._last.count(number)
                k += 1
            log.left = clock()
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to; the slot is invalid
            self._stop.set()
            if isinstance(error, ProtocolError):
                self._fault = error
            log.broke = said(error)
        finally:
            self._ramp.count(number)
            self._last.count(number)

    def _begin(self, number: int, k: int) -> float:
        """From when the latency of a client's next task counts: now, or the planned moment, when it has come."""
        if self._due is None:
            return clock()
        moment = self._due(number, k)
        self._wait_until(moment)
        return moment

    def _one(self, number: int, k: int, rng: random.Random) -> bool:
        """Submit one task and wait for its result; False when the client must give up."""
        log, task = self._logs[number], self._task(number, k)
        given: Any = _NOTHING
        value, longest, failed = None, PATIENCE, False
        start = self._begin(number, k)
        try:
            given = self._subject.submit(task)
            if self._end - start < PATIENCE:
                longest = self._patience()
            value = given.result(longest)
            end = clock()
        except Exception as error:  # noqa: BLE001 - a task that fails is counted, whatever it raises
            end = clock()
            if isinstance(error, AttributeError | TypeError) and given is not _NOTHING:
                checked_future(self._subject, given)
            if isinstance(error, TimeoutError) and end - start > longest / 2:  # sooner it is the task's own
                log.lost = k
                log.starts.append(start)
                self._stop.set()
                return False
            log.errors.append((k, f"{type(error).__name__}: {error}"))
            failed = True
        log.starts.append(start)
        log.ends.append(end)
        log.values.append(value)
        if rng.random() < SAMPLE and not failed and (problem := self._look(task, value)) is not None:
            log.early.append(f"{task.key}: {problem}")
        return True


class _Sampler:
    """Asks the subject how many tasks wait, every now and then, in a thread of its own: it may hang."""

    def __init__(self, subject: Subject, failed: threading.Event) -> None:
        self._subject = subject
        self._failed = failed  # set when the subject breaks
        self._depths: list[int] = []
        self._error: BaseException | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="tq-depth", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()

    def depths(self) -> tuple[int, ...]:
        """What it saw; raises what the subject raised."""
        if self._error is not None:
            raise self._error
        return tuple(self._depths)

    def hung(self) -> tuple[str, ...]:
        return _join([self._thread], MARGIN) if self._thread.ident is not None else ()

    def _sample(self) -> None:
        try:
            depth = getattr(self._subject, "depth", None)
            self._depths += [] if depth is None else [index(depth())]
            while depth is not None and not self._over.wait(_DEPTH_EVERY):
                self._depths.append(index(depth()))
        except BaseException as error:  # noqa: BLE001 - raised to whoever asks for the depths
            self._error = error if isinstance(error, Exception) else RuntimeError(said(error))
            self._failed.set()


class _Countdown:
    """Opens when every client has counted once."""

    def __init__(self, clients: int) -> None:
        self._missing = set(range(clients))
        self._lock = threading.Lock()  # guards the set
        self._open = threading.Event()

    def count(self, client: int) -> None:
        if client in self._missing:
            with self._lock:
                self._missing.discard(client)
                if not self._missing:
                    self._open.set()

    def wait(self, timeout: float) -> bool:
        return self._open.wait(timeout)


def _join(threads: Sequence[threading.Thread], seconds: float) -> tuple[str, ...]:
    """Wait for threads; the names of those that hang."""
    return tuple(thread.name for thread in still_alive(threads, seconds))
