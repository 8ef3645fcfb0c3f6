"""Named points of a task's way, at which a test can stop, fail or end the process.

Nothing stands there unless a probe is installed: one comparison with None for each transaction and each attempt. While
one is, every transaction has its BEGIN and COMMIT, so that `before_commit` is what it says: without a probe, nearly
all are made by one statement.

A transaction passes `ledger.begin`, `<arrow>.before_begin`, then `<arrow>.before_commit`, `ledger.commit`, and after
the COMMIT `<arrow>.after_commit`, for each of its arrows. A task that is claimed as it is inserted is in a transaction
with both `submit` and `claim`. Transactions that change nothing pass none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from taskqueue_core.errors import LedgerError

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
_probes: list[Probe] = []
_lock = threading.Lock()  # guards both


@contextmanager
def probing(by: Probe) -> Iterator[None]:
    """Call `by` at every point that any queue of this process reaches, until the block is left. Of several, in whatever
    order their blocks are left, the first one is called first.
    """
    with _lock:
        _probes.append(by)
        _install()
    try:
        yield
    finally:
        with _lock:
            del _probes[next(n for n, one in enumerate(_probes) if one is by)]
            _install()


def reach(point: str) -> None:
    """Somebody is there. What would end a thread or the program ends neither here, but for the main thread."""
    if probe is None:
        return
    try:
        probe(point)
    except Exception:
        raise
    except BaseException as error:
        if threading.current_thread() is threading.main_thread():
            raise
        text = f"a probe raised {type(error).__name__} at {point}: {error}"
        raise (RuntimeError(text) if point == PROCESS else LedgerError(text)) from error


def reach_all(arrows: Sequence[str], moment: str) -> None:
    """A transaction is there with all its arrows."""
    for arrow in arrows:
        reach(f"{arrow}.{moment}")


def _install() -> None:
    global probe  # noqa: PLW0603 - one for the process
    probes = tuple(_probes)

    def every(point: str) -> None:
        for one in probes:
            one(point)

    probe = every if probes else None
