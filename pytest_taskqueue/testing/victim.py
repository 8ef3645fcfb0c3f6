"""The process that `crash_at` kills: it plays a story, and dies at the point it was told."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import pickle
import signal
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from taskqueue_core import clock, points


class Death:
    """A probe that counts the points, and kills its own process at one of them."""

    def __init__(self, point: str, nth: int, report: Path) -> None:
        self.reached: dict[str, int] = {}
        self._point = point
        self._nth = nth
        self._report = report
        self._lock = threading.Lock()  # guards the counts

    def __call__(self, point: str) -> None:
        """Count; die here if it is the place. Nobody else gets further meanwhile."""
        with self._lock:
            self.reached[point] = self.reached.get(point, 0) + 1
            if (point, self.reached[point]) == (self._point, self._nth):
                self.tell(killed=True)
                _die()

    def tell(self, **more: object) -> None:
        """Leave word for the process that waits."""
        self._report.write_text(json.dumps({"reached": self.reached, **more}), encoding="utf-8")


def main(play: dict[str, Any]) -> None:
    """Play the story; what it raises is reported, and ends the process with status 1."""
    death = Death(play["point"], play["nth"], Path(play["report"]))
    try:
        story = getattr(_load(play["module"], play["file"]), play["name"])
        args, kwargs = pickle.loads(play["arguments"])  # noqa: S301 - from the test that started us
        clock.advance(play["shift"])
        with points.probing(death):
            story(*args, **kwargs)
    except BaseException:  # noqa: BLE001 - whatever it is, the test wants to see it
        death.tell(raised=traceback.format_exc())
        sys.exit(1)
    death.tell()


def _load(name: str, file: str) -> ModuleType:
    """The story's module under its own name, so that what was pickled finds its classes."""
    name = "tq_story" if name == "__main__" else name  # a script is not to be run once more
    with suppress(ImportError):
        module = importlib.import_module(name)
        if Path(getattr(module, "__file__", None) or "").resolve() == Path(file):
            return module
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file!r} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    for end in (n for n, letter in enumerate(name) if letter == "."):  # whoever imports it imports its packages first
        sys.modules.setdefault(name[:end], ModuleType(name[:end])).__dict__.setdefault("__path__", [])
    spec.loader.exec_module(module)
    return module


def _die() -> None:
    """As if by kill -9 from outside: nothing is flushed, nothing is closed."""
    if sys.platform == "win32":
        os._exit(137)
    os.kill(os.getpid(), signal.SIGKILL)
