"""From a text to what it names: "package.module:attr" or "path/file.py:attr"."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_taskqueue.wording import said


def find(what: str, name: str) -> Any:
    """The class or function of that name; None for a text that has no such form. `what` it is, for messages.

    Raises ValueError that says what was looked for and what is wrong.
    """
    where, separator, attribute = name.rpartition(":")
    if name.endswith(".py") and Path(name).is_file():
        raise ValueError(f"{what} {name!r} is a file: name what is meant in it, {name}:Name")
    if not separator or not where or not attribute:
        return None
    module = _module_from_file(what, Path(where)) if where.endswith(".py") else _module(what, where)
    if not hasattr(module, attribute):
        raise ValueError(f"{what} {name!r}: {where} has no class or function {attribute!r}")
    found = getattr(module, attribute)
    if not callable(found):
        kind = type(found).__name__
        raise ValueError(f"{what} {name!r}: {attribute} is an object of class {kind}, expected a class or function")
    return found


def _module(what: str, name: str) -> ModuleType:
    try:
        with _importing_from(Path.cwd()):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} module {name!r} cannot be imported: {said(error)}") from error


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """It may import its neighbours, as a script does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _module_from_file(what: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r} to take a {what} from")
    try:
        return _execute(path.resolve())
    except (Exception, SystemExit) as error:
        raise ValueError(f"{what} file {str(path)!r} cannot be imported: {said(error)}") from error


@cache  # once, however often something in it is asked for
def _execute(path: Path) -> ModuleType:
    name = f"taskqueue_file_{path.stem}_{zlib.crc32(str(path).encode(errors='replace')):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
