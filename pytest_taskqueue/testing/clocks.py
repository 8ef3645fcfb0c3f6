"""The clock of a test, see the fixture `tq_clock`."""

from __future__ import annotations

from taskqueue_core import clock


class Clock:
    """Moves stored times forward: `created_at`, `run_at`, and what retention goes by."""

    def advance(self, seconds: float) -> None:
        """Move the clock so many seconds forward; every open queue looks at once for what is due.

        Raises ValueError for what does not go forward.
        """
        clock.advance(seconds)

    def now(self) -> float:
        """Seconds since the epoch, as queues store them now."""
        return clock.now()

    def put_right(self) -> None:
        """Set it to the machine's clock again."""
        clock.put_right()
