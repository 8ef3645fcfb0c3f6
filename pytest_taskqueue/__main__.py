"""`python -m pytest_taskqueue`: the comparison without pytest, below the current folder."""

from pathlib import Path

from pytest_taskqueue.scripts import compare, leave

if __name__ == "__main__":
    leave(compare(root=Path.cwd(), program="python -m pytest_taskqueue"))
