"""What surrounds a test: the faults of its marker `tq_faults`, and a look at what its queues have left behind.

Loaded in every pytest run: the queue is imported only for tests that use it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskqueue.options import settings
from pytest_taskqueue.wording import count

if TYPE_CHECKING:
    from pytest_taskqueue.checks import Watch
    from taskqueue_core import FaultPlan

FAULTS, ALLOW, COMPARE = "tq_faults", "tq_allow", "tq_compare"
INI = "tq_checks"
KINDS = {
    "open": "a queue is still open",
    "threads": "a thread of a closed queue still runs",
    "files": "a file of a closed ledger is still open",
    "running": "a closed ledger has tasks in state running",
    "errors": "a task failed for good and nobody read its error",
    "faults": f"a fault of {FAULTS} never struck, though it is for no share of the times",
}
USERS = {"make_tq_queue", "tq_clock"}
"""Fixtures of whoever uses the queue, though it was not imported yet."""
MARKERS = {
    FAULTS: "(*faults, seed=None): faults at named points of every queue that the test uses, for example "
    "'ledger.commit:SQLITE_FULL@3' (the third time), 'process:latency=5ms~20ms:p=0.1' or "
    "'process:error=ConnectionError'; POINT:EFFECT[@N][:p=P], see taskqueue_core.FaultPlan; drawn by `seed`, or else "
    "by --tq-seed. A fault that never struck fails the test, unless it has a P below 1",
    ALLOW: f"(*checks, reason): what of its queues the test may leave behind, of {', '.join(map(repr, KINDS))}; "
    f"{'; '.join(f'{name!r}: {what}' for name, what in KINDS.items())}. A queue that is left open is told once and "
    f"stays open: later tests may use it, and are not blamed for it. The ini option {INI}=no ends these checks",
}
"""What `pytest --markers` shows. A queue that a test left open is not closed after it: it may be the one that the
user's application opens when it is first needed and keeps, and all later tests would fail with QueueClosedError, far
from the cause. Its threads are known to the Watch of the next test, as those of a session's fixture are.
"""

WATCH: pytest.StashKey[Watch] = pytest.StashKey()
FAULTY: pytest.StashKey[tuple[FaultPlan, ExitStack]] = pytest.StashKey()
TROUBLE: pytest.StashKey[bool] = pytest.StashKey()


def register(config: pytest.Config) -> None:
    """Put the hooks and markers of this module into a run."""
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", name + text)
    config.pluginmanager.register(sys.modules[__name__], "taskqueue-guards")
    config.pluginmanager.register(Interruption(config), "taskqueue-interruption")


class Interruption:
    """The end of a test that Ctrl-C or pytest.exit ended: it has no teardown of its own, and its fixtures are torn down
    with the session. A wait that a fault has put into a processor must have ended before.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self) -> None:
        """Before others tidy up here."""
        _end(self._config)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        """Before the fixtures are torn down, whatever ended the session."""
        _end(self._config)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before its fixtures: a queue that one of them opens is the test's, too. A marker that cannot be understood is an
    error of that test alone.
    """
    item.stash[TROUBLE] = False
    if wrong := _wrong_marker(item):
        pytest.fail(f"{item.nodeid}: {wrong}", pytrace=False)
    if _watched(item):
        from pytest_taskqueue.checks import Watch

        item.config.stash[WATCH] = Watch()
    if markers := list(item.iter_markers(FAULTS)):
        from taskqueue_core import FaultPlan, points

        seeds = [marker.kwargs["seed"] for marker in markers if marker.kwargs.get("seed") is not None]
        texts = [text for marker in markers for text in marker.args]
        plan = FaultPlan(*texts, seed=seeds[0] if seeds else settings(item.config).seed)
        faulty = ExitStack()
        item.config.stash[FAULTY] = plan, faulty
        faulty.enter_context(points.probing(plan))
        faulty.callback(plan.release)  # before the probe is removed: all waits end


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """What a fixture of a class, a module or the session opens is not left behind by the first test that has it."""
    watch = request.config.stash.get(WATCH, None)
    if watch is None or fixturedef.scope == "function":
        return (yield)
    with watch.sharing():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Remember that the test did not come to its end: what it left behind is no further news."""
    if call.excinfo is not None:
        item.stash[TROUBLE] = True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """The faults end before the fixtures are torn down; then it is seen what is left."""
    found = _end_faults(item)
    try:
        yield
    finally:
        watch = _unwatch(item.config)
    if not item.stash[TROUBLE]:
        _judge(found if watch is None else found | watch.problems(_allowed(item)))


