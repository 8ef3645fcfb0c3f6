"""Proof 8: harm from the surroundings: a fork, a full disk, a read-only folder, a ledger that is removed while open."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from taskqueue_core import LedgerError, TaskQueue, TaskQueueError
from tests.proof import audit, disk, read_only
from tests.proof.journal import Journal
from tests.proof.notes import Case, Notes, Proof
from tests.proof.process import HANG, Voice, run
from tests.proof.work import LEDGER, Work, finish, open_queue, submit, task, watch

THREADS = 3
TASKS = 20


def cases(campaign: bool) -> list[Case]:
    """Each kind of harm ten times, or a hundred."""
    kinds = {"fork": play_fork, "removed": play_removed, "read-only": read_only.play_read_only, **disk.KINDS}
    return [Case(f"{name} {n}", 1, play) for n in range(100 if campaign else 10) for name, play in kinds.items()]


def play_fork(folder: Path, rng: random.Random, notes: Notes) -> None:
    """Fork while threads submit: the child is refused everything, the parent does not notice."""
    with Journal(folder / "journal") as journal:
        parent, status = run(_fork, folder, rng.uniform(0, 0.02))
        journal.keep(parent.heard)
        notes.count_ways(parent.heard)
        notes.check(status == 0 and parent.told("drained") == [[True]], f"the parent of the fork ended with {status}")
        answers = parent.told("in the child")
        notes.check(len(answers) == len(CALLS), f"the child was heard {len(answers)} times of {len(CALLS)}")
        for name, answer in answers:
            notes.check(answer == "LedgerError", f"{name}() in the child: {answer}")
        notes.counts["refused in a child"] += len(answers)
        notes.find(audit.look_at_the_end(folder, journal, {}))


def _fork(voice: Voice, folder: Path, after: float) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of a fork with threads: that is the proof
    watch(voice)
    queue = open_queue(Work(voice, folder), folder)
    threads = [threading.Thread(target=_submit_some, args=(queue, voice, n)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    time.sleep(after)
    child = os.fork()
    if child == 0:
        _in_the_child(queue, voice)
    _, status = os.waitpid(child, 0)
    voice.say("child ended", os.waitstatus_to_exitcode(status))
    for thread in threads:
        thread.join()
    submit(queue, voice, task("after the fork"))
    voice.say("drained", queue.close().drained)


CALLS: dict[str, Callable[[TaskQueue], object]] = {
    "submit": lambda queue: queue.submit(task("from the child")),
    "submit_many": lambda queue: queue.submit_many([task("from the child")]),
    "get": lambda queue: queue.get("0-0"),
    "records": lambda queue: queue.records(),
    "dead_letters": lambda queue: queue.dead_letters(),
    "replay": lambda queue: queue.replay("0-0"),
    "join": lambda queue: queue.join(1),
    "close": lambda queue: queue.close(1),
}


def _in_the_child(queue: TaskQueue, voice: Voice) -> None:
    signal.alarm(HANG // 3)  # a lock that was held at the fork is held for ever
    for name, call in CALLS.items():
        try:
            call(queue)
            voice.say("in the child", name, "no error")
        except BaseException as error:  # noqa: BLE001 - told to the parent
            voice.say("in the child", name, type(error).__name__)
    del queue
    gc.collect()
    os._exit(0)


def _submit_some(queue: TaskQueue, voice: Voice, thread: int) -> None:
    for n in range(TASKS):
        submit(queue, voice, task(f"{thread}-{n}", output=n % 4 == thread))


def play_removed(folder: Path, rng: random.Random, notes: Notes) -> None:
    """Remove the file of an open ledger: whatever is said is a LedgerError, and a new queue begins anew."""
    child, status = run(_remove, folder, rng.choice([["", "-wal", "-shm"], [""]]))
    notes.check(status == 0, f"the process ended with {status}: {child.heard[-1:]}")
    notes.count_ways(child.heard)
    notes.find(f"a submit raised {text}" for (text,) in child.told("raised"))
    notes.counts["accepted into a removed ledger"] += len(child.told("accepted after"))
    notes.counts["refused by a removed ledger"] += len(child.told("refused after"))
    with Journal(folder / "journal") as journal:
        anew, status = run(_begin_anew, folder)
        journal.keep(anew.heard)
        notes.check(status == 0, f"the next queue ended with {status}")
        notes.find(audit.look_at_the_end(folder, journal, {}))


def _remove(voice: Voice, folder: Path, suffixes: list[str]) -> None:
    work = Work(voice, folder)
    work.held.add("held")
    watch(voice)
    queue = open_queue(work, folder)
    futures = [queue.submit(task(name, output=name == "1")) for name in ("held", *map(str, range(5)))]
    for future in futures[1:]:
        future.result(HANG)
    for suffix in suffixes:
        folder.joinpath(LEDGER + suffix).unlink()
    for n in range(10):
        try:
            futures.append(queue.submit(task(f"after {n}", output=False, fails="once" if n % 3 == 1 else "never")))
            voice.say("accepted after", n)
        except LedgerError:
            voice.say("refused after", n)
        except Exception as error:  # noqa: BLE001 - told to the parent
            voice.say("raised", repr(error))
    work.go.set()
    queue.close(1.0)
    for future in futures:
        error = future.exception(HANG)
        if error is not None and not isinstance(error, TaskQueueError):
            voice.say("raised", repr(error))


def _begin_anew(voice: Voice, folder: Path) -> None:
    finish(voice, folder)
    queue = open_queue(Work(voice, folder), folder)
    submit(queue, voice, task("anew"))
    queue.close()


PROOF = Proof(8, "fork, full disk, read-only, removed", cases)
