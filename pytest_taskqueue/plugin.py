"""The pytest plugin: options, hooks, reporting. It measures nothing and computes nothing.

Loaded in every pytest run of everybody who has it installed, so it imports the harness and the queue only when
they are used.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Callable, Collection, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_taskqueue.config import INI_PREFIX
from pytest_taskqueue.options import CONFORMANCE, add_options, settings

if TYPE_CHECKING:
    from pytest_taskqueue.campaign import Campaign
    from pytest_taskqueue.config import CompareConfig
    from pytest_taskqueue.results import ComparisonResult, Standing

SUITE = Path(__file__).parent / "suite" / "test_compare.py"
SUITE_ID = "pytest_taskqueue/suite/test_compare.py"
"""How its items are called wherever it is installed, so that saved benchmarks of two machines can be compared."""

PROGRESS = "taskqueue-progress"
CAMPAIGN: pytest.StashKey[Campaign] = pytest.StashKey()
TIMEOUT_MARGIN = 60
"""Seconds that the items of a comparison have beyond its budget."""

MARKER = "tq_compare"
MARKED: pytest.StashKey[list[tuple[str, ComparisonResult, list[Path]]]] = pytest.StashKey()
EVIDENCE: pytest.StashKey[list[ComparisonResult]] = pytest.StashKey()
STATUS: pytest.StashKey[int] = pytest.StashKey()
THREADS: pytest.StashKey[Collection[threading.Thread]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --tq-compare and the options of a comparison."""
    add_options(parser)
    parser.addini("tq_checks", "look after each test for what its task queues left behind", type="bool", default=True)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """The hooks that others may implement."""
    from pytest_taskqueue import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register fixtures and marker; under --tq-compare check the options and put the comparison into the run."""
    from pytest_taskqueue import comparing, fixtures, guards
    from pytest_taskqueue.progress import Progress

    config.pluginmanager.register(fixtures, "taskqueue-fixtures")
    config.pluginmanager.register(comparing, "taskqueue-comparing")
    guards.register(config)
    config.addinivalue_line(
        "markers",
        f"{MARKER}(**options): compare two queues before the test, by the --tq-* options, which may be given here "
        "(clients=20, optimized='new.py:New'); the test runs when the verdict is PASS, and fails, skips or errs else",
    )
    config.stash[MARKED] = []
    config.stash[THREADS] = frozenset(threading.enumerate())
    config.pluginmanager.register(Progress(config), PROGRESS)
    _configure_conformance(config)
    if not config.option.tq_compare or hasattr(config, "workerinput"):
        return
    from pytest_taskqueue.campaign import Campaign
    from pytest_taskqueue.judging import unfit
    from pytest_taskqueue.naming import catalogue

    if (reason := unfit(config)) is not None:
        raise pytest.UsageError(f"--tq-compare {reason}")
    try:
        config.stash[CAMPAIGN] = Campaign(
            settings(config), config.rootpath, command_line(config), progress(config), catalogue(config)
        )
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    named = [str(SUITE) + arg.removeprefix(SUITE_ID) for arg in config.args if arg.startswith(SUITE_ID)]
    config.args = named or [str(SUITE)]  # as a red test is called in the summary; nothing else is collected


def _configure_conformance(config: pytest.Config) -> None:
    """When the conformance suite is among what is run, take part."""
    given = [option.flag() for option in CONFORMANCE if getattr(config.option, INI_PREFIX + option.name) is not None]
    if any("conformance" in arg for arg in config.args):  # nobody else has to wait for the imports
        from pytest_taskqueue import examining

        if examining.asked(config):
            if config.option.tq_compare:
                raise pytest.UsageError("--tq-compare and the conformance suite: one at a time")
            config.stash[examining.RUN] = examining.ConformanceRun(config)
            config.pluginmanager.register(config.stash[examining.RUN], "taskqueue-conformance")
            return
    if given:
        raise pytest.UsageError(f"{given[0]} is for the conformance suite: --pyargs pytest_taskqueue.suite.conformance")


def marked(item: pytest.Item) -> CompareConfig:
    """The options of a marked test."""
    marker = item.get_closest_marker(MARKER)
    assert marker is not None
    return settings(item.config, marker.kwargs, marker.args)


def command_line(config: pytest.Config) -> str:
    """What this run was started with, for the reports."""
    return shlex.join(["pytest", *map(str, config.invocation_params.args)])


def progress(config: pytest.Config) -> Callable[[Standing], None]:
    """Shows how far a comparison is."""
    shows: Callable[[Standing], None] = config.pluginmanager.getplugin(PROGRESS)
    return shows


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


def pytest_itemcollected(item: pytest.Item) -> None:
    """A marked test is compared before it is run."""
    if item.get_closest_marker(MARKER) is not None and isinstance(item, pytest.Function):
        item.fixturenames.insert(0, "tq_comparison")  # first: nothing else is set up while two queues are measured
        try:
            budget = marked(item).budget
        except pytest.UsageError as error:
            raise pytest.UsageError(f"{item.nodeid}: {error}") from None
        limit(item, budget + TIMEOUT_MARGIN)
    elif "tq_compare" in getattr(item, "fixturenames", ()):
        limit(item, 0)  # none: each of its comparisons has a budget


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """The verdict comes before what the test itself has to say."""
    comparison = getattr(item, "funcargs", {}).get("tq_comparison")
    if comparison is not None:
        from pytest_taskqueue.judging import settle

        settle(comparison, marked(item).inconclusive)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The summary begins with the verdict, where pytest would put how it was raised; a red test that has compared
    queues itself shows what came out.
    """
    report = yield
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None and (item.path == SUITE or item.get_closest_marker(MARKER) is not None):
        crash.message = crash.message.removeprefix("Failed: ")
    if report.failed and report.when == "call":
        report.sections += [("taskqueue: what was compared", str(result)) for result in item.stash.get(EVIDENCE, [])]
    return report


