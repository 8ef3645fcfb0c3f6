"""Promises about a key that is known already."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.player import QUIET, Player
from pytest_taskqueue.conformance.stage import Stage
from pytest_taskqueue.wording import count

SUBMITTERS, ROUNDS = 16, 8
"""Threads that submit the same task at once, and how often they do."""


def deduplicates(stage: Stage) -> str:
    """One key from many threads, while it is worked on and after; the result is the number of the attempt."""
    player = stage.open(workers=4)
    _at_once(player, "held", during=lambda: _hold(player), block=True)
    for number in range(1, ROUNDS):
        _at_once(player, f"raced-{number}")
    for key in ["held", *(f"raced-{number}" for number in range(1, ROUNDS))]:
        again = player.value(key, player.submit(key, number=True, **({"block": True} if key == "held" else {})))
        _expect_one(player, key, {again}, "submitted again after it was done")
    asked = f"each from {count(SUBMITTERS, 'thread')} at once and again when done"
    return f"{count(ROUNDS, 'key')}, {asked}: one attempt, one result"


def _at_once(player: Player, key: str, *, during: Callable[[], None] | None = None, **script: Any) -> None:
    submits = [partial(player.submit_here, key, number=True, **script)] * SUBMITTERS
    futures = player.together(submits, during=during)
    values = {player.value(key, given) for given in futures}
    _expect_one(player, key, values, f"submitted by {count(SUBMITTERS, 'thread')} at once")


def _hold(player: Player) -> None:
    """Keep it in hand for a while, so that all the others find it there."""
    player.work.wait(lambda: player.work.begun.total() > 0, player.patience)
    player.work.wait(lambda: player.work.begun.total() > 1, QUIET)
    player.work.release()


def _expect_one(player: Player, key: str, values: set[Any], what: str) -> None:
    if (times := player.work.begun[key]) > 1:
        raise Broken(f"one task, {what}: worked on {count(times, 'time')}")
    if values != {1}:
        raise Broken(f"one task, {what}: the results {sorted(map(repr, values))}, where the first one's is 1")


def conflicts(stage: Stage) -> str:
    """The key of a task, with other params: while it is worked on and after."""
    player = stage.open()
    given = player.submit("known", block=True, value="first")
    player.work.wait(lambda: player.work.begun["known"] > 0, player.patience)
    during = _refusal(player, "while the first is worked on", release=True)
    player.value("known", given)
    after = _refusal(player, "after the first is done")
    return f"refused: {during} while the first is worked on, {after} after"


def _refusal(player: Player, when: str, *, release: bool = False) -> str:
    """The error by which other work under a known key is refused."""
    taken = player.answer("submit", lambda: player.submit_here("known", value="other"))
    if release:
        player.work.release()
    answer = taken if taken.error is not None else player.result(taken.value)
    if answer.error is None:
        raise Broken(f"a known key with other params {when}: accepted, with {answer}", hung=answer.late)
    if (times := player.work.begun["known"]) > 1:
        raise Broken(f"a known key with other params {when}: worked on {count(times, 'time')}")
    return type(answer.error).__name__
