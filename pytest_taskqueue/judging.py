"""A comparison as the outcome of a test: PASS passes, FAIL fails, INVALID is an error, INCONCLUSIVE as it was asked."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import pytest

from pytest_taskqueue import report
from pytest_taskqueue.campaign import Campaign, Interrupted
from pytest_taskqueue.naming import KINDS, Names
from pytest_taskqueue.options import settings
from pytest_taskqueue.results import ComparisonResult
from pytest_taskqueue.verdict import Verdict

UNFIT = {
    "benchmark_disable": "publishes through pytest-benchmark",
    "benchmark_skip": "publishes through pytest-benchmark",
    "benchmark_only": "judges in tests that are no benchmarks",
}
"""Options of pytest-benchmark that would take a part of the comparison away, and why that is no good."""


def unfit(config: pytest.Config) -> str | None:
    """Why this run cannot judge, and what to change; None where it can."""
    option = config.option
    workers = getattr(option, "numprocesses", None)
    if hasattr(config, "workerinput") or workers or getattr(option, "dist", "no") != "no":
        workers = workers or getattr(config, "workerinput", {}).get("workercount")
        given = f"-n {workers}" if workers else f"--dist {option.dist}"
        return (
            f"measures with real threads and cannot share the machine with xdist workers ({given}): "
            "run it on its own, or add -n 0 --dist no"
        )
    covered = getattr(option, "cov_source", None) and not getattr(option, "no_cov", False)
    if covered or getattr(option, "trace", False) or _traced():
        return (
            "cannot judge under coverage, a debugger or another tracer, which slows the two queues unequally: "
            "run it without, with pytest-cov add --no-cov"
        )
    for name, reason in UNFIT.items():
        if getattr(option, name, False):
            return f"{reason}: leave --{name.replace('_', '-')} out"
    return None


def measure(campaign: Campaign, clients: int) -> ComparisonResult:
    """The comparison, measured when it is first asked for; one that was ended before is not begun again."""
    try:
        return campaign.result(clients)
    except Interrupted as ended:
        reason = f"no verdict: {ended}"
    pytest.fail(reason, pytrace=False)


def compare(
    request: pytest.FixtureRequest, options: Mapping[str, object], args: Sequence[object] = ()
) -> ComparisonResult:
    """The comparison that a test asks for, by the options it names. Skips the test where none can be judged."""
    from pytest_taskqueue import plugin

    config = request.config
    if (reason := unfit(config)) is not None:
        pytest.skip(f"a comparison {reason}")
    problem = ""
    try:
        names = Names(request)
        texts = {name: names.of(KINDS[name], given) if name in KINDS else given for name, given in options.items()}
        campaign = Campaign(
            settings(config, texts, args),
            config.rootpath,
            plugin.command_line(config),
            plugin.progress(config),
            names.catalogue(),
        )
    except (ValueError, pytest.UsageError) as error:
        problem = str(error)
    if problem:
        pytest.fail(problem, pytrace=False)
    result = measure(campaign, *campaign.config.clients)
    config.stash[plugin.MARKED].append((request.node.nodeid, result, campaign.files[result.clients]))
    return result


def settle(result: ComparisonResult, inconclusive: str) -> None:
    """Fail, or skip where that was asked for, unless the verdict is PASS."""
    if result.verdict is not Verdict.PASS:
        refuse(report.failure_text(result), result.verdict, inconclusive)


def settle_gate(result: ComparisonResult, metric: str, inconclusive: str) -> None:
    """The same for one gate of the comparison."""
    verdict = next((gate.verdict for gate in result.gates if gate.metric == metric), result.verdict)
    if verdict is not Verdict.PASS:
        refuse(report.gate_text(result, metric), verdict, inconclusive)


def refuse(text: str, verdict: Verdict, inconclusive: str) -> NoReturn:
    """A red test with its evidence, or a skipped one."""
    if verdict is Verdict.INCONCLUSIVE and inconclusive == "skip":
        pytest.skip(text)
    pytest.fail(text, pytrace=False)


def _traced() -> bool:
    """Whether a tracer or profiler is at work in this thread or, by sys.monitoring of Python 3.12, in all of them."""
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(number) for number in range(6))
