"""When a failed attempt is tried again, and how long it waits. Pure: no clock, the random source is given."""

from __future__ import annotations

import random
from dataclasses import dataclass

from taskqueue_core.errors import Classify, ErrorClass, TransientError, classify


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with random jitter, for transient errors only.

    `max_attempts` counts the first attempt too. The delay before retry n (1, 2, ...) is drawn evenly from
    [base, min(cap, base * 2**n)] seconds: never below `base`, so that attempts are not burnt at once, and
    spread over the whole range, so that tasks which failed together do not come back together ("full
    jitter" of the AWS architecture blog, with a floor). `classify` decides which errors are worth it.
    """

    max_attempts: int = 3
    base: float = 0.1
    cap: float = 30.0
    classify: Classify = classify

    def __post_init__(self) -> None:
        if not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ValueError(f"max_attempts must be a whole number of at least 1, got {self.max_attempts!r}")
        if not 0 < self.base <= self.cap < float("inf"):
            raise ValueError(f"need 0 < base <= cap, got base={self.base!r}, cap={self.cap!r}")

    def decide(self, error: BaseException, retries: int, rng: random.Random) -> float | None:
        """Return the delay in seconds before the next attempt, or None when there is none.

        `retries` is the number of attempts that have already been tried again.
        """
        if self.classify(error) is ErrorClass.PERMANENT or retries + 1 >= self.max_attempts:
            return None
        retry_after = error.retry_after if isinstance(error, TransientError) else 0.0
        return max(retry_after, self.delay(retries + 1, rng))

    def delay(self, n: int, rng: random.Random) -> float:
        """Draw the delay before retry `n`, in seconds. A huge `n` stays at the cap."""
        return rng.uniform(self.base, min(self.cap, self.base * 2.0 ** min(n, 1000)))
