"""Promises about a key that is known already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.player import QUIET, Player
from pytest_taskqueue.conformance.script import task
from pytest_taskqueue.conformance.stage import Stage
from pytest_taskqueue.wording import count
from taskqueue_core import Task

SUBMITTERS, ROUNDS = 16, 8
"""Threads that submit the same task at once, and how often they do."""

IMAGE = "shared.jpg"
"""Of tasks that have nothing else in common: what makes a task is its task.key."""

ALIKE = {
    "the variant 'small'": Task(IMAGE, "small", {"key": True}),
    "another variant": Task(IMAGE, "large", {"key": True}),
    "an idempotency_key": Task(IMAGE, "small", {"key": True}, "shared-1"),
    "another idempotency_key": Task(IMAGE, "small", {"key": True}, "shared-2"),
}
"""Tasks that return their keys."""


def deduplicates(stage: Stage) -> str:
    """One key from many threads, while it is worked on and after; the result is the number of the attempt."""
    player = stage.open(workers=4)
    _at_once(player, "held", during=lambda: _hold(player), block=True)
    for number in range(1, ROUNDS):
        _at_once(player, f"raced-{number}")
    for key in ["held", *(f"raced-{number}" for number in range(1, ROUNDS))]:
        again = player.value(key, player.submit(key, number=True, **({"block": True} if key == "held" else {})))
        _expect_one(player, key, [again], "submitted again after it was done")
    for what, alike in ALIKE.items():
        _expect_own(player, alike, alike.key, what)
    _expect_same(player, "raced-1")
    asked = f"each from {count(SUBMITTERS, 'thread')} at once and again when done"
    return f"{count(ROUNDS, 'key')}, {asked}: one attempt, one result; other keys of the same image: tasks of their own"


def _at_once(player: Player, key: str, *, during: Callable[[], None] | None = None, **script: Any) -> None:
    submits = [partial(player.submit_here, key, number=True, **script)] * SUBMITTERS
    futures = player.together(submits, during=during)
    values = [player.value(key, given) for given in futures]
    _expect_one(player, key, values, f"submitted by {count(SUBMITTERS, 'thread')} at once")


def _hold(player: Player) -> None:
    """Keep it in hand for a while, so that all the others find it there."""
    player.work.wait(lambda: player.work.begun.total() > 0, player.patience)
    player.work.wait(lambda: player.work.begun.total() > 1, QUIET)
    player.work.release()


def _expect_one(player: Player, key: str, values: list[Any], what: str) -> None:
    if (times := player.work.begun[key]) > 1:
        raise Broken(f"one task, {what}: worked on {count(times, 'time')}")
    if any(value != 1 for value in values):
        raise Broken(f"one task, {what}: the results {sorted({*map(repr, values)})}, where the first one's is 1")


def _expect_own(player: Player, other: Task, value: str, what: str) -> None:
    """It shares its image_key with another task, and is done as if it did not."""
    got = player.offer_task(other)
    times = player.work.begun[other.key]
    if got.value != value or times != 1:
        found = f"worked on {count(times, 'time')}, with {got}"
        raise Broken(f"the image_key of another task with {what}, so another task.key: {found}", hung=got.late)


def _expect_same(player: Player, key: str) -> None:
    """A known key with another image_key: not worked on again, be it answered or refused."""
    got = player.offer_task(replace(task(key, number=True), image_key=IMAGE))
    if got.late:
        raise Broken("a known key with another image_key: no answer", hung=True)
    _expect_one(player, key, [1 if got.error is not None else got.value], "submitted again with another image_key")


def conflicts(stage: Stage) -> str:
    """The key of a task, with other params: while it is worked on and after. Its image may have other tasks."""
    player = stage.open()
    other = task("known", value="other")
    given = player.submit("known", block=True, value="first")
    player.work.wait(lambda: player.work.begun["known"] > 0, player.patience)
    during = _refusal(player, other, "while the first is worked on", release=True)
    player.value("known", given)
    after = _refusal(player, other, "after the first is done")
    _refusal(player, replace(other, image_key=IMAGE), "and another image_key")
    for what, alike in ALIKE.items():
        own = replace(alike, image_key=other.image_key, params={"value": what})
        _expect_own(player, own, what, f"other params and {what}")
    return f"refused: {during} while the first is worked on, {after} after"


def _refusal(player: Player, other: Task, when: str, *, release: bool = False) -> str:
    """The error by which other work under a known key is refused."""
    taken = player.answer("submit", lambda: player.submit_task(other))
    if release:
        player.work.release()
    answer = taken if taken.error is not None else player.result(taken.value)
    if answer.error is None:
        raise Broken(f"a known key with other params {when}: accepted, with {answer}", hung=answer.late)
    if (times := player.work.begun["known"]) > 1:
        raise Broken(f"a known key with other params {when}: worked on {count(times, 'time')}")
    return type(answer.error).__name__
