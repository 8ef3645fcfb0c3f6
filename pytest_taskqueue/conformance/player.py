"""One queue on stage: its work, calls into it that can be given up, and what comes back from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pytest_taskqueue.conformance.outcomes import Broken
from pytest_taskqueue.conformance.script import Work, task
from pytest_taskqueue.hangs import Hand, Hang, stacks
from pytest_taskqueue.subjects import ProtocolError, Subject, checked_future
from pytest_taskqueue.wording import said

QUIET = 0.3
"""Seconds in which nothing happens where nothing is to happen. Too short a time only ever speaks for the queue."""

OVERTIME = 0.5
"""Seconds beyond its timeout after which a call that has one is given up."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: a value, an error, or nothing in time (`late`)."""

    value: Any = None
    error: Exception | None = None
    late: bool = False

    def __str__(self) -> str:
        """As evidence shows it."""
        if self.late:
            return "no answer"
        return one_line(self.error) if self.error is not None else f"the result {self.value!r:.60}"


def one_line(error: BaseException | None) -> str:
    """An error on one line."""
    return " ".join(said(error).split())[:160].rstrip(": ")


class Player:
    """One queue on stage. `ask` makes whatever it raises Broken; `call` and `answer` let it raise what it raises."""

    def __init__(self, patience: float, folder: Path) -> None:
        self.patience = patience
        self.folder = folder
        self.work = Work()
        self.subject: Subject | None = None
        self.hands: list[Hand] = []
        self.hung = False
        self._hand = self._new_hand()  # what is not done by many at once is done in one thread
        self._closed = False

    @property
    def threads(self) -> list[threading.Thread]:
        """Those that are ours."""
        return [hand.thread for hand in self.hands]

    # One call

    def call(self, what: str, function: Callable[[], Any], seconds: float | None = None) -> Any:
        """What the function returns or raises. Raises Broken when it does not come back."""
        try:
            return self._hand.call(function, seconds or self.patience)
        except Hang as hang:
            self._hand, self.hung = self._new_hand(), True
            raise Broken(f"{what}: {hang}", hung=True, stacks=hang.stacks) from None

    def ask(self, what: str, function: Callable[[], Any], seconds: float | None = None) -> Any:
        """The same for what may not raise."""
        try:
            return self.call(what, function, seconds)
        except (Broken, ProtocolError):
            raise
        except Exception as error:
            raise Broken(f"{what} raised {one_line(error)}") from error

    def answer(self, what: str, function: Callable[[], Any]) -> Answer:
        """The same for what may raise."""
        try:
            return Answer(self.call(what, function))
        except (Broken, ProtocolError):
            raise
        except Exception as error:  # noqa: BLE001 - it is looked at
            return Answer(error=error)

    def together(
        self, functions: Sequence[Callable[[], Any]], *, during: Callable[[], object] | None = None
    ) -> list[Any]:
        """What several functions return that begin at once, each in its own thread; `during` runs meanwhile."""
        hands = [self._new_hand() for _ in functions]
        gate = threading.Barrier(len(hands))

        def begun(function: Callable[[], Any]) -> Any:
            gate.wait(self.patience)
            return function()

        outcomes = [hand.begin(partial(begun, function)) for hand, function in zip(hands, functions, strict=True)]
        if during is not None:
            during()
        deadline = time.monotonic() + 3 * self.patience  # for many tasks
        try:
            return [outcome.result(max(deadline - time.monotonic(), 0.0)) for outcome in outcomes]
        except Broken:
            raise
        except Exception as error:
            waiting = [hand.thread for hand, outcome in zip(hands, outcomes, strict=True) if not outcome.done()]
            if isinstance(error, TimeoutError) and waiting:
                evidence = f"{len(waiting)} of {len(hands)} threads that use it at once do not come back"
                raise Broken(evidence, hung=True, stacks=stacks(waiting)) from None
            raise Broken(f"used by {len(hands)} threads at once it raised {one_line(error)}") from error

    # What is asked of a queue

    def submit(self, key: str, /, **script: Any) -> Any:
        """The future of a task that has to be accepted."""
        return self.ask(f"submit of {key}", lambda: self.submit_here(key, **script))

    def submit_here(self, key: str, /, **script: Any) -> Any:
        """The same in the thread of the caller, without a limit."""
        assert self.subject is not None
        return checked_future(self.subject, self.subject.submit(task(key, **script)))

    def offer(self, key: str, /, **script: Any) -> Answer:
        """What becomes of a task that may be refused: by `submit` itself, or by its future."""
        taken = self.answer(f"submit of {key}", lambda: self.submit_here(key, **script))
        return taken if taken.error is not None else self.result(taken.value)

    def result(self, given: Any, seconds: float | None = None) -> Answer:
        """How a task ended."""
        seconds = self.patience if seconds is None else seconds
        try:
            return Answer(self.call("result", lambda: given.result(seconds), seconds + OVERTIME))
        except Broken as broken:
            raise Broken("result(timeout) takes no notice of its timeout", hung=True, stacks=broken.stacks) from None
        except TimeoutError as error:
            return Answer(late=not str(error), error=error if str(error) else None)
        except Exception as error:  # noqa: BLE001 - it is looked at
            return Answer(error=error)

    def value(self, key: str, given: Any) -> Any:
        """The result of a task that has to succeed."""
        got = self.result(given)
        if got.late:
            raise Broken(f"{key} has no result after {self.patience:g} s", hung=True, stacks=self.stacks())
        if got.error is not None:
            raise Broken(f"{key} ended with {got}") from got.error
        return got.value

    def method(self, name: str, remedy: str) -> Callable[..., Any]:
        """A method that not every queue has. Raises Broken."""
        call = getattr(self.subject, name, None)
        if not callable(call):
            raise Broken(f"it has no method {name}: write def {remedy}")
        found: Callable[..., Any] = call
        return found

    def close(self, timeout: float, *, seconds: float | None = None) -> object:
        """Close it: what it reports."""
        assert self.subject is not None
        subject, self._closed = self.subject, True
        return self.ask(f"close({timeout:g})", lambda: subject.close(timeout), seconds or timeout + self.patience)

    def begin_close(self, timeout: float, seconds: float) -> Future[Any]:
        """Begin to close it; back when it is closed, or after `seconds`."""
        assert self.subject is not None
        subject, self._closed = self.subject, True
        return self.begin(lambda: subject.close(timeout), seconds)

    def begin(self, function: Callable[[], Any], seconds: float) -> Future[Any]:
        """Begin a call in a thread of its own; back when it is done, or after `seconds`."""
        outcome = self._new_hand().begin(function)
        wait([outcome], seconds)
        return outcome

    def stacks(self) -> list[str]:
        """Where all threads are that are not ours."""
        ours = {*self.threads, threading.current_thread(), threading.main_thread()}
        return stacks([thread for thread in threading.enumerate() if thread not in ours])

    # The end

    def leave(self, timeout: float) -> None:
        """Let the work go on and close; nothing is judged by how that goes."""
        self.work.release()
        try:
            if self.subject is not None and not self._closed:
                with suppress(Broken):
                    self.close(timeout, seconds=2 * timeout)
        finally:
            for hand in self.hands:
                hand.end()

    def _new_hand(self) -> Hand:
        hand = Hand("tq-conformance")
        self.hands.append(hand)
        return hand
