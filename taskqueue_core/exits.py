"""How the command line ends: its exit statuses, one line about an error, and the way out past a stuck thread."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import NoReturn

from taskqueue_core.errors import TaskQueueError

OK, WRONG, USAGE, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141
SIGNAL = 128
"""Added to the number of the signal that ended a run, as a shell does it."""
EXPECTED = (TaskQueueError, ValueError, OSError)
"""Errors that are told in one line; anything else is a bug and shows its traceback."""


def say(text: str) -> None:
    """One line on the error output. A reader that went away must not disturb the work."""
    with suppress(OSError, ValueError):
        sys.stderr.write(f"taskqueue: {text}\n")
        sys.stderr.flush()


def explain(error: Exception) -> int:
    """Say what went wrong; the exit status for it."""
    if isinstance(error, TimeoutError):
        say(f"{error}; the same command goes on with them")
        return WRONG
    if isinstance(error, EXPECTED):
        say(str(error))
        return USAGE
    traceback.print_exception(error)
    return WRONG


def drop_output() -> int:
    """The reader of the output went away (`| head`): let Python's own flush at exit fail no more. The exit status."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return BROKEN_PIPE


def leave(status: int) -> NoReturn:
    """End the process without waiting for its threads, as Python would. The ledger has to be closed by now."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)
