"""What is measured and what is wanted: the only numbers here that no machine has made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PACKAGES: Mapping[str, str] = MappingProxyType(
    {"huey": "huey", "litequeue": "litequeue", "litequeue-locked": "litequeue"}
)
"""The package that a contender needs, where it needs one."""

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "rate": "tasks/s",
        "submit_rate": "submits/s",
        "p99_ms": "P99 ms",
        "peak_mb": "peak MiB",
        "above_mb": "MiB above empty",
        "last_to_first": "last tenth : first tenth",
        "first_task_s": "s to the first task",
    }
)
"""How the figures are called in the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure of one contender, divided by that of the `reference` (None: as it is), and what is wanted of it.

    At least `wanted`, or with `at_most` at most; beyond `floor` it is missed. No floor: the wanted figure is one.
    """

    contender: str
    reference: str | None
    figure: str
    wanted: float
    floor: float | None = None
    at_most: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Contenders that are measured in turn by one module, the figures that are shown, the goals.

    `needs` is a package without which nobody can be measured; `rounds` how often, where the default would be too long.
    """

    name: str
    text: str
    module: str
    contenders: tuple[str, ...]
    figures: tuple[str, ...]
    goals: tuple[Goal, ...]
    workers: int = 8
    needs: str | None = None
    rounds: int | None = None


ROWS = (
    Row(
        name="producers-100",
        text="100 producers, each submit acknowledged before the next, until all results are in",
        module="producers",
        contenders=("tpe", "taskqueue-power", "huey", "litequeue", "litequeue-locked"),
        figures=("rate",),
        goals=(
            Goal(contender="taskqueue-power", reference="tpe", figure="rate", wanted=0.8, floor=0.65),
            Goal(contender="taskqueue-power", reference="huey", figure="rate", wanted=20, floor=18),
            Goal(contender="taskqueue-power", reference="litequeue", figure="rate", wanted=10, floor=9),
        ),
    ),
    Row(
        name="bulk-power",
        text="one producer, batches of 1,000, until all are done",
        module="bulk",
        contenders=("tpe", "taskqueue-power"),
        figures=("rate",),
        goals=(Goal(contender="taskqueue-power", reference="tpe", figure="rate", wanted=2),),
    ),
    Row(
        name="bulk-process",
        text='the same with durability="process"',
        module="bulk",
        contenders=("tpe", "taskqueue-process"),
        figures=("rate",),
        goals=(Goal(contender="taskqueue-process", reference="tpe", figure="rate", wanted=3, floor=2),),
    ),
    Row(
        name="single-process",
        text='one producer, each submit acknowledged before the next, durability="process", until all are done',
        module="single",
        contenders=("taskqueue-process", "litequeue"),
        figures=("rate",),
        goals=(Goal(contender="taskqueue-process", reference="litequeue", figure="rate", wanted=5),),
    ),
    Row(
        name="single-power",
        text="one producer, each submit on the disk before the next, beside appending 4 KiB and fdatasync",
        module="single",
        contenders=("disk", "taskqueue-power"),
        figures=("submit_rate",),
        goals=(Goal(contender="taskqueue-power", reference="disk", figure="submit_rate", wanted=0.9),),
    ),
    Row(
        name="closed-8",
        text="100 clients in a closed loop, tasks that sleep for 2 ms, 8 workers",
        module="closed",
        contenders=("tpe", "taskqueue-power"),
        figures=("rate", "p99_ms"),
        goals=(
            Goal(contender="taskqueue-power", reference="tpe", figure="rate", wanted=0.97),
            Goal(contender="taskqueue-power", reference="tpe", figure="p99_ms", wanted=1.10, at_most=True),
        ),
    ),
    Row(
        name="closed-64",
        text="the same with 64 workers",
        module="closed",
        contenders=("tpe", "taskqueue-power"),
        figures=("rate", "p99_ms"),
        goals=(Goal(contender="taskqueue-power", reference="tpe", figure="rate", wanted=1.2, floor=0.8),),
        workers=64,
    ),
    Row(
        name="thumbnails",
        text="thumbnails of 1600x1200 JPEGs, disk to disk, 8 workers",
        module="thumbnails",
        contenders=("loop", "tpe", "taskqueue-power"),
        figures=("rate",),
        goals=(
            Goal(contender="taskqueue-power", reference="tpe", figure="rate", wanted=0.97),
            Goal(contender="taskqueue-power", reference="loop", figure="rate", wanted=1.8),
        ),
        needs="PIL",
    ),
    Row(
        name="burn",
        text="tasks accepted while two threads burn pure Python",
        module="burn",
        contenders=("tpe", "submit-many", "submit"),
        figures=("rate",),
        goals=(Goal(contender="submit-many", reference="tpe", figure="rate", wanted=0.5),),
    ),
    Row(
        name="memory",
        text="1,000,000 tasks, batches of 1,000, 10,000 places",
        module="memory",
        contenders=("taskqueue-power", "tpe"),
        figures=("peak_mb", "above_mb", "last_to_first", "rate"),
        goals=(
            Goal(contender="taskqueue-power", reference=None, figure="above_mb", wanted=40, at_most=True),
            Goal(contender="taskqueue-power", reference=None, figure="last_to_first", wanted=0.9),
        ),
        rounds=1,
    ),
    Row(
        name="backlog",
        text="opening a ledger in which 3,000 (short) or 1,000,000 (long) tasks wait, then 10,000 more being done",
        module="backlog",
        contenders=("short-backlog", "long-backlog"),
        figures=("first_task_s", "rate"),
        goals=(
            Goal(contender="long-backlog", reference=None, figure="first_task_s", wanted=1, at_most=True),
            Goal(contender="long-backlog", reference="short-backlog", figure="rate", wanted=0.9),
        ),
    ),
    Row(
        name="load-generator",
        text="100 clients over a queue that does nothing: the closed loop of the comparison beside a put and a wait",
        module="loadgen",
        contenders=("bare", "closed-loop"),
        figures=("rate",),
        goals=(Goal(contender="closed-loop", reference="bare", figure="rate", wanted=0.8),),
    ),
)


def find_rows(names: list[str]) -> tuple[Row, ...]:
    """The rows of these names in the order of the table; all for no names. Raises ValueError."""
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        raise ValueError(f"unknown row {min(unknown)!r}: there are {', '.join(row.name for row in ROWS)}")
    return tuple(row for row in ROWS if not names or row.name in names)
