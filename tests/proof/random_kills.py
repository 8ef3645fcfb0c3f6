"""Proof 1: kill -9 at random times, while tasks are submitted, run, retried, failed, published, recovered, drained."""

from __future__ import annotations

import random
import signal
import threading
import time
from itertools import count
from pathlib import Path

from taskqueue_core import Task, TaskQueue
from tests.proof import audit
from tests.proof.journal import Journal
from tests.proof.notes import Case, Notes, Proof
from tests.proof.process import Child, Event, Voice, run
from tests.proof.work import PATIENCE, Work, finish, open_queue, submit, submit_many, task, watch

GENERATIONS = 5
"""Kills of one ledger's owners, each of whom inherits what the last one left."""
THREADS = 3


def cases(campaign: bool) -> list[Case]:
    """50 rounds, or 2,000."""
    return [Case(f"ledger {n}", GENERATIONS, play) for n in range(400 if campaign else 10)]


def play(folder: Path, rng: random.Random, notes: Notes) -> None:
    """Kill owner after owner of one ledger; the last one may finish."""
    rows: dict[str, audit.Row] = {}
    with Journal(folder / "journal") as journal:
        for generation in range(GENERATIONS):
            succeeded = {key for key, row in rows.items() if row["status"] == "success"}
            known = len(journal.runs)
            _one_kill(folder, generation, rng, journal, notes)
            notes.find(f"task {key!r} ran after its success" for key in journal.runs[known:] if key in succeeded)
            rows, found = audit.look(folder, journal, rows)
            notes.find(found)
        child, status = run(finish, folder)
        journal.keep(child.heard)
        notes.check(status == 0 and child.told("drained") == [[True]], f"the last owner ended with {status}")
        notes.find(audit.look_at_the_end(folder, journal, rows))
        notes.counts["acknowledged"] += len(journal.accepted)
        notes.counts["results told"] += len(journal.results)
        notes.counts.update(audit.tally(audit.read(folder)))


def _one_kill(folder: Path, generation: int, rng: random.Random, journal: Journal, notes: Notes) -> None:
    durability = rng.choice(["process", "power"])
    drains = generation > 0 and rng.random() < 0.2
    program, args = (finish, (folder,)) if drains else (feed, (folder, generation, durability, rng.random()))
    with Child(program, *args) as child:
        enough, seconds = rng.randrange(1, 60), rng.choice([PATIENCE, PATIENCE, rng.uniform(0, 0.06)])
        journal.keep(child.listen(lambda heard: _accepted(heard) >= enough, seconds))
        time.sleep(rng.uniform(0, 0.01))  # somewhere within the next transactions
        journal.keep(child.kill())
        status = child.wait()
    notes.count_ways(child.heard)
    notes.counts["kills"] += status == -signal.SIGKILL
    notes.check(status == -signal.SIGKILL or (drains and status == 0), f"a victim ended by itself: {status}")


def _accepted(heard: list[Event]) -> int:
    return sum(event[0] == "accepted" for event in heard)


def feed(voice: Voice, folder: Path, generation: int, durability: str, seed: float) -> None:
    """Submit from several threads, for ever."""
    watch(voice)
    queue = open_queue(Work(voice, folder), folder, max_workers=4, queue_size=10, durability=durability)
    threads = [
        threading.Thread(target=_submit, args=(queue, voice, generation, thread, random.Random(f"{seed}/{thread}")))
        for thread in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _submit(queue: TaskQueue, voice: Voice, generation: int, thread: int, rng: random.Random) -> None:
    for n in count():
        new = _task(generation, thread, n)
        old = _task(rng.randrange(generation + 1), rng.randrange(THREADS), rng.randrange(n + 1))  # known, or new
        if rng.random() < 0.7:
            submit(queue, voice, rng.choice([new, new, new, old]))
            continue
        submit_many(queue, voice, [new, old, new])


def _task(generation: int, thread: int, n: int) -> Task:
    """What it does follows from its number: a key stands for the same work whoever submits it.

    Every third owner begins with tasks without outputs, whose successes need no BEGIN.
    """
    fails = {3: "once", 5: "always"}.get(n % 7, "never")
    return task(f"{generation}-{thread}-{n}", fails=fails, output=generation % 3 != 1 and n % 3 != 0)


PROOF = Proof(1, "kill -9 at random times", cases)
