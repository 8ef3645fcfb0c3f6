"""Output: a finished temporary file; Publication: how it becomes visible under its output key."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from taskqueue_core.errors import PermanentError
from taskqueue_core.task import JSON

_BLOCK = 1 << 16
_LONGEST_SUFFIX = 20


@dataclass(frozen=True, slots=True)
class Output:
    """What a processor returns when its work is a file.

    The queue publishes `temp_path`: it renames the file, within its folder, to the record's `output_key`. The
    file must be complete and closed, and no other attempt may write to it. `value` goes to the future.
    """

    temp_path: str | os.PathLike[str]
    value: JSON = None


@dataclass(slots=True)
class Publication:
    """An output on its way: measured, synced when asked, renamed by the ledger inside its transaction."""

    temp_path: Path
    output_key: str
    size: int
    sha256: str
    durable: bool
    published: bool = False

    @classmethod
    def prepare(cls, output: Output, key: str, *, durable: bool) -> Self:
        """Measure the file and, when `durable`, bring it to the disk. Done before the transaction begins."""
        path = Path(output.temp_path)
        if len(path.suffix) > _LONGEST_SUFFIX:
            raise PermanentError(f"the suffix of Output({str(path)!r}) is longer than {_LONGEST_SUFFIX} characters")
        if path.exists() and not path.is_file():
            raise PermanentError(f"the processor returned Output({str(path)!r}), which is no regular file")
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb+" if durable else "rb", buffering=0) as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
                if durable:
                    os.fsync(file.fileno())
        except (FileNotFoundError, IsADirectoryError) as error:
            raise PermanentError(f"the processor returned Output({str(path)!r}), but there is no such file") from error
        return cls(path, output_key(key, path.suffix), size, digest.hexdigest(), durable)

    def publish(self) -> None:
        """Rename the file to its output key; an older file of that name is replaced in one step.

        Safe to repeat: a transaction that fails on a neighbour's account is run again.
        """
        if not self.published:
            self.temp_path.replace(self.temp_path.with_name(self.output_key))
            self.published = True

    def discard(self) -> None:
        """Remove the file of an attempt that was not recorded."""
        self.temp_path.unlink(missing_ok=True)


def output_key(key: str, suffix: str = "") -> str:
    """The file name of a task's output: from the SHA-256 of its idempotency key, so that no two can meet.

    Joining image_key and variant would let ("a/b", "c") and ("a", "b/c"), or two names on a disk that
    ignores case, collide.
    """
    return hashlib.sha256(key.encode()).hexdigest() + suffix


def remove(result: object) -> None:
    """Remove the file of an attempt that failed after its work was done; anything but an Output is no file."""
    if isinstance(result, Output):
        with contextlib.suppress(OSError, TypeError, ValueError):
            path = Path(result.temp_path)
            if path.is_file():  # whatever else a processor names stays
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
