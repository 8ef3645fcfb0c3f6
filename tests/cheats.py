"""Queues that look better than they are, each in one way. `cheats:Name` names them, `begin` and `end` enclose them."""

from __future__ import annotations

import _thread
import gc
import itertools
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

from toys import LONG, Pool

from pytest_taskqueue import load
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.load import ClientLog
from pytest_taskqueue.subjects import Setup
from pytest_taskqueue.thumbnails import image_processor
from taskqueue_core import RetryPolicy, Task, TaskQueue, TransientError

RARE = 1000  # one task in so many
FIRST = 700  # this one first: the two slots of the warm-up and a pair are over by then
CLOCK = time.perf_counter

submissions = itertools.count()
released = threading.Event()
children: list[subprocess.Popen[bytes]] = []
files: list[Any] = []


def begin() -> None:
    """A new comparison: its submissions are counted over all slots."""
    global submissions
    submissions = itertools.count()
    released.clear()


def end() -> None:
    """Let go of whatever was left behind."""
    released.set()
    while children:
        children[-1].kill()
        children.pop().wait(LONG)
    while files:
        files.pop().close()


class Steady(Pool):
    """Honest: about 1,000 tasks a second of the workload io, so that a slot of 0.3 s never sees 500."""

    pause = 0.006


class Rarely(Steady):
    """Does something wrong to one task in a thousand, counted over all slots of a comparison."""

    def submit(self, task: Task) -> Future[Any]:
        return self.wrong(task) if next(submissions) % RARE == FIRST else super().submit(task)

    def wrong(self, task: Task) -> Future[Any]:
        raise NotImplementedError


class Loses(Rarely):
    """Never completes it."""

    def wrong(self, task: Task) -> Future[Any]:
        return Future()


class Doubles(Rarely):
    """Works on it twice."""

    def wrong(self, task: Task) -> Future[Any]:
        return self._executor.submit(lambda: (self.do(task), self.do(task))[1])


class Miscounts(Rarely):
    """Gives a wrong value for it."""

    def wrong(self, task: Task) -> Future[Any]:
        return self._executor.submit(lambda: self.do(task) + 1)


class Guesses(Rarely):
    """Knows the value without the work."""

    def wrong(self, task: Task) -> Future[Any]:
        return self._executor.submit(lambda: task.params["n"])


# --- results before their time


class Promises(Pool):
    """Gives each result when its work begins, all of it done soon after."""

    def submit(self, task: Task) -> Future[Any]:
        promised: Future[Any] = Future()
        self._executor.submit(self.keep, promised, task)
        return promised

    def keep(self, promised: Future[Any], task: Task) -> None:
        promised.set_result(task.params.get("n"))
        self.do(task)


class Writes(Promises):
    """Says that the work is done, gives the result, and then begins to make the image."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        assert setup.images is not None
        self.images, self.process = setup.images, image_processor(setup.images)

    def keep(self, promised: Future[Any], task: Task) -> None:
        self.setup.tally.count(task.key)
        promised.set_result(None)
        self.make(task)

    def make(self, task: Task) -> None:
        Path(self.process(task).temp_path).replace(self.images.output(task))


class WritesWhenAsked(Writes):
    """Makes an image when somebody asks where it lies, which is never on the clock."""

    pause = 0.05  # or the looks at the end would take long

    def keep(self, promised: Future[Any], task: Task) -> None:
        time.sleep(self.pause)
        self.setup.tally.count(task.key)
        promised.set_result(None)

    def output(self, task: Task) -> Path:
        if not (place := self.images.output(task)).exists():
            self.make(task)
        return place


class WorksAhead(Pool):
    """Does the first tasks of all clients before anybody has submitted them, for it knows what they will be."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        workload = Catalogue().workload("io", 7)
        workload.prepare(setup.directory)
        ahead = [workload.task(client, k) for client in range(10) for k in range(40)]
        self.known = {task.key: value for task, value in zip(ahead, self._executor.map(self.do, ahead), strict=True)}

    def submit(self, task: Task) -> Future[Any]:
        if task.key not in self.known:
            return super().submit(task)
        future: Future[Any] = Future()
        future.set_result(self.known[task.key])
        return future


class CountsByHand(Pool):
    """Counts work that it does not do."""

    def do(self, task: Task) -> Any:
        self.setup.tally.count(task.key)
        return task.params["n"]


