"""FaultPlan: faults at named points, written as texts such as "ledger.commit:SQLITE_FULL@3"."""

from __future__ import annotations

import builtins
import math
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

from taskqueue_core import errors
from taskqueue_core.database import SQLITE_ERRORS, make_error
from taskqueue_core.points import POINTS, PROCESS

GRAMMAR = "POINT:EFFECT[@N][:p=P]"
_FAULT = re.compile(r"(?P<point>[\w.]+):(?P<effect>[^:@]+)(@(?P<nth>\d+)(?P<on>\+)?)?(:p=(?P<p>[^:]+))?")
_LATENCY = re.compile(r"latency=(?P<low>[\d.]+(?:ms|s))(~(?P<high>[\d.]+(?:ms|s)))?")
_ERRORS = ("TransientError", "PermanentError", "TaskTimeoutError", "InvalidKeyError")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What one text says.

    error    makes the error to raise; None for a latency
    latency  (low, high) seconds to wait, drawn evenly
    nth      at which time the point is reached it strikes, the first being 1; None: each time
    on       from that time on, rather than that time alone
    p        the share of those times at which it strikes, from 0 to 1
    """

    text: str
    point: str
    error: Callable[[str], BaseException] | None = None
    latency: tuple[float, float] = (0.0, 0.0)
    nth: int | None = None
    on: bool = False
    p: float = 1.0

    @staticmethod
    def parse(text: str) -> Fault:
        """Read a text. Raises ValueError that says what is wrong with it and what is allowed."""
        match = _FAULT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise _bad(text, f"expected {GRAMMAR}, for example 'ledger.commit:SQLITE_FULL@3'")
        if match["point"] not in POINTS:
            raise _bad(text, f"there is no point {match['point']!r}; the points are {', '.join(POINTS)}")
        nth, p = match["nth"], _number(match["p"] or "1")
        if nth is not None and int(nth) < 1:
            raise _bad(text, "the N of @N counts from 1")
        if not 0 <= p <= 1:
            raise _bad(text, f"p={match['p']} is no share from 0 to 1")
        error, latency = _effect(text, match["point"], match["effect"])
        number = None if nth is None else int(nth)
        return Fault(
            text=text, point=match["point"], error=error, latency=latency, nth=number, on=bool(match["on"]), p=p
        )

    def strikes(self, time: int) -> bool:
        """Whether it is for that time its point is reached."""
        return self.nth is None or time == self.nth or (self.on and time > self.nth)


class FaultPlan:
    """Faults at named points of every queue of the process, for as long as it is installed:

        with points.probing(FaultPlan("ledger.commit:SQLITE_FULL@3", "process:latency=5ms~20ms:p=0.1", seed=7)):

    Each text is POINT:EFFECT, then perhaps @N (the N-th time only) or @N+ (from then on), then perhaps :p=P (that
    share of the times, drawn by `seed`). Effects: SQLITE_FULL and other errors of SQLite, at the points of the ledger
    and of the processor's own databases; `latency=5ms` or `latency=5ms~20ms`; at `process` also `error`
    (TransientError) or `error=ConnectionError`, any error class of Python or of the queue.

    Raises ValueError for a text that says none of that. `release()` ends all waits, now and later.
    """

    def __init__(self, *faults: str, seed: int = 0) -> None:
        self.faults = tuple(Fault.parse(text) for text in faults)
        self._lock = threading.Lock()  # guards the random sources and the counts
        self._random = [random.Random(f"{seed} {n} {fault.text}") for n, fault in enumerate(self.faults)]
        self._reached: dict[str, int] = {}
        self._struck = [0] * len(self.faults)
        self._released = threading.Event()

    def __call__(self, point: str) -> None:
        """Somebody has reached a point: wait, or raise, as the plan says."""
        with self._lock:
            time = self._reached[point] = self._reached.get(point, 0) + 1
            strikes = [(fault, rng.uniform(*fault.latency)) for fault, rng in self._now(point, time)]
        for fault, delay in strikes:
            if delay:
                self._released.wait(delay)
            if fault.error is not None:
                raise fault.error(f"injected fault {fault.text!r} (time {time} at this point)")

    @property
    def struck(self) -> dict[str, int]:
        """How often each fault has struck, by its text."""
        with self._lock:
            return {fault.text: count for fault, count in zip(self.faults, self._struck, strict=True)}

    @property
    def reached(self) -> dict[str, int]:
        """How often each point of its faults was reached."""
        with self._lock:
            return {fault.point: self._reached.get(fault.point, 0) for fault in self.faults}

    def release(self) -> None:
        """End every wait, now and from now on."""
        self._released.set()

    def _now(self, point: str, time: int) -> list[tuple[Fault, random.Random]]:
        """The faults that strike this time. A draw is made each time, so that one fault's luck is not another's."""
        found = []
        for n, (fault, rng) in enumerate(zip(self.faults, self._random, strict=True)):
            if fault.point == point and rng.random() < fault.p and fault.strikes(time):
                self._struck[n] += 1
                found.append((fault, rng))
        return found


def _effect(text: str, point: str, effect: str) -> tuple[Callable[[str], BaseException] | None, tuple[float, float]]:
    if effect in SQLITE_ERRORS:
        return lambda message: make_error(effect, message), (0.0, 0.0)
    if (match := _LATENCY.fullmatch(effect)) is not None:
        low = _seconds(match["low"])
        high = low if match["high"] is None else _seconds(match["high"])
        if not 0 <= low <= high < math.inf:
            raise _bad(text, "a latency is written 5ms, 0.5s or 5ms~20ms, the shorter one first")
        return None, (low, high)
    name, _, kind = effect.partition("=")
    if name != "error":
        raise _bad(
            text, f"there is no effect {effect!r}; they are latency=5ms~20ms, error=..., {', '.join(SQLITE_ERRORS)}"
        )
    if point != PROCESS:
        raise _bad(text, f"error is for the point 'process'; the ledger's errors are {', '.join(SQLITE_ERRORS)}")
    return _error_class(text, kind or "TransientError"), (0.0, 0.0)


def _error_class(text: str, name: str) -> Callable[[str], BaseException]:
    found = getattr(errors, name, None) if name in _ERRORS else getattr(builtins, name, None)
    if not (isinstance(found, type) and issubclass(found, Exception)):
        raise _bad(text, f"there is no error class {name!r}: use one of Python's own or of {', '.join(_ERRORS)}")
    return found


def _seconds(text: str) -> float:
    return _number(text[:-2]) / 1000 if text.endswith("ms") else _number(text[:-1])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _bad(text: object, why: str) -> ValueError:
    return ValueError(f"fault {text!r}: {why}")