def _watched(item: pytest.Item) -> bool:
    """Whether the test may use queues that are its own, and not those of a comparison."""
    uses = "taskqueue_core" in sys.modules or USERS & set(getattr(item, "fixturenames", ()))
    ours = item.path.is_relative_to(Path(__file__).parent) or item.get_closest_marker(COMPARE) is not None
    return bool(uses) and not ours and bool(item.config.getini(INI))


def _end(config: pytest.Config) -> None:
    """End what is still active; it may be called again."""
    _release(config)
    _unwatch(config)


def _unwatch(config: pytest.Config) -> Watch | None:
    watch = config.stash.get(WATCH, None)
    if watch is not None:
        del config.stash[WATCH]
        watch.end()
    return watch


def _release(config: pytest.Config) -> None:
    """Remove the faults, and end their waits."""
    if FAULTY in config.stash:
        _, faulty = config.stash[FAULTY]
        del config.stash[FAULTY]
        faulty.close()


def _end_faults(item: pytest.Item) -> dict[str, list[str]]:
    """Remove the faults; those that never struck, by the name of their check."""
    if FAULTY not in item.config.stash:
        return {}
    plan, _ = item.config.stash[FAULTY]
    struck, reached = plan.struck, plan.reached
    _release(item.config)
    lines = [
        f"fault {fault.text!r} never struck: its point was reached {count(reached[fault.point], 'time')}"
        for fault in plan.faults
        if fault.p == 1 and not struck[fault.text]
    ]
    asked = item.config.getini(INI) and "faults" not in _allowed(item)
    return {"faults": lines} if lines and asked else {}


def _judge(found: dict[str, list[str]]) -> None:
    if found:
        names = ", ".join(repr(name) for name in KINDS if name in found)
        left = [f"- {line}" for name, lines in found.items() if name != "faults" for line in lines]
        head = ["the test left something of its task queues behind:"] if left else []
        remedy = f"if that is as it should be: @pytest.mark.{ALLOW}({names}, reason='...')"
        pytest.fail("\n".join([*found.get("faults", ()), *head, *left, remedy]), pytrace=False)


def _allowed(item: pytest.Item) -> set[str]:
    return {name for marker in item.iter_markers(ALLOW) for name in marker.args}


def _wrong_marker(item: pytest.Item) -> str | None:
    """What cannot be understood of the test's markers."""
    try:
        for marker in item.iter_markers(ALLOW):
            _check_allowed(marker)
        for marker in item.iter_markers(FAULTS):
            _check_faults(marker)
    except ValueError as error:
        return str(error)
    return None


def _check_allowed(marker: pytest.Mark) -> None:
    reason = marker.kwargs.get("reason")
    unknown = [name for name in marker.args if name not in list(KINDS)]  # whatever it is, hashable or not
    if unknown or not marker.args:
        wrong = f"there is no check {unknown[0]!r}" if unknown else "no check is named"
        raise ValueError(f"{ALLOW}: {wrong}; the checks are {', '.join(map(repr, KINDS))}")
    if not (isinstance(reason, str) and reason.strip()) or len(marker.kwargs) > 1:
        raise ValueError(f"{ALLOW}({', '.join(map(repr, marker.args))}) needs a reason='...', and nothing else")


def _check_faults(marker: pytest.Mark) -> None:
    from taskqueue_core import FaultPlan

    seed = marker.kwargs.get("seed")
    if not marker.args or marker.kwargs.keys() - {"seed"} or not isinstance(seed, int | None):
        raise ValueError(f"{FAULTS} takes one text or more, such as 'ledger.commit:SQLITE_FULL@3', and a seed=7")
    FaultPlan(*marker.args)
