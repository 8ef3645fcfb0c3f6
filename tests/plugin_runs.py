"""Real pytest processes for the tests of the plugin, and what they show."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import toys

if TYPE_CHECKING:
    import pytest

TIMEOUT = 50  # seconds: a limit that only a hang reaches
QUICK = ("-p", "no:randomly", "-p", "no:hypothesispytest")
SHORT = ("--tq-compare", "--tq-clients=2", "--tq-slot=0.3", "--tq-workload=io")
MET = ("--tq-gate=throughput>=0.0001x", "--tq-gate=p95<=10000x")
"""Met by whatever runs at all, on however busy a machine."""
UNSHOWN = "--tq-budget=0.001"
"""One pair, so nothing is decided."""

OUTCOME = re.compile(r"^pytest_taskqueue/suite/test_compare\.py::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", re.MULTILINE)
VERDICT = re.compile(r"^verdict: .*$", re.MULTILINE)

DRIVER = """
import json, sys
import pytest

sys.stderr = sys.stdout
for number, args in enumerate(json.load(open("runs.json", encoding="utf-8"))):
    print(f"##### {number}", flush=True)
    print("exit", int(pytest.main(args)), flush=True)
"""
"""Several runs in one process, because starting one is what takes time. Not for comparisons, which watch its exit."""


def arms(baseline: str, optimized: str, file: str = toys.__file__) -> tuple[str, str]:
    return f"--tq-baseline={file}:{baseline}", f"--tq-optimized={file}:{optimized}"


SAME = arms("Pool", "Pool")


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    """One run in a process of its own."""
    return pytester.runpytest_subprocess(*QUICK, *args, timeout=TIMEOUT)


def each(pytester: pytest.Pytester, *runs: tuple[str, ...]) -> list[tuple[int, str]]:
    """Exit status and output of several runs."""
    results = [run(pytester, *args) for args in runs]
    return [(int(result.ret), out(result) + result.stderr.str()) for result in results]


def together(pytester: pytest.Pytester, *runs: tuple[str, ...]) -> list[str]:
    """Several runs; the output of each, which ends with its exit status."""
    pytester.path.joinpath("runs.json").write_text(json.dumps([[*QUICK, *args] for args in runs]), encoding="utf-8")
    shown = out(pytester.run(sys.executable, pytester.makepyfile(driver=DRIVER), timeout=TIMEOUT))
    found = re.split(r"##### \d+\n", shown)[1:]
    assert len(found) == len(runs), shown
    return found


def out(result: pytest.RunResult) -> str:
    return result.stdout.str()


def junit(path: Path) -> dict[str, ET.Element]:
    """The test cases of a JUnit file, by name."""
    return {case.attrib["name"]: case for case in ET.parse(path).iter("testcase")}
