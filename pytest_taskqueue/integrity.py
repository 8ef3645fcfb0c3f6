"""Is a slot's work right? A queue that loses, doubles or invents work gets no speed verdict."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from statistics import median
from types import BuiltinFunctionType
from typing import Any

from pytest_taskqueue import load
from pytest_taskqueue.load import ClientLog, LoadLog
from pytest_taskqueue.tally import Span
from pytest_taskqueue.wording import named
from taskqueue_core import Task

CLOCK = time.perf_counter
"""Captured when this was imported."""
CLOCKS_APART = 0.02
"""Seconds by which two clocks may differ in a window: the system may stop a thread between two readings."""

SERVED_ROUNDS = 3
IDLE_SHARE = 0.10
TIME_TOLERANCE = 0.02

TaskOf = Callable[[int, int], Task]


def lost_tasks(log: LoadLog, task: TaskOf) -> list[str]:
    """Keys of the tasks that were submitted and never completed."""
    return [task(c, client.lost).key for c, client in enumerate(log.clients) if client.lost is not None]


def doubled_tasks(worked: Mapping[str, int]) -> list[str]:
    """Keys of the tasks that were worked on more than once."""
    return [key for key, times in worked.items() if times > 1]


def problems(
    log: LoadLog,
    task: TaskOf,
    worked: Counter[str],
    problem: Callable[[Task, Any], str | None],
    *,
    errors_judged: bool = False,
) -> Iterable[str]:
    """Every reason why the slot is invalid, in plain words; none when all is right.

    `worked` counts, from inside the work, how often each task was done; `problem` looks at a finished task's
    value and output. Tasks that failed are none where a gate judges them (`errors_judged`).
    """
    yield from named("task", "submitted and never completed", lost_tasks(log, task))
    yield from named("thread", "never came back from the queue", log.hung)
    yield from (f"client {c} broke: {client.broke}" for c, client in enumerate(log.clients) if client.broke)
    yield from named("task", "worked on more than once", doubled_tasks(worked))
    yield from named("task", "completed without having been worked on", _unworked(log, task, worked))
    if not errors_judged:
        yield from named("task", "failed", _failed(log, task))
    wrong = _wrong(log, task, problem)
    early = [text for client in log.clients for text in client.early if text not in wrong]
    yield from named("task", "not done when the result arrived", early)
    yield from named("task", "with a wrong result", wrong)
    yield from named("client", "not served" if not log.ramped else "not served in the window", _unserved(log))
    yield from _clock(log)
    yield from _time(log)


def warnings(log: LoadLog) -> Iterable[str]:
    """What does not make a slot invalid, and should be known."""
    if log.planned or any(client.lost is not None for client in log.clients):
        return
    window = sum(_present(client, log) for client in log.clients)
    busy = sum(_overlap(client.starts, client.ends, log) for client in log.clients)
    if busy < (1 - IDLE_SHARE) * window:
        yield f"the clients were idle for {1 - busy / window:.0%} of the window: they are the bottleneck"


def span_problems(log: LoadLog, task: TaskOf, spans: Mapping[str, Span], workers: int) -> Iterable[str]:
    """What was worked on when it could not be, for nobody, or by more threads at once than there may be.

    The moments were taken around the work itself, by another reading of the clock than the clients'.
    """
    ahead, unfinished = [], []
    for c, k, key in _completed(log, task):
        span, client = spans.get(key), log.clients[c]
        if span is None:
            continue
        if span.earliest < client.starts[k]:
            ahead.append(key)
        if span.done > client.ends[k]:
            unfinished.append(key)
    submitted = {task(c, k).key for c, client in enumerate(log.clients) for k in range(len(client.starts) + 1)}
    yield from named("task", "worked on before being submitted", ahead)
    yield from named("task", "not done when the result arrived", unfinished)
    yield from named("task", "worked on that nobody submitted", [key for key in spans if key not in submitted])
    if (peak := _peak(spans.values())) > workers:
        yield f"{peak} threads worked at the same time, where {workers} may"


def _peak(spans: Iterable[Span]) -> int:
    """How many tasks were worked on at once, of those whose beginning is known."""
    known = [(span.begun, span.done) for span in spans if span.begun is not None]
    steps = sorted([(begun, 1) for begun, _ in known] + [(done, -1) for _, done in known])
    return max(accumulate(step for _, step in steps), default=0)


def _failed(log: LoadLog, task: TaskOf) -> list[str]:
    return [f"{task(c, k).key}: {text}" for c, client in enumerate(log.clients) for k, text in client.errors]


def _unworked(log: LoadLog, task: TaskOf, worked: Counter[str]) -> list[str]:
    return [key for _, _, key in _completed(log, task) if not worked[key]]


def _wrong(log: LoadLog, task: TaskOf, problem: Callable[[Task, Any], str | None]) -> list[str]:
    found = []
    for c, client in enumerate(log.clients):
        failed = {k for k, _ in client.errors}
        for k, value in enumerate(client.values):
            if k not in failed and (text := problem(task(c, k), value)) is not None:
                found.append(f"{task(c, k).key}: {text}")
    return found


def _completed(log: LoadLog, task: TaskOf) -> Iterable[tuple[int, int, str]]:
    for c, client in enumerate(log.clients):
        failed = {k for k, _ in client.errors}
        yield from ((c, k, task(c, k).key) for k in range(len(client.ends)) if k not in failed)


def _unserved(log: LoadLog) -> list[str]:
    """Clients that got nothing in a window in which others were served three times over.

    A window shorter than that says nothing: on a slow machine a fair queue has not come round yet.
    """
    if not log.ramped:
        return [f"client {number}" for number, client in enumerate(log.clients) if not client.ends]
    if log.planned:
        return []
    served = [sum(log.opens <= end <= log.closes for end in client.ends) for client in log.clients]
    if median(served) < SERVED_ROUNDS:
        return []
    return [f"client {number}" for number, times in enumerate(served) if not times]


def _clock(log: LoadLog) -> Iterable[str]:
    """The clock is the one that was captured at import, and another one agrees with it."""
    if time.perf_counter is not CLOCK or load.clock is not CLOCK or not isinstance(CLOCK, BuiltinFunctionType):
        yield "time.perf_counter was replaced: no time can be trusted"
    window = log.closes - log.opens
    if log.monotonic_s is not None and abs(log.monotonic_s - window) > TIME_TOLERANCE * window + CLOCKS_APART:
        yield f"the window is {window:.3f} s by time.perf_counter and {log.monotonic_s:.3f} s by time.monotonic"


def _time(log: LoadLog) -> Iterable[str]:
    """Each client is always either waiting for a result or about to submit: together that fills the window.

    Nothing is said where a client never came back from a task: how long it waited is known to nobody.
    """
    if (
        log.planned
        or log.hung
        or not log.ramped
        or any(client.lost is not None or client.broke for client in log.clients)
    ):
        return
    window = sum(_present(client, log) for client in log.clients)
    spent = 0.0
    for client in log.clients:
        spent += _overlap(client.starts, client.ends, log)
        spent += _overlap(client.ends, client.starts[1:], log)
    if abs(spent - window) > TIME_TOLERANCE * window:
        yield f"the clients' time adds up to {spent:.2f} s of {window:.2f} s: the clock cannot be trusted"


def _present(client: ClientLog, log: LoadLog) -> float:
    """Seconds of the window from the client's first submit until it had done all it was to do."""
    first = client.starts[0] if client.starts else log.closes
    return max(0.0, min(client.left, log.closes) - max(first, log.opens))


def _overlap(starts: Sequence[float], ends: Sequence[float], log: LoadLog) -> float:
    """Seconds of the intervals [start, end] that lie in the window."""
    return sum(max(0.0, min(end, log.closes) - max(start, log.opens)) for start, end in zip(starts, ends, strict=False))
