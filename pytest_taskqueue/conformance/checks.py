"""The checks: how each promise is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_taskqueue.conformance import admission, basics, crash, ending, failures, keys
from pytest_taskqueue.conformance.stage import Stage
from pytest_taskqueue.subjects import Promise


@dataclass(frozen=True, slots=True)
class Check:
    """How one promise is tried. `play` returns the evidence that it is kept, or raises Broken with that against it."""

    name: str
    text: str
    play: Callable[[Stage], str]

    @property
    def promise(self) -> Promise | None:
        """What a queue has to say to be held to it; None: every queue is."""
        return Promise(self.name) if self.name in [*Promise] else None


CHECKS: tuple[Check, ...] = (
    Check("once", "each task is worked on, and once", basics.once),
    Check("results", "results reach the caller", basics.results),
    Check("exceptions", "exceptions reach the caller", basics.exceptions),
    Check("closes", "closed, it takes nothing more, and nobody waits for ever", basics.closes),
    Check("leaves_nothing", "no thread, process or file is left behind", basics.leaves_nothing),
    Check("bounded", "no more than queue_size tasks wait", admission.bounded),
    Check("rejects", "with overflow=reject a full queue refuses at once", admission.rejects),
    Check("deduplicates", "a known key is not worked on again", keys.deduplicates),
    Check("conflicts", "a known key with other params is an error", keys.conflicts),
    Check("retries", "transient errors are tried again, others are not", failures.retries),
    Check("dead_letters", "what failed for good is listed and can be replayed", failures.dead_letters),
    Check("joins", "join waits until all is done, or its time is over", ending.joins),
    Check("deadline", "close comes back in time although a task is stuck", ending.deadline),
    Check("durable", "acknowledged tasks survive kill -9", crash.durable),
    Check("fork_safe", "a forked child is refused, the parent goes on", crash.fork_safe),
)
"""All checks, in the order in which they are shown, and played."""
