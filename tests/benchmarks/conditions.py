"""What the figures depend on: the machine, the versions, the disk, who else is at work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pytest_taskqueue.machine import machine
from tests.benchmarks.rounds import NOT_INSTALLED, ROOT


def conditions(directory: Path | None) -> dict[str, Any]:
    """The conditions of a run that makes its folders in `directory`."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": _revision(),
        "machine": machine(),
        "versions": {"sqlite": sqlite3.sqlite_version, **{name: _version(name) for name in ("huey", "litequeue")}},
        "file_system": _file_system(directory or Path(tempfile.gettempdir())),
        "load": load(),
    }


def load() -> list[float] | None:
    """Threads at work on this machine, averaged over 1, 5 and 15 minutes; None where the system does not tell."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return NOT_INSTALLED


def _revision() -> str:
    """The commit of the checkout, "-dirty" when files differ from it."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def _file_system(directory: Path) -> str:
    """The type of the file system, as Linux tells it: on tmpfs an fsync costs nothing, and proves nothing."""
    mounts = Path("/proc/self/mounts")
    if not mounts.is_file():
        return "unknown"
    fields = [line.split() for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines()]
    # A later mount hides an earlier one at the same place.
    holding = [(len(Path(at).parts), n, kind) for n, (_, at, kind, *_) in enumerate(fields) if _holds(at, directory)]
    return max(holding)[2] if holding else "unknown"


def _holds(mount: str, directory: Path) -> bool:
    return directory.resolve().is_relative_to(mount)
