"""Small queues to be measured, honest ones and ones that do a single thing wrong. `toys.py:Name` names them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pytest_taskqueue.subjects import Setup
from taskqueue_core import CloseReport, Task

ONE = "2-4"
"""How the key ends of the one task that a misbehaving queue picks out: task 4 of client 2."""

LONG = 20.0  # seconds: a limit that only a hang reaches


class Pool:
    """An honest queue: an executor whose threads do the work of the workload."""

    threads = 8
    pause = 0.0

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._executor = ThreadPoolExecutor(self.threads, thread_name_prefix=type(self).__name__)

    def submit(self, task: Task) -> Future[Any]:
        return self._executor.submit(self.do, task)

    def do(self, task: Task) -> Any:
        time.sleep(self.pause)
        return self.setup.work(task)

    def join(self, timeout: float) -> bool:
        return True

    def close(self, timeout: float) -> object:
        self._executor.shutdown()
        return None


class Quick(Pool):
    """Eight threads: under six clients six times as fast as Slow, because the work is sleep."""

    pause = 0.004


class Slow(Pool):
    """One thread."""

    threads = 1
    pause = 0.004


class Loses(Pool):
    """Never completes one task."""

    def submit(self, task: Task) -> Future[Any]:
        return Future() if task.key.endswith(ONE) else super().submit(task)


class LosesLater(Pool):
    """Does its work in the warm-up, and none of it in any later slot."""

    def submit(self, task: Task) -> Future[Any]:
        warm_up = self.setup.directory.name.startswith(("slot-0-", "slot-1-"))
        return super().submit(task) if warm_up else Future()


class Doubles(Pool):
    """Works on one task twice."""

    def do(self, task: Task) -> Any:
        if task.key.endswith(ONE):
            super().do(task)
        return super().do(task)


class Early(Pool):
    """Gives every result at once and does the work at the end, all of it and right."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._later: list[Task] = []

    def submit(self, task: Task) -> Future[Any]:
        self._later.append(task)
        promised: Future[Any] = Future()
        promised.set_result(task.params.get("n"))
        return promised

    def close(self, timeout: float) -> object:
        for task in self._later:
            self.do(task)
        return super().close(timeout)


class Invents(Pool):
    """Guesses the result of one task instead of working on it."""

    def do(self, task: Task) -> Any:
        return task.params["n"] if task.key.endswith(ONE) else super().do(task)


class Miscounts(Pool):
    """Gives a wrong result for one task."""

    def do(self, task: Task) -> Any:
        value = super().do(task)
        return value + 1 if task.key.endswith(ONE) else value


class Scribbles(Pool):
    """Changes the last byte of one output file."""

    def do(self, task: Task) -> Any:
        value = super().do(task)
        assert self.setup.images is not None
        output = self.setup.images.output(task)
        if task.key.endswith(ONE):
            content = output.read_bytes()
            output.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        return value


class Fails(Pool):
    """Fails one task."""

    def do(self, task: Task) -> Any:
        if task.key.endswith(ONE):
            raise ConnectionResetError("the peer is gone")
        return super().do(task)


class TimesOut(Pool):
    """One task ends with a timeout of its own."""

    def do(self, task: Task) -> Any:
        if task.key.endswith(ONE):
            raise TimeoutError("no answer")
        return super().do(task)


class Starves(Pool):
    """Lets one client wait long for its second result."""

    def do(self, task: Task) -> Any:
        if task.key.endswith("-2-1"):
            time.sleep(0.5)
        return super().do(task)


class LeavesThread(Pool):
    """A thread of its own outlives it; `stop` ends that."""

    stop = threading.Event()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        threading.Thread(target=self.stop.wait, args=(LONG,), name="forgotten", daemon=True).start()


class LeavesFile(Pool):
    """A half-written file stays behind."""

    def close(self, timeout: float) -> object:
        (self.setup.directory / "upload.tmp").write_bytes(b"half")
        return super().close(timeout)


class LeavesTasks(Pool):
    """Closes with tasks that wait, and says so."""

    def close(self, timeout: float) -> object:
        super().close(timeout)
        return CloseReport(drained=False, waiting=3, stuck=(), elapsed_s=0.0)


class LeavesRunning(Pool):
    """Closes while a task is still being worked on, and says so."""

    def close(self, timeout: float) -> object:
        super().close(timeout)
        return CloseReport(drained=False, waiting=0, stuck=("t",), elapsed_s=0.0)


class Exits(Pool):
    """Ends the client that submits one task."""

    def submit(self, task: Task) -> Future[Any]:
        if task.key.endswith(ONE):
            raise SystemExit(3)
        return super().submit(task)


class NoOpen(Pool):
    """Cannot be made."""

    def __init__(self, setup: Setup) -> None:
        raise RuntimeError("no such driver")


class NoClose(Pool):
    """Cannot be closed."""

    def close(self, timeout: float) -> object:
        super().close(timeout)
        raise RuntimeError("the door is jammed")


class NoDepth(Pool):
    """Does not know how many tasks wait."""

    def depth(self) -> int:
        raise RuntimeError("lost count")


class NoOutput(Pool):
    """Does not know where its outputs are."""

    def output(self, task: Task) -> object:
        raise RuntimeError("no map")
