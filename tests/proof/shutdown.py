"""Proof 6: close(timeout) at random times, and SIGTERM to the command line, with and without a stuck task."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import taskqueue_core
from taskqueue_core import QueueClosedError, TaskQueue
from tests.proof import audit
from tests.proof.journal import Journal
from tests.proof.notes import Case, Notes, Proof
from tests.proof.process import HANG, Child, Voice, run
from tests.proof.work import Work, finish, open_queue, submit, task, watch

PROMISED = 1.0
"""Seconds past its timeout in which `close` promises to return."""
SLACK = 1.5
"""Seconds that a busy machine may add, and that an interpreter takes to end."""
CLOSE_TIMEOUT = 0.5
"""Seconds that the command line gets to close."""
STUCK = "stuck"
TASKS = 300
OUTPUTS = ((True, False), (False,), (True,))
"""Which tasks have an output, in turn: the success of one without needs no BEGIN."""


def cases(campaign: bool) -> list[Case]:
    """25 rounds, or 300: three in five by close(), two in five by SIGTERM, each with and without a stuck task."""
    kinds: list[Callable[..., None]] = [play_close, play_close, play_close, play_sigterm, play_sigterm]
    rounds = range(300 if campaign else 25)
    return [Case(f"{kinds[n % 5].__name__[5:]} {n}", 1, partial(kinds[n % 5], stuck=n % 2 == 0)) for n in rounds]


def play_close(folder: Path, rng: random.Random, notes: Notes, *, stuck: bool) -> None:
    """Close a busy queue, then look whether everything is where it should be."""
    timeout, outputs = rng.choice([0.0, 0.02, 0.2]), rng.choice(OUTPUTS)
    with Journal(folder / "journal") as journal:
        child, status = run(_close, folder, stuck, timeout, rng.random() < 0.5, rng.uniform(0, 0.05), outputs)
        journal.keep(child.heard)
        notes.count_ways(child.heard)
        notes.check(status == 0, f"the process ended with {status}")
        for took, drained, waiting, keys in child.told("closed"):
            notes.check(took <= timeout + PROMISED + SLACK, f"close({timeout}) took {took:.2f} s")
            tally = audit.tally(audit.read(folder))
            notes.check(waiting == tally["queued"], f"{waiting} reported as waiting, {tally} found")
            notes.check(drained == (not tally["queued"]), f"reported drained={drained}, {tally} found")
            notes.check((STUCK in keys) == stuck, f"the stuck task is {keys}")
        _look(folder, journal, notes)


def _close(
    voice: Voice, folder: Path, stuck: bool, timeout: float, drain: bool, after: float, outputs: Sequence[bool]
) -> None:
    """The process under test: two threads submit until they are refused."""
    watch(voice)
    work = Work(voice, folder)
    work.pace = 0.003
    queue = open_queue(work, folder, max_workers=4, queue_size=10)
    if stuck:
        work.held.add(STUCK)
        submit(queue, voice, task(STUCK, output=outputs[0]))
        assert work.begun.wait(HANG)
    threads = [threading.Thread(target=_submit, args=(queue, voice, n, outputs)) for n in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(after)
    started = time.monotonic()
    report = queue.close(timeout, drain=drain)
    voice.say("closed", time.monotonic() - started, report.drained, report.waiting, list(report.stuck))
    work.go.set()  # its late result has to be refused
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(HANG)


def _submit(queue: TaskQueue, voice: Voice, thread: int, outputs: Sequence[bool]) -> None:
    for n in count():
        fails = "once" if n % 7 == 3 else "never"
        try:
            submit(queue, voice, task(f"{thread}-{n}", fails=fails, output=outputs[n % len(outputs)]))
        except QueueClosedError:
            return


def play_sigterm(folder: Path, rng: random.Random, notes: Notes, *, stuck: bool) -> None:
    """End `taskqueue run` as a service manager does."""
    names = [STUCK] * stuck + [f"task {n}" for n in range(TASKS)]
    outputs = rng.choice(OUTPUTS)
    tasks = [task(name, output=outputs[n % len(outputs)]) for n, name in enumerate(names)]
    fields = [{"image_key": t.image_key, "params": dict(t.params), "idempotency_key": t.key} for t in tasks]
    (folder / "tasks.json").write_text(json.dumps(fields))
    enough = rng.randrange(1, TASKS // 4)
    with Journal(folder / "journal") as journal, Child(_command, folder, stuck) as child:
        journal.keep(child.listen(lambda heard: sum(event[0] == "ran" for event in heard) >= enough))
        os.kill(child.pid, signal.SIGTERM)
        started = time.monotonic()
        journal.keep(child.rest())
        notes.count_ways(child.heard)
        status, took = child.wait(), time.monotonic() - started
        said = (folder / "output").read_text()[-500:]
        notes.check(status == 128 + signal.SIGTERM, f"the command ended with {status}: {said}")
        notes.check(took <= CLOSE_TIMEOUT + PROMISED + SLACK, f"the command took {took:.2f} s to end")
        _look(folder, journal, notes)


def _command(voice: Voice, folder: Path, stuck: bool) -> None:
    """Become the command: an interpreter of its own, because its end is part of what is proved."""
    roots = {str(Path(taskqueue_core.__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])}
    output = os.open(folder / "output", os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(output, stream)
    arguments = [sys.executable, "-S", "-m", "tests.proof.command", str(voice.share()), str(folder), STUCK * stuck]
    os.execve(sys.executable, arguments, {**os.environ, "PYTHONPATH": os.pathsep.join(sorted(roots))})


def _look(folder: Path, journal: Journal, notes: Notes) -> None:
    """Nothing runs, nothing is lost, no attempt was used; and the next owner finishes it all."""
    rows, found = audit.look(folder, journal, {})
    for key, row in rows.items():
        budget = int("once" in row["params"])
        notes.check(row["status"] != "running", f"task {key!r} is still running")
        notes.check(row["crashes"] == 0, f"task {key!r} is blamed for {row['crashes']} crashes")
        notes.check(row["retries"] <= budget, f"task {key!r} has used {row['retries']} retries")
    child, status = run(finish, folder)
    journal.keep(child.heard)
    notes.check(status == 0 and child.told("drained") == [[True]], f"the next owner ended with {status}")
    notes.find(found + audit.look_at_the_end(folder, journal, rows))
    notes.counts["acknowledged"] += len(journal.accepted)
    notes.counts["left queued"] += audit.tally(rows)["queued"]


PROOF = Proof(6, "close() and SIGTERM", cases)
