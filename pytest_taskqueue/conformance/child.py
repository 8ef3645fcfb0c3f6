"""What a queue does in a process of its own, which is killed or forks: `python -m pytest_taskqueue.conformance.child`.

Its one argument is an Order as JSON; its answer is one line of JSON. Started by processes.py.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_taskqueue.conformance.address import load
from pytest_taskqueue.conformance.player import QUIET, one_line, plain
from pytest_taskqueue.conformance.processes import WAITS_FOR_ITS_END, Order
from pytest_taskqueue.conformance.script import Work, task
from pytest_taskqueue.conformance.stage import WORKERS
from pytest_taskqueue.subjects import Setup, Subject, opened

FINISHED, WAITING = 3, 4
"""Tasks that are done, and that wait, when the process is killed; as many as it has workers are being worked on."""


class Part:
    """A queue in this process and what is needed to play with it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.work = Work(Path(order.folder, "log"))
        directory = Path(order.folder, "queue")
        directory.mkdir(exist_ok=True)
        setup = Setup(work=self.work, workers=WORKERS, queue_size=2 * WAITING, directory=directory)
        self.subject: Subject = opened(load(order.address), setup)

    def submit(self, key: str, **script: Any) -> Any:
        """A future."""
        return self.subject.submit(task(key, **script))

    def result(self, key: str, given: Any) -> Any:
        """The result of a task that has to succeed."""
        try:
            return plain(given.result(self.order.patience))
        except TimeoutError:
            raise RuntimeError(f"{key} has no result after {self.order.patience:g} s") from None

    def fill(self) -> None:
        """Let all workers be busy with a task that is blocked."""
        for number in range(WORKERS):
            self.submit(f"running-{number}", block=True)
            self.acknowledge(f"running-{number}")
        self.work.wait(lambda: bool(self.work.begun.keys() & {"running-0", "running-1"}), self.order.patience)
        self.work.wait(lambda: {"running-0", "running-1"} <= self.work.begun.keys(), QUIET)

    def acknowledge(self, key: str) -> None:
        """`submit` has returned: bring that to the disk, outside of the queue's folder."""
        with Path(self.order.folder, "acknowledged").open("a", encoding="utf-8") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())


def work(part: Part) -> Mapping[str, Any]:
    """Some tasks are done, some are being worked on, some wait. Then comes the kill."""
    for number in range(FINISHED):
        given = part.submit(f"finished-{number}", pid=True)
        part.acknowledge(f"finished-{number}")
        part.result(f"finished-{number}", given)
    part.fill()
    for number in range(WAITING):
        part.submit(f"waiting-{number}", value=number)
        part.acknowledge(f"waiting-{number}")
    return {"pid": os.getpid()}


def recover(part: Part) -> Mapping[str, Any]:
    """Another queue over the same folder: what of all that was acknowledged was done, before or now?"""
    part.work.release()
    keys = _lines(part, "acknowledged")
    part.work.wait(lambda: set(keys) <= {*_lines(part, "log")}, part.order.patience)
    done = _lines(part, "log")
    missing, others = sorted({*keys} - {*done}), sorted(key for key in done if key not in keys)
    again: dict[str, Any] = {}
    if part.order.deduplicates and not missing:
        for key in (key for key in keys if key.startswith("finished")):
            again[key] = part.result(key, part.submit(key, pid=True))
    repeated = sorted(key for key in again if part.work.begun[key])
    return {"keys": keys, "missing": missing, "others": others, "again": again, "repeated": repeated}


def fork(part: Part) -> Mapping[str, Any]:
    """The queue is idle and all its threads are there when the process forks."""
    from pytest_taskqueue.conformance.forking import forked

    part.fill()
    part.work.release()
    for number in range(WORKERS):
        part.result(f"before-{number}", part.submit(f"before-{number}", value=number))
    answer = forked(lambda: part.submit("in the child", value=1), part.order.patience)
    try:
        futures = [part.submit(f"after-{number}", value=number) for number in range(WORKERS)]
        after = [part.result(f"after-{number}", given) for number, given in enumerate(futures)]
        part.subject.close(part.order.patience)
        harm = "" if after == [*range(WORKERS)] else f"the results {after!r}"
    except Exception as error:  # noqa: BLE001 - it is the answer
        harm = one_line(error)
    return {"answer": answer, "harm": harm}


PARTS: dict[str, Callable[[Part], Mapping[str, Any]]] = {"work": work, "recover": recover, "fork": fork}


def _lines(part: Part, name: str) -> list[str]:
    path = Path(part.order.folder, name)
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def main(argument: str) -> None:
    """Play one part and tell what came out, then wait for the end. Whoever hangs shows where and ends."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what a queue prints is no answer
    order = Order(**json.loads(argument))
    faulthandler.dump_traceback_later(order.seconds, exit=True)
    try:
        answer = PARTS[order.part](Part(order))
    except Exception as error:  # noqa: BLE001 - it is the answer
        answer = {"error": one_line(error)}
    faulthandler.cancel_dump_traceback_later()
    os.write(answers, f"{json.dumps(answer, default=repr)}\n".encode())
    threading.Event().wait(WAITS_FOR_ITS_END)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
