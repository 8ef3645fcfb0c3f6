"""Queues that break one promise each, and Kept, which keeps them all. `nonconforming.py:Name` names them."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from types import MappingProxyType
from typing import IO, Any

from pytest_taskqueue.subjects import Promise, Setup
from taskqueue_core import (
    KeyConflictError,
    PermanentError,
    RetryPolicy,
    Task,
    TaskFailedError,
    TaskQueue,
    TransientError,
)

STOP = threading.Event()
"""Whoever hangs in this process waits for it."""

FILES: list[IO[bytes]] = []
"""Those that were left open."""

NTH = 41
"""The task of a queue with which something goes wrong: only where many are submitted."""


class Kept:
    """TaskQueue, quicker than it is made for tests of durability: commits survive kill -9, retries come at once."""

    promises = frozenset(Promise)
    retry = RetryPolicy(base=0.001, cap=0.002)
    ledger = "tasks.db"

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.number = itertools.count(1)
        self.queue = TaskQueue(
            self.work,
            ledger=":memory:" if self.ledger == ":memory:" else setup.directory / self.ledger,
            durability="process",
            max_workers=setup.workers,
            queue_size=setup.queue_size,
            overflow=setup.overflow,
            retry=self.retry,
        )

    def work(self, task: Task) -> Any:
        return self.setup.work(task)

    def submit(self, task: Task) -> Any:
        return self.queue.submit(task)

    def join(self, timeout: float) -> bool:
        return self.queue.join(timeout)

    def dead_letters(self) -> list[str]:
        return [letter.idempotency_key for letter in self.queue.dead_letters() if letter.replayed_at is None]

    def replay(self, key: str) -> Future[Any]:
        return self.queue.replay(key)

    def close(self, timeout: float) -> object:
        return self.queue.close(timeout)


def factory(setup: Setup) -> Kept:
    return Kept(setup)


# --- once


class Loses(Kept):
    """A task is accepted and forgotten."""

    def submit(self, task: Task) -> Any:
        return Future() if next(self.number) == NTH else super().submit(task)


class Invents(Kept):
    """A task is answered without having been worked on."""

    def submit(self, task: Task) -> Any:
        if next(self.number) != NTH:
            return super().submit(task)
        guessed: Future[Any] = Future()
        guessed.set_result(task.params["value"])
        return guessed


class Doubles(Kept):
    """A task is worked on twice."""

    def work(self, task: Task) -> Any:
        if next(self.number) == NTH:
            super().work(task)
        return super().work(task)


class Swaps(Kept):
    """A task gets the result of another."""

    def work(self, task: Task) -> Any:
        value = super().work(task)
        return f"not {value}" if next(self.number) == NTH else value


class OneThread(Kept):
    """Accepts tasks from one thread alone."""

    def submit(self, task: Task) -> Any:
        if threading.current_thread() is not self.__dict__.setdefault("thread", threading.current_thread()):
            raise RuntimeError("another thread")
        return super().submit(task)


class Renames(Kept):
    """Makes the task anew for its work, without the key."""

    def work(self, task: Task) -> Any:
        return super().work(Task(task.image_key, task.variant, task.params))


# --- results, exceptions


class Flattens(Kept):
    """Keeps texts only."""

    def work(self, task: Task) -> Any:
        value = super().work(task)
        return str(value) if isinstance(value, dict) else value


class Swallows(Kept):
    """A task that fails has no result, and no error."""

    def work(self, task: Task) -> Any:
        try:
            return super().work(task)
        except ValueError:
            return None


class Hides(Kept):
    """An error, but not which."""

    def submit(self, task: Task) -> Any:
        return Vague(super().submit(task))


class Vague:
    def __init__(self, given: Future[Any]) -> None:
        self.given = given

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self.given.result(timeout)
        except TaskFailedError:
            raise RuntimeError("failed") from None


class Dies(Kept):
    """After three failures it does nothing any more."""

    failures = 0

    def submit(self, task: Task) -> Any:
        if self.failures == 3:
            return Future()
        self.failures += task.params.get("text") is not None
        return super().submit(task)


# --- closes, leaves_nothing


class Takes(Kept):
    """After close it takes tasks and does nothing about them."""

    closed = False

    def submit(self, task: Task) -> Any:
        return Future() if self.closed else super().submit(task)

    def close(self, timeout: float) -> object:
        self.closed = True
        return super().close(timeout)


class SaysNothing(Takes):
    """After close a submit returns nothing."""

    def submit(self, task: Task) -> Any:
        return None if self.closed else super().submit(task)


class Goes(Kept):
    """After close it goes on working."""

    closed = False

    def submit(self, task: Task) -> Any:
        if not self.closed:
            return super().submit(task)
        late: Future[Any] = Future()
        late.set_result(self.setup.work(task))
        return late

    def close(self, timeout: float) -> object:
        self.closed = True
        return super().close(timeout)


class Forgets(Kept):
    """Nobody hears of the tasks that waited when it was closed."""

    def submit(self, task: Task) -> Any:
        given, heard = super().submit(task), Future[Any]()

        def tell(given: Future[Any]) -> None:
            if given.exception() is None or "QueueClosed" not in type(given.exception()).__name__:
                heard.set_exception(given.exception()) if given.exception() else heard.set_result(given.result())

        given.add_done_callback(tell)
        return heard


class CloseRaises(Kept):
    def close(self, timeout: float) -> object:
        super().close(timeout)
        raise RuntimeError("the door is jammed")


class CloseHangs(Kept):
    def close(self, timeout: float) -> object:
        report = super().close(timeout)
        STOP.wait()
        return report


class LeavesThread(Kept):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        threading.Thread(target=STOP.wait, name="forgotten", daemon=True).start()


class LeavesFile(Kept):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        FILES.append((setup.directory / "journal").open("wb"))


class LeavesHalf(Kept):
    def close(self, timeout: float) -> object:
        (self.setup.directory / "upload.tmp").write_bytes(b"half")
        return super().close(timeout)


# --- a full queue


class Unbounded(Kept):
    """Blocks late."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, queue_size=setup.queue_size + (10**6 if setup.overflow == "block" else 0)))


