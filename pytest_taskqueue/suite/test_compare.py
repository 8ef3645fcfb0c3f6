"""The comparison of --tq-compare as test items: four that publish numbers and one for each gate, per client count."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_taskqueue import bridge, export, judging, report
from pytest_taskqueue.plugin import CAMPAIGN
from pytest_taskqueue.results import ARMS, ComparisonResult
from pytest_taskqueue.verdict import Verdict

benchmark = bridge.benchmark_or_skip

METRICS = {"task_time": "time per task", "p95": "p95 latency"}
"""What is published, in seconds; pytest-benchmark's `ops` of task_time is tasks per second."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One set of items per client count; none without --tq-compare."""
    campaign = metafunc.config.stash.get(CAMPAIGN, None)
    counts = campaign.config.clients if campaign is not None else ()
    if "clock" in metafunc.fixturenames:
        items = [(clients, arm, metric) for clients in counts for arm in ARMS for metric in METRICS]
        metafunc.parametrize(
            ("clients", "arm", "metric", "clock"), [_published(metafunc.config, *item) for item in items]
        )
    else:
        gates = campaign.config.gates if campaign is not None else ()
        judged = [(clients, gate.metric) for clients in counts for gate in gates]
        metafunc.parametrize(("clients", "metric"), judged, ids=[f"c{clients}-{metric}" for clients, metric in judged])


def _published(config: pytest.Config, clients: int, arm: str, metric: str) -> Any:
    clock = bridge.ReplayClock()
    group = f"taskqueue c{clients}: {METRICS[metric]}"
    marks = [bridge.marker(clock, group=group)] if bridge.available(config) else []
    return pytest.param(clients, arm, metric, clock, id=f"c{clients}-{arm}-{metric}", marks=marks)


@pytest.fixture
def result(clients: int, request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> ComparisonResult:
    """The comparison, measured when it is first asked for. A queue that does wrong work is an error, not a failure."""
    found = judging.measure(pytestconfig.stash[CAMPAIGN], clients)
    if found.verdict is Verdict.INVALID:
        short = f"INVALID, nothing to publish: see test_gate[c{clients}-...]"
        pytest.fail(short if "clock" in request.fixturenames else report.failure_text(found), pytrace=False)
    return found


def test_publish(result: ComparisonResult, arm: str, metric: str, clock: bridge.ReplayClock, benchmark: Any) -> None:
    """Hand the measured slots of one arm to pytest-benchmark."""
    slots = [slot.figures for slot in result.slots if slot.arm == arm and slot.pair > 0]
    seconds = [figures.p95_s if metric == "p95" else 1 / figures.throughput for figures in slots]
    bridge.publish(benchmark, clock, seconds, export.published(result, arm))


def test_gate(result: ComparisonResult, metric: str, pytestconfig: pytest.Config) -> None:
    """The optimized queue has shown what this gate asks for."""
    judging.settle_gate(result, metric, pytestconfig.stash[CAMPAIGN].config.inconclusive)
