"""What a closed queue left behind: threads, processes, files, rows."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_taskqueue.hangs import still_alive
from pytest_taskqueue.wording import count, named
from taskqueue_core import LedgerError, LedgerView, Status

UNFINISHED = (".tmp", ".temp", ".part", ".partial")
"""How the names of files end that are still being written; the core's begin with ".tq-"."""


@dataclass(frozen=True, slots=True)
class Before:
    """What there was before a queue was opened."""

    threads: Sequence[threading.Thread]
    idents: frozenset[int]
    children: frozenset[int]
    settings: Mapping[str, object]

    @staticmethod
    def now() -> Before:
        """What there is now."""
        idents = frozenset(sys._current_frames())
        return Before(threading.enumerate(), idents, frozenset(_children()), _settings())


def leftovers(
    before: Before, ours: Sequence[threading.Thread], directory: Path, report: object, *, seconds: float
) -> Iterable[str]:
    """All that is there now and should not be, and the tasks that the queue's close report admits to.

    `ours` are threads of the harness; the queue's have so many `seconds` to end.
    """
    yield from named("thread", "alive after close", _new_threads([*before.threads, *ours], seconds))
    yield from named("thread", "unknown to threading alive after close", _raw_threads(before.idents))
    yield from named("child process", "alive after close", [str(pid) for pid in _children() - before.children])
    yield from named("file", "still open after close", _open_below(directory))
    yield from named("temporary file", "left behind", _unfinished_files(directory))
    yield from _unfinished_rows(directory)
    changed = [name for name, value in _settings().items() if value != before.settings[name]]
    yield from named("setting", "of the process not put back", changed)
    waiting = getattr(report, "waiting", 0)
    if isinstance(waiting, int) and waiting:
        yield f"{count(waiting, 'task')} still waiting after close"
    elif not getattr(report, "drained", True):
        yield "tasks still running after close"


def _new_threads(known: Sequence[threading.Thread], seconds: float) -> list[str]:
    """Names of the threads that are not known and do not end in time."""
    strangers = [thread for thread in threading.enumerate() if thread not in known]
    return [thread.name for thread in still_alive(strangers, seconds)]


def _raw_threads(before: frozenset[int]) -> list[str]:
    known = {thread.ident for thread in threading.enumerate()}
    return [str(ident) for ident in sys._current_frames() if ident not in known and ident not in before]


def _children() -> set[int]:
    """Child processes of this one, as far as the system tells (only Linux does)."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, path.read_text(encoding="ascii").split()))
    return found


def open_files() -> set[Path]:
    """The files that this process holds open, as far as the system tells (only Linux does)."""
    found = set()
    for descriptor in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.add(descriptor.readlink())
    return found


def _open_below(directory: Path) -> list[str]:
    folder = directory.resolve()
    return sorted(path.name for path in open_files() if path.is_relative_to(folder))


def _settings() -> dict[str, object]:
    """What a queue could change for everybody, and so for the other arm."""
    try:
        folder = str(Path.cwd())
    except OSError:
        folder = ""
    return {
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "switch interval": sys.getswitchinterval(),
        "trace function": (threading.gettrace(), threading.getprofile()),
        "stack size": threading.stack_size(),
        "working directory": folder,
    }


def _unfinished_files(directory: Path) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.name.startswith(".tq-") or path.suffix in UNFINISHED]


def _unfinished_rows(directory: Path) -> Iterable[str]:
    """Of every ledger in the folder, the tasks that are still queued or running."""
    for path in directory.rglob("*"):
        if not _is_sqlite(path):
            continue
        with suppress(LedgerError), LedgerView.inspect(path) as view:  # another program's file tells us nothing
            counts = view.counts()
            if left := counts[Status.QUEUED] + counts[Status.RUNNING]:
                yield f"{count(left, 'row')} of {path.name} still queued or running after close"


def _is_sqlite(path: Path) -> bool:
    if not path.is_file():
        return False
    with suppress(OSError), path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"
    return False