class Overfull(Kept):
    """One place more than there are."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, queue_size=setup.queue_size + (setup.overflow == "block")))


class Waits(Kept):
    """Is to reject, and blocks."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, overflow="block"))


class RejectsNothing(Kept):
    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, queue_size=10**6))


class RejectsAll(Kept):
    """Rejects what it has room for."""

    def submit(self, task: Task) -> Any:
        if self.setup.overflow == "reject" and next(self.number) > 2:
            raise RuntimeError("full")
        return super().submit(task)


class RejectsAndKeeps(Kept):
    """Says no and does it all the same."""

    def submit(self, task: Task) -> Any:
        try:
            return super().submit(task)
        except Exception:
            if self.setup.overflow == "reject":
                threading.Thread(target=self.setup.work, args=(task,), daemon=True).start()
            raise


class RejectsForEver(Kept):
    """Once full, always full."""

    full = False

    def submit(self, task: Task) -> Any:
        try:
            if self.full:
                raise RuntimeError("full")
            return super().submit(task)
        except Exception:
            self.full = self.setup.overflow == "reject"
            raise


# --- a known key


class Repeats(Kept):
    """Every submit is a task of its own."""

    def submit(self, task: Task) -> Any:
        return super().submit(replace(task, idempotency_key=f"{task.key}:{next(self.number)}"))

    def work(self, task: Task) -> Any:
        return super().work(replace(task, idempotency_key=task.key.rpartition(":")[0]))


class RepeatsLater(Kept):
    """Knows a key for sixteen submits."""

    def __init__(self, setup: Setup) -> None:
        self.submits: dict[str, Any] = {}
        super().__init__(setup)

    def submit(self, task: Task) -> Any:
        if next(self.submits.setdefault(task.key, itertools.count(1))) <= 16:
            return super().submit(task)
        again: Future[Any] = Future()
        again.set_result(self.setup.work(task))
        return again


class Races(Repeats):
    """Two at the same time both find the key unknown."""

    def __init__(self, setup: Setup) -> None:
        self.known: dict[str, Any] = {}
        self.two = threading.Barrier(2)
        super().__init__(setup)

    def submit(self, task: Task) -> Any:
        if (known := self.known.get(task.key)) is not None:
            return known
        try:
            self.two.wait(0.05)
        except threading.BrokenBarrierError:
            self.two.reset()
        self.known[task.key] = given = super().submit(task)
        return given


