"""The peak of a process's memory; a file of its own, so that asking costs an empty process nothing."""

import sys
from pathlib import Path


def peak_mb() -> float:
    """The peak resident set of this process in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    import resource  # not on Windows; its unit is bytes on macOS and KiB elsewhere

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
