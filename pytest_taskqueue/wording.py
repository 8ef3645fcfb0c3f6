"""How problems name things: many of them, errors, queues."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

SHOWN = 3
"""How many names a problem gives."""


def named(unit: str, what: str, names: Sequence[str]) -> Iterable[str]:
    """'2 tasks worked on more than once: a, b'; nothing for no names."""
    if names:
        shown = ", ".join(map(printable, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
        yield f"{count(len(names), unit)} {what}: {shown}"


def count(number: int, unit: str) -> str:
    """'1 task', '1,204 tasks'."""
    plural = unit + ("es" if unit.endswith("s") else "s")
    return f"{number:,} {plural if number != 1 else unit}"


def printable(text: str) -> str:
    """A text without what a terminal would not show."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def said(error: BaseException | None) -> str:
    """'ValueError: no such file'; the name alone where the error says nothing, or fails to."""
    text = ""
    with suppress(Exception):
        text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def queue_at(ledger: str | os.PathLike[str] | None) -> str:
    """The queue whose ledger that is."""
    return "the queue in memory" if ledger is None else f"queue {os.fspath(ledger)!r}"
