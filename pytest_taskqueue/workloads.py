"""Workloads: seeded tasks, the work they stand for, and what must come out."""

from __future__ import annotations

import inspect
import json
import random
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from pytest_taskqueue.thumbnails import ROUND_TRIP, Images, Thumbnails
from pytest_taskqueue.wording import said
from taskqueue_core import Task


class OwnWorkload(Protocol):
    """The work of a comparison, as one writes it: a class that is called with the seed of the tasks.

    All three must say the same each time they are asked. A class attribute `text` says what the work is.
    """

    def task(self, client: int, k: int) -> Task:
        """The task number `k` of a client. Without an idempotency key of its own it is given one that occurs once."""

    def work(self, task: Task) -> Any:
        """Do the task; called by many threads at once. Returns a JSON value."""

    def expected(self, task: Task) -> Any:
        """What `work` must return for this task, found in another way if that is possible."""


class Workload(Protocol):
    """The same with inputs and outputs in files. Task k of client c is the same in both arms, and its key occurs once
    in a slot.
    """

    name: str
    text: str

    def prepare(self, directory: Path) -> None:
        """Make the inputs, once per comparison, and learn what must come out."""

    def task(self, client: int, k: int) -> Task:
        """The task number `k` of a client."""

    def images(self, directory: Path) -> Images | None:
        """The folders of a slot whose work is on images; None for other work."""

    def work(self, directory: Path) -> Callable[[Task], Any]:
        """The function that does one task, for queues that bring no work of their own."""

    def problem(self, task: Task, value: object, output: Path | None) -> str | None:
        """What is wrong with a finished task's value or output file; None when it is right."""


class Computed:
    """A workload without files: the value must be the expected one."""

    def __init__(self, own: OwnWorkload, name: str) -> None:
        self.name = name
        self.text = str(getattr(own, "text", name))
        self._own = own

    def prepare(self, directory: Path) -> None:
        """Nothing to make."""

    def task(self, client: int, k: int) -> Task:
        """A task whose key occurs once."""
        task = self._own.task(client, k)
        if task.idempotency_key is not None:
            return task
        return Task(task.image_key, task.variant, task.params, idempotency_key=f"{client}-{k}")

    def images(self, directory: Path) -> Images | None:  # noqa: ARG002
        """No images."""
        return None

    def work(self, directory: Path) -> Callable[[Task], Any]:  # noqa: ARG002
        """The work itself."""
        return self._own.work

    def problem(self, task: Task, value: object, output: Path | None) -> str | None:  # noqa: ARG002
        """The value must be the expected one, as JSON has it: a tuple is a list there."""
        expected = self._own.expected(task)
        return None if _same(value, expected) else f"its result is {value!r}, expected {expected!r}"


class _Numbers:
    """Tasks with a number of their own, which is the result."""

    name = ""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def task(self, client: int, k: int) -> Task:
        """A task with a number of its own."""
        name = f"{self.name}-{client}-{k}"
        return Task(name, params={"n": zlib.crc32(f"{self._seed}/{client}/{k}".encode())}, idempotency_key=name)

    def expected(self, task: Task) -> int:
        """The number."""
        return int(task.params["n"])


class RoundTrips(_Numbers):
    """A simulated round trip and nothing else."""

    name = "io"
    text = f"{ROUND_TRIP * 1000:.0f} ms simulated round trip"

    def work(self, task: Task) -> int:
        """Sleep."""
        time.sleep(ROUND_TRIP)
        return self.expected(task)


class Noop(_Numbers):
    """Nothing: the cost of the queue alone."""

    name = "noop"
    text = "no work"

    def work(self, task: Task) -> int:
        """Return at once."""
        return self.expected(task)


class Burn(_Numbers):
    """Pure Python arithmetic, about a millisecond."""

    name = "cpu"
    text = "pure Python arithmetic"
    rounds = 10_000

    def work(self, task: Task) -> int:
        """So many rounds."""
        return _generate(int(task.params["n"]), self.rounds)

    def expected(self, task: Task) -> int:
        """The same in closed form."""
        return _generated(int(task.params["n"]), self.rounds)


class Mixed(_Numbers):
    """Sizes with a heavy tail, as real work has them: one task in a hundred is a hundred times as long
    as the shortest.

    Sizes are Pareto distributed with shape 1, from 1 to `largest`. A task of size 1 waits for 0.2 ms, as for a disk or
    a network, and computes for about 0.02 ms; the mean is about 1.5 ms.
    """

    name = "mixed"
    text = "heavy-tailed sizes: 0.2 to 60 ms of waiting, a tenth of it as pure Python arithmetic"
    largest = 300
    wait = 0.0002
    rounds = 200

    def task(self, client: int, k: int) -> Task:
        """A task with a number and a size of its own."""
        name = f"{self.name}-{client}-{k}"
        draw = random.Random(f"{self._seed}/{client}/{k}")
        size = min(round(1 / (1 - draw.random()), 1), self.largest)
        return Task(name, params={"n": draw.getrandbits(32), "size": size}, idempotency_key=name)

    def work(self, task: Task) -> int:
        """Wait, then compute, both as long as the size says."""
        time.sleep(self.wait * task.params["size"])
        return _generate(int(task.params["n"]), self._rounds(task))

    def expected(self, task: Task) -> int:
        """The same in closed form."""
        return _generated(int(task.params["n"]), self._rounds(task))

    def _rounds(self, task: Task) -> int:
        return int(self.rounds * task.params["size"])


WORKLOADS: Mapping[str, Callable[[int], Any]] = {
    kind.name: kind for kind in (Thumbnails, RoundTrips, Burn, Noop, Mixed)
}


def made(factory: Callable[[int], Any], name: str, seed: int) -> Workload:
    """A workload for one comparison. Raises ValueError when it is none: says what is missing."""
    try:
        own = factory(seed)
    except Exception as error:
        raise ValueError(f"workload {name!r} cannot be made with the seed {seed}: {said(error)}") from error
    wanted = Workload if hasattr(own, "prepare") else OwnWorkload
    for method in [name for name, value in vars(wanted).items() if inspect.isfunction(value) and name[0] != "_"]:
        if not callable(getattr(own, method, None)):
            signature = str(inspect.signature(getattr(wanted, method)))
            raise ValueError(f"workload {name!r} has no method {method}: write def {method}{signature}")
    if wanted is Workload:
        workload: Workload = own
        return workload
    try:
        first = own.task(0, 0)
    except Exception as error:
        raise ValueError(f"workload {name!r} fails at its first task: {said(error)}") from error
    if not isinstance(first, Task):
        raise ValueError(f"workload {name!r}: task(0, 0) returned {first!r:.80}, expected a taskqueue_core.Task")
    return Computed(own, name)


def _same(value: object, expected: object) -> bool:
    """Equal as JSON; a type of the queue's own may be equal to anything and is no JSON."""
    try:
        return json.dumps(value, sort_keys=True) == json.dumps(expected, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return type(value) is type(expected) and value == expected


def _generate(n: int, rounds: int) -> int:
    """Steps of a linear congruential generator (Numerical Recipes)."""
    for _ in range(rounds):
        n = (1664525 * n + 1013904223) % 4294967296
    return n


def _generated(n: int, rounds: int) -> int:
    """The same in closed form: so many steps of x -> a x + c are one step with a**n and a geometric sum."""
    modulus, a, c = 4294967296, 1664525, 1013904223
    power = pow(a, rounds, modulus * (a - 1))
    return (power * n + c * ((power - 1) // (a - 1))) % modulus
