"""`python -m tests.proof [--ci | --campaign] [--only 1,2,5] [--seed N] [--json FILE]`: run the proofs.

A line for each proof; exit status 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import platform
import secrets
import sqlite3
import sys
from collections import Counter
from pathlib import Path

from tests.proof import harm, named_points, one_key, random_kills, shutdown
from tests.proof.runner import Outcome, prove

PROOFS = {room.PROOF.number: room.PROOF for room in (random_kills, named_points, one_key, shutdown, harm)}
CAVEAT = "kill -9 ends a process, not the machine: the system still writes its pages. Power loss is not tested here."


def main() -> int:
    """Run what the command line asks for."""
    arguments = _parser().parse_args()
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    size = "campaign" if arguments.campaign else "ci"
    print(f"proofs at {size} size, seed {seed}, SQLite {sqlite3.sqlite_version}, CPython {platform.python_version()}")
    outcomes = []
    for number in arguments.only:
        outcome = prove(PROOFS[number], campaign=arguments.campaign, seed=seed)
        outcomes.append(outcome)
        _print(outcome, shown=arguments.show)
    print(CAVEAT)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_report(size, seed, outcomes), indent=2) + "\n", encoding="utf-8")
    return int(any(outcome.findings for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--ci", action="store_true", help="the rounds of every CI run (the default)")
    size.add_argument("--campaign", action="store_true", help="the rounds of a long campaign")
    parser.add_argument("--only", type=_numbers, default=sorted(PROOFS), metavar="N,N", help="these proofs")
    parser.add_argument("--seed", type=int, metavar="N", help="what all choices follow from; kill times stay random")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="how many findings of a proof to print")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    return parser


def _numbers(text: str) -> list[int]:
    numbers = [int(number) for number in text.split(",")]
    if unknown := [number for number in numbers if number not in PROOFS]:
        raise argparse.ArgumentTypeError(f"no proof {unknown[0]}: there are {', '.join(map(str, sorted(PROOFS)))}")
    return numbers


def _print(outcome: Outcome, *, shown: int) -> None:
    print(
        f"{outcome.number}  {outcome.title:<32} {outcome.rounds:>6,} rounds  {len(outcome.findings):>3} findings  "
        f"{outcome.seconds:6.1f} s  {outcome.verdict}",
        flush=True,
    )
    for reason, times in Counter(outcome.skipped.values()).items():
        print(f"   skipped {times}: {reason}")
    for finding in outcome.findings[:shown]:
        print(f"   {finding}")


def _report(size: str, seed: int, outcomes: list[Outcome]) -> dict[str, object]:
    return {
        "size": size,
        "seed": seed,
        "sqlite": sqlite3.sqlite_version,
        "python": platform.python_version(),
        "caveat": CAVEAT,
        "proofs": [outcome.to_json() for outcome in outcomes],
    }


if __name__ == "__main__":
    sys.exit(main())