class Null(Kept):
    """A duplicate gets nothing."""

    def __init__(self, setup: Setup) -> None:
        self.known: set[str] = set()
        super().__init__(setup)

    def submit(self, task: Task) -> Any:
        given = super().submit(task)
        if task.key not in self.known:
            self.known.add(task.key)
            return given
        nothing: Future[Any] = Future()
        nothing.set_result(None)
        return nothing


class Stale(Kept):
    """The first one's result, whatever is asked under its key."""

    def submit(self, task: Task) -> Any:
        try:
            return super().submit(task)
        except KeyConflictError:
            record = self.queue.get(task.key)
            assert record is not None
            return super().submit(record.task)


class StaleWhenDone(Stale):
    """The same, but only for a task that is done."""

    def submit(self, task: Task) -> Any:
        record = self.queue.get(task.key)
        done = record is not None and record.status == "success"
        return super().submit(task) if done else Kept.submit(self, task)


class Refuses(Kept):
    """Says no to a conflict, and does it all the same."""

    def submit(self, task: Task) -> Any:
        try:
            return super().submit(task)
        except KeyConflictError:
            self.setup.work(task)
            raise


class ByImage(Kept):
    """Takes tasks of one image for one task."""

    def __init__(self, setup: Setup) -> None:
        self.first: dict[str, Task] = {}
        super().__init__(setup)

    def known_as(self, task: Task) -> str:
        return task.image_key

    def submit(self, task: Task) -> Any:
        key = self.known_as(task)
        self.first.setdefault(key, task)
        return super().submit(Task(key, params=task.params))

    def work(self, task: Task) -> Any:
        return super().work(self.first[task.image_key])


class ByImageAndVariant(ByImage):
    """Overlooks the idempotency_key."""

    def known_as(self, task: Task) -> str:
        return f"{task.image_key} {task.variant}"


class ByImageOrKey(ByImage):
    """Overlooks the variant."""

    def known_as(self, task: Task) -> str:
        return task.idempotency_key or task.image_key


class ByAll(ByImage):
    """Takes one key for two tasks, when the image is another one."""

    def known_as(self, task: Task) -> str:
        return f"{task.image_key} {task.variant} {task.idempotency_key}"


# --- tasks that fail


class NeverRetries(Kept):
    def work(self, task: Task) -> Any:
        try:
            return super().work(task)
        except ConnectionError as error:
            raise PermanentError(str(error)) from error


class RetriesAll(Kept):
    """Also what no attempt mends."""

    retry = RetryPolicy(max_attempts=4, base=0.001, cap=0.002)

    def work(self, task: Task) -> Any:
        try:
            return super().work(task)
        except ValueError as error:
            raise TransientError(str(error)) from error


class RetriesForEver(Kept):
    retry = RetryPolicy(max_attempts=10**6, base=0.001, cap=0.002)


class NoLetters(Kept):
    def dead_letters(self) -> list[str]:
        return []


class LettersForEver(Kept):
    """Also of what was mended."""

    def dead_letters(self) -> list[str]:
        return [letter.idempotency_key for letter in self.queue.dead_letters()]


class NoMethods:
    """Promises dead letters, and knows none."""

    promises = ("dead_letters", "joins")

    def __init__(self, setup: Setup) -> None:
        self.kept = Kept(setup)

    def submit(self, task: Task) -> Any:
        return self.kept.submit(task)

    def close(self, timeout: float) -> object:
        return self.kept.close(timeout)


class ReplaysNothing(Kept):
    def replay(self, key: str) -> Future[Any]:
        return Future()


class ReplaysTheError(Kept):
    """The old failure instead of a new try."""

    def replay(self, key: str) -> Future[Any]:
        record = self.queue.get(key)
        assert record is not None
        return self.queue.submit(record.task)


# --- join and close


class JoinsEarly(Kept):
    def join(self, timeout: float) -> bool:
        return True


class JoinsAtTwice(Kept):
    """Does not wait when it is called again."""

    def join(self, timeout: float) -> bool:
        return next(self.number) > 1


