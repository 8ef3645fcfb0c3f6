"""Helpers for your own tests of code that uses a TaskQueue. All of them work on real queues and real ledgers.

    drain             run what is due, and count it
    perform           one attempt at a task, by the real way
    assert_enqueued   a task was submitted; refute_enqueued: none was
    assert_dead       a task failed for good, and why
    assert_output     a task's output is there, as its record says
    crash_at          kill a real process at a named point of a task's way

The fixtures `tq_manual_queue` and `tq_clock` and the markers `tq_faults` and `tq_allow` go with them, see
`pytest --fixtures` and `pytest --markers`.
"""

from pytest_taskqueue.testing.assertions import assert_dead, assert_enqueued, assert_output, refute_enqueued
from pytest_taskqueue.testing.crashes import Crash, crash_at
from pytest_taskqueue.testing.draining import Drained, drain
from pytest_taskqueue.testing.performing import Performed, perform

__all__ = [
    "Crash",
    "Drained",
    "Performed",
    "assert_dead",
    "assert_enqueued",
    "assert_output",
    "crash_at",
    "drain",
    "perform",
    "refute_enqueued",
]
