"""Client threads under a closed loop: each submits, waits for the result, and submits again."""

from __future__ import annotations

import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter as clock  # captured at import: whoever patches the module later does not change it
from typing import Any

from pytest_taskqueue.subjects import Subject
from taskqueue_core import Task

PATIENCE = 30.0
"""Seconds after which a client gives up on a result, and the harness on a client."""

SAMPLE = 0.05
"""Share of the outputs that are looked at the moment their result arrives."""

_DEPTH_EVERY = 0.02


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
    """One run of the load. Times are readings of `time.perf_counter`; `hung` names clients that never came back."""

    opens: float
    closes: float
    clients: tuple[ClientLog, ...]
    cpu_s: float
    depths: tuple[int, ...]
    hung: tuple[str, ...]


Look = Callable[[Task, Any], str | None]
"""Looks at a finished task's output at once: what is wrong with it, or None."""


class ClosedLoop:
    """`clients` threads over one subject. Client c submits task(c, 0), task(c, 1), ... one after the other.

    Latency is from just before `submit` (a submit that is held back counts) to the result in the client's hand.
    """

    def __init__(
        self, subject: Subject, clients: int, task: Callable[[int, int], Task], look: Look, *, seed: int
    ) -> None:
        self._subject = subject
        self._task = task
        self._look = look
        self._seed = seed
        self._logs = tuple(ClientLog() for _ in range(clients))
        self._barrier = threading.Barrier(clients + 1)
        self._ramp = _Countdown(clients)
        self._last = _Countdown(clients)
        self._stop = threading.Event()
        self._closes = float("inf")

    def run(self, window: float) -> LoadLog:
        """Load the subject and measure for `window` seconds.

        The window opens when every client has finished one task. When it closes the load goes on until every task
        that was submitted in it has finished.
        """
        threads = self._start(lambda _: self._stop.is_set())
        try:
            self._ramp.wait(PATIENCE)
            opens, cpu = clock(), time.process_time()
            depths = tuple(self._watch(opens + window))
            closes, cpu = clock(), time.process_time() - cpu
            self._closes = closes
            self._last.wait(PATIENCE)
        finally:  # on Ctrl-C, too: the clients must not go on at a closed subject
            self._stop.set()
        return LoadLog(opens, closes, self._logs, cpu, depths, _join(threads))

    def run_tasks(self, each: int) -> LoadLog:
        """Let every client do `each` tasks; the window is from the first submit to the last result."""
        cpu, begun = time.process_time(), clock()
        threads = self._start(lambda k: self._stop.is_set() or k >= each)
        done = -1
        try:
            while (hung := _join(threads)) and done < (done := sum(len(log.ends) for log in self._logs)):
                pass  # not there yet, and getting on
        finally:
            self._stop.set()
        opens = min((log.starts[0] for log in self._logs if log.starts), default=begun)
        closes = max((log.ends[-1] for log in self._logs if log.ends), default=clock())
        return LoadLog(opens, closes, self._logs, time.process_time() - cpu, (), hung)

    def _start(self, ends: Callable[[int], bool]) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._client, args=(number, ends), name=f"tq-client-{number}", daemon=True)
            for number in range(len(self._logs))
        ]
        for thread in threads:
            thread.start()
        self._barrier.wait(PATIENCE)
        return threads

    def _client(self, number: int, ends: Callable[[int], bool]) -> None:
        log, rng, k = self._logs[number], random.Random(f"{self._seed}/{number}"), 0
        self._barrier.wait(PATIENCE)
        try:
            while not ends(k) and self._one(log, self._task(number, k), k, rng):
                self._ramp.count(number)
                if log.ends[-1] >= self._closes:
                    self._last.count(number)
                k += 1
            log.left = clock()
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to; the slot is invalid
            log.broke = f"{type(error).__name__}: {error}"
            self._stop.set()
        finally:
            self._ramp.count(number)
            self._last.count(number)

    def _one(self, log: ClientLog, task: Task, k: int, rng: random.Random) -> bool:
        """Submit one task and wait for its result; False when the client must give up."""
        value = None
        start = clock()
        try:
            value = self._subject.submit(task).result(PATIENCE)
            end = clock()
        except Exception as error:  # noqa: BLE001 - a task that fails is counted, whatever it raises
            end = clock()
            if isinstance(error, TimeoutError) and end - start > PATIENCE / 2:  # sooner it is the task's own
                log.lost = k
                log.starts.append(start)
                self._stop.set()
                return False
            log.errors.append((k, f"{type(error).__name__}: {error}"))
        log.starts.append(start)
        log.ends.append(end)
        log.values.append(value)
        if rng.random() < SAMPLE and (problem := self._look(task, value)) is not None:
            log.early.append(f"{task.key}: {problem}")
        return True

    def _watch(self, until: float) -> Iterator[int]:
        """Wait for the end of the window; how many tasks wait, every now and then."""
        depth = getattr(self._subject, "depth", None)
        while (left := until - clock()) > 0 and not self._stop.wait(min(left, _DEPTH_EVERY)):
            if depth is not None:
                yield depth()


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


def _join(threads: list[threading.Thread]) -> tuple[str, ...]:
    """Wait for the clients, all of them together for at most twice the patience; the names of those that hang."""
    deadline = clock() + 2 * PATIENCE
    for thread in threads:
        thread.join(max(deadline - clock(), 0.0))
    return tuple(thread.name for thread in threads if thread.is_alive())
