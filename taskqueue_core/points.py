"""Named points of a task's way, at which a test can stop, fail or end the process.

Nothing stands there unless a probe is installed: one comparison with None for each transaction and each attempt. While
one is, every transaction has its BEGIN and COMMIT, so that `before_commit` is what it says: without a probe, nearly
all are made by one statement.

A transaction passes `ledger.begin`, `<arrow>.before_begin`, then `<arrow>.before_commit`, `ledger.commit`, and after
the COMMIT `<arrow>.after_commit`, for each of its arrows. A task that is claimed as it is inserted is in a transaction
with both `submit` and `claim`. Transactions that change nothing pass none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SUBMIT, CLAIM, SETTLE, RECOVER, RELEASE, CANCEL, REPLAY, PURGE = ARROWS = (
    "submit",  # T1
    "claim",  # T2
    "settle",  # T3, T4, T5: the outcome of an attempt
    "recover",  # T6
    "release",  # T7
    "cancel",  # T8
    "replay",  # T9
    "purge",  # T10
)
MOMENTS = ("before_begin", "before_commit", "after_commit")
AFTER_RENAME = "settle.after_rename"
"""An output stands under its key, and its success is not committed."""
BEGIN, COMMIT = "ledger.begin", "ledger.commit"
"""Any transaction."""
PROCESS = "process"
"""Before the processor is called; an error raised here is the attempt's."""

POINTS = (*(f"{arrow}.{moment}" for arrow in ARROWS for moment in MOMENTS), AFTER_RENAME, BEGIN, COMMIT, PROCESS)

Probe = Callable[[str], None]
"""Is called with the name of each point that is reached, in the thread that reaches it; what it raises, SQLite or the
processor might have raised there.
"""

probe: Probe | None = None


@contextmanager
def probing(by: Probe) -> Iterator[None]:
    """Call `by` at every point that any queue of this process reaches, until the block is left. One inside another is
    called after it.
    """
    global probe  # noqa: PLW0603 - one for the process
    outer = probe
    probe = by if outer is None else _both(outer, by)
    try:
        yield
    finally:
        probe = outer


def reach(point: str) -> None:
    """Somebody is there."""
    if probe is not None:
        probe(point)


def reach_all(arrows: Sequence[str], moment: str) -> None:
    """A transaction is there with all its arrows."""
    for arrow in arrows:
        reach(f"{arrow}.{moment}")


def _both(first: Probe, second: Probe) -> Probe:
    def probe(point: str) -> None:
        first(point)
        second(point)

    return probe
