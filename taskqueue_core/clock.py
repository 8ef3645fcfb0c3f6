"""The wall clock that stored times come from: created_at, run_at, retention. A test may move it forward.

What is measured never looks here, and no wait is made longer or shorter: those have `time.perf_counter` and
`time.monotonic`.
"""

from __future__ import annotations

import math
import threading
import time

from taskqueue_core import watch

_shift = 0.0
_lock = threading.Lock()  # guards changes of the shift


def now() -> float:
    """Seconds since the epoch, and what the clock was moved by."""
    return time.time() + _shift


def shift() -> float:
    """By how many seconds the clock stands before the machine's; 0.0 unless a test has moved it."""
    return _shift


def advance(seconds: float) -> None:
    """Move the clock forward for every queue of this process, open now or later; open ones look at once what is due.

    Raises ValueError when `seconds` is negative or not finite: stored times do not go back.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"the clock only goes forward, by a finite number of seconds, got {seconds!r}")
    global _shift  # noqa: PLW0603 - the clock of the process
    with _lock:
        _shift += seconds
    _tell()


def put_right() -> None:
    """Set the clock to the machine's again."""
    global _shift  # noqa: PLW0603
    with _lock:
        _shift = 0.0
    _tell()


def _tell() -> None:
    for queue in watch.open_queues():
        queue.look_again()
