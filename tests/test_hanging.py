"""A queue that hangs anywhere is ended soon after the budget, shown where it hangs, and judged: in real processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import hanging
import pytest
from helpers import environ, until

BUDGET, MORE = 3, 5  # seconds; a process that measures for longer than both together is one that hangs
TOGETHER = 4  # processes at a time: they mostly wait
LOAD = ("clients=10", "slot=0.3", f"budget={BUDGET}", "baseline=toys:Pool")
PYTEST = ("-m", "pytest", "-p", "no:randomly", "-p", "no:hypothesispytest", "-W", "error", "--tq-compare")
SCRIPT = ("-W", "error", "-m", "pytest_taskqueue")
NO_RESULT = r"optimized: 10 tasks submitted and never completed: io-0-0, "


@dataclass(frozen=True)
class Case:
    """A queue of hanging.py, the function in which it hangs, and the reason that is given."""

    kind: str
    function: str
    reason: str
    workload: str = "io"

    @property
    def verdict(self) -> str:
        return f"^verdict: INVALID c10 {self.reason}"

    @property
    def frame(self) -> str:
        """How a traceback names the user's file and function."""
        return rf'File "{re.escape(hanging.__file__)}", line \d+, in {self.function}\n'


OPEN = Case("Open", "__init__", r"optimized \(hanging:Open\) could not be opened: no answer within [\d.]+ s")
CLOSE = Case("Close", "close", r"optimized \(hanging:Close\) could not be closed: no answer within [\d.]+ s")
OF_EXECUTOR = Case("WorkOfExecutor", "do", NO_RESULT)
OF_STRANGERS = Case("WorkOfStrangers", "serve", NO_RESULT)
CASES = [
    Case("Submit", "submit", r"optimized: 10 threads never came back from the queue: tq-client-\d, "),
    Case("SubmitOne", "submit", r"optimized: 1 thread never came back from the queue: tq-client-2 "),
    Case("Result", "result", r"optimized: 1 thread never came back from the queue: tq-client-2 "),
    OF_EXECUTOR,
    Case("WorkOfThreads", "serve", NO_RESULT),
    OF_STRANGERS,
    OPEN,
    CLOSE,
    Case("Depth", "depth", r"optimized: 1 thread never came back from the queue: tq-depth "),
    Case("Output", "output", r"optimized: \d+ threads? never came back from the queue", "thumbnail"),
]


@pytest.mark.parametrize(
    ("command", "prefix", "cases", "status"),
    [(PYTEST, "--tq-", CASES, 1), (SCRIPT, "--", [OF_EXECUTOR, OF_STRANGERS, OPEN, CLOSE], 4)],
    ids=["pytest", "script"],
)
def test_a_queue_that_hangs_is_ended_judged_and_shown_where_it_hangs(
    tmp_path: Path, command: Sequence[str], prefix: str, cases: Sequence[Case], status: int
) -> None:
    """INVALID with what hung, the user's function in the stacks, the exit status of a failure, and no process left."""
    for case, ended_with, shown in run_all(command, prefix, cases, tmp_path):
        assert ended_with == status, f"{case.kind}: {shown}"
        assert re.search(case.verdict, shown, re.MULTILINE), f"{case.kind}: {shown}"
        assert re.search(case.frame, shown), f"{case.kind}: {shown}"


def run_all(
    command: Sequence[str], prefix: str, cases: Sequence[Case], directory: Path
) -> Iterable[tuple[Case, int, str]]:
    """Each case in a process and a folder of its own: its exit status and what it printed."""

    def run(case: Case) -> tuple[Case, int, str]:
        options = [*LOAD, f"optimized=hanging:{case.kind}", f"workload={case.workload}"]
        (folder := directory / case.kind).mkdir()
        status, shown = ended([*command, *(prefix + option for option in options)], folder)
        return case, status, shown

    with ThreadPoolExecutor(TOGETHER) as together:
        yield from together.map(run, cases)


def ended(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Exit status and output of a Python process that ends in time and leaves no process of its group behind."""
    own = {name: value for name, value in environ().items() if not name.startswith("PYTEST_")}
    own["PYTHONPATH"] += os.pathsep + str(Path(hanging.__file__).parent)
    own["PYTHONUNBUFFERED"] = "1"
    output = folder / "output"
    with output.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=folder, env=own, stdout=file, stderr=file, start_new_session=True
        )
        try:
            until(lambda: "taskqueue: toys:Pool against" in output.read_text(encoding="utf-8"))  # what is imported, is
            status = process.wait(BUDGET + MORE)
        except subprocess.TimeoutExpired:
            pytest.fail(f"not ended {MORE} s after its budget: {arguments}\n{output.read_text(encoding='utf-8')}")
        finally:
            process.kill()
            process.wait()
    if hasattr(os, "killpg"):
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    return status, output.read_text(encoding="utf-8")
