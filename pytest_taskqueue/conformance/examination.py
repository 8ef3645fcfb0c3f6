"""Holds a queue to its promises, one after the other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.conformance.checks import CHECKS, Check
from pytest_taskqueue.conformance.outcomes import Broken, Outcome, Report, Status, Unfit, Untried
from pytest_taskqueue.conformance.stage import PATIENCE, Casting, Stage
from pytest_taskqueue.subjects import Promise, ProtocolError, SubjectFactory

BRIEF = 2.0
"""Seconds for an answer where none is promised: whatever it is, nothing turns red."""

HOPELESS = 3.0
"""Seconds for an answer from a queue that has already been found hanging."""

OWN, ALL = "own", "all"
"""What to hold a queue to: what it promises itself, or everything. Else the names of promises."""


def examine(
    subject: str | SubjectFactory,
    *,
    catalogue: Catalogue | None = None,
    promises: str | Iterable[str] = OWN,
    only: Iterable[str] | None = None,
    patience: float = PATIENCE,
) -> Report:
    """Look whether a queue keeps its promises, or only at those named in `only`.

    The subject is a name as in --tq-subject, or a class; `promises` what it is held to beyond the basics: "own",
    "all" or names; `patience` the seconds after which it counts as hanging. Raises ValueError for an unknown name,
    and Unfit for what cannot be opened, lacks a method or takes no task.
    """
    if isinstance(subject, str):
        name, factory = subject, (catalogue or Catalogue()).subject(subject)
    else:
        name, factory = getattr(subject, "__qualname__", None) or type(subject).__qualname__, subject
    checks = CHECKS if only is None else [_check(name) for name in only]
    examination = Examination(name, factory, promises=promises, patience=patience)
    outcomes = {check.name: examination.outcome(check) for check in CHECKS if check in checks}
    return Report(name, tuple(outcomes.values()))


def _check(name: str) -> Check:
    for check in CHECKS:
        if check.name == name:
            return check
    raise ValueError(f"unknown promise {name!r}: there are {', '.join(check.name for check in CHECKS)}")


class Examination:
    """One queue, and what has been found about it so far."""

    def __init__(
        self,
        name: str,
        factory: SubjectFactory,
        *,
        promises: str | Iterable[str] = OWN,
        patience: float = PATIENCE,
    ) -> None:
        self.name = name
        self._cast = Casting(name=name, factory=factory, patience=patience)
        self._held = _held(promises)
        self._looked = False
        self._unfit: Unfit | None = None

    def outcome(self, check: Check) -> Outcome:
        """Whether one promise is kept. Raises Unfit."""
        started = time.monotonic()
        self.look()
        return self._play(check, started)

    def look(self) -> None:
        """Can it be examined? Raises Unfit, each time; a queue that hangs does so once."""
        if not self._looked:
            self._looked = True
            self._try()
        if self._unfit is not None:
            raise self._unfit.with_traceback(None)

    def _try(self) -> None:
        """Can it be opened, does it have what a queue must have, does it take a task, and what does it promise?"""
        try:
            with tempfile.TemporaryDirectory(prefix="tq-conformance-", ignore_cleanup_errors=True) as folder:
                stage = Stage(self._cast, Path(folder))
                try:
                    player = stage.open()
                    player.submit("first", value=1)
                finally:
                    self._clear(stage)
        except (Broken, ProtocolError) as error:
            self._unfit = Unfit(f"{self.name}: {error}", getattr(error, "stacks", ()))
            return
        self._cast = replace(self._cast, promised=player.promises if self._held is None else self._held)

    def _play(self, check: Check, started: float) -> Outcome:
        promised = check.promise is None or check.promise in self._cast.promised
        cast = self._cast if promised else replace(self._cast, patience=min(self._cast.patience, BRIEF))
        try:
            evidence = self._evidence(check, cast)
        except Broken as broken:
            if not promised:
                return _outcome(check, Status.NOT_PROMISED, str(broken), started)
            self._note(hung=broken.hung)
            return _outcome(check, Status.BROKEN, str(broken), started, broken.stacks)
        except Untried as reason:
            return _outcome(check, Status.NOT_TRIED if promised else Status.NOT_PROMISED, str(reason), started)
        if promised:
            return _outcome(check, Status.KEPT, evidence, started)
        return replace(_outcome(check, Status.NOT_PROMISED, f"held here: {evidence}", started), held=True)

    def _evidence(self, check: Check, cast: Casting) -> str:
        with tempfile.TemporaryDirectory(prefix="tq-conformance-", ignore_cleanup_errors=True) as folder:
            stage = Stage(cast, Path(folder))
            try:
                return check.play(stage)
            except ProtocolError as error:
                raise Broken(str(error)) from error
            finally:
                self._clear(stage)

    def _clear(self, stage: Stage) -> None:
        if not stage.clear():
            self._cast = replace(self._cast, hopeless=True)

    def _note(self, *, hung: bool) -> None:
        """A queue that hangs will do so again, and is not waited for as long."""
        if hung:
            self._cast = replace(self._cast, patience=min(self._cast.patience, HOPELESS), hopeless=True)


def _held(promises: str | Iterable[str]) -> frozenset[Promise] | None:
    """What to hold a queue to; None: what it says itself. Raises ValueError."""
    if promises == OWN:
        return None
    if promises == ALL:
        return frozenset(Promise)
    names = promises.split(",") if isinstance(promises, str) else [*promises]
    checks = [_check(str(name).strip()) for name in names]
    return frozenset(check.promise for check in checks if check.promise is not None)


def _outcome(check: Check, status: Status, evidence: str, started: float, stacks: Iterable[str] = ()) -> Outcome:
    return Outcome(check.name, check.text, status, evidence, time.monotonic() - started, tuple(stacks))
