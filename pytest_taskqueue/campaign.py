"""The comparisons of one run: measured once when they are first asked for, then shared by all who show them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_taskqueue import export
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.comparison import Comparison
from pytest_taskqueue.config import CompareConfig, ConfigError
from pytest_taskqueue.results import ComparisonResult, Standing
from pytest_taskqueue.wording import said


class Interrupted(Exception):  # noqa: N818 - by a time limit, Ctrl-C, or an error of the harness
    """A comparison has no result because measuring it was ended."""


class Campaign:
    """One comparison for every client count of the configuration; results are files below `root`, too.

    Raises ConfigError for a subject or a workload that does not exist, and for a folder that cannot be made.
    """

    def __init__(
        self,
        config: CompareConfig,
        root: Path,
        command: str,
        progress: Callable[[Standing], None],
        catalogue: Catalogue | None = None,
    ) -> None:
        self._catalogue = catalogue = catalogue or Catalogue()
        self.config = config
        self.directory = root / config.report
        self._check("baseline", lambda: catalogue.subject(config.baseline))
        self._check("optimized", lambda: catalogue.subject(config.optimized))
        self._check("workload", lambda: catalogue.workload(config.workload, config.seed))
        self._check("report", lambda: self.directory.mkdir(parents=True, exist_ok=True))  # now, not after minutes
        self.files: dict[int, list[Path]] = {}
        self._command = command
        self._progress = progress
        self._results: dict[int, ComparisonResult] = {}
        self._broken: dict[int, BaseException] = {}

    def result(self, clients: int) -> ComparisonResult:
        """Measure and write the files, or return what was measured before. Raises Interrupted where measuring was
        ended before: it is not begun again.
        """
        if clients in self._broken:
            raise Interrupted(f"the comparison was ended before it was over: {self.ended()[clients]}")
        if clients not in self._results:
            comparison = Comparison(
                self.config, clients, catalogue=self._catalogue, command=self._command, progress=self._progress
            )
            try:
                self._results[clients] = comparison.run()
            except BaseException as error:
                self._broken[clients] = error
                raise
            self.files[clients] = []  # if they cannot be written
            self.files[clients] = export.write(self._results[clients], self.directory)
        return self._results[clients]

    def results(self) -> list[ComparisonResult]:
        """What was measured so far."""
        return list(self._results.values())

    def ended(self) -> dict[int, str]:
        """The client counts without a result because measuring was ended, and by what."""
        return {clients: said(error) for clients, error in self._broken.items()}

    def _check(self, option: str, use: Callable[[], object]) -> None:
        try:
            use()
        except (ValueError, OSError) as error:
            raise ConfigError(f"{self.config.given[option]}: {error}") from error
