"""How problems name many things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SHOWN = 3
"""How many names a problem gives."""


def named(unit: str, what: str, names: Sequence[str]) -> Iterable[str]:
    """'2 tasks worked on more than once: a, b'; nothing for no names."""
    if names:
        printable = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in name) for name in names[:SHOWN]]
        shown = ", ".join(printable) + (", ..." if len(names) > SHOWN else "")
        yield f"{count(len(names), unit)} {what}: {shown}"


def count(number: int, unit: str) -> str:
    """'1 task', '1,204 tasks'."""
    plural = unit + ("es" if unit.endswith("s") else "s")
    return f"{number:,} {plural if number != 1 else unit}"
