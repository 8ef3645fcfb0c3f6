"""What `close` reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """How a queue was closed.

    drained    every task was finished
    waiting    tasks left queued in the ledger, for the next time it is opened; -1 when it cannot be read
    stuck      keys of the tasks that were still running at the deadline; they are queued again, the attempt
               does not count (unless they had timed out before), and their late results are refused
    elapsed_s  seconds that closing took
    """

    drained: bool
    waiting: int
    stuck: tuple[str, ...]
    elapsed_s: float
