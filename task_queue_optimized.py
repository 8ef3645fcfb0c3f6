"""The optimized queue at work: run tasks through it, or measure it alone with --benchmark."""

import sys

from pytest_taskqueue.scripts import optimized

if __name__ == "__main__":
    sys.exit(optimized())
