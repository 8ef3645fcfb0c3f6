"""Promises about tasks that fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.player import QUIET, Player
from pytest_taskqueue.conformance.stage import Stage
from pytest_taskqueue.wording import count, named

ENDLESS = 10**9
"""Failures of a task that never succeeds."""


def retries(stage: Stage) -> str:
    """Transient errors are tried again, for a while; permanent ones are not."""
    player = stage.open()
    transient = player.submit("transient", fail=2, error="ConnectionError", number=True)
    permanent = player.submit("permanent", fail=ENDLESS, error="ValueError")
    endless = player.submit("endless", fail=ENDLESS, error="ConnectionError")
    got = player.result(transient)
    if got.value != 3:
        tried = count(player.work.begun["transient"], "attempt")
        raise Broken(f"two ConnectionErrors, then success: after {tried} {got}", hung=got.late)
    _fails(player, "permanent", permanent, "ValueError")
    _fails(player, "endless", endless, "ConnectionError")
    player.work.wait(lambda: player.work.begun["permanent"] > 1, QUIET)
    if (times := player.work.begun["permanent"]) > 1:
        raise Broken(f"ValueError, which no attempt mends: {count(times, 'attempt')}")
    tries = player.work.begun["endless"]
    return f"2 x ConnectionError: success in the 3rd attempt; ValueError: 1 attempt; ConnectionError for ever: {tries}"


def _fails(player: Player, key: str, given: Any, error: str) -> None:
    got = player.result(given)
    if got.error is None:
        tried = count(player.work.begun[key], "attempt")
        raise Broken(f"a task that always raises {error}: after {tried} {got}", hung=got.late)


def dead_letters(stage: Stage) -> str:
    """What failed for good is listed, and can be brought back."""
    player = stage.open()
    letters = player.method("dead_letters", "dead_letters(self), which returns the keys of what failed for good")
    replay = player.method("replay", "replay(self, key), which returns a future of another try")
    player.value("good", player.submit("good", value=1))
    failed = player.result(player.submit("dead", fail=1, error="ValueError", value="mended"))
    if failed.error is None:
        raise Broken(f"a task whose work raised ValueError: {failed}", hung=failed.late)
    _expect_listed(player, letters, ["dead"], "after one task failed")
    got = player.result(player.ask("replay", lambda: replay("dead")))
    if got.value != "mended":
        tried = count(player.work.begun["dead"], "attempt")
        raise Broken(f"replayed, a task that would succeed: after {tried} {got}", hung=got.late)
    _expect_listed(player, letters, [], "after it was replayed and succeeded")
    return "1 failed task listed; replayed, it succeeded in its 2nd attempt, and was listed no more"


def _expect_listed(player: Player, letters: Callable[[], Iterable[str]], keys: list[str], when: str) -> None:
    """It may take a moment."""
    found: list[str] = []

    def listed() -> bool:
        nonlocal found
        found = player.ask("dead_letters", lambda: [*map(str, letters())])
        return found == keys

    tries = max(int(player.patience / QUIET), 1)
    if not any(listed() or player.work.wait(lambda: False, QUIET) for _ in range(tries)):
        shown = ", ".join(named("task", "listed", found)) or "none listed"
        raise Broken(f"dead letters {when}: {shown}; expected {', '.join(keys) or 'none'}")
