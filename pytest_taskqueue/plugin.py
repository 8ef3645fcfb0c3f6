"""The pytest plugin: options, hooks, reporting. It measures nothing and computes nothing.

Loaded in every pytest run of everybody who has it installed, so it imports the harness and the queue only when
they are used.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskqueue.options import add_options, settings

if TYPE_CHECKING:
    from pytest_taskqueue.campaign import Campaign
    from pytest_taskqueue.results import SlotResult

SUITE = Path(__file__).parent / "suite" / "test_compare.py"
SUITE_ID = "pytest_taskqueue/suite/test_compare.py"
"""How its items are called wherever it is installed, so that saved benchmarks of two machines can be compared."""

CAMPAIGN: pytest.StashKey[Campaign] = pytest.StashKey()
TIMEOUT_MARGIN = 60
"""Seconds that the items of a comparison have beyond its budget."""

UNFIT = {
    "benchmark_disable": "publishes through pytest-benchmark",
    "benchmark_skip": "publishes through pytest-benchmark",
    "benchmark_only": "judges in tests that are no benchmarks",
}
"""Options of pytest-benchmark that would take a part of the comparison away, and why that is no good."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --tq-compare and the options of a comparison."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the fixtures; under --tq-compare check the options and put the shipped comparison into the run."""
    from pytest_taskqueue import fixtures

    config.pluginmanager.register(fixtures, "taskqueue-fixtures")
    if not config.option.tq_compare or hasattr(config, "workerinput"):
        return
    _refuse_where_it_cannot_judge(config)
    from pytest_taskqueue.campaign import Campaign

    progress = _Progress(config)
    config.pluginmanager.register(progress, "taskqueue-progress")
    command = shlex.join(["pytest", *map(str, config.invocation_params.args)])
    try:
        config.stash[CAMPAIGN] = Campaign(settings(config), config.rootpath, command, progress)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        config.args.append(str(SUITE))
    else:
        config.args = [str(SUITE)]


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what will be compared and decided before anything is measured; nothing in other runs."""
    if CAMPAIGN not in config.stash:
        return []
    from pytest_taskqueue.comparison import declaration

    return declaration(settings(config))


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Give the shipped comparison its id; without it, it would be relative to whatever the root folder is."""
    if module_path != SUITE:
        return None
    return pytest.Module.from_parent(parent, path=module_path, nodeid=SUITE_ID)


@pytest.hookimpl(trylast=True)  # after whoever shuffles
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under --tq-compare keep the comparison alone, else keep it out."""
    compares = CAMPAIGN in config.stash
    kept = [item for item in items if (item.path == SUITE) is compares]
    deselected = [item for item in items if (item.path == SUITE) is not compares]
    if compares:
        _prepare(config, kept)
    if deselected:
        config.hook.pytest_deselected(items=deselected)
    items[:] = kept


def _prepare(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Publish before judging, one client count after the other; each item has the time the measuring may take."""
    clients = settings(config).clients
    items.sort(key=lambda item: (clients.index(_callspec(item).params["clients"]), item.name.startswith("test_gate")))
    if config.pluginmanager.hasplugin("timeout"):
        for item in items:
            item.add_marker(pytest.mark.timeout(settings(config).budget + TIMEOUT_MARGIN))


def _callspec(item: pytest.Item) -> Any:
    return item.callspec  # type: ignore[attr-defined]


def _refuse_where_it_cannot_judge(config: pytest.Config) -> None:
    option = config.option
    workers = getattr(option, "numprocesses", None)
    if workers or getattr(option, "dist", "no") != "no":
        given = f"-n {workers}" if workers else f"--dist {option.dist}"
        raise pytest.UsageError(
            f"--tq-compare measures with real threads and cannot share the machine with xdist workers ({given}): "
            "run it on its own, or add -p no:xdist"
        )
    covered = getattr(option, "cov_source", None) and not getattr(option, "no_cov", False)
    if covered or _traced():
        raise pytest.UsageError(
            "--tq-compare cannot judge under coverage, a debugger or another tracer, which slows the two queues "
            "unequally: run it without, with pytest-cov add --no-cov"
        )
    for name, reason in UNFIT.items():
        if getattr(option, name, False):
            raise pytest.UsageError(f"--tq-compare {reason}: leave --{name.replace('_', '-')} out")


def _traced() -> bool:
    """Whether a tracer or profiler is at work in this thread or, by sys.monitoring of Python 3.12, in all of them."""
    if sys.gettrace() is not None or sys.getprofile() is not None:
        return True
    monitoring = getattr(sys, "monitoring", None)
    return monitoring is not None and any(monitoring.get_tool(number) for number in range(6))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, object]) -> None:
    """Put the comparisons, slots left out, into pytest-benchmark's files."""
    if CAMPAIGN in config.stash:
        from pytest_taskqueue import bridge, report

        results = [report.to_dict(result) for result in config.stash[CAMPAIGN].results()]
        bridge.update_json(output_json, [{**result, "slots": len(result["slots"])} for result in results])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show each comparison: the table, the verdict, the files; the verdict alone with -q."""
    if CAMPAIGN not in config.stash:
        return
    from pytest_taskqueue import report

    campaign = config.stash[CAMPAIGN]
    for result in campaign.results():
        if terminalreporter.verbosity >= 0:
            terminalreporter.section(f"taskqueue: {result.clients} clients", sep="-")
            for line in report.table(result):
                terminalreporter.write_line(line)
            terminalreporter.write_line("")
        terminalreporter.write_line(report.verdict_line(result))
        files = [path for path in campaign.files[result.clients] if path.name != "latest.json"]
        if terminalreporter.verbosity >= 0 and files:
            terminalreporter.write_line("report: " + "  ".join(_short(path, config) for path in files))


def _short(path: Path, config: pytest.Config) -> str:
    here = config.invocation_params.dir
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


class _Progress:
    """Tells of each slot as it ends: plain lines with -v, one line that rewrites itself on a terminal, else nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rewriting = False

    def __call__(self, slots: Sequence[SlotResult]) -> None:
        """Show the last slot."""
        from pytest_taskqueue import report

        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is None or terminal.verbosity < 0 or not (terminal.isatty or terminal.verbosity > 0):
            return
        line = report.progress_line(slots)
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
            if not self._rewriting:
                terminal.ensure_newline()
            if terminal.verbosity > 0:
                terminal.write_line(line)
            else:
                terminal.rewrite(line, erase=True)
                self._rewriting = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The comparison is over: its last line stays, the dots get one of their own."""
        if self._rewriting:
            self._rewriting = False
            self._config.pluginmanager.getplugin("terminalreporter").write_fspath_result(report.nodeid, "")
