"""One queue on stage: its work, calls into it that can be given up, and what comes back from them.

Whatever may be code of the queue is run by a hand: also how its values and errors are shown, and its attributes.
"""

from __future__ import annotations

import json
import threading
import time
import traceback
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
from pytest_taskqueue.subjects import Promise, ProtocolError, Subject, checked_future
from pytest_taskqueue.wording import said
from taskqueue_core import Task

QUIET = 0.3
"""Seconds in which nothing happens where nothing is to happen. Too short a time only ever speaks for the queue."""

OVERTIME = 0.5
"""Seconds beyond its timeout after which a call that has one is given up."""


SHOWN_CALLS = 3
"""How many of the innermost calls are shown of an error that a queue raised."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: a value, an error and what it says (`text`), or nothing in time (`late`)."""

    value: Any = None
    error: Exception | None = None
    text: str = ""
    late: bool = False

    def __str__(self) -> str:
        """As evidence shows it."""
        if self.late:
            return "no answer"
        return self.text if self.error is not None else f"the result {self.value!r:.60}"


@dataclass(frozen=True, slots=True, eq=False)
class Foreign:
    """A result that JSON does not know, of which its text is left: it equals nothing."""

    text: str

    def __repr__(self) -> str:
        """As evidence shows it."""
        return self.text


def plain(value: Any) -> Any:
    """A result as JSON has it: no method of the queue's own is left in it. Called where that can be given up."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return Foreign(f"{value!r:.60}")


def one_line(error: BaseException | None) -> str:
    """An error on one line."""
    return " ".join(said(error).split())[:160].rstrip(": ")


def raised_in(error: BaseException) -> str:
    """The innermost calls of an error, with file and line."""
    return "raised in:\n" + "".join(traceback.format_tb(error.__traceback__)[-SHOWN_CALLS:])


class Player:
    """One queue on stage. `ask` makes whatever it raises Broken, `answer` looks at it."""

    def __init__(self, patience: float, folder: Path) -> None:
        self.patience = patience
        self.folder = folder
        self.work = Work()
        self.subject: Subject | None = None
        self.promises: frozenset[Promise] = frozenset()
        self.hands: list[Hand] = []
        self.hung = False
        self._hand = self._new_hand()  # what is not done by many at once is done in one thread
        self._closed = False

    @property
    def threads(self) -> list[threading.Thread]:
        """Those that are ours."""
        return [hand.thread for hand in self.hands]

    # One call

    def ask(self, what: str, function: Callable[[], Any], seconds: float | None = None) -> Any:
        """What the function returns, which may not raise. Raises Broken, and ProtocolError."""
        answer = self.answer(what, function, seconds)
        if answer.error is not None:
            raise Broken(f"{what} raised {answer}", stacks=[raised_in(answer.error)]) from answer.error
        return answer.value

    def answer(self, what: str, function: Callable[[], Any], seconds: float | None = None) -> Answer:
        """The same for what may raise. Raises Broken when it does not come back."""
        try:
            return Answer(self._call(what, function, seconds or self.patience))
        except (Broken, ProtocolError):
            raise
        except Exception as error:  # noqa: BLE001 - it is looked at
            return Answer(error=error, text=self._text(error))

    def _call(self, what: str, function: Callable[[], Any], seconds: float) -> Any:
        try:
            return self._hand.call(function, seconds)
        except Hang as hang:
            self._hand, self.hung = self._new_hand(), True
            raise Broken(f"{what}: {hang}", hung=True, stacks=hang.stacks) from None

    def _text(self, error: Exception) -> str:
        """An error on one line, by its own `__str__`."""
        name = type(error).__name__
        try:
            text: str = self._call(f"the text of {name}", partial(one_line, error), self.patience)
        except Broken:
            raise
        except Exception:  # noqa: BLE001 - what would end a thread: see Hand
            return name
        return text

    def together(
        self, functions: Sequence[Callable[[], Any]], *, during: Callable[[], object] | None = None
    ) -> list[Any]:
        """What several functions return that begin at once, each in its own thread; `during` runs meanwhile."""
        hands = [self._new_hand() for _ in functions]
        gate = threading.Barrier(len(hands))

        def begun(function: Callable[[], Any]) -> Any:
            try:
                gate.wait(self.patience)
                return function()
            except Broken:
                raise
            except Exception as error:
                raise Broken(f"used by {len(hands)} threads at once it raised {one_line(error)}") from error

        outcomes = [hand.begin(partial(begun, function)) for hand, function in zip(hands, functions, strict=True)]
        if during is not None:
            during()
        deadline = time.monotonic() + 3 * self.patience  # for many tasks
        try:
            return [outcome.result(max(deadline - time.monotonic(), 0.0)) for outcome in outcomes]
        except Broken:
            raise
        except TimeoutError:
            waiting = [hand.thread for hand, outcome in zip(hands, outcomes, strict=True) if not outcome.done()]
            evidence = f"{len(waiting)} of {len(hands)} threads that use it at once do not come back"
            raise Broken(evidence, hung=True, stacks=stacks(waiting)) from None
        except Exception as error:  # of a hand, which makes it of what would end a thread
            raise Broken(f"used by {len(hands)} threads at once it raised {one_line(error)}") from error

    # What is asked of a queue

    def submit(self, key: str, /, **script: Any) -> Any:
        """The future of a task that has to be accepted."""
        return self.ask(f"submit of {key}", lambda: self.submit_here(key, **script))

    def submit_here(self, key: str, /, **script: Any) -> Any:
        """The same in the thread of the caller, without a limit."""
        return self.submit_task(task(key, **script))

    def submit_task(self, given: Task) -> Any:
        """The same with a task that is not made from its key."""
        assert self.subject is not None
        return checked_future(self.subject, self.subject.submit(given))

    def offer(self, key: str, /, **script: Any) -> Answer:
        """What becomes of a task that may be refused: by `submit` itself, or by its future."""
        return self.offer_task(task(key, **script))

    def offer_task(self, given: Task) -> Answer:
        """The same with a task that is not made from its key."""
        taken = self.answer(f"submit of {given.key}", lambda: self.submit_task(given))
        return taken if taken.error is not None else self.result(taken.value)

    def result(self, given: Any, seconds: float | None = None) -> Answer:
        """How a task ended; its value is `plain`."""
        seconds = self.patience if seconds is None else seconds
        outcome = self._hand.begin(lambda: given.result(seconds))
        wait([outcome], seconds + OVERTIME)
        if not outcome.done():
            shown = stacks([self._hand.thread])
            self._hand, self.hung = self._new_hand(), True
            raise Broken("result(timeout) takes no notice of its timeout", hung=True, stacks=shown)
        got = self.answer("result", outcome.result)
        if isinstance(got.error, TimeoutError) and got.text == type(got.error).__name__:
            return Answer(late=True)
        return got if got.error is not None else Answer(self.ask("the text of a result", partial(plain, got.value)))

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
        call = self.ask(f"its method {name}", lambda: getattr(self.subject, name, None))
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
