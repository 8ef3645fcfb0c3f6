"""One monotonic deadline for everything that a call waits for."""

from __future__ import annotations

import threading
import time


class Deadline:
    """`timeout` seconds from now; None never passes."""

    def __init__(self, timeout: float | None) -> None:
        self._at = None if timeout is None else time.monotonic() + max(timeout, 0.0)

    def remaining(self) -> float | None:
        """Seconds left, never below 0 and never more than a lock can wait; None when there is no limit."""
        return None if self._at is None else min(max(self._at - time.monotonic(), 0.0), threading.TIMEOUT_MAX)

    def later(self, seconds: float) -> Deadline:
        """The same deadline, put off; one that passed long ago stays passed."""
        later = Deadline(None)
        later._at = None if self._at is None else self._at + seconds
        return later

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return self._at is not None and time.monotonic() >= self._at