class Yes(int):
    """A number that is equal to every other one."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class Agrees(Pool):
    """Every result is wrong and says that it is right."""

    def do(self, task: Task) -> Any:
        return Yes(super().do(task) + 1)


class ManyHands(Pool):
    """Works with more threads than it is allowed."""

    threads = 64


# --- clients


class Ignores(Pool):
    """Never serves one client."""

    def submit(self, task: Task) -> Future[Any]:
        return Future() if task.key.startswith("io-3-") else super().submit(task)


class IgnoresLater(Pool):
    """Serves one client once, and then only when the others' window is over."""

    held = 1.0

    def submit(self, task: Task) -> Future[Any]:
        if not task.key.startswith("io-3-") or task.key == "io-3-0":
            return super().submit(task)
        future: Future[Any] = Future()
        threading.Timer(self.held, lambda: future.set_result(self.do(task))).start()
        return future


# --- clocks and logs


def slow() -> float:
    """A clock on which everything takes half as long."""
    return CLOCK() / 2


def slow_for_clients() -> float:
    """The same in client threads alone; at the moment of `SlowsClients.since` both show the same."""
    now = CLOCK()
    return (now + SlowsClients.since) / 2 if threading.current_thread().name.startswith("tq-client-") else now


class PatchesTime(Pool):
    """Replaces time.perf_counter."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        time.perf_counter = slow


class SlowsClients(Pool):
    """Replaces the clock of the load: the clients' runs slow."""

    since = CLOCK()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        SlowsClients.since = CLOCK()
        load.clock = slow_for_clients


class SlowsClientsUnseen(SlowsClients):
    """Puts the right clock back before anybody looks at it."""

    def close(self, timeout: float) -> object:
        load.clock = CLOCK
        return super().close(timeout)


class SlowsAll(Pool):
    """The same for all threads: the window is twice as long as it says."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        load.clock = slow


class SlowsAllUnseen(SlowsAll):
    """The same again."""

    def close(self, timeout: float) -> object:
        load.clock = CLOCK
        return super().close(timeout)


def logs() -> list[ClientLog]:
    return [found for found in gc.get_objects() if isinstance(found, ClientLog)]


class ForgesTasks(Pool):
    """Writes tasks into the clients' logs that nobody submitted."""

    def close(self, timeout: float) -> object:
        for log in logs():
            log.starts.append(log.ends[-1])
            log.ends.append(log.ends[-1])
            log.values.append(log.values[-1])
        return super().close(timeout)


class ForgesStarts(Pool):
    """Writes into the clients' logs that tasks were submitted later than they were."""

    def close(self, timeout: float) -> object:
        for log in logs():
            for k, ended in enumerate(log.ends):
                log.starts[k] += (ended - log.starts[k]) / 2
        return super().close(timeout)


class ForgesEnds(Pool):
    """Writes into the clients' logs that results came sooner than they did."""

    def close(self, timeout: float) -> object:
        for log in logs():
            for k, ended in enumerate(log.ends):
                log.ends[k] -= (ended - log.starts[k]) / 2
        return super().close(timeout)


# --- what is left behind


class LeavesThread(Pool):
    """A thread in every slot."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        threading.Thread(target=released.wait, args=(LONG,), name="leaked", daemon=True).start()


class LeavesRawThread(Pool):
    """A thread in every slot that `threading` does not know."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        _thread.start_new_thread(released.wait, (LONG,))


class LeavesProcess(Pool):
    """A child process in every slot."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        children.append(subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({LONG})"]))


class LeavesOpenFile(Pool):
    """A file in every slot that stays open."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        files.append((setup.directory / "journal").open("wb"))


class LeavesFile(Pool):
    """Half of an upload, by the name that its program gives it."""

    name = ".tq-half"

    def close(self, timeout: float) -> object:
        (self.setup.directory / self.name).write_bytes(b"half")
        return super().close(timeout)


class LeavesPart(LeavesFile):
    """The same under another usual name."""

    name = "half.part"


class Durable(Pool):
    """A queue with a ledger whose close report nobody sees."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.tried = setup, threading.Event()
        self.ledger = setup.directory / "tasks.db"
        self.queue = TaskQueue(self.do, ledger=self.ledger, durability="process", retry=RetryPolicy(base=LONG))

    def submit(self, task: Task) -> Future[Any]:
        return self.queue.submit(task)

    def do(self, task: Task) -> Any:
        if task.key == "late":
            self.tried.set()
            raise TransientError("not now")
        return self.setup.work(task)

    def close(self, timeout: float) -> object:
        self.queue.close(timeout, drain=False)
        return None


class LeavesQueuedRow(Durable):
    """One task still waits for its second attempt."""

    def close(self, timeout: float) -> object:
        self.queue.submit(Task("late", idempotency_key="late"))
        assert self.tried.wait(timeout)
        return super().close(timeout)


class LeavesRunningRow(Durable):
    """One task is still running, as after a crash."""

    def close(self, timeout: float) -> object:
        super().close(timeout)
        with closing(sqlite3.connect(self.ledger)) as connection, connection:
            connection.execute("UPDATE tasks SET status = 'running' WHERE id = 1")
        return None
