"""Promises about a full queue."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.player import QUIET, Player
from pytest_taskqueue.conformance.stage import PLACES, WORKERS, Stage
from pytest_taskqueue.wording import count

MANY = 100
"""Tasks that are offered to a queue that has room for PLACES."""

MOST = WORKERS + PLACES
"""Tasks that it may have taken while none is done: those being worked on, and those that wait."""

ROOM = f"{count(PLACES, 'place')}, {count(WORKERS, 'worker')}"


class _Flood:
    """Offers tasks, one after the other, until it is stopped. `taken` grows with each that was accepted."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.taken: list[tuple[str, Any]] = []
        self.accepted = 0  # while none was done
        self.moved = threading.Event()
        self.stopped = threading.Event()

    def run(self) -> None:
        """In a thread of its own, because it is to be held back."""
        for number in range(MANY):
            if self.stopped.is_set():
                return
            key = f"flood-{number}"
            self.taken.append((key, self.player.submit_here(key, block=True, value=key)))
            self.moved.set()

    def wait(self) -> None:
        """Until nothing more is accepted; then the work goes on."""
        while len(self.taken) < MANY and self.moved.wait(QUIET):
            self.moved.clear()
        self.accepted = len(self.taken)
        self.stopped.set()
        self.player.work.release()


def bounded(stage: Stage) -> str:
    """Nobody works, many are offered: how many are taken?"""
    flood = _Flood(stage.open())
    flood.player.together([flood.run], during=flood.wait)
    if flood.accepted > MOST:
        raise Broken(f"{count(flood.accepted, 'task')} accepted while none was done, with {ROOM}")
    for key, given in flood.taken:
        if (value := flood.player.value(key, given)) != key:
            raise Broken(f"{key} has the result {value!r:.60}")
    return f"{flood.accepted} of {count(MANY, 'task')} accepted while none was done, with {ROOM}; then all of them done"


def rejects(stage: Stage) -> str:
    """The same where a full queue has to say so: at once, and without keeping what it refused."""
    player = stage.open(overflow="reject")
    taken: list[tuple[str, Any]] = []
    for number in range(MANY):
        key = f"offered-{number}"
        offer = player.answer(f"submit of {key}", partial(player.submit_here, key, block=True, value=key))
        if offer.error is not None:
            break
        taken.append((key, offer.value))
    else:
        raise Broken(f"{count(MANY, 'task')} accepted while none was done, none refused, with {ROOM}")
    if not PLACES <= len(taken) <= MOST:
        raise Broken(f"{len(taken)} accepted, then {offer}, with {ROOM}")
    player.work.release()
    for done, given in taken:
        player.value(done, given)
    _refused_for_good(player, key)
    return f"{len(taken)} accepted, the next refused: {offer}; it was not kept, and accepted later"


def _refused_for_good(player: Player, key: str) -> None:
    """A refused task is not worked on; when it is offered again to the empty queue, it is, once."""
    if player.work.wait(lambda: player.work.begun[key] > 0, QUIET):
        raise Broken(f"{key} was refused and worked on all the same")
    end = time.monotonic() + player.patience
    while (again := player.offer(key, block=True, value=key)).error is not None and time.monotonic() < end:
        player.work.wait(lambda: False, QUIET)  # the last place may be freed a moment after the last result
    if again.value != key:
        raise Broken(f"{key} was refused, and offered again when there was room: {again}", hung=again.late)
    if (times := player.work.begun[key]) != 1:
        raise Broken(f"{key} was refused once and accepted once, and worked on {count(times, 'time')}")
