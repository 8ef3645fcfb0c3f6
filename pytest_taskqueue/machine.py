"""What the numbers depend on."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata


def machine() -> dict[str, str | int | float | bool]:
    """What the numbers depend on: system, Python, cores, the GIL, versions."""
    affinity = getattr(os, "sched_getaffinity", None)
    gil = getattr(sys, "_is_gil_enabled", None)
    return {
        "platform": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count() or 1,
        "gil": gil() if gil is not None else True,
        "switch_interval_s": sys.getswitchinterval(),
        "pytest_taskqueue": _version("pytest-taskqueue"),
        "pillow": _version("Pillow"),
    }


def load_average() -> float | None:
    """How many threads of all programs wanted a core, on average of the last minute; None where nobody counts them."""
    average = getattr(os, "getloadavg", None)
    return round(average()[0], 2) if average is not None else None


def resident_mb() -> float | None:
    """Memory of this process in MiB; None where the system does not tell it cheaply (only Linux does)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no path of ours
            pages = int(file.read().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
