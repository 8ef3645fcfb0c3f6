"""ObjectStore: a local folder that stands in for an object store such as MinIO."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from taskqueue_core.errors import InvalidKeyError

UNFINISHED = ".tq-"
"""How the names of unfinished files begin. No key can name them: a part of a key never begins with a dot."""

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


@dataclass(frozen=True, slots=True)
class ObjectStat:
    """Size in bytes and time of the last change in seconds since the epoch."""

    size: int
    modified_at: float


class ObjectStore:
    """Objects as files below `root`, read and written in chunks, visible only when complete.

    `chunk_size` is in bytes and bounds the memory of a read or write; `round_trip` simulates the network, in
    seconds for each get and each put. Safe to use from many threads.
    """

    def __init__(self, root: str | os.PathLike[str], *, chunk_size: int = 65536, round_trip: float = 0.0) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1 byte, got {chunk_size!r}")
        if not 0 <= round_trip < float("inf"):
            raise ValueError(f"round_trip must be a number of seconds, 0 or more, got {round_trip!r}")
        self.root = Path(root).resolve()
        self.chunk_size = chunk_size
        self.round_trip = round_trip

    def open_read(self, key: str) -> Iterator[bytes]:
        """Yield the object in chunks. Raises InvalidKeyError at once, FileNotFoundError at the first chunk."""
        return self._chunks(self.path(key))

    def write(self, key: str, chunks: Iterable[bytes]) -> int:
        """Write an object and make it visible in one step; the bytes written. On an error nothing is left."""
        path = self.path(key)
        unfinished = self.stage(key, chunks, folder=path.parent)
        try:
            size = unfinished.stat().st_size
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return size

    def stage(self, owner: str, chunks: Iterable[bytes], *, suffix: str = "", folder: Path | None = None) -> Path:
        """Write a complete file under an unfinished name and return its path; on an error nothing is left.

        The name tells the `owner` (an idempotency key, say), so that `sweep` finds what a dead process left.
        """
        with self.staging(owner, suffix=suffix, folder=folder) as file:
            for chunk in chunks:
                file.write(chunk)
        return Path(file.name)

    @contextmanager
    def staging(self, owner: str, *, suffix: str = "", folder: Path | None = None) -> Iterator[BinaryIO]:
        """Like `stage`, for writers that want a file: yields it open, `file.name` is its path."""
        path = (folder or self.root) / f"{_prefix(owner)}{secrets.token_hex(8)}{suffix}"
        try:
            with _create(path) as file:
                yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        time.sleep(self.round_trip)

    def sweep(self, owners: Iterable[str]) -> int:
        """Remove the staged files of these owners; the number removed."""
        prefixes = tuple(_prefix(owner) for owner in owners)
        if not prefixes or not self.root.is_dir():
            return 0
        abandoned = [path for path in self.root.iterdir() if path.name.startswith(prefixes)]
        for path in abandoned:
            path.unlink(missing_ok=True)
        return len(abandoned)

    def exists(self, key: str) -> bool:
        """Whether an object of this name is there."""
        return self.path(key).is_file()

    def stat(self, key: str) -> ObjectStat:
        """Size and age of an object. Raises FileNotFoundError."""
        found = _find(self.path(key))
        return ObjectStat(found.st_size, found.st_mtime)

    def delete(self, key: str) -> bool:
        """Remove an object; False when there was none."""
        path = self.path(key)
        try:
            _find(path)
            path.unlink()
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[str]:
        """Yield the keys of all complete objects, sorted."""
        files = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        yield from sorted(key.as_posix() for key in files if not any(part.startswith(".") for part in key.parts))

    def path(self, key: str) -> Path:
        """The file of a key. Raises InvalidKeyError before anything is opened."""
        _check_key(key)
        path = self.root / key
        if self._has_link(key) and not _stays_below(self.root, path):
            raise InvalidKeyError(f"key {key!r} leaves the store's folder through a link")
        return path

    def _has_link(self, key: str) -> bool:
        if os.name == "nt":
            return True  # a junction is no symbolic link: look closely
        place = str(self.root)
        for part in key.split("/"):
            place = os.path.join(place, part)  # noqa: PTH118 - an object per part would cost more than the look
            if os.path.islink(place):  # noqa: PTH114
                return True
        return False

    def _chunks(self, path: Path) -> Iterator[bytes]:
        time.sleep(self.round_trip)
        _find(path)
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(self.chunk_size):
                yield chunk


def _stays_below(root: Path, path: Path) -> bool:
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.resolve(strict=True)  # from Python 3.13 on only this one minds a link that leads to itself
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):
        return False  # a link that leads to itself


def _find(path: Path) -> os.stat_result:
    """The file of an object. A folder, or a path through a file, is no object either: FileNotFoundError."""
    try:
        found = path.stat()
    except NotADirectoryError:
        found = None
    if found is None or not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return found


def _create(path: Path) -> BinaryIO:
    try:
        return path.open("xb+")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("xb+")


def _prefix(owner: str) -> str:
    return f"{UNFINISHED}{hashlib.sha256(owner.encode()).hexdigest()[:24]}-"


def _check_key(key: object) -> None:
    """Refuse what could leave the folder, open a device, or mean another file on another system."""
    if not isinstance(key, str) or not key:
        raise InvalidKeyError(f"a key must be a text that is not empty, got {key!r}")
    if _FORBIDDEN.search(key):
        raise InvalidKeyError(f'key {key!r} holds a control character or one of \\ : * ? " < > |')
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKeyError(f"key {key!r} is no valid Unicode text") from None
    if size > 1024:
        raise InvalidKeyError(f"key {key[:50]!r}... has {size:,} bytes, more than 1,024")
    for part in key.split("/"):
        if not part:
            raise InvalidKeyError(f"key {key!r} is an absolute path or has an empty part")
        if part.startswith(".") or part.endswith((".", " ")):
            raise InvalidKeyError(f"key {key!r}: no part may begin with a dot, or end with a dot or a space")
        if _DEVICE.fullmatch(part):
            raise InvalidKeyError(f"key {key!r} names a device on Windows")
        if len(part.encode()) > 200:
            raise InvalidKeyError(f"key {key!r}: no part may be longer than 200 bytes")
