"""crash_at: a story is played in a process of its own, and the process killed at a named point."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskqueue_core import clock, points

KILLED = 137
"""How the process ends on Windows, where there is no SIGKILL."""
CHILD = """
import pickle, sys
play = pickle.load(sys.stdin.buffer)
sys.path[:] = play["sys_path"]
from pytest_taskqueue.testing.victim import main
main(play)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """What a process that was killed has left: its output, and how often it reached each point before it died."""

    point: str
    nth: int
    output: str
    reached: dict[str, int]


def crash_at(
    point: str, story: Callable[..., object], *args: Any, nth: int = 1, timeout: float = 30.0, **kwargs: Any
) -> Crash:
    """Play `story(*args, **kwargs)` in a new process, and kill that (SIGKILL) when it reaches a point the n-th time.

        def story(ledger):
            with TaskQueue(work, ledger=ledger) as queue:
                queue.submit(Task("a")).result()

        def test_nothing_is_lost(make_tq_queue, tmp_path):
            crash_at("settle.before_commit", story, ledger=tmp_path / "tasks.db")
            queue = make_tq_queue(work, ledger=tmp_path / "tasks.db")
            assert queue.submit(Task("a")).result(10) == "done"

    The points are `taskqueue_core.points.POINTS`. The story is a function at the top level of a file, which the new
    process imports; its arguments are pickled. It is a real process that really dies: what is in the ledger then was
    written by a queue that had no chance to tidy up. Processes that the story has started are killed after it, but for
    those in a session of their own, and those on Windows. It does not show a power cut.

    Raises ValueError for an unknown point or a story that cannot be imported, AssertionError when the story ended or
    raised before the point was reached, and TimeoutError when that took longer than `timeout` seconds.
    """
    __tracebackhide__ = True
    if point not in points.POINTS:
        raise ValueError(f"there is no point {point!r}; the points are {', '.join(points.POINTS)}")
    if nth < 1:
        raise ValueError(f"nth counts from 1, got {nth!r}")
    with tempfile.TemporaryDirectory(prefix="tq-crash-", ignore_cleanup_errors=True) as folder:
        report = Path(folder) / "report.json"
        play = _play(story, args, kwargs) | {"point": point, "nth": nth, "report": str(report)}
        ended, output = _run(pickle.dumps(play), Path(folder) / "output.txt", point, timeout)
        told = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
    if ended == _killed() and told.get("killed"):
        return Crash(point=point, nth=nth, output=output, reached=told["reached"])
    raise AssertionError(_why_not(point, nth, story, told, ended, output))


def _play(story: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the new process needs to know."""
    name, module = getattr(story, "__qualname__", repr(story)), getattr(story, "__module__", "")
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or getattr(sys.modules[module], name, None) is not story:
        raise ValueError(
            f"a new process cannot import the story {name!r}: make it a function at the top level of a file, "
            "and give it what it needs as arguments"
        )
    try:
        arguments = pickle.dumps((args, kwargs))
    except Exception as error:
        raise ValueError(f"the arguments of {name!r} cannot be given to a new process: {error}") from error
    return {
        "sys_path": sys.path,
        "module": module,
        "file": str(Path(file).resolve()),
        "name": name,
        "arguments": arguments,
        "shift": clock.shift(),
    }


def _run(play: bytes, output: Path, point: str, timeout: float) -> tuple[int, str]:
    """How the process ended, and what it printed: to a file, since whatever it has started may hold a pipe open."""
    __tracebackhide__ = True
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    with (
        output.open("wb") as printed,
        subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # no effect on Windows
        ) as process,
    ):
        try:
            process.communicate(play, timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"the story neither ended nor reached {point!r} within {timeout:g} s, and was killed"
                f"{_shown(_printed(output))}"
            ) from None
        finally:
            _kill(process)
    return process.returncode, _printed(output)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started, where the system has groups of processes."""
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(
            ProcessLookupError, PermissionError
        ):  # nobody is left of the group (macOS has another name for it)
            os.killpg(process.pid, signal.SIGKILL)


def _printed(output: Path) -> str:
    return output.read_text(encoding="utf-8", errors="replace")


def _killed() -> int:
    return KILLED if os.name == "nt" else -signal.SIGKILL


def _why_not(point: str, nth: int, story: Callable[..., object], told: dict[str, Any], ended: int, output: str) -> str:
    name, reached = story.__qualname__, told.get("reached", {})
    place = repr(point) if nth == 1 else f"{point!r} {nth} times"
    passed = ", ".join(f"{where} x{count}" for where, count in reached.items()) or "none"
    if "raised" in told:
        raised = told["raised"].rstrip()
        return f"{name} raised before it reached {place}; it reached {passed}:\n{raised}{_shown(output)}"
    if "reached" in told and ended == 0:
        return f"{name} ended and never reached {place}; it reached {passed}{_shown(output)}"
    return f"the process of {name} ended with status {ended} before it reached {place}{_shown(output)}"


def _shown(output: str) -> str:
    return f"\nits output:\n{output}" if output.strip() else ""
