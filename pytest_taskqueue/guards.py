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

if TYPE_CHECKING:
    from pytest_taskqueue.checks import Watch

FAULTS, ALLOW, COMPARE = "tq_faults", "tq_allow", "tq_compare"
INI = "tq_checks"
KINDS = {
    "open": "a queue is still open",
    "threads": "a thread of a closed queue still runs",
    "files": "a file of a closed ledger is still open",
    "running": "a closed ledger has tasks in state running",
    "errors": "a task failed for good and nobody read its error",
}
USERS = {"make_tq_queue", "tq_clock"}
"""Fixtures of whoever uses the queue, though it was not imported yet."""
MARKERS = {
    FAULTS: "(*faults, seed=None): faults at named points of every queue that the test uses, for example "
    "'ledger.commit:SQLITE_FULL@3' (the third time), 'process:latency=5ms~20ms:p=0.1' or "
    "'process:error=ConnectionError'; POINT:EFFECT[@N][:p=P], see taskqueue_core.FaultPlan; drawn by `seed`, or else "
    "by --tq-seed",
    ALLOW: f"(*checks, reason): what of its queues the test may leave behind, of {', '.join(map(repr, KINDS))}; "
    f"{'; '.join(f'{name!r}: {what}' for name, what in KINDS.items())}. The ini option {INI}=no ends these checks",
}

WATCH: pytest.StashKey[Watch] = pytest.StashKey()
FAULTY: pytest.StashKey[ExitStack] = pytest.StashKey()
TROUBLE: pytest.StashKey[bool] = pytest.StashKey()


def register(config: pytest.Config) -> None:
    """Put the hooks and markers of this module into a run."""
    for name, text in MARKERS.items():
        config.addinivalue_line("markers", name + text)
    config.pluginmanager.register(sys.modules[__name__], "taskqueue-guards")


def pytest_itemcollected(item: pytest.Item) -> None:
    """A marker that cannot be understood is a usage error that names the test."""
    try:
        for marker in item.iter_markers(ALLOW):
            _check_allowed(marker)
        for marker in item.iter_markers(FAULTS):
            _check_faults(marker)
    except ValueError as error:
        raise pytest.UsageError(f"{item.nodeid}: {error}") from None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Before its fixtures: a queue that one of them opens is the test's, too."""
    item.stash[TROUBLE] = False
    if _watched(item):
        from pytest_taskqueue.checks import Watch

        item.config.stash[WATCH] = Watch()
    if markers := list(item.iter_markers(FAULTS)):
        from taskqueue_core import FaultPlan, points

        seeds = [marker.kwargs["seed"] for marker in markers if marker.kwargs.get("seed") is not None]
        texts = [text for marker in markers for text in marker.args]
        plan = FaultPlan(*texts, seed=seeds[0] if seeds else settings(item.config).seed)
        item.stash[FAULTY] = faulty = ExitStack()
        faulty.enter_context(points.probing(plan))
        faulty.callback(plan.release)  # before the probe is removed: all waits end
    return (yield)


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
    faulty = item.stash.get(FAULTY, None)
    if faulty is not None:
        faulty.close()
        del item.stash[FAULTY]
    in_order = False
    try:
        yield
        in_order = not item.stash[TROUBLE]
    finally:
        if (watch := _unwatch(item)) is not None and not in_order and "open" not in _allowed(item):
            watch.close_left()
    if watch is not None and in_order:
        _judge(item, watch)


def _watched(item: pytest.Item) -> bool:
    """Whether the test may use queues that are its own, and not those of a comparison."""
    uses = "taskqueue_core" in sys.modules or USERS & set(getattr(item, "fixturenames", ()))
    ours = item.path.is_relative_to(Path(__file__).parent) or item.get_closest_marker(COMPARE) is not None
    return bool(uses) and not ours and bool(item.config.getini(INI))


def _unwatch(item: pytest.Item) -> Watch | None:
    watch = item.config.stash.get(WATCH, None)
    if watch is not None:
        del item.config.stash[WATCH]
        watch.end()
    return watch


def _judge(item: pytest.Item, watch: Watch) -> None:
    found = watch.problems(_allowed(item))
    if found:
        names = ", ".join(repr(name) for name in KINDS if name in found)
        lines = [f"- {line}" for lines in found.values() for line in lines]
        remedy = f"if that is as it should be: @pytest.mark.{ALLOW}({names}, reason='...')"
        pytest.fail("\n".join(["the test left something of its task queues behind:", *lines, remedy]), pytrace=False)


def _allowed(item: pytest.Item) -> set[str]:
    return {name for marker in item.iter_markers(ALLOW) for name in marker.args}


def _check_allowed(marker: pytest.Mark) -> None:
    reason = marker.kwargs.get("reason")
    unknown = [name for name in marker.args if name not in KINDS]
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
