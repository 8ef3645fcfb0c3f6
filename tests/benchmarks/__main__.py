"""How fast is the queue beside what one would use instead? One command measures and judges:

    python -m tests.benchmarks                                 # all rows, 5 rounds: many minutes
    python -m tests.benchmarks --only bulk-power closed-8      # some of them; --list names all
    python -m tests.benchmarks --scale 0.02 --rounds 1         # does it run? The figures mean nothing

Every row of the table is a piece of work and its contenders: `tpe` is concurrent.futures.ThreadPoolExecutor, which
keeps nothing; `taskqueue-power` and `taskqueue-process` are TaskQueue with that durability; `huey` (SqliteHuey) and
`litequeue` are the durable queues people use, measured when they are installed (`pip install -e ".[peers]"`).

A measurement is one fresh process with one fresh folder. The contenders of a row take turns, round by round, each
round starting with another one, so a machine that slows down slows all of them. A contender's line shows the
median (min-max) of its figures, a goal's line the median [min, max] of the ratios to the reference *of the same
round*, and what the median says: "reached" the wanted figure, "floor" when it only passes the floor, "missed".

A rate counts acknowledged work only. Peers need fewer tasks, since they need seconds for them; that flatters those
that slow down as tasks pile up. The folders are made where temporary files go, or in --directory: on a disk, please,
for on tmpfs an fsync costs nothing. Nothing else should run on the machine; the table's head tells its load.

--json FILE keeps every figure of every round, with machine, versions and date. Progress goes to stderr. The exit
status is 1 when a measurement failed; a missed goal is a result, not an error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.conditions import conditions, load
from tests.benchmarks.rounds import NOT_INSTALLED, ROUNDS, Plan, measure_apart, measure_row
from tests.benchmarks.rows import ROWS, Row, find_rows
from tests.benchmarks.table import lines, to_dict


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the rows asked for, print each when it is done; the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        rows = find_rows(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{row.name:<16} {row.text}" for row in rows))
        return 0
    plan = Plan(rounds=options.rounds, scale=options.scale, sleep=options.sleep, directory=options.directory)
    return run(rows, plan, options.json)


def run(rows: Sequence[Row], plan: Plan, file: Path | None) -> int:
    """The table, and the file when one is wanted, written anew after each row."""
    failed = False
    result: dict[str, Any] = {**conditions(plan.directory), "scale": plan.scale, "sleep": plan.sleep, "rows": []}
    print(_head(result), flush=True)
    for row in rows:
        rounds = measure_row(row, plan, measure_apart, progress=lambda text: print(text, file=sys.stderr, flush=True))
        print("", *lines(row, rounds), sep="\n", flush=True)
        failed |= any(each[name].problem not in (None, NOT_INSTALLED) for each in rounds for name in each)
        result["rows"].append(to_dict(row, rounds))
        result["load_at_the_end"] = load()
        if file is not None:
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(failed)


def _head(result: dict[str, Any]) -> str:
    machine, versions = result["machine"], result["versions"]
    peers = ", ".join(f"{name} {version}" for name, version in versions.items())
    busy = "" if result["load"] is None else f", load {result['load'][0]:.2f}"
    scale = "" if result["scale"] == 1 else f"\nscale {result['scale']:g}: a trial, the figures mean nothing"
    return (
        f"{result['created']}, revision {result['revision']}\n{machine['python']}, {machine['cores']} cores, "
        f"{result['file_system']}{busy}, {peers}{scale}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").partition("\n")[0])
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"these rows: {', '.join(names)}")
    parser.add_argument("--rounds", type=_positive_int, help=f"default: {ROUNDS}; 1 for memory, which is long")
    parser.add_argument("--scale", type=_positive, default=1.0, help="times all counts (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure, with machine and versions")
    parser.add_argument("--directory", type=Path, help="where folders are made (default: for temporary files)")
    parser.add_argument("--sleep", action="store_true", help="tasks of the memory row sleep for 0.2 ms")
    parser.add_argument("--list", action="store_true", help="name the rows and measure nothing")
    return parser


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _positive_int(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
