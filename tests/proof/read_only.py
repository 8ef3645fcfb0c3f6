"""A folder that becomes read-only: before the ledger is made, while it is open, before it is opened again."""

from __future__ import annotations

import os
import random
from pathlib import Path

from taskqueue_core import LedgerError, Task, TaskQueue
from tests.proof import audit
from tests.proof.journal import Journal
from tests.proof.notes import Notes
from tests.proof.process import HANG, Voice, run
from tests.proof.work import Work, open_queue, submit, task, watch

NOBODY = 65534
"""A user for whom modes count, where we are one for whom they do not."""


def play_read_only(folder: Path, rng: random.Random, notes: Notes) -> None:
    """Whatever is refused is refused with a LedgerError, and nothing that was accepted is lost."""
    place = folder / "place"
    place.mkdir()
    if os.getuid() == 0:
        for path in (folder, folder.parent):
            path.chmod(0o711)
        os.chown(place, NOBODY, NOBODY)
    child, status = run(_read_only, place)
    if reasons := child.told("cannot"):
        notes.skipped = f"no folder is read-only for this user: {reasons[0][0]}"
        return
    notes.count_ways(child.heard)
    notes.check(status == 0 and child.told("done"), f"the process ended with {status}: {child.heard[-1:]}")
    notes.find(text for (text,) in child.told("finding"))
    with Journal(folder / "journal") as journal:
        journal.keep(child.heard)
        notes.find(audit.look_at_the_end(place, journal, {}))
    notes.counts["refused while read-only"] += len(child.told("refused"))


def _read_only(voice: Voice, folder: Path) -> None:
    """Lock the folder three times."""
    try:
        _become_somebody_for_whom_modes_count(folder)
    except OSError as error:
        voice.say("cannot", str(error))
        return
    watch(voice)
    work = Work(voice, folder)
    folder.chmod(0o500)
    _expect_refusal(voice, work, folder)
    folder.chmod(0o700)
    _lock_while_open(voice, work, folder)
    folder.chmod(0o500)
    _open_if_possible(voice, work, folder)
    folder.chmod(0o700)
    queue = open_queue(work, folder)
    submit(queue, voice, task("the last"))
    voice.say("done", queue.close().drained)


def _become_somebody_for_whom_modes_count(folder: Path) -> None:
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    folder.chmod(0o500)
    if os.access(folder, os.W_OK) or not os.access(folder, os.R_OK):
        raise OSError("the mode of a folder does not count, or it cannot be reached")


def _lock_while_open(voice: Voice, work: Work, folder: Path) -> None:
    """Submits are accepted or refused; once the folder is open again, all are accepted and finished."""
    queue = open_queue(work, folder)
    tasks = [task(f"task {n}", output=False, fails="once" if n % 3 == 1 else "never") for n in range(9)]
    _submit(voice, queue, tasks[:3])
    folder.chmod(0o500)
    _submit(voice, queue, tasks[3:6])
    folder.chmod(0o700)
    for new in tasks:
        submit(queue, voice, new).result(HANG)
    queue.close()


def _expect_refusal(voice: Voice, work: Work, folder: Path) -> None:
    try:
        open_queue(work, folder).close()
        voice.say("finding", "a ledger was made in a read-only folder")
    except LedgerError:
        voice.say("refused", "open")
    if left := [path.name for path in folder.iterdir()]:
        voice.say("finding", f"the refused open left {left}")


def _open_if_possible(voice: Voice, work: Work, folder: Path) -> None:
    """The files are there: it may open or refuse."""
    try:
        queue = open_queue(work, folder)
    except LedgerError:
        voice.say("refused", "open")
        return
    _submit(voice, queue, [task("beside", output=False)])
    queue.close()


def _submit(voice: Voice, queue: TaskQueue, tasks: list[Task]) -> None:
    for new in tasks:
        try:
            submit(queue, voice, new)
        except LedgerError:
            voice.say("refused", new.key)
