"""100 producer threads submit one task at a time, each acknowledged before the next, then wait for all results."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from taskqueue_core import Task, TaskQueue
from tests.benchmarks.clients import together
from tests.benchmarks.measurement import Figures, Setting, check_done, main, make_tasks, nothing
from tests.benchmarks.peers import Huey, Litequeue, LockedLitequeue, Peer

PRODUCERS = 100
TASKS = 20_000
SLOW_TASKS = 2_000  # for those that need seconds for them; it flatters those that slow down as tasks pile up


def each(setting: Setting, tasks: int) -> int:
    """How many tasks one producer submits."""
    return max(1, setting.count(tasks) // PRODUCERS)


def drive(setting: Setting, submit: Callable[[Task], Future[Any]]) -> Figures:
    """All producers at once over something that returns futures."""
    tasks = [make_tasks(each(setting, TASKS), f"p{n}-") for n in range(PRODUCERS)]

    def produce(n: int) -> None:
        for future in [submit(task) for task in tasks[n]]:
            future.result()

    seconds = together(PRODUCERS, produce)
    return {"rate": sum(map(len, tasks)) / seconds}


def tpe(setting: Setting) -> Figures:
    """ThreadPoolExecutor, which keeps nothing."""
    with ThreadPoolExecutor(setting.workers) as executor:
        return drive(setting, partial(executor.submit, nothing))


def taskqueue(setting: Setting) -> Figures:
    """TaskQueue, durable against power loss."""
    with TaskQueue(nothing, ledger=setting.ledger, max_workers=setting.workers) as queue:
        figures = drive(setting, queue.submit)
        check_done(PRODUCERS * each(setting, TASKS), queue.metrics.snapshot().succeeded)
    return figures


def peer(kind: type[Peer], setting: Setting) -> Figures:
    """A peer, its producers waiting for the last acknowledgement."""
    count = each(setting, SLOW_TASKS)
    with kind(setting.directory, workers=setting.workers, expected=PRODUCERS * count) as queue:
        puts = [queue.connect() for _ in range(PRODUCERS)]

        def produce(n: int) -> None:
            for k in range(count):
                puts[n](k)
            queue.wait()

        return {"rate": PRODUCERS * count / together(PRODUCERS, produce)}


if __name__ == "__main__":
    main(
        {
            "tpe": tpe,
            "taskqueue-power": taskqueue,
            "huey": partial(peer, Huey),
            "litequeue": partial(peer, Litequeue),
            "litequeue-locked": partial(peer, LockedLitequeue),
        }
    )
