"""The logic of one task: any callable will do; the one built in makes variants of images."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import IO, Any, BinaryIO, Protocol

from taskqueue_core.errors import PermanentError
from taskqueue_core.faults import FaultInjector
from taskqueue_core.objectstore import ObjectStore
from taskqueue_core.publish import Output
from taskqueue_core.task import JSON, Task

_VARIANT = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_SPOOL_BYTES = 1 << 20
_QUALITY = 85
_END_OF_JPEG = b"\xff\xd9"


class ProcessorLike(Protocol):
    """What a TaskQueue runs: called once per attempt, by a worker thread.

    It returns a JSON value of at most 64 KiB, or an Output. What it raises decides about a retry, see
    `RetryPolicy`. If it also has a method `discard(tasks)`, the queue calls that once at open, with the tasks
    that were attempted and are not finished, if any, so that it can remove what their attempts left behind.
    """

    def __call__(self, task: Task, /) -> JSON | Output: ...


class Processor:
    """Makes a thumbnail: reads the object `image_key`, fits it into the box `variant` ("200x200", in pixels),
    and returns it as a JPEG file to publish. The value is {"width", "height"} of the result, in pixels.

    Objects come from `store`, results go to `outputs` (the same store unless given). The source is read in
    chunks and held in memory up to 1 MiB, on disk beyond; the decoded image is bounded by `max_pixels`. An
    object that is no image, is truncated, or is too large is a PermanentError naming it.

    Without Pillow there are no thumbnails: the object is compressed with zlib instead, and the value is
    {"transform": "zlib"}.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        outputs: ObjectStore | None = None,
        faults: FaultInjector | None = None,
        max_pixels: int = 50_000_000,
    ) -> None:
        self.store = store
        self.outputs = outputs or store
        self.faults = faults
        self.max_pixels = max_pixels
        self._pillow = find_pillow()

    def __call__(self, task: Task) -> Output:
        """Work on one task. Raises what the store raises, PermanentError, or an injected fault."""
        if self.faults is not None:
            self.faults()
        chunks = self.store.open_read(task.image_key)
        if self._pillow is None:
            path = self.outputs.stage(task.key, _compress(chunks, task.variant), suffix=".bin")
            return Output(path, {"transform": "zlib"})
        return self._thumbnail(self._pillow, chunks, task)

    def discard(self, tasks: Sequence[Task]) -> None:
        """Remove the unfinished files of attempts whose process died."""
        self.outputs.sweep(task.key for task in tasks)

    def _thumbnail(self, pillow: ModuleType, chunks: Iterable[bytes], task: Task) -> Output:
        box = _parse_variant(task.variant)
        with _spool(chunks) as source:
            try:
                with pillow.open(source) as image:
                    self._check_pixels(image, task)
                    image.thumbnail(box)
                    image.load()  # one that fits already has not been decoded yet
                    small = image if image.mode == "RGB" else image.convert("RGB")
            except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
                raise PermanentError(f"{task.image_key!r} has more than {self.max_pixels:,} pixels") from error
            except (OSError, SyntaxError, ValueError, EOFError, RuntimeError, struct.error, zlib.error) as error:
                # Pillow says "cannot identify" and "truncated" with an OSError that has no errno.
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise PermanentError(f"{task.image_key!r} is no readable image: {error}") from error
        # Into the file itself: Pillow encodes with the GIL released only when it has a file descriptor.
        with self.outputs.staging(task.key, suffix=".jpg") as file:
            self._encode(small, file, task)
        return Output(file.name, {"width": small.width, "height": small.height})

    def _encode(self, image: Any, file: BinaryIO, task: Task) -> None:
        try:
            image.save(file, "JPEG", quality=_QUALITY)
        except OSError as error:
            if error.errno is not None:
                raise
            raise PermanentError(f"{task.image_key!r} cannot be written as a JPEG: {error}") from error
        # Pillow takes a short write, such as the last one before a disk is full, for a whole one.
        file.seek(-len(_END_OF_JPEG), os.SEEK_END)
        if file.read() != _END_OF_JPEG:
            raise OSError(errno.ENOSPC, "the output was cut short", file.name)

    def _check_pixels(self, image: Any, task: Task) -> None:
        pixels = image.width * image.height
        if pixels > self.max_pixels:
            raise PermanentError(f"{task.image_key!r} has {pixels:,} pixels, more than max_pixels={self.max_pixels:,}")


def find_pillow() -> ModuleType | None:
    """Pillow's Image module, or None where Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        return None
    return Image


def _parse_variant(variant: str) -> tuple[int, int]:
    match = _VARIANT.fullmatch(variant)
    if match is None:
        raise PermanentError(f"variant {variant!r} is no size in pixels such as '200x200'")
    return int(match[1]), int(match[2])


def _spool(chunks: Iterable[bytes]) -> IO[bytes]:
    """The chunks as a file to read: in memory, or on disk once they are more than _SPOOL_BYTES."""
    source: IO[bytes] = io.BytesIO()
    try:
        for chunk in chunks:
            if isinstance(source, io.BytesIO) and source.tell() + len(chunk) > _SPOOL_BYTES:
                memory, source = source, tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
                source.write(memory.getbuffer())
            source.write(chunk)
        source.seek(0)
    except BaseException:
        source.close()
        raise
    return source


def _compress(chunks: Iterable[bytes], variant: str) -> Iterator[bytes]:
    compressor = zlib.compressobj(6)
    yield compressor.compress(f"{variant}\n".encode())
    for chunk in chunks:
        yield compressor.compress(chunk)
    yield compressor.flush()