def _prepare(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Publish before judging, one client count after the other."""
    clients = settings(config).clients
    items.sort(key=lambda item: (clients.index(_callspec(item).params["clients"]), item.name.startswith("test_gate")))
    for item in items:
        limit(item, settings(config).budget + TIMEOUT_MARGIN)


def limit(item: pytest.Item, seconds: float) -> None:
    """Give it the time that measuring may take: a limit of the ini file is for ordinary tests. One that was asked for
    on the command line, in the environment or by a marker stays.
    """
    config = item.config
    asked = getattr(config.option, "timeout", None) is not None or os.environ.get("PYTEST_TIMEOUT")
    if config.pluginmanager.hasplugin("timeout") and not asked and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(seconds))


def _callspec(item: pytest.Item) -> Any:
    return item.callspec  # type: ignore[attr-defined]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Exit status 0 says that every comparison passed, whatever was deselected or skipped."""
    config = session.config
    if CAMPAIGN not in config.stash:
        return
    if session.exitstatus == pytest.ExitCode.OK and _unpassed(config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    config.stash[STATUS] = int(session.exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """After a comparison do not wait for threads that a queue has left behind."""
    if STATUS in config.stash and _is_program():
        from pytest_taskqueue.hangs import watch_exit

        watch_exit(config.stash[STATUS], config.stash[THREADS])


def _is_program() -> bool:
    """Whether the process is pytest's own: one that calls pytest.main goes on afterwards, and is not ours to end."""
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    return main.stem in ("pytest", "py.test") or main.parent.name == "pytest"


def _unpassed(config: pytest.Config) -> list[str]:
    """The comparisons that are no PASS: of those asked for, one may have been deselected."""
    campaign = config.stash[CAMPAIGN]
    verdicts = {result.clients: result.verdict for result in campaign.results()}
    if not verdicts:  # --collect-only, --setup-plan
        return []
    missing = [clients for clients in campaign.config.clients if clients not in verdicts]
    return [
        *(f"c{clients} is {verdict.name}" for clients, verdict in verdicts.items() if verdict.exit_status),
        *(f"c{clients} was not measured" for clients in missing),
    ]


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, object]) -> None:
    """Put the comparisons, slots left out, into pytest-benchmark's files."""
    if CAMPAIGN in config.stash:
        from pytest_taskqueue import bridge, export

        results = [export.to_dict(result) for result in config.stash[CAMPAIGN].results()]
        bridge.update_json(output_json, [{**result, "slots": len(result["slots"])} for result in results])


@pytest.hookimpl(wrapper=True, trylast=True)  # after the tables of pytest-benchmark, though they end in an error
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> Generator[None, None, None]:
    """Show each comparison: the table, the verdict, the files; the verdict alone with -q."""
    try:
        yield
    finally:
        if CAMPAIGN in config.stash:
            _summarize(terminalreporter, exitstatus, config)
        if config.stash[MARKED]:
            _summarize_marked(terminalreporter, config)


def _summarize(terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config) -> None:
    from pytest_taskqueue import report

    campaign = config.stash[CAMPAIGN]
    for clients, ended in campaign.ended().items():
        terminalreporter.write_line(f"no verdict: c{clients} was ended before it was over: {ended}")
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
    if exitstatus == pytest.ExitCode.OK and (undecided := _unpassed(config)):
        terminalreporter.write_line(f"exit status {int(pytest.ExitCode.TESTS_FAILED)}: {', '.join(undecided)}")


def _summarize_marked(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A line for each marked test, also for those that passed; where its files are, unless with -q."""
    from pytest_taskqueue import report

    if terminalreporter.verbosity >= 0:
        terminalreporter.section("taskqueue: marked tests", sep="-")
    for nodeid, result, files in config.stash[MARKED]:
        terminalreporter.write_line(f"{nodeid}: {report.verdict_line(result)}")
        if terminalreporter.verbosity >= 0 and files:
            terminalreporter.write_line(f"  report: {_short(files[0], config)}")


def _short(path: Path, config: pytest.Config) -> str:
    here = config.invocation_params.dir
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
