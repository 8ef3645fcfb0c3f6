"""Compare the original queue with the optimized one under 50 and 100 clients; results go to bench_results/."""

import sys
from pathlib import Path

try:
    from pytest_taskqueue.scripts import compare, leave
except ModuleNotFoundError as error:
    sys.exit(f"{error}: the project is not installed for {sys.executable}; use .venv/bin/python, see README.md")

if __name__ == "__main__":
    leave(compare(root=Path(__file__).resolve().parent, clients="50,100", program="benchmark.py"))
