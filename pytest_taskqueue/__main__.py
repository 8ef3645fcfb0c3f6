"""`python -m pytest_taskqueue`: the comparison without pytest, below the current folder."""

import sys
from pathlib import Path

from pytest_taskqueue.scripts import compare

if __name__ == "__main__":
    sys.exit(compare(root=Path.cwd(), program="python -m pytest_taskqueue"))
