"""What the tests of the queue share: a processor under control, bounded waits, a pause at a chosen call."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from taskqueue_core import LedgerError, Output, RetryPolicy, Status, Task, TaskFailedError, TaskQueue
from taskqueue_core.arrows import Draft, Success
from taskqueue_core.database import LedgerView
from taskqueue_core.ledger import Ledger

FILES = Path("/proc/self/fd")  # Linux
LONG = 20.0  # seconds: a limit that only a hang reaches
FAST = RetryPolicy(base=0.001, cap=0.002)
NEVER = RetryPolicy(base=1000.0, cap=1000.0)  # the retry stands in the ledger, and does not come during a test


def until(condition: Callable[[], Any], timeout: float = LONG) -> Any:
    """Poll a condition that nothing announces; its true value."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < end, "the condition never came true"
        time.sleep(0.002)
    return value


def nothing_held(queue: Any, places: int = 200) -> Any:
    """Soon no place and no worker is kept for a task that nobody has: a worker counts itself free just after the
    result of its task was told.
    """
    crew = queue._workers
    return until(lambda: (crew._claiming, crew.at_rest()[0], queue._places._free) == (0, True, places))


class Work:
    """A processor under the test's control.

    `plan` has the outcomes of the attempts at an `image_key`, in turn: an exception to raise, an Output, or a value.
    Without a plan the value is the task's params. While `hold` is on, attempts wait for `release()`.
    """

    def __init__(self, plan: Mapping[str, Sequence[Any]] | None = None, *, hold: bool = False) -> None:
        self._plan = {key: list(outcomes) for key, outcomes in (plan or {}).items()}
        self._lock = threading.Lock()
        self._go = threading.Event()
        if not hold:
            self._go.set()
        self.started = threading.Semaphore(0)
        self.calls: list[str] = []
        self.threads: set[threading.Thread] = set()
        self.running: Counter[str] = Counter()
        self.most = 0
        self.discarded: list[Task] = []

    def __call__(self, task: Task) -> Any:
        with self._lock:
            self.calls.append(task.image_key)
            self.threads.add(threading.current_thread())
            self.running[task.image_key] += 1
            self.most = max(self.most, self.running.total())
            outcomes = self._plan.get(task.image_key)
            outcome = outcomes.pop(0) if outcomes else dict(task.params)
        self.started.release()
        try:
            assert self._go.wait(LONG), "nobody released the work"
        finally:
            with self._lock:
                self.running[task.image_key] -= 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def wait_started(self, attempts: int = 1) -> None:
        """Wait until so many more attempts have begun."""
        for _ in range(attempts):
            assert self.started.acquire(timeout=LONG), "no attempt began"

    def release(self) -> None:
        """Let all attempts go on, now and later."""
        self._go.set()

    def discard(self, tasks: Sequence[Task]) -> None:
        """Called by the queue with the tasks of a dead process."""
        self.discarded += tasks


class Pause:
    """Stops the first call of `target.name` before or after it did its work, until `go` is set. The call is real."""

    def __init__(self, target: object, name: str, *, after: bool = False) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()
        method = getattr(target, name)
        first = threading.Lock()

        def paused(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs) if after else None
            if first.acquire(blocking=False):
                self.reached.set()
                assert self.go.wait(LONG), "nobody let the call go on"
            return result if after else method(*args, **kwargs)

        setattr(target, name, paused)

    def wait_reached(self) -> None:
        """Wait until somebody stands at the call."""
        assert self.reached.wait(LONG), "nobody came to the call"


def report_failed(ledger: Ledger, kind: str) -> list[int]:
    """Report the next transaction with changes of this kind as failed, after its COMMIT; grows when that was done."""
    writer, reported = ledger.writer, list[int]()
    transact = writer._transact
    apply = {"insert": ledger._insert, "claim": ledger.claims.apply, "success": ledger.successes.apply}[kind]

    def carry_out(batch: list[Any], careful: bool) -> None:
        transact(batch, careful)
        if not reported and any(request.apply == apply for request in batch):
            reported.append(len(batch))
            raise LedgerError("disk I/O error, as the test says", code="SQLITE_IOERR_FSYNC")

    writer._transact = carry_out  # type: ignore[method-assign]
    return reported


def wait_looks(queue: TaskQueue, count: int) -> None:
    """Wait until the feeder has looked so many more times at what is due."""
    feeder = queue._feeder
    looks, hold_back = threading.Semaphore(0), feeder.hold_back

    def looked() -> None:
        hold_back()
        looks.release()

    feeder.hold_back = looked  # type: ignore[method-assign]
    for _ in range(count):
        feeder.wake()
        assert looks.acquire(timeout=LONG), "the feeder did not look"
    feeder.hold_back = hold_back  # type: ignore[method-assign]


