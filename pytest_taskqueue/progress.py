"""How far a comparison is, on the terminal."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_taskqueue.results import Standing


class Progress:
    """Tells of each slot as it ends: plain lines with -v, one line that rewrites itself on a terminal, else nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._rewriting = False

    def __call__(self, standing: Standing) -> None:
        """Show the last slot."""
        from pytest_taskqueue import report

        terminal = self._config.pluginmanager.getplugin("terminalreporter")
        if terminal is None or terminal.verbosity < 0 or not (terminal.isatty or terminal.verbosity > 0):
            return
        line = report.progress_line(standing)
        capture = self._config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled() if capture is not None else nullcontext():
            if not self._rewriting:
                terminal.ensure_newline()
            if terminal.verbosity > 0 or standing.plan:
                if self._rewriting:
                    terminal.rewrite("", erase=True)
                    terminal.write("\r")
                terminal.write_line(line)
            else:
                terminal.rewrite(line.strip()[: shutil.get_terminal_size().columns - 1], erase=True)
                self._rewriting = True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """The comparison is over: its last line stays, the dots get one of their own."""
        if self._rewriting:
            self._rewriting = False
            self._config.pluginmanager.getplugin("terminalreporter").write_fspath_result(report.nodeid, "")