class JoinsFirst(Kept):
    """Waits for one task; the others are done when it is closed."""

    def __init__(self, setup: Setup) -> None:
        self.done, self.closing = threading.Event(), threading.Event()
        super().__init__(setup)

    def work(self, task: Task) -> Any:
        first = next(self.number) == 1
        if not first:
            self.closing.wait(20.0)
        value = super().work(task)
        self.done.set()
        return value

    def join(self, timeout: float) -> bool:
        return self.done.wait(timeout)

    def close(self, timeout: float) -> object:
        self.closing.set()
        return super().close(timeout)


class JoinsNever(Kept):
    def join(self, timeout: float) -> bool:
        super().join(timeout)
        return False


class JoinHangs(Kept):
    def join(self, timeout: float) -> bool:
        return STOP.wait()


class Patient(Kept):
    """Its close waits for what is stuck."""

    def close(self, timeout: float) -> object:
        return super().close(1000.0)


class Overstays(Kept):
    """Its close takes five seconds more for what is stuck, and no time when it is idle."""

    def close(self, timeout: float) -> object:
        began = time.monotonic()
        report = super().close(timeout)
        if time.monotonic() - began >= timeout:
            STOP.wait(5.0)
        return report


class OverstaysAlways(Kept):
    """Its close takes so long also when it is idle."""

    def close(self, timeout: float) -> object:
        report = super().close(timeout)
        STOP.wait(5.5)
        return report


# --- code of its own where one looks at what it gave


class Wrapped:
    """A future that changes what it gives; of an error it only hears."""

    def __init__(self, given: Future[Any], change: Callable[[Any], Any]) -> None:
        self.given, self.change = given, change

    def result(self, timeout: float | None = None) -> Any:
        try:
            value = self.given.result(timeout)
        except TaskFailedError as error:
            self.change(error)
            raise
        return self.change(value)


class ReprHangs(Kept):
    """A dict comes back as what hangs when it is shown."""

    def submit(self, task: Task) -> Any:
        return Wrapped(super().submit(task), lambda value: self.changed() if isinstance(value, dict) else value)

    def changed(self) -> object:
        return Unshown(STOP.wait)


class ReprExits(ReprHangs):
    """A dict comes back as what ends the program when it is shown."""

    def changed(self) -> object:
        return Unshown(sys.exit)


class Unshown:
    def __init__(self, shown: Callable[[], object]) -> None:
        self.shown = shown

    def __repr__(self) -> str:
        return str(self.shown())


class TextHangs(Kept):
    """An error that hangs when it is read."""

    def submit(self, task: Task) -> Any:
        given = super().submit(task)
        return given if task.params.get("text") is None else Wrapped(given, self.fail)

    def fail(self, error: Exception) -> None:
        raise HangingError from error


class TextExits(TextHangs):
    """An error that ends the program when it is read."""

    def fail(self, error: Exception) -> None:
        raise ExitingError from error


class HangingError(Exception):
    def __str__(self) -> str:
        return str(STOP.wait())


class ExitingError(Exception):
    def __str__(self) -> str:
        return str(sys.exit(3))


class ReportHangs(Kept):
    """What close reports hangs when it is read."""

    @property
    def waiting(self) -> int:
        return STOP.wait()

    def close(self, timeout: float) -> object:
        super().close(timeout)
        return self


class JoinInterrupts(Kept):
    """What join returns is neither true nor false."""

    def join(self, timeout: float) -> Any:
        return Undecided()


class Undecided:
    def __bool__(self) -> bool:
        raise KeyboardInterrupt


class Lists(Kept):
    """A duplicate gets the result in a list."""

    def submit(self, task: Task) -> Any:
        return Wrapped(super().submit(task), lambda value: [value])


class Interrupts(NoMethods):
    """A method that is missing interrupts the program."""

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt


class PromisesOnce(Kept):
    """Says once what it promises."""

    @property
    def promises(self) -> Any:  # type: ignore[override]
        if next(self.number) > 1:
            raise RuntimeError("it was said")
        return {"joins"}


# --- kill -9 and fork


class InMemory(Kept):
    """Says durable and keeps nothing."""

    ledger = ":memory:"