@contextmanager
def threads(count: int = 4) -> Iterator[ThreadPoolExecutor]:
    """Threads for calls that may wait."""
    with ThreadPoolExecutor(count, thread_name_prefix="test") as pool:
        yield pool


def at_once(call: Callable[[int], Any], count: int) -> list[Any]:
    """Call from `count` threads that start together; the results in their order."""
    barrier = threading.Barrier(count)

    def run(n: int) -> Any:
        barrier.wait(LONG)
        return call(n)

    with threads(count) as pool:
        return [future.result(LONG) for future in [pool.submit(run, n) for n in range(count)]]


def failure(queue: TaskQueue, task: Task) -> TaskFailedError:
    """The error of a task that fails."""
    error = queue.submit(task).exception(LONG)
    assert isinstance(error, TaskFailedError)
    return error


def nested(depth: int) -> list[Any]:
    """Lists inside each other."""
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def tasks(count: int, name: str = "t") -> list[Task]:
    return [Task(f"{name}{n}", params={"n": n}) for n in range(count)]


def draft(key: str = "k", params: str = "{}") -> Draft:
    return Draft(key, f"image of {key}", "v", params)


def output(folder: Path, content: bytes = b"pixels", name: str = "unfinished.jpg", value: Any = None) -> Output:
    """A finished temporary file."""
    path = folder / name
    path.write_bytes(content)
    return Output(path, value)


def orphans(path: Path, keys: Sequence[str], *, crashes: int = 1) -> None:
    """Leave a ledger in which these tasks were running when their owner died, so many times in a row."""
    with closing(Ledger(path, durability="process")) as ledger:
        for crash in range(crashes):
            ledger.recover()
            waiting = {record.idempotency_key: record for record in ledger.records(Status.QUEUED)}
            if crash == 0:
                waiting |= {key: ledger.insert([Draft(key, key, "", "{}")])[0] for key in keys}
            for key in keys:
                assert ledger.claim(waiting[key]) is not None


def posted(ledger: Ledger, *, claims: Sequence[Any] = (), successes: Sequence[Any] = ()) -> list[Any]:
    """Post claims of rows and successes (row, value, output) together; the answers, claims first, in their order.

    They are led by a thread of their own: the main thread would leave the telling to the commit thread.
    """
    answers: dict[int, Any] = {}
    ledger.claims.done = ledger.successes.done = lambda items, results: answers.update(
        zip(map(id, items), results, strict=True)
    )
    claiming = [SimpleNamespace(row=row) for row in claims]
    succeeding = [Success(*success) for success in successes]
    ledger.claims.post(claiming)
    ledger.successes.post(succeeding)
    with threads(1) as pool:
        assert pool.submit(ledger.commits.help).result(LONG)
    return [answers.get(id(item)) for item in (*claiming, *succeeding)]


def balance(path: str | Path, submitted: int) -> dict[Status, int]:
    """Nothing lost, nothing invented: submitted = queued + running + success + failed + purged. The counts."""
    with LedgerView.inspect(path) as view:
        counts, purged = view.counts(), view.purged()
    assert sum(counts.values()) + purged == submitted, (counts, purged)
    return counts


def open_ledgers() -> set[Path]:
    """The files of ledgers that this process has open, as far as the system tells."""
    if not FILES.is_dir():
        return set()
    found = set()
    for descriptor in FILES.iterdir():
        with suppress(OSError):  # the one that lists the folder is closed by now
            found.add(descriptor.readlink())
    return {file for file in found if ".db" in file.name}


def sql(path: str | Path, statement: str) -> list[tuple[Any, ...]]:
    """Ask the file itself, not our own code."""
    with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(statement).fetchall()


def run_python(
    code: str, *args: str, cwd: Path | None = None, timeout: float = LONG
) -> subprocess.CompletedProcess[str]:
    """Run a program of its own."""
    command = [sys.executable, "-W", "error", "-c", code, *args]
    return subprocess.run(command, cwd=cwd, timeout=timeout, capture_output=True, text=True, check=False, env=environ())


def environ() -> dict[str, str]:
    """An environment in which a child imports what this process imports."""
    import taskqueue_core

    return {**os.environ, "PYTHONPATH": str(Path(taskqueue_core.__file__).parents[1])}
