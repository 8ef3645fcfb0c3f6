"""Promises about waiting and closing while there is work."""

from __future__ import annotations

import time

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.player import QUIET, Player
from pytest_taskqueue.conformance.stage import Stage
from pytest_taskqueue.wording import count

SHORT = 0.2
"""Seconds for a join that cannot succeed."""

DEADLINE = 0.5
"""Seconds for a close while a task is stuck."""

LATE = 2.0
"""Seconds by which that close may be late, and by as many more as an idle close took, up to as many again: on a busy
machine both take longer.
"""

TASKS = 4


def joins(stage: Stage) -> str:
    """False at its deadline while a task is blocked, True when all is done."""
    player = stage.open()
    join = player.method("join", "join(self, timeout), which returns whether nothing is left to do")
    blocked = player.submit("blocked", block=True)
    for number in range(TASKS - 1):
        player.submit(f"more-{number}", value=number)
    early = player.ask(f"join({SHORT})", lambda: _truth(join(SHORT)), SHORT + stage.patience)
    if early:
        raise Broken(f"join({SHORT}) returned {early!r} while a task was blocked")
    waiting = player.begin(lambda: _truth(join(stage.patience)), QUIET)
    if waiting.done():
        raise Broken(f"join({stage.patience:g}) did not wait while a task was blocked")
    player.work.release()
    late = player.ask("join", waiting.result, 2 * stage.patience)
    done = player.work.ended.total()
    if not late:
        raise Broken(f"join({stage.patience:g}) returned {late!r} with {done} of {count(TASKS, 'task')} done")
    if done < TASKS:
        raise Broken(f"join returned {late!r} with {done} of {count(TASKS, 'task')} done")
    player.value("blocked", blocked)
    return f"{early!r} after {SHORT} s while a task was blocked, {late!r} when all {TASKS} were done"


def _truth(value: object) -> bool | None:
    """What a join says: None where it says nothing."""
    return None if value is None else bool(value)


def deadline(stage: Stage) -> str:
    """A task is stuck, and the queue is closed all the same: not much later than another one that is idle."""
    idle = stage.open()
    idle.value("before", idle.submit("before", value=1))
    quick = _close(idle, DEADLINE + 2 * LATE)
    player = stage.open()
    player.submit("stuck", block=True)
    if not player.work.wait(lambda: player.work.begun["stuck"] > 0, stage.patience):
        raise Broken("a task was not begun", hung=True, stacks=player.stacks())
    took = _close(player, DEADLINE + LATE + min(quick, LATE))
    return f"close({DEADLINE}) took {took:.2f} s with a stuck task"


def _close(player: Player, seconds: float) -> float:
    """How many seconds it took. Raises Broken after so many."""
    began = time.monotonic()
    player.close(DEADLINE, seconds=seconds)
    return time.monotonic() - began
