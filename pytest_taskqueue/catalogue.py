"""The subjects and workloads there are: built-in ones, those that hooks name, and whatever a path leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pytest_taskqueue import finding
from pytest_taskqueue.arms import BUILT_IN
from pytest_taskqueue.subjects import SubjectFactory
from pytest_taskqueue.workloads import WORKLOADS, Workload, made

PATHS = "package.module:attr or path/file.py:attr"


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What names stand for. Nobody may give a built-in name to something else: it stands in saved results."""

    subjects: Mapping[str, SubjectFactory] = field(default_factory=dict)
    workloads: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check("subject", self.subjects, BUILT_IN)
        _check("workload", self.workloads, WORKLOADS)

    def has(self, what: str, name: str) -> bool:
        """Whether there is a "subject" or a "workload" of this name."""
        return name in ({**BUILT_IN, **self.subjects} if what == "subject" else {**WORKLOADS, **self.workloads})

    def subject(self, name: str) -> SubjectFactory:
        """A subject by its name, "package.module:attr", or "path/file.py:attr".

        Raises ValueError that says what was looked for and what there is.
        """
        factory: SubjectFactory = _find("subject", name, {**BUILT_IN, **self.subjects})
        return factory

    def workload(self, name: str, seed: int) -> Workload:
        """A workload, likewise, made with that seed."""
        return made(_find("workload", name, {**WORKLOADS, **self.workloads}), name, seed)


def _check(what: str, own: Mapping[str, Any], built_in: Mapping[str, Any]) -> None:
    for name, given in own.items():
        if name in built_in:
            raise ValueError(f"{what} {name!r}: there is a built-in one of that name, choose another")
        if not callable(given):
            raise ValueError(f"{what} {name!r} is {given!r}, no class or function")


def _find(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name in known:
        return known[name]
    if (found := finding.find(what, name)) is None:
        raise ValueError(f"unknown {what} {name!r}: use {', '.join(known)}, {PATHS}")
    return found
