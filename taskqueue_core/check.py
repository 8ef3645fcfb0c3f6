"""`taskqueue check`: is the ledger's file sound, and does what stands in it make sense? Read only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taskqueue_core.database import (
    SQLITE_VERSION,
    LedgerView,
    contradictions,
    find_damage,
    is_damage,
    journal_mode,
    one_moment,
    schema_version,
)
from taskqueue_core.errors import LedgerError
from taskqueue_core.ownership import lock_path
from taskqueue_core.status import contents, heading, is_owned, owner, plural
from taskqueue_core.task import Status

WAL_RESET_BUG = (3, 7, 0), (3, 51, 3)
"""SQLite versions from the first to before the second may lose committed data, see sqlite.org/wal.html#walresetbug."""
WAL_RESET_BACKPORTS = {(3, 44): 6, (3, 50): 7}

_INDENT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What was found in a ledger. `damage` is what SQLite says of the file, `wrong` what cannot be true of its rows.

    `contents` is None when they could not be read; `orphans` counts running tasks that nobody runs.
    """

    heading: str
    contents: str | None
    damage: Sequence[str]
    wrong: Sequence[str]
    orphans: int

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage and not self.wrong


def check(path: Path, *, quick: bool = False) -> Checkup:
    """Look into a ledger, also beside a running owner; `quick` leaves out whether the indexes fit their tables.

    Raises LedgerError when there is no ledger, it is newer than this program, or it cannot be read now.
    """
    had, owned = owner(path), is_owned(path)
    about, held = "unreadable", None
    damage, wrong, orphans = list[str](), list[str](), 0
    try:
        with LedgerView.inspect(path) as view:
            about = f"schema {schema_version(view)}   journal {journal_mode(view)}"
            damage += find_damage(view, quick=quick)
            with one_moment(view):
                wrong, held = contradictions(view), contents(view)
                orphans = view.counts()[Status.RUNNING]
    except LedgerError as error:
        if not is_damage(error, known_ledger=lock_path(path).exists()):
            raise
        damage.append(str(error.__cause__))
    if owned is not False or is_owned(path) is not False:  # asked twice: an owner may have come or gone meanwhile
        orphans = 0
    return Checkup(heading=heading(path, had, about), contents=held, damage=damage, wrong=wrong, orphans=orphans)


def check_lines(path: Path, found: Checkup, *, quick: bool = False) -> list[str]:
    """A checkup as a person reads it."""
    lines = [found.heading] + ([found.contents] if found.contents else [])
    sound = "ok (quick_check: indexes were not compared)" if quick else "ok (integrity_check)"
    lines += _item("file", [f"DAMAGED: {found.damage[0]}", *found.damage[1:]] if found.damage else [sound])
    if found.wrong:
        lines += _item("rows", [f"WRONG: {found.wrong[0]}", *found.wrong[1:]])
    elif found.contents:
        lines += _item("rows", ["ok (one row a key; every success has its value, every failure its dead letter)"])
    if found.orphans:
        whose = f"{plural(found.orphans, 'task')} running, but no owner: queued again at the next open"
        lines += _item("note", [whose])
    lines += _item("SQLite", _sqlite(SQLITE_VERSION))
    return lines if found.sound else lines + _item("what to do", _remedy(path, found))


def has_wal_reset_bug(version: str) -> bool:
    """Whether a SQLite of this version (such as "3.40.1") has the WAL-reset bug."""
    major, minor, patch = (int(part) for part in version.split(".")[:3])
    first, mended = WAL_RESET_BUG
    if patch >= WAL_RESET_BACKPORTS.get((major, minor), patch + 1):
        return False
    return first <= (major, minor, patch) < mended


def _sqlite(version: str) -> list[str]:
    if not has_wal_reset_bug(version):
        return [f"{version}, without the WAL-reset bug"]
    return [
        f"{version} has the WAL-reset bug of 3.7.0 to 3.51.2: when two connections write or checkpoint at the same",
        "instant, committed data can be lost. This library writes through one connection, which reduces the risk;",
        "mended in 3.51.3, 3.50.7 and 3.44.6",
    ]


def _remedy(path: Path, found: Checkup) -> list[str]:
    changed = "nothing was changed here; a ledger is never rebuilt behind your back"
    if not found.damage:
        return [f"no transition of the queue writes such rows: keep a copy of {path}, and find out who did", changed]
    return [
        f"stop its queue; keep {path} and {path.name}-wal as they are, and work on a copy of both",
        "restore a backup, or save what can be read with a sqlite3 shell that has .recover (sqlite.org's has):",
        "sqlite3 COPY .recover | sqlite3 RESCUED, then taskqueue check RESCUED",
        changed,
    ]


def _item(name: str, lines: list[str]) -> list[str]:
    """A name and what is said under it, aligned."""
    return [f"{name if n == 0 else '':<{_INDENT}}{line}" for n, line in enumerate(lines)]
