"""The clock of a test, see the fixture `tq_clock`."""

from __future__ import annotations

from datetime import timedelta

from taskqueue_core import clock


class Clock:
    """Moves stored times forward: `created_at`, `run_at`, and what retention goes by."""

    def advance(self, by: float | timedelta) -> None:
        """Move the clock forward by so many seconds, or by a timedelta; every open queue looks at once for what is due.

        Raises ValueError for what does not go forward, TypeError for what is no time.
        """
        seconds = by.total_seconds() if isinstance(by, timedelta) else by
        if not isinstance(seconds, int | float):
            raise TypeError(f"expected seconds or a timedelta, got {by!r}")
        clock.advance(seconds)

    def now(self) -> float:
        """Seconds since the epoch, as queues store them now."""
        return clock.now()

    def put_right(self) -> None:
        """Set it to the machine's clock again."""
        clock.put_right()
