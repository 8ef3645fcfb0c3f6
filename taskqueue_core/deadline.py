"""One monotonic deadline for everything that a call waits for."""

from __future__ import annotations

import time


class Deadline:
    """`timeout` seconds from now; None never passes."""

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else time.monotonic() + max(timeout, 0.0)

    def remaining(self) -> float | None:
        """Seconds left, never below 0; None when there is no limit."""
        return None if self._at is None else max(self._at - time.monotonic(), 0.0)

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self._at is not None and time.monotonic() >= self._at
