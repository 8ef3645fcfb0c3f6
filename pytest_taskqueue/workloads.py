"""Workloads: seeded tasks, the work they stand for, and what must come out."""

from __future__ import annotations

import hashlib
import random
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pytest_taskqueue.input_new.generate_tasks import VARIANTS, make_images
from taskqueue_core import ObjectStore, Output, Processor, Task, output_key

IMAGES = 16
ROUND_TRIP = 0.002
"""Simulated way to the object store, in seconds, for each get and each put."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Where image work reads and writes: folders, the suffix of a result, the simulated round trip in seconds."""

    source: Path
    outputs: Path
    suffix: str
    round_trip: float

    def output(self, task: Task) -> Path:
        """Where the result of a task belongs, for a queue that has no names of its own."""
        return self.outputs / output_key(task.key, self.suffix)


class Workload(Protocol):
    """The work of a comparison. Task k of client c is the same in both arms, and its key occurs once in a slot."""

    name: str
    text: str

    def prepare(self, directory: Path, seed: int) -> None:
        """Make the inputs, once per comparison, and learn what must come out."""

    def task(self, client: int, k: int) -> Task:
        """The task number `k` of a client."""

    def images(self, directory: Path) -> Images | None:
        """The folders of a slot whose work is on images; None for other work."""

    def work(self, directory: Path) -> Callable[[Task], Any]:
        """The function that does one task, for queues that bring no work of their own."""

    def problem(self, task: Task, value: object, output: Path | None) -> str | None:
        """What is wrong with a finished task's value or output file; None when it is right."""


class Thumbnails:
    """Real thumbnails of 640x480 JPEG images, read from and written to a store with a simulated round trip.

    Contents come from 64 (image, variant) pairs whose output bytes are made beforehand, so every output can be
    compared byte for byte. Without Pillow the objects are binary and the work is zlib.
    """

    name = "thumbnail"
    text = f"thumbnails of 640x480 JPEGs, {ROUND_TRIP * 1000:.0f} ms simulated round trip per get and per put"
    stand_in = f"zlib (Pillow is not installed), {ROUND_TRIP * 1000:.0f} ms simulated round trip per get and per put"

    def prepare(self, directory: Path, seed: int) -> None:
        """Generate the images below `directory` and make each expected output once."""
        self._source = directory / "source"
        names = make_images(self._source, images=IMAGES, seed=seed)
        self._suffix = Path(names[0]).suffix
        if self._suffix != ".jpg":
            self.text = self.stand_in
        self._contents = [(name, variant) for name in names for variant in VARIANTS]
        random.Random(seed).shuffle(self._contents)
        reference = Processor(ObjectStore(self._source), outputs=ObjectStore(directory / "expected"))
        self._digests = {content: _digest_and_remove(reference(Task(*content))) for content in self._contents}

    def task(self, client: int, k: int) -> Task:
        """The contents go round, each client beginning elsewhere."""
        image, variant = self._contents[(client * 7 + k) % len(self._contents)]
        return Task(image, variant, idempotency_key=f"c{client}-{k}")

    def images(self, directory: Path) -> Images:
        """Source images are shared, outputs are the slot's own."""
        outputs = directory / "outputs"
        return Images(source=self._source, outputs=outputs, suffix=self._suffix, round_trip=ROUND_TRIP)

    def work(self, directory: Path) -> Callable[[Task], Any]:
        """Make the thumbnail and rename it to its place."""
        images = self.images(directory)
        processor = image_processor(images)

        def work(task: Task) -> Any:
            output = processor(task)
            Path(output.temp_path).replace(images.output(task))
            return output.value

        return work

    def problem(self, task: Task, value: object, output: Path | None) -> str | None:  # noqa: ARG002
        """The file must be there with the expected bytes."""
        assert output is not None
        try:
            found = hashlib.sha256(output.read_bytes()).hexdigest()
        except OSError as error:
            return f"no output ({error.strerror})"
        return None if found == self._digests[task.image_key, task.variant] else "its output has wrong bytes"


class _Computed:
    """Work without files: the value must be the number that belongs to the task."""

    name = ""
    text = ""

    def prepare(self, directory: Path, seed: int) -> None:  # noqa: ARG002
        """Nothing to make."""
        self._seed = seed

    def task(self, client: int, k: int) -> Task:
        """A task with a number of its own."""
        name = f"{self.name}-{client}-{k}"
        return Task(name, params={"n": zlib.crc32(f"{self._seed}/{client}/{k}".encode())}, idempotency_key=name)

    def images(self, directory: Path) -> Images | None:  # noqa: ARG002
        """No images."""
        return None

    def work(self, directory: Path) -> Callable[[Task], Any]:  # noqa: ARG002
        """The work itself."""
        return self.compute

    def compute(self, task: Task) -> int:
        """Do the task, return its number."""
        raise NotImplementedError

    def problem(self, task: Task, value: object, output: Path | None) -> str | None:  # noqa: ARG002
        """The value must be the expected one."""
        expected = self.expected(task)
        right = type(value) is int and value == expected  # a type of the queue's own may be equal to anything
        return None if right else f"its result is {value!r}, expected {expected!r}"

    def expected(self, task: Task) -> int:
        """The number that must come out."""
        return int(task.params["n"])


class RoundTrips(_Computed):
    """A simulated round trip and nothing else."""

    name = "io"
    text = f"{ROUND_TRIP * 1000:.0f} ms simulated round trip"

    def compute(self, task: Task) -> int:
        """Sleep."""
        time.sleep(ROUND_TRIP)
        return self.expected(task)


class Burn(_Computed):
    """Pure Python arithmetic, about a millisecond."""

    name = "cpu"
    text = "pure Python arithmetic"
    rounds = 10_000

    def compute(self, task: Task) -> int:
        """A linear congruential generator (Numerical Recipes), `rounds` steps."""
        n = int(task.params["n"])
        for _ in range(self.rounds):
            n = (1664525 * n + 1013904223) % 4294967296
        return n

    def expected(self, task: Task) -> int:
        """The same in closed form: n steps of x -> a x + c are one step with a**n and a geometric sum."""
        modulus, a, c = 4294967296, 1664525, 1013904223
        power = pow(a, self.rounds, modulus * (a - 1))
        return (power * int(task.params["n"]) + c * ((power - 1) // (a - 1))) % modulus


class Noop(_Computed):
    """Nothing: the cost of the queue alone."""

    name = "noop"
    text = "no work"

    def compute(self, task: Task) -> int:
        """Return at once."""
        return self.expected(task)


WORKLOADS: Mapping[str, Callable[[], Workload]] = {kind.name: kind for kind in (Thumbnails, RoundTrips, Burn, Noop)}


def find_workload(name: str) -> Workload:
    """The workload of that name. Raises ValueError with the names there are."""
    if name not in WORKLOADS:
        raise ValueError(f"unknown workload {name!r}: there are {', '.join(WORKLOADS)}")
    return WORKLOADS[name]()


def image_processor(images: Images) -> Processor:
    """The built-in image processor over a slot's folders."""
    source = ObjectStore(images.source, round_trip=images.round_trip)
    return Processor(source, outputs=ObjectStore(images.outputs, round_trip=images.round_trip))


def _digest_and_remove(output: Output) -> str:
    path = Path(output.temp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    return digest
