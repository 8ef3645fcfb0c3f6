"""Fixtures that measure: loads, and comparisons inside a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_taskqueue.config import CompareConfig
    from pytest_taskqueue.results import ComparisonResult, SlotResult


@pytest.fixture
def tq_load(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tq_config: CompareConfig
) -> Callable[..., SlotResult]:
    """Runs a load: `tq_load("optimized", clients=50, tasks=300, workload="io")` gives its figures and problems.

    The subject and the workload are names as in --tq-optimized and --tq-workload, or classes. Every client does the
    same number of tasks.
    """
    from pytest_taskqueue.naming import Names
    from pytest_taskqueue.slots import SlotRunner

    def load(subject: Any = "optimized", *, clients: int = 50, tasks: int = 300, workload: Any = "io") -> SlotResult:
        if tasks % clients:
            even = tasks // clients * clients or clients
            raise ValueError(f"{tasks} tasks cannot be shared evenly by {clients} clients: use {even}, for example")
        names = Names(request)
        name, work = names.of("subject", subject), names.of("workload", workload)
        catalogue = names.catalogue()
        directory = tmp_path_factory.mktemp("load")
        runner = SlotRunner(catalogue.workload(work, tq_config.seed), tq_config, clients, directory)
        return runner.run(name, catalogue.subject(name), lambda loop: loop.run_tasks(tasks // clients)).result

    return load


@pytest.fixture
def tq_compare(request: pytest.FixtureRequest) -> Callable[..., ComparisonResult]:
    """Compares two queues and returns the result: `result = tq_compare(optimized="new.py:New", clients=20)`.

    It takes the --tq-* options by name. A subject or a workload is a name (also of a fixture that gives a class), or
    a class. `assert result.passed` decides as --tq-compare does, and whatever fails in the test shows the evidence;
    `result.verdict`, `result.gates` and `result.arms` have the figures. The test is skipped where nothing can be
    judged, under xdist or coverage.
    """
    from pytest_taskqueue import plugin
    from pytest_taskqueue.judging import compare

    def measure(**options: Any) -> ComparisonResult:
        result = compare(request, options)
        request.node.stash.setdefault(plugin.EVIDENCE, []).append(result)
        return result

    return measure


@pytest.fixture
def tq_comparison(request: pytest.FixtureRequest) -> ComparisonResult:
    """The comparison of a test that is marked `tq_compare(clients=20, optimized="new.py:New", ...)`, with all figures.

    The test is skipped where no comparison can be judged, and is an error when a queue did wrong work.
    """
    from pytest_taskqueue import plugin, report
    from pytest_taskqueue.judging import compare
    from pytest_taskqueue.verdict import Verdict

    marker = request.node.get_closest_marker(plugin.MARKER)
    if marker is None:
        pytest.fail(f"tq_comparison is for tests that are marked {plugin.MARKER}(...)", pytrace=False)
    result = compare(request, marker.kwargs, marker.args)
    if result.verdict is Verdict.INVALID:
        pytest.fail(report.failure_text(result), pytrace=False)
    return result
