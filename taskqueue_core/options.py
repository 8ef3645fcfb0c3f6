"""What can be written behind `taskqueue`: its commands, their options, and the help."""

from __future__ import annotations

import argparse
import math
import platform
from importlib import metadata

from taskqueue_core.database import SQLITE_VERSION
from taskqueue_core.settings import DURABILITIES

DISTRIBUTION = "pytest-taskqueue"


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line; `command` is the name of the command it found."""
    parser = argparse.ArgumentParser(
        prog="taskqueue",
        description="A durable, bounded task queue over SQLite. `taskqueue COMMAND --help` tells more of a command.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, dest="command", metavar="COMMAND")
    _add_run(
        commands.add_parser(
            "run",
            help="make the image variants that a task file names",
            description="Make the image variants that a task file names. The same command again goes on where the "
            "last one ended. SIGINT (Ctrl-C) and SIGTERM end it gracefully: nothing more is submitted, running tasks "
            "have --close-timeout seconds to finish, the others stay queued. A second signal ends it at once. A task "
            "that does not end in time is queued again, named, and left behind with its thread: the command exits.",
            epilog="exit status: 0 all tasks succeeded; 1 some failed, or --timeout was over; 2 bad input, or the "
            "ledger is in use; 130 ended by SIGINT, 143 by SIGTERM.",
        )
    )
    status = commands.add_parser(
        "status",
        help="show what a ledger holds",
        description="Show what a ledger holds and who owns it. Reads only, also while its owner is running.",
        epilog="exit status: 0; 2 when there is no ledger.",
    )
    status.add_argument("ledger", help="the ledger's file")
    letters = commands.add_parser(
        "dead-letters",
        help="list the tasks that failed for good",
        description="List the tasks that failed for good, one JSON object a line, oldest first; replayed_at tells "
        "those that were brought back since. Reads only, also while the ledger's owner is running.",
        epilog="exit status: 0; 2 when there is no ledger; 141 when the reader of the output went away.",
    )
    letters.add_argument("ledger", help="the ledger's file")
    _add_check(
        commands.add_parser(
            "check",
            help="look for damage in a ledger",
            description="Look for damage: SQLite's integrity_check, and rows that contradict each other. Reads only "
            "and mends nothing, also while the ledger's owner is running, whose write-ahead log grows meanwhile. "
            "SQLite keeps no checksums: other bytes inside a text are not noticed.",
            epilog="exit status: 0 nothing is wrong; 1 something is; 2 there is no ledger, or it is newer than this "
            "program.",
        )
    )
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    run.add_argument("tasks", help='a JSON list of {"image_key": "cat.jpg", "variant": "200x200"}')
    run.add_argument("--store", default=".", metavar="DIR", help="folder of the source images (default: here)")
    run.add_argument("--outputs", metavar="DIR", help="folder for the results (default: outputs, in the store)")
    run.add_argument("--ledger", default="tasks.db", metavar="FILE", help="the ledger (default: tasks.db)")
    run.add_argument("--workers", type=int, metavar="N", help="worker threads (default: TASKQUEUE_MAX_WORKERS, else 8)")
    run.add_argument(
        "--queue-size", type=int, metavar="N", help="places for waiting tasks (default: TASKQUEUE_QUEUE_SIZE, else 200)"
    )
    run.add_argument(
        "--durability",
        choices=DURABILITIES,
        help="what accepted tasks survive (default: TASKQUEUE_DURABILITY, else power)",
    )
    run.add_argument(
        "--timeout",
        type=_seconds,
        metavar="S",
        help="stop after S seconds; what was submitted until then stays queued (default: no limit)",
    )
    run.add_argument(
        "--close-timeout",
        type=_seconds,
        default=30.0,
        metavar="S",
        help="at the end wait up to S seconds for the tasks that are running (default: 30)",
    )
    run.add_argument("--metrics", metavar="FILE", help="write the final metrics there, as JSON")
    run.add_argument("--replay", action="store_true", help="try the file's tasks that failed before again")
    run.add_argument("--log", action="store_true", help="log one JSON object a line to the error output")


def _add_check(checks: argparse.ArgumentParser) -> None:
    checks.add_argument("ledger", help="the ledger's file")
    checks.add_argument(
        "--quick", action="store_true", help="SQLite's quick_check: faster, does not compare indexes with their tables"
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (math.isfinite(seconds) and seconds >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return seconds


def _version() -> str:
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    return f"taskqueue {version}, Python {platform.python_version()}, SQLite {SQLITE_VERSION}"
