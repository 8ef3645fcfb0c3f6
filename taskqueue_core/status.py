"""What a ledger holds, in two lines; read only."""

from __future__ import annotations

from pathlib import Path

from taskqueue_core import clock
from taskqueue_core.database import SQLITE_VERSION, LedgerView, file_sizes, open_letters
from taskqueue_core.ownership import owner_alive, read_owner
from taskqueue_core.task import Status


def status_lines(path: Path) -> list[str]:
    """The lines of `taskqueue status`. Raises LedgerError when there is no ledger."""
    with LedgerView.inspect(path) as view:
        held = contents(view)
    return [heading(path, owner(path), f"SQLite {SQLITE_VERSION}"), held]


def heading(path: Path, *parts: str) -> str:
    """The file, what is told of it, and its size on disk."""
    size, wal = file_sizes(path.resolve())
    return "   ".join([str(path), *parts, f"{_bytes(size)} + WAL {_bytes(wal)}"])


def owner(path: Path) -> str:
    """Who has the ledger open, or had when it was killed."""
    pid, owned = read_owner(path), is_owned(path)
    if pid is None:
        return "no owner"
    if owned is None:
        return f"owner pid {pid} (not to be told whether it is running)"
    return f"owner pid {pid} (running)" if owned else f"no owner (pid {pid} has died)"


def is_owned(path: Path) -> bool | None:
    """Whether a queue has the ledger open; None when its lock cannot be tried, as on a read-only disk."""
    try:
        return owner_alive(path)
    except OSError:
        return None


def contents(view: LedgerView) -> str:
    """Tasks by state, how long the oldest waits, and the dead letters that nobody has replayed."""
    counts, letters, oldest = view.counts(), open_letters(view), view.oldest_queued()
    waits = "none waiting"
    if oldest is not None:
        age = max(clock.now() - oldest, 0.0)
        waits = f"oldest {age:,.1f} s; {len(view.retry_waiting()):,} waiting for a retry"
    purged = f"   purged {view.purged():,}" if view.purged() else ""
    return (
        f"queued {counts[Status.QUEUED]:,} ({waits})   running {counts[Status.RUNNING]:,}   "
        f"success {counts[Status.SUCCESS]:,}   failed {counts[Status.FAILED]:,} "
        f"({plural(sum(letters.values()), 'dead letter')}, {letters.get('poison', 0):,} poison){purged}"
    )


def plural(count: int, noun: str) -> str:
    """`1 task`, `2,000 tasks`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
