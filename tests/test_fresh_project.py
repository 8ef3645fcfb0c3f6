"""A project that never saw ours: an environment made from nothing, the wheel, the README's adapters, a verdict."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from pytest_taskqueue.workloads import made
from tests.readme import README, ROOT

QUEUES = '''
"""Two queues as people write them."""
import threading
from concurrent.futures import ThreadPoolExecutor


class ListQueue:
    """A list, some threads, and a lock that is held while a task is worked on."""

    def __init__(self, work, workers):
        self.work, self.tasks, self.stopped = work, [], False
        self.lock, self.ready = threading.Lock(), threading.Semaphore(0)
        self.threads = [threading.Thread(target=self.run) for _ in range(workers)]
        for thread in self.threads:
            thread.start()

    def add(self, task):
        self.tasks.append(task)
        self.ready.release()

    def run(self):
        while self.ready.acquire() and not self.stopped:
            with self.lock:
                self.work(self.tasks.pop(0))

    def stop(self):
        self.stopped = True
        self.ready.release(len(self.threads))
        for thread in self.threads:
            thread.join()
'''

COMMAND = ["--tq-compare", "--tq-baseline", "old.py:Old", "--tq-optimized", "new.py:New", "--tq-workload", "io"]
LIMIT = 180  # seconds: only a hang reaches it


def adapters() -> dict[str, str]:
    """The files that the README shows, by their names."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    return dict(blocks)


def test_the_adapters_in_the_readme_are_as_short_as_it_says() -> None:
    """Ten lines for what hands out futures, fifteen for what does not; and the command is the one tried below."""
    lines = {name: len([line for line in text.splitlines() if line.strip()]) for name, text in adapters().items()}
    assert set(lines) >= {"new.py", "old.py"}
    assert lines["new.py"] <= 10
    assert lines["old.py"] <= 15
    assert " ".join(["pytest", *COMMAND]) in README.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment in which nothing but the wheel and what it asks for is installed."""
    folder = tmp_path_factory.mktemp("fresh")
    source, wheels, environment = folder / "source", folder / "wheels", folder / "environment"
    for package in ("taskqueue_core", "pytest_taskqueue", "input_new"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)  # a build leaves files beside its source
    pip("wheel", "--no-deps", "--wheel-dir", wheels, source)
    (wheel,) = wheels.glob("pytest_taskqueue-*.whl")
    venv.create(environment)
    python = next(environment.glob("[bS]*/python*"))
    pip("--python", python, "install", wheel)
    return python


def pip(*arguments: object) -> None:
    """Run pip, which must reach a package index."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and re.search(r"NewConnectionError|NameResolution|Max retries|timed out", done.stderr):
        pytest.skip("no package index can be reached, so nothing can be installed")
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(2 * LIMIT)
def test_a_project_that_never_saw_ours_gets_its_verdict(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder with the queues and the adapters, and nothing else."""
    monkeypatch.delenv("PYTHONPATH")
    for name, text in {"queues.py": QUEUES, **adapters()}.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [fresh, "-m", "pytest", *COMMAND], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.search(r"^verdict: PASS c100 throughput x", done.stdout, re.MULTILINE)
    assert "taskqueue: old.py:Old against new.py:New, workload io, 100 clients" in done.stdout


def test_the_workload_in_the_readme_is_one() -> None:
    """What it does is what it expects, and its tasks are told apart although they have no keys of their own."""
    space: dict[str, Any] = {}
    exec(adapters()["invoices.py"], space)
    workload = made(space["Invoices"], "invoices", 7)
    tasks = [workload.task(client, k) for client in range(3) for k in range(3)]
    assert len({task.key for task in tasks}) == 9
    work = workload.work(Path())
    assert [workload.problem(task, work(task), None) for task in tasks] == [None] * 9
    assert workload.problem(tasks[0], {"sum": 0}, None) == "its result is {'sum': 0}, expected {'sum': 7}"
