"""Proof 5: one key from 32 threads at once, by submit and submit_many: one row, one run, one result for all."""

from __future__ import annotations

import random
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from taskqueue_core import Task, TaskFailedError, TaskQueue
from tests.proof import audit
from tests.proof.notes import Case, Notes, Proof
from tests.proof.process import HANG, Voice, run
from tests.proof.work import Work, open_queue, task, watch

THREADS = 32
ROUNDS = 20
"""Keys for one ledger."""


def cases(campaign: bool) -> list[Case]:
    """200 rounds, or 5,000."""
    return [Case(f"ledger {n}", ROUNDS, play) for n in range(250 if campaign else 10)]


def play(folder: Path, rng: random.Random, notes: Notes) -> None:
    """Key after key, then look at what the callers got, at the runs, and at the file."""
    child, status = run(_race, folder, rng.random(), rng.choice([1e-6, 0.005]))
    notes.check(status == 0, f"the racing process ended with {status}: {child.heard[-1:]}")
    notes.count_ways(child.heard)
    rows, runs = audit.read(folder), Counter(key for key, _ in child.told("ran"))
    letters = Counter(key for (key,) in child.told("letter"))
    notes.check(len(rows) == ROUNDS, f"{len(rows)} rows for {ROUNDS} keys")
    for key, answers, outcomes in child.told("answers"):
        row = rows[key]
        attempts = 2 if "once" in row["params"] else 1
        notes.check(answers == THREADS, f"key {key!r}: {answers} threads of {THREADS} were answered")
        notes.check(len(outcomes) == 1, f"key {key!r}: different answers {outcomes}")
        notes.check(runs[key] == attempts == row["attempt"], f"key {key!r}: {runs[key]} runs, {row['attempt']} claims")
        notes.check(letters[key] == (row["status"] == "failed"), f"key {key!r}: {letters[key]} dead letters")
        notes.counts["answers"] += answers
    notes.check(len(child.told("answers")) == ROUNDS, "not every key was raced for")
    notes.find(f"logged: {text}" for (text,) in child.told("logged"))


def _race(voice: Voice, folder: Path, seed: float, interval: float) -> None:
    """The process under test: few places, so that duplicates have to do without one."""
    watch(voice)
    sys.setswitchinterval(interval)
    rng = random.Random(seed)
    with (
        open_queue(Work(voice, folder), folder, queue_size=2, max_workers=3) as queue,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for n in range(ROUNDS):
            new = task(f"key {n}", fails=rng.choice(["never", "never", "once", "always"]), output=rng.random() < 0.5)
            start = threading.Barrier(THREADS)
            many = [rng.random() < 0.5 for _ in range(THREADS)]
            futures = [pool.submit(_submit, queue, new, start, by_many) for by_many in many]
            answers = [future.result(HANG) for future in futures]
            voice.say("answers", new.key, len(answers), sorted({outcome for answer in answers for outcome in answer}))
        for letter in queue.dead_letters():
            voice.say("letter", letter.idempotency_key)


def _submit(queue: TaskQueue, new: Task, start: threading.Barrier, by_many: bool) -> set[str]:
    """What one caller is told, now and when it asks again."""
    start.wait(HANG)
    futures = queue.submit_many([new, new]) if by_many else [queue.submit(new)]
    told = {_outcome(future) for future in futures}
    return told | {_outcome(queue.submit(new))}


def _outcome(future: Any) -> str:
    try:
        return str(future.result(HANG))
    except TaskFailedError as error:
        return f"failed: {error}"


PROOF = Proof(5, "one key from 32 threads", cases)
