"""Threads that start together, and how long they took."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter


def together(count: int, work: Callable[[int], None]) -> float:
    """Run `work(n)` in `count` threads from a common start; seconds until the last one is back.

    Raises the first error that a thread raised.
    """
    started: list[float] = []
    errors: list[BaseException] = []
    # The last thread to arrive reads the clock: the main thread would get its turn only behind all others.
    barrier = threading.Barrier(count, action=lambda: started.append(perf_counter()))

    def run(n: int) -> None:
        barrier.wait()
        try:
            work(n)
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = perf_counter() - started[0]
    if errors:
        raise errors[0]
    return seconds
