"""Starts other processes in which the same queue is opened, and ends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.hangs import Hand, Hang

WAITS_FOR_ITS_END = 60.0
"""Seconds after which a process that played its part ends even though nobody ended it."""

START = 30.0
"""Seconds that a process may need to come up and end, on however busy a machine."""

MARGIN = 2.0
"""Seconds for what surrounds the calls that are waited for."""

SHOWN_LINES = 40
"""How much is shown of what it wrote to its standard error, at the end of which are its stacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What another process is to do: the part of child.py, with which subject, in which folder."""

    part: str
    address: Mapping[str, str]
    folder: str
    patience: float
    deduplicates: bool = False

    @property
    def seconds(self) -> float:
        """After so many it counts as hanging."""
        return 3 * self.patience + MARGIN


class Process:
    """Another process; killed without mercy at the end of the block."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._errors = Path(order.folder, f"{order.part}.txt")
        with self._errors.open("wb") as errors:
            self._popen = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", "pytest_taskqueue.conformance.child", json.dumps(asdict(order))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            )
        self._hand = Hand("tq-conformance")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._popen.kill()
        self._popen.wait()
        self._hand.end()
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def answer(self) -> dict[str, Any]:
        """What it has to say. Raises Broken when it fails, hangs or ends without a word."""
        assert self._popen.stdout is not None
        try:
            line = self._hand.call(self._popen.stdout.readline, self._order.seconds + START)
        except Hang:
            line = b""
        if not line:
            evidence = f"in another process there is no answer within {self._order.seconds:g} s"
            raise Broken(evidence, hung=True, stacks=self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Broken(f"in another process: {answer['error']}")
        return answer

    def _last_words(self) -> list[str]:
        lines = self._errors.read_text(encoding="utf-8", errors="replace").splitlines()
        return ["\n".join(lines[-SHOWN_LINES:])] if lines else []
