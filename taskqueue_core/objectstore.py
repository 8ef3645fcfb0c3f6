"""ObjectStore: a local folder that stands in for an object store such as MinIO."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taskqueue_core.errors import InvalidKeyError

UNFINISHED = ".tq-"
"""How the names of unfinished files begin. No key can name them: a part of a key never begins with a dot."""

_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
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
        size = unfinished.stat().st_size
        unfinished.replace(path)
        return size

    def stage(self, owner: str, chunks: Iterable[bytes], *, suffix: str = "", folder: Path | None = None) -> Path:
        """Write a complete file under an unfinished name and return its path; on an error nothing is left.

        The name tells the `owner` (an idempotency key, say), so that `sweep` finds what a dead process left.
        """
        folder = folder or self.root
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{_prefix(owner)}{secrets.token_hex(8)}{suffix}"
        try:
            with path.open("xb") as file:
                for chunk in chunks:
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        time.sleep(self.round_trip)
        return path

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
        found = self.path(key).stat()
        return ObjectStat(found.st_size, found.st_mtime)

    def delete(self, key: str) -> bool:
        """Remove an object; False when there was none."""
        try:
            self.path(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def keys(self) -> Iterator[str]:
        """Yield the keys of all complete objects, sorted."""
        for path in sorted(self.root.rglob("*")):
            key = path.relative_to(self.root)
            if path.is_file() and not any(part.startswith(".") for part in key.parts):
                yield key.as_posix()

    def path(self, key: str) -> Path:
        """The file of a key. Raises InvalidKeyError before anything is opened."""
        _check_key(key)
        path = self.root / key
        if not path.resolve().is_relative_to(self.root):
            raise InvalidKeyError(f"key {key!r} leaves the store's folder through a symbolic link")
        return path

    def _chunks(self, path: Path) -> Iterator[bytes]:
        time.sleep(self.round_trip)
        with path.open("rb") as file:
            while chunk := file.read(self.chunk_size):
                yield chunk


def _prefix(owner: str) -> str:
    return f"{UNFINISHED}{hashlib.sha256(owner.encode()).hexdigest()[:24]}-"


def _check_key(key: object) -> None:
    """Refuse what could leave the folder, open a device, or mean another file on another system."""
    if not isinstance(key, str) or not key:
        raise InvalidKeyError(f"a key must be a text that is not empty, got {key!r}")
    if _FORBIDDEN.search(key):
        raise InvalidKeyError(f'key {key!r} holds a control character or one of \\ : * ? " < > |')
    for part in key.split("/"):
        if not part:
            raise InvalidKeyError(f"key {key!r} is an absolute path or has an empty part")
        if part.startswith(".") or part.endswith((".", " ")):
            raise InvalidKeyError(f"key {key!r}: no part may begin with a dot, or end with a dot or a space")
        if _DEVICE.fullmatch(part):
            raise InvalidKeyError(f"key {key!r} names a device on Windows")
        if len(part.encode(errors="surrogatepass")) > 200:
            raise InvalidKeyError(f"key {key!r}: no part may be longer than 200 bytes")
