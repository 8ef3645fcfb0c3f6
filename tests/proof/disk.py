"""A disk that is full, as SQLite sees it or really: submits are refused, finished work waits, and all goes on."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import random
import shutil
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from taskqueue_core import LedgerError, Output, Task, TaskQueue
from tests.proof import audit
from tests.proof.journal import Journal
from tests.proof.notes import Notes
from tests.proof.process import HANG, Voice, run
from tests.proof.trap import AT_ONCE, IN_PARTS, WAYS, Point, Trap
from tests.proof.work import PART, content, open_queue

LARGE = 40_000
"""Characters of a value or a parameter: SQLite needs pages of its own for them."""
EARLY = 3
OUTPUTS = (0, 1, EARLY)
"""How many of the early tasks have an output."""
MOST = 200
"""Submits after which a full disk has been noticed."""


class Results:
    """A processor whose results need room, in the ledger and, where the task says so, as a file that is written at
    once. It holds them back until `go`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.runs: Counter[str] = Counter()

    def __call__(self, task: Task) -> str | Output:
        self.runs[task.key] += 1
        part = self.folder / f"{PART}{task.image_key}"
        if task.params["output"]:
            part.write_bytes(content(task.key))
        self.begun.release()
        assert self.go.wait(HANG)
        value = "x" * LARGE
        return Output(part, value) if task.params["output"] else value


class Disk(Trap):
    """Space that can be used up and given back, here the pages that SQLite allows itself."""

    def __init__(self) -> None:
        super().__init__(Point("never"))
        self.refused = threading.Semaphore(0)  # transactions with BEGIN and COMMIT
        self.refusals: Counter[str] = Counter()  # by the way of the transaction

    def fill(self) -> None:
        """No more pages, from the next transaction on."""
        self.before_transaction = lambda connection: _limit(connection, 1)  # SQLite makes it the present size

    def free(self) -> None:
        """As many pages as there may be."""
        self.before_transaction = lambda connection: _limit(connection, 1 << 30)

    def execute(self, connection: sqlite3.Connection, sql: str, call: Callable[[], Any]) -> Any:
        """Count what SQLite refuses."""
        way = IN_PARTS if connection.in_transaction else AT_ONCE
        try:
            return super().execute(connection, sql, call)
        except sqlite3.OperationalError:
            self.refusals[way] += 1
            if way == IN_PARTS:
                self.refused.release()
            raise


class RealDisk(Disk):
    """A small file system, with a file that takes all that is left."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Write until nothing more can be written."""
        with self._filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 10, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        """Give it all back."""
        self._filler.unlink()


def _limit(connection: sqlite3.Connection, pages: int) -> None:
    sqlite3.Connection.execute(connection, f"PRAGMA max_page_count = {pages}").fetchall()


def play_full(folder: Path, rng: random.Random, notes: Notes) -> None:
    """SQLite may not make its file any larger."""
    child, status = run(_until_full_and_back, folder, Disk(), rng.choice(OUTPUTS))
    _judge(folder, child.heard, status, notes)


def play_tmpfs(folder: Path, rng: random.Random, notes: Notes) -> None:
    """A file system of eight megabytes, which only the child sees and which goes with it."""
    small = folder / "small"
    small.mkdir()
    child, status = run(_on_a_small_disk, small, RealDisk(small), rng.choice(OUTPUTS))
    if reasons := child.told("cannot mount"):
        notes.skipped = f"a small file system cannot be mounted here: {reasons[0][0]}"
        return
    _judge(folder, child.heard, status, notes)