class Forgetful(Kept):
    """Knows after kill -9 what is to be done, and not what was done."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        for record in self.queue.records():
            if record.finished:
                self.queue.purge(record.idempotency_key)


class Journal(Kept):
    """Replays after kill -9 what it wrote down before, without the keys."""

    ledger = ":memory:"
    replayed = slice(None)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.journal = setup.directory / "journal"
        written = self.journal.read_text(encoding="utf-8").splitlines() if self.journal.is_file() else []
        done = {json.loads(line)[1] for line in written if json.loads(line)[0] == "done"}
        tasks = [json.loads(line) for line in written if json.loads(line)[0] == "task"]
        for _, image_key, variant, params in [task for task in tasks if task[1] not in done][self.replayed]:
            self.queue.submit(Task(image_key, variant, params))

    def submit(self, task: Task) -> Any:
        self.write("task", task.image_key, task.variant, dict(task.params))
        return super().submit(task)

    def work(self, task: Task) -> Any:
        value = super().work(task)
        self.write("done", task.image_key)
        return value

    def write(self, *entry: Any) -> None:
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(f"{json.dumps(entry)}\n")


class JournalWithGaps(Journal):
    """Without the keys, and without the two that were being worked on."""

    replayed = slice(2, None)


class Blank(Kept):
    """Knows after kill -9 which tasks were done, and not how."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.done = {record.idempotency_key for record in self.queue.records() if record.finished}

    def submit(self, task: Task) -> Any:
        if task.key not in self.done:
            return super().submit(task)
        nothing: Future[Any] = Future()
        nothing.set_result(None)
        return nothing


class ForkHangs(Kept):
    def __init__(self, setup: Setup) -> None:
        self.pid = os.getpid()
        super().__init__(setup)

    def submit(self, task: Task) -> Any:
        if os.getpid() != self.pid:
            STOP.wait()
        return super().submit(task)


class ForkTakes(ForkHangs):
    """Takes a task in a child that has none of its threads."""

    def submit(self, task: Task) -> Any:
        return Future() if os.getpid() != self.pid else Kept.submit(self, task)


class ForkHarms(ForkHangs):
    """The child is refused, and the parent does not go on."""

    forked = 0

    def submit(self, task: Task) -> Any:
        if os.getpid() != self.pid:
            raise RuntimeError("not here")
        return Future() if task.key.startswith("after-") else Kept.submit(self, task)


class Bad(Repeats):
    """Unbounded, in memory, without retries; every submit is a task of its own, and join does not wait."""

    ledger = ":memory:"
    retry = RetryPolicy(max_attempts=1)

    def __init__(self, setup: Setup) -> None:
        super().__init__(replace(setup, queue_size=10**6, overflow="block"))

    def join(self, timeout: float) -> bool:
        return True


# --- no queues


class OpenHangs(Kept):
    def __init__(self, setup: Setup) -> None:
        STOP.wait()


class SubmitHangs(Kept):
    def submit(self, task: Task) -> Any:
        STOP.wait()


class CannotOpen(Kept):
    def __init__(self, setup: Setup) -> None:
        raise RuntimeError("no such driver")


class SubmitRaises(Kept):
    def submit(self, task: Task) -> Any:
        raise RuntimeError("no such driver")


class NoFuture(Kept):
    def submit(self, task: Task) -> Any:
        super().submit(task)


class NoSubmit:
    def __init__(self, setup: Setup) -> None:
        pass

    def close(self, timeout: float) -> object:
        return None


class NoTimeout(NoSubmit):
    def submit(self, task: Task) -> Any:
        return Future()

    def close(self) -> object:  # type: ignore[override]
        return None


class Boasts(NoSubmit):
    promises = frozenset({"quick"})

    def submit(self, task: Task) -> Any:
        return Future()


class NoClose:
    def __init__(self, setup: Setup) -> None:
        pass

    def submit(self, task: Task) -> Any:
        return Future()


class NoPromises(Boasts):
    promises = None  # type: ignore[assignment]


class Denies(Boasts):
    promises = MappingProxyType({"bounded": False})  # type: ignore[assignment]


class BoastsOfBasics(Boasts):
    promises = frozenset({"once", "bounded"})


def nothing(setup: Setup) -> Any:
    return None
