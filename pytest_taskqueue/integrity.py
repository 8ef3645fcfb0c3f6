"""Is a slot's work right? A queue that loses, doubles or invents work gets no speed verdict."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from pytest_taskqueue.load import ClientLog, LoadLog
from taskqueue_core import Task

SHOWN = 3
"""How many keys a problem names."""

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
    log: LoadLog, task: TaskOf, worked: Counter[str], problem: Callable[[Task, Any], str | None]
) -> Iterable[str]:
    """Every reason why the slot is invalid, in plain words; none when all is right.

    `worked` counts, from inside the work, how often each task was done; `problem` looks at a finished task's
    value and output.
    """
    yield from (f"{name} hangs" for name in log.hung)
    yield from (f"client {c} broke: {client.broke}" for c, client in enumerate(log.clients) if client.broke)
    yield from _named("task", "submitted and never completed", lost_tasks(log, task))
    yield from _named("task", "worked on more than once", doubled_tasks(worked))
    yield from _named("task", "completed without having been worked on", _unworked(log, task, worked))
    yield from _named("task", "failed", _failed(log, task))
    early = [text for client in log.clients for text in client.early]
    yield from _named("task", "not done when the result arrived", early)
    yield from _named("task", "with a wrong result", _wrong(log, task, problem))
    yield from _named("client", "not served in the window", _unserved(log))
    yield from _time(log)


def warnings(log: LoadLog) -> Iterable[str]:
    """What does not make a slot invalid, and should be known."""
    window = sum(_present(client, log) for client in log.clients)
    busy = sum(_overlap(client.starts, client.ends, log) for client in log.clients)
    if busy < (1 - IDLE_SHARE) * window:
        yield f"the clients were idle for {1 - busy / window:.0%} of the window: they are the bottleneck"


def leftovers(before: Sequence[threading.Thread], directory: Path, report: object) -> Iterable[str]:
    """What a closed queue left behind: threads, temporary files, and tasks its close report admits to."""
    yield from _named("thread", "alive after close", _new_threads(before))
    yield from _named("temporary file", "left behind", _unfinished_files(directory))
    if waiting := getattr(report, "waiting", 0):
        yield f"{_count(waiting, 'task')} still waiting after close"
    elif not getattr(report, "drained", True):
        yield "tasks still running after close"


def _new_threads(before: Sequence[threading.Thread]) -> list[str]:
    """Names of the threads that were not there before and do not end within a second."""
    known = set(before)
    strangers = [thread for thread in threading.enumerate() if thread not in known]
    deadline = perf_counter() + 1.0
    for thread in strangers:
        thread.join(max(deadline - perf_counter(), 0.0))
    return [thread.name for thread in strangers if thread.is_alive()]


def _unfinished_files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.name.startswith(".tq-") or path.suffix == ".tmp"]


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
    latencies = [end - start for c in log.clients for start, end in zip(c.starts, c.ends, strict=False)]
    if not latencies or log.closes - log.opens < SERVED_ROUNDS * median(latencies):
        return []
    served = [any(log.opens <= end <= log.closes for end in client.ends) for client in log.clients]
    return [f"client {number}" for number, was in enumerate(served) if not was]


def _time(log: LoadLog) -> Iterable[str]:
    """Each client is always either waiting for a result or about to submit: together that fills the window.

    Nothing is said where a client never came back from a task: how long it waited is known to nobody.
    """
    if log.hung or any(client.lost is not None or client.broke for client in log.clients):
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


def _named(unit: str, what: str, names: list[str]) -> Iterable[str]:
    if names:
        shown = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
        yield f"{_count(len(names), unit)} {what}: {shown}"


def _count(number: int, unit: str) -> str:
    return f"{number:,} {unit}{'s' if number != 1 else ''}"
