"""What the names of a pytest run stand for: built-in ones, those of hooks, of fixtures, and classes without a name."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from pytest_taskqueue import finding
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.wording import said

CATALOGUE: pytest.StashKey[Catalogue] = pytest.StashKey()

KINDS = {"baseline": "subject", "optimized": "subject", "workload": "workload"}
"""The options that name something."""


def catalogue(config: pytest.Config) -> Catalogue:
    """The built-in names and those that hooks give. Raises ValueError for a name that is given twice."""
    if CATALOGUE not in config.stash:
        config.stash[CATALOGUE] = Catalogue(_answered("subject", config), _answered("workload", config))
    return config.stash[CATALOGUE]


def _answered(what: str, config: pytest.Config) -> dict[str, Any]:
    """What all implementations of a hook give together; a text stands for what it names."""
    hook, merged = f"pytest_taskqueue_{what}s", dict[str, Any]()
    try:
        answers = getattr(config.hook, hook)(config=config)
    except Exception as error:
        raise ValueError(f"the hook {hook} failed: {said(error)}") from error
    for answer in answers:
        if not isinstance(answer, Mapping) or not all(isinstance(name, str) for name in answer):
            raise ValueError(f"the hook {hook} returned {answer!r:.80}, expected a dict of names and classes")
        for name, given in answer.items():
            found = finding.find(what, given) if isinstance(given, str) else given
            if merged.setdefault(name, found) is not found:
                raise ValueError(f"the hook {hook} gives the name {name!r} twice")
    return merged


class Names:
    """Names for one test, which may use classes and fixtures as well."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._known = catalogue(request.config)
        self._own: dict[str, dict[str, Callable[..., Any]]] = {"subject": {}, "workload": {}}

    def of(self, kind: str, given: Any) -> str:
        """A name for what was given: a name, also of a fixture that gives a class, or a class."""
        if isinstance(given, str):
            if given.isidentifier() and not self._known.has(kind, given):
                self._take_fixture(kind, given)
            return given
        name = self._free_name(kind, given)
        self._own[kind][name] = given
        return name

    def catalogue(self) -> Catalogue:
        """All of them."""
        return Catalogue(
            {**self._known.subjects, **self._own["subject"]}, {**self._known.workloads, **self._own["workload"]}
        )

    def _free_name(self, kind: str, given: Any) -> str:
        """Two classes may be called alike, or like a built-in one."""
        kept = given if hasattr(given, "__qualname__") else type(given)
        short = kept.__qualname__.rpartition("<locals>.")[2]
        names = itertools.chain([short, f"{kept.__module__}.{short}"], (f"{short} {n}" for n in itertools.count(2)))
        own = self._own[kind]
        return next(name for name in names if own.get(name, given) is given and not self._known.has(kind, name))

    def _take_fixture(self, kind: str, name: str) -> None:
        with suppress(pytest.FixtureLookupError):  # then it is unknown, and whoever looks for it says so
            self._own[kind][name] = self._request.getfixturevalue(name)
