"""The workload `thumbnail`: real images, through an object store with a simulated round trip."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class Thumbnails:
    """Real thumbnails of 640x480 JPEG images, read from and written to a store with a simulated round trip.

    Contents come from 64 (image, variant) pairs whose output bytes are made beforehand, so every output can be
    compared byte for byte. Without Pillow the objects are binary and the work is zlib.
    """

    name = "thumbnail"
    text = f"thumbnails of 640x480 JPEGs, {ROUND_TRIP * 1000:.0f} ms simulated round trip per get and per put"
    stand_in = f"zlib (Pillow is not installed), {ROUND_TRIP * 1000:.0f} ms simulated round trip per get and per put"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def prepare(self, directory: Path) -> None:
        """Generate the images below `directory` and make each expected output once."""
        self._source = directory / "source"
        names = make_images(self._source, images=IMAGES, seed=self._seed)
        self._suffix = Path(names[0]).suffix
        if self._suffix != ".jpg":
            self.text = self.stand_in
        self._contents = [(name, variant) for name in names for variant in VARIANTS]
        random.Random(self._seed).shuffle(self._contents)
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


def image_processor(images: Images) -> Processor:
    """The built-in image processor over a slot's folders."""
    source = ObjectStore(images.source, round_trip=images.round_trip)
    return Processor(source, outputs=ObjectStore(images.outputs, round_trip=images.round_trip))


def _digest_and_remove(output: Output) -> str:
    path = Path(output.temp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.unlink()
    return digest
