"""What every queue promises: each task once, results, exceptions, an end, and nothing left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.player import QUIET, Answer, Player, plain
from pytest_taskqueue.conformance.script import strange
from pytest_taskqueue.conformance.stage import WORKERS, Stage
from pytest_taskqueue.leftovers import Before, leftovers
from pytest_taskqueue.wording import count, named

CLIENTS, EACH = 8, 25
"""Threads that submit at once, and how many tasks each of them."""

VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1.5,
    2**53,
    "",
    "gr\u00fc\u00dfe \u2603 \u2028 \U0001f600 \"quoted\" \\ 'too'",
    "long " * 2000,
    [],
    [1, [2, {"a": None}]],
    {"k\u00fc": {"list": [1.5, "x", False]}, "": {}},
)

TELLTALE = "no such colour: 'octarine'"
"""What an error says that has to reach the caller."""

CLOSING, STUCK = 0.2, 2.0
"""The timeout of a close while tasks are blocked, and how long they stay blocked."""


def once(stage: Stage) -> str:
    """Many threads submit many tasks; counted inside the work, when the queue is closed."""
    player = stage.open(workers=4, places=16)
    keys = [[f"once-{client}-{number}" for number in range(EACH)] for client in range(CLIENTS)]
    player.together([partial(_client, player, own) for own in keys])
    stage.clear()
    begun = player.work.begun
    known = {key for own in keys for key in own}
    missing, others = sorted(known - set(begun)), sorted(set(begun) - known)
    problems = [
        *strange(others),
        *(named("task", "never worked on", missing) if len(missing) > len(others) else ()),
        *named("task", "worked on more than once", sorted(key for key in known if begun[key] > 1)),
    ]
    if problems:
        raise Broken("; ".join(problems))
    return f"{count(len(known), 'task')} from {count(CLIENTS, 'thread')}: each worked on once"


def _client(player: Player, keys: list[str]) -> None:
    """Submit all, then look at each result."""
    for key, given in [(key, player.submit_here(key, value=key)) for key in keys]:
        try:
            value = plain(given.result(player.patience))
        except TimeoutError:
            raise Broken(f"{key} has no result after {player.patience:g} s", hung=True) from None
        if value != key:
            raise Broken(f"{key} has the result {value!r:.60}")


def results(stage: Stage) -> str:
    """What the work returned, as JSON has it."""
    player = stage.open(places=len(VALUES))
    futures = [player.submit(f"value-{number}", value=value) for number, value in enumerate(VALUES)]
    for number, (value, given) in enumerate(zip(VALUES, futures, strict=True)):
        got = player.value(f"value-{number}", given)
        if _text(got) != _text(value):
            raise Broken(f"the work returned {value!r:.60}, the future gave {got!r:.60}")
    return f"{count(len(VALUES), 'value')} came back as they were, from null to nested objects and 10,000 characters"


def _text(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (TypeError, ValueError):
        return f"no JSON: {type(value).__name__}"


def exceptions(stage: Stage) -> str:
    """The future of a task that fails raises what tells of the error, and the queue goes on."""
    player = stage.open()
    for number in range(2 * WORKERS):  # more than one for each worker
        given = player.submit(f"fails-{number}", fail=100, error="ValueError", text=TELLTALE)
        got = player.result(given)
        if got.error is None:
            raise Broken(f"the work raised ValueError, and its future gave {got}", hung=got.late)
        if not player.ask("the text of an error", partial(_tells, got.error)):
            raise Broken(f"the work raised ValueError({TELLTALE!r}), and its future {got}")
    if (after := player.value("after the failures", player.submit("after the failures", value=7))) != 7:
        raise Broken(f"after {count(2 * WORKERS, 'failure')} a task has the result {after!r:.60}")
    return f"{count(2 * WORKERS, 'failure')} reached the caller as {type(got.error).__name__}; the queue went on"


def _tells(error: BaseException) -> bool:
    return any(TELLTALE in f"{each} {each!r}" for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def closes(stage: Stage) -> str:
    """Idle it closes in time and takes nothing more; and nobody waits for ever for what still waited."""
    player = stage.open()
    player.value("before", player.submit("before", value=1))
    player.close(stage.patience)
    late = player.offer("after close")
    if late.error is None:
        raise Broken(f"a submit after close was taken, and its future gave {late}", hung=late.late)
    ends = _ends_of_waiting(stage.open())
    return f"idle in time; a submit after close: {type(late.error).__name__}; what waited when it was closed: {ends}"


def _ends_of_waiting(player: Player) -> str:
    """What becomes of tasks that wait behind blocked ones when the queue is closed."""
    blocked = [player.submit(f"blocked-{number}", block=True) for number in range(WORKERS)]
    waiting = [player.submit(f"waiting-{number}", value=number) for number in range(2)]
    player.work.wait(lambda: bool(player.work.begun), player.patience)
    closing = player.begin_close(CLOSING, STUCK)
    player.work.release()
    player.ask(f"close({CLOSING}) of a queue with work", closing.result, STUCK + player.patience)
    end = time.monotonic() + player.patience
    ends = [player.result(given, max(end - time.monotonic(), QUIET)) for given in [*blocked, *waiting]]
    if unheard := sum(end.late for end in ends):
        undone = f"{unheard} of {count(len(ends), 'task')} that were not done at close"
        raise Broken(f"{undone}: their futures never end", hung=True)
    return ", ".join(sorted({_end(end) for end in ends[len(blocked) :]}))


def _end(end: Answer) -> str:
    return "done" if end.error is None else type(end.error).__name__


def _copied(report: object) -> object:
    """What is looked at of it."""
    waiting, drained = plain(getattr(report, "waiting", 0)), bool(getattr(report, "drained", True))
    return SimpleNamespace(waiting=waiting, drained=drained)


def leaves_nothing(stage: Stage) -> str:
    """After tasks that succeed and one that fails nothing is left: no thread, process, open or half-written file."""
    before = Before.now()
    player = stage.open()
    futures = [player.submit(f"some-{number}", value=number) for number in range(20)]
    for number, given in enumerate(futures):
        player.value(f"some-{number}", given)
    player.result(player.submit("fails", fail=100, error="ValueError"))
    report = player.close(stage.patience)
    report = player.ask("its close report", partial(_copied, report))
    left = [*leftovers(before, player.threads, player.folder, report, seconds=max(stage.patience / 2, QUIET))]
    if left:
        raise Broken("; ".join(left))
    return f"after {count(len(futures) + 1, 'task')} and close: no thread, child process, open file or unfinished row"
