"""How another process finds the same subject again."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from pytest_taskqueue import finding
from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.subjects import SubjectFactory

Address = Mapping[str, str]
"""`name`, which `finding` understands; or `module`, its `file`, and the `attribute` in it, with dots."""


def address(name: str, factory: SubjectFactory) -> Address:
    """Where the factory can be found. Raises Broken when another process could not import it."""
    if ":" in name:
        return {"name": name}
    attribute, module = getattr(factory, "__qualname__", ""), _home(factory)
    file = module.get("__file__")
    with suppress(AttributeError, ValueError):
        if file is not None and attrgetter(attribute)(SimpleNamespace(**module)) is factory:
            return {"module": module["__name__"], "file": str(Path(file).resolve()), "attribute": attribute}
    raise Broken(
        f"another process cannot import {attribute or repr(factory)}, which takes the place of the one that is "
        "killed: define it at the top level of a module, or name it package.module:attr or path/file.py:attr"
    )


def _home(factory: SubjectFactory) -> Mapping[str, Any]:
    """The names of the module where it was defined: of several conftest.py, sys.modules knows the last one alone."""
    name = getattr(factory, "__module__", None)
    for function in (factory, *getattr(factory, "__dict__", {}).values()):
        names = getattr(function, "__globals__", {})
        if name is not None and names.get("__name__") == name:
            return dict(names)
    return vars(sys.modules[name]) if name in sys.modules else {}


def load(where: Address) -> SubjectFactory:
    """The factory at an address. Raises ValueError."""
    if "name" in where:
        found: SubjectFactory = finding.find("subject", where["name"])
        return found
    if (module := _module(where["module"], where["file"])) is not None:
        named: SubjectFactory = attrgetter(where["attribute"])(module)
        return named
    top, _, rest = where["attribute"].partition(".")
    found = finding.find("subject", f"{where['file']}:{top}")
    return attrgetter(rest)(found) if rest else found


def _module(name: str, file: str) -> ModuleType | None:
    """The module of that name, if it is the one of that file: every folder has a conftest."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(file):
            return importlib.import_module(name)
    return None
