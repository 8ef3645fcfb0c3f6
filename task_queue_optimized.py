"""The optimized queue at work: run tasks through it, or measure it alone with --benchmark."""

import sys

try:
    from pytest_taskqueue.scripts import optimized
except ModuleNotFoundError as error:
    sys.exit(f"{error}: the project is not installed for {sys.executable}; use .venv/bin/python, see README.md")

if __name__ == "__main__":
    sys.exit(optimized())