def _judge(folder: Path, heard: list[list[Any]], status: int, notes: Notes) -> None:
    """What is the same for every full disk."""
    told: dict[str, list[Any]] = {kind: rest for kind, *rest in heard}
    notes.check(status == 0 and "done" in told, f"the process ended with {status}: {heard[-1:]}")
    notes.count_ways(heard)
    for way in WAYS:
        refusals = told.get("refusals", [{}])[0].get(way, 0)
        notes.check(refusals, f"no transaction {way} was refused")
        notes.counts[f"refused {way}"] += refusals
    notes.find(f"{kind}: {rest}" for kind, *rest in heard if kind == "finding")
    notes.counts["refused while full"] += sum(kind == "refused" for kind, *_ in heard)
    with Journal(folder / "journal") as journal:
        rows, found = audit.look(folder, journal, {})
    notes.find(found)
    for key, row in rows.items():
        budget = (row["status"], row["retries"], row["crashes"])
        notes.check(budget == ("success", 0, 0), f"task {key!r} ended as {budget}")
        if json.loads(row["params"])["output"]:
            notes.find(audit.look_at_output(folder, row, content(key)))
            notes.counts["outputs kept"] += 1
    notes.find(f"an unfinished file is left over: {path.name}" for path in folder.glob(f"{PART}*"))
    runs = told.get("done", [{}])[0]
    notes.find(f"task {key!r} ran {times} times" for key, times in runs.items() if times != 1)
    notes.check(set(runs) == set(rows), f"{len(runs)} tasks ran, {len(rows)} rows are there")


def _on_a_small_disk(voice: Voice, small: Path, disk: Disk, outputs: int) -> None:
    """Mount it in a namespace of this process alone, and bring the closed ledger and the files out at the end."""
    try:
        _mount(small)
    except (OSError, AttributeError) as error:
        voice.say("cannot mount", str(error))
        return
    _until_full_and_back(voice, small, disk, outputs)
    gc.collect()  # the tracebacks of refused statements hold cursors of the trap, and SQLite ends after the last one
    shutil.copytree(small, small.parent, dirs_exist_ok=True)


def _mount(folder: Path) -> None:
    """Needs Linux and the right to mount."""
    library = ctypes.CDLL(None, use_errno=True)
    new_mounts, private_recursively = 0x20000, 0x44000
    for status in (
        library.unshare(new_mounts),
        library.mount(None, b"/", None, private_recursively, None),
        library.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=8m"),
    ):
        if status != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _until_full_and_back(voice: Voice, folder: Path, disk: Disk, outputs: int) -> None:
    """Tasks run, so many of them with outputs, the disk gets full, submits are refused, the results wait, there is
    room again, all goes on.
    """
    disk.way = lambda way: voice.say("way", way)
    disk.set()
    _be_impatient()
    work = Results(folder)
    queue = open_queue(work, folder, max_workers=EARLY)
    futures = [queue.submit(_large(f"early {n}", output=n < outputs)) for n in range(EARLY)]
    for _ in futures:
        assert work.begun.acquire(timeout=HANG)
    disk.fill()
    refused = _submit_until_refused(voice, queue, futures)
    work.go.set()
    for _ in range(5):  # the finished work is tried again, each result with a BEGIN of its own
        assert disk.refused.acquire(timeout=HANG)
    if not outputs and disk.refusals[AT_ONCE] <= len(refused):
        voice.say("finding", "results without outputs were not tried in one statement")
    disk.free()
    futures += [queue.submit(task) for task in refused]
    for future in futures:
        future.result(HANG)
    queue.close()
    voice.say("refusals", disk.refusals)
    voice.say("done", work.runs)


def _submit_until_refused(voice: Voice, queue: TaskQueue, futures: list[Future[Any]]) -> list[Task]:
    """The tasks that were refused; what was accepted before goes to `futures`."""
    refused: list[Task] = []
    for n in range(MOST):
        new = _large(f"task {n}")
        try:
            futures.append(queue.submit(new))
        except LedgerError:
            voice.say("refused", new.key)
            refused.append(new)
        except Exception as error:  # noqa: BLE001 - told to the parent
            voice.say("finding", f"a submit on a full disk raised {error!r}")
        if len(refused) == 3:
            return refused
    voice.say("finding", f"{MOST} submits were accepted on a full disk")
    return refused


def _large(name: str, *, output: bool = False) -> Task:
    return Task(name, params={"pad": "x" * LARGE, "output": output}, idempotency_key=name)


def _be_impatient() -> None:
    """The queue waits a second before it tries again; a proof has no second."""
    for name, module in list(sys.modules.items()):
        if name.startswith("taskqueue_core") and hasattr(module, "PAUSE"):
            module.PAUSE = 0.01


KINDS = {"full": play_full, "tmpfs": play_tmpfs}
