"""The conformance suite in a pytest run: its options, what it shows, the file it writes. It examines nothing."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_taskqueue import plugin
from pytest_taskqueue.conformance import table
from pytest_taskqueue.conformance.checks import CHECKS, Check
from pytest_taskqueue.conformance.examination import Examination
from pytest_taskqueue.conformance.outcomes import Outcome, Status, Unfit
from pytest_taskqueue.naming import catalogue
from pytest_taskqueue.options import conformance_options
from pytest_taskqueue.wording import printable

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

SUITE = Path(__file__).parent / "suite" / "conformance.py"
SUITE_ID = "pytest_taskqueue/suite/conformance.py"
"""How it is called wherever it is installed."""
MODULE = "pytest_taskqueue.suite.conformance"

TIMEOUT = 300
"""Seconds for one test, unless a limit was asked for: what hangs is given up long before."""

RUN: pytest.StashKey[ConformanceRun] = pytest.StashKey()
OUTCOME: pytest.StashKey[Outcome] = pytest.StashKey()
"""What a test has found."""
UNFIT: pytest.StashKey[str] = pytest.StashKey()
"""Why nothing can be examined."""


def asked(config: pytest.Config) -> bool:
    """Whether the suite is among what this run was told to run; then under names that can be found."""
    heads = [arg.partition("::") for arg in config.args]
    named = [_is_suite(head) for head, _, _ in heads]
    config.args = [
        str(SUITE) + separator + tail if ours else head + separator + tail
        for ours, (head, separator, tail) in zip(named, heads, strict=True)
    ]
    return any(named)


def _is_suite(name: str) -> bool:
    return name in (MODULE, SUITE_ID) or (name.endswith(SUITE.name) and Path(name).absolute() == SUITE)


class ConformanceRun:
    """A plugin for runs of the suite alone. Raises UsageError for a subject or a promise that is not known."""

    def __init__(self, config: pytest.Config) -> None:
        options = conformance_options(config)
        self.subject, self._file = options["subject"], options["conformance_json"]
        self._config = config
        self._outcomes: dict[str, Outcome] = {}
        self._unwritten = ""
        self._unfit = ""
        self._told = False
        try:
            factory = catalogue(config).subject(self.subject)
            self.examination = Examination(self.subject, factory, promises=options["promises"])
        except ValueError as error:
            raise pytest.UsageError(f"conformance: {error}") from None

    def fit(self, item: pytest.Item, check: Check) -> None:
        """Before a promise is tried. What cannot be examined is one error, which blames no promise; the rest skips."""
        try:
            self.examination.look()
        except Unfit as found:
            unfit = found
        else:
            return
        item.stash[OUTCOME] = Outcome(check.name, check.text, Status.NOT_TRIED, str(unfit), 0.0, unfit.stacks)
        item.stash[UNFIT] = unfit.reason
        if self._told:
            pytest.skip(f"{Status.NOT_TRIED}: {unfit}")
        self._told = True
        pytest.fail(table.unfit_text(unfit), pytrace=False)

    def pytest_report_header(self) -> str:
        """Say who is examined."""
        held = conformance_options(self._config)["promises"]
        return f"taskqueue: conformance of {self.subject}, promises: {held}"

    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
        """Give the suite its id; without it, it would be relative to whatever the root folder is."""
        if module_path != SUITE:
            return None
        return pytest.Module.from_parent(parent, path=module_path, nodeid=SUITE_ID)

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """A limit of the ini file is for ordinary tests."""
        if item.path == SUITE:
            plugin.limit(item, TIMEOUT)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """The report carries what was found, to another process as well; the summary begins with it."""
        report = yield
        if call.when != "teardown" and OUTCOME in item.stash:
            report.taskqueue_outcome = table.plain(item.stash[OUTCOME])  # type: ignore[attr-defined]
            report.taskqueue_unfit = item.stash.get(UNFIT, "")  # type: ignore[attr-defined]
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is not None and item.path == SUITE:
            crash.message = crash.message.removeprefix("Failed: ")
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Collect what came out, wherever it was run."""
        content = getattr(report, "taskqueue_outcome", None)
        if content is not None:
            self._outcomes[content["name"]] = table.outcome_of(content)
        self._unfit = getattr(report, "taskqueue_unfit", "") or self._unfit

    @property
    def outcomes(self) -> list[Outcome]:
        """So far, in the order of the promises."""
        return [self._outcomes[check.name] for check in CHECKS if check.name in self._outcomes]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file. What a queue leaves behind is not waited for when the process ends."""
        if hasattr(session.config, "workerinput"):
            return
        self._write()
        if self._unwritten and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.stash[plugin.STATUS] = int(session.exitstatus)

    def _write(self) -> None:
        if not self._file or not self.outcomes:
            return
        path = self._config.invocation_params.dir / self._file
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(table.to_json(self.subject, self.outcomes), encoding="utf-8")
        except OSError as error:
            self._unwritten = f"--tq-conformance-json {self._file}: {error.strerror or error}"

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> Generator[None, None, None]:
        """The table; with -q one line."""
        try:
            yield
        finally:
            self._show(terminalreporter)

    def _show(self, terminal: TerminalReporter) -> None:
        if self.outcomes and terminal.verbosity >= 0:
            terminal.section(f"taskqueue conformance: {self.subject}", sep="-")
            for line in table.lines(self.outcomes):
                terminal.write_line(line)
            terminal.write_line("")
        if self._unfit:
            terminal.write_line(f"conformance: nothing examined: {printable(self._unfit)}")
        elif self.outcomes:
            terminal.write_line(table.summary(self.outcomes))
        if self._unwritten:
            terminal.write_line(self._unwritten)
