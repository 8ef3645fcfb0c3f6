"""What came out: of one promise, and of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What is said about a promise."""

    KEPT = "kept"
    BROKEN = "broken"
    NOT_PROMISED = "not promised"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One promise: its name, what it says, whether it was kept, by what that was seen, and how long it took.

    `stacks` shows where the queue hangs, if it does; `held` is a promise that is not made and holds all the same.
    """

    name: str
    text: str
    status: Status
    evidence: str
    seconds: float
    stacks: tuple[str, ...] = ()
    held: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """All that was looked at, in the order of the promises."""

    subject: str
    outcomes: tuple[Outcome, ...]

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """The promises that were not kept."""
        return tuple(outcome for outcome in self.outcomes if outcome.status is Status.BROKEN)

    def __getitem__(self, name: str) -> Outcome:
        """The outcome of one promise. Raises KeyError when it was not looked at."""
        for outcome in self.outcomes:
            if outcome.name == name:
                return outcome
        raise KeyError(name)


class Broken(Exception):  # noqa: N818 - it is a finding, and no error of the one who looks
    """A promise does not hold: says what was seen. `hung` when the queue did not answer; `stacks` shows where it is."""

    def __init__(self, evidence: str, *, hung: bool = False, stacks: Sequence[str] = ()) -> None:
        super().__init__(evidence)
        self.hung = hung
        self.stacks = tuple(stacks)


class Unfit(Exception):  # noqa: N818
    """What was given cannot be examined: its name and why. `stacks` shows where it hangs, or raises."""

    def __init__(self, reason: str, stacks: Sequence[str] = ()) -> None:
        super().__init__(f"no queue that can be examined: {reason}")
        self.reason = reason
        self.stacks = tuple(stacks)


class Untried(Exception):  # noqa: N818
    """A promise cannot be tried here: says why."""
