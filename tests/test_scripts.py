"""The scripts at the top: what they print, where results go, what they exit with."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import toys
from helpers import environ

from pytest_taskqueue import export, scripts
from pytest_taskqueue.arms import BUILT_IN
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.results import ARMS
from pytest_taskqueue.verdict import Verdict
from taskqueue_core import read_tasks

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "input_new" / "sample_tasks_small.json"
SHORT = ("--slot", "0.2", "--workload", "io")
EASY = ("--gate", "throughput>=0.01x", "--gate", "p95<=100x")
SELF = ("--optimized", "baseline")

Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PYTEST_TQ_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that is not the project's."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def script(elsewhere: Path) -> Script:
    """Run Python there, warnings as errors."""

    def script(*arguments: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", *map(str, arguments)]
        return subprocess.run(
            command, cwd=elsewhere, env={**environ(), **env}, capture_output=True, text=True, timeout=50, check=False
        )

    return script


def toy(name: str) -> str:
    return f"{toys.__file__}:{name}"


# --- benchmark.py and python -m pytest_taskqueue


def test_pass_exits_with_0_and_results_lie_beside_the_script(script: Script, tmp_path: Path, elsewhere: Path) -> None:
    """Wherever it is started. Its 50 and 100 clients are a default: the environment wins."""
    copy = shutil.copy(ROOT / "benchmark.py", tmp_path)
    done = script(copy, *SHORT, *EASY, *SELF, PYTEST_TQ_CLIENTS="2")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("taskqueue: baseline against baseline, workload io, 2 clients")
    assert lines[1].strip().startswith("gates throughput>=0.01x p95<=100x; looks at 5 8 12 18 27 40 pairs, alpha 0.025")
    assert len(re.findall(r"^  warm-up ", done.stdout, re.MULTILINE)) == 2
    assert (
        len(re.findall(r"^  window 0\.2 s; the budget of 300 s buys about 40 pairs$", done.stdout, re.MULTILINE)) == 1
    )
    assert re.findall(r"^  pair (\d)/40 ", done.stdout, re.MULTILINE) == [
        f"{pair}" for pair in range(1, 6) for _ in ARMS
    ]
    assert re.search(r"^baseline .*\noptimized ", done.stdout, re.MULTILINE)
    assert re.match(r"verdict: PASS c2 throughput x.* \(5 pairs\)", lines[-2])
    shown = [Path(word) for word in lines[-1].split()[1:]]
    assert sorted(shown) == sorted((tmp_path / "bench_results").iterdir())
    found = json.loads((tmp_path / "bench_results" / "latest.json").read_text(encoding="utf-8"))
    assert (found["verdict"], found["command"]) == ("PASS", shlex.join(["benchmark.py", *SHORT, *EASY, *SELF]))
    assert list(elsewhere.iterdir()) == []


def test_fail_exits_with_1_and_the_module_writes_below_the_working_directory(script: Script, elsewhere: Path) -> None:
    done = script("-m", "pytest_taskqueue", "--clients=2", *SHORT, *SELF, "--gate=throughput>=50x")
    assert (done.returncode, done.stderr) == (1, "")
    assert "FAIL: the optimized queue misses a gate" in done.stdout
    assert "verdict: FAIL c2 " in done.stdout
    assert (elsewhere / "bench_results" / "latest.json").is_file()


def test_inconclusive_exits_with_3(script: Script, tmp_path: Path) -> None:
    """The budget was too small; results go where they are told to."""
    target = tmp_path / "results"
    done = script(ROOT / "benchmark.py", "--clients=3", *SHORT, *SELF, "--budget=0.001", "--report", target)
    assert (done.returncode, done.stderr) == (3, "")
    ended = "the budget of 0.001 s ended after 1 pair, before the first look at 5"
    assert f"INCONCLUSIVE: not shown\n  {ended}\n" in done.stdout
    assert f"verdict: INCONCLUSIVE c3 {ended}\n" in done.stdout
    assert len(list(target.iterdir())) == 3


def test_of_several_client_counts_the_worst_verdict_counts(script: Script) -> None:
    """INVALID, 4: the queue works twice on a task that only the third client submits. The others are measured, too."""
    done = script("-m", "pytest_taskqueue", "--clients=6,2", *SHORT, "--optimized", toy("Doubles"), "--budget=0.001")
    assert (done.returncode, done.stderr) == (4, "")
    verdicts = re.findall(r"^verdict: (\w+ c\d)", done.stdout, re.MULTILINE)
    assert verdicts == ["INVALID c6", "INCONCLUSIVE c2"]
    assert f"INVALID: optimized: 1 task worked on more than once: io-{toys.ONE} (slot 1)" in done.stdout


def test_aa_is_a_switch_and_compares_the_baseline_with_itself(script: Script) -> None:
    """A difference would be found in the harness; here the budget ends long before one could be."""
    done = script("-m", "pytest_taskqueue", "--clients=2", *SHORT, "--aa", "--optimized", "nope", "--budget=0.001")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--optimized: unknown subject 'nope'" in done.stderr
    done = script("-m", "pytest_taskqueue", "--clients=2", *SHORT, "--aa", "--budget=0.001")
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("taskqueue: baseline against itself, workload io, 2 clients")
    assert "ended after 1 pair, before the first look at 12" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--clients", "0"), "--clients '0': expected a number of clients of at least 1"),
        (("--gate", "nonsense"), "--gate 'nonsense': gate 'nonsense' is not understood"),
        (("--optimized", "nope"), "--optimized: unknown subject 'nope'"),
        (("--workload", "sleep"), "--workload: unknown workload 'sleep'"),
        (("--report", "file"), "--report: "),
    ],
)
def test_bad_options_exit_with_2_and_are_named_as_the_script_calls_them(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], message: str
) -> None:
    (elsewhere / "file").touch()
    assert scripts.compare(arguments, root=elsewhere, program="benchmark.py") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"benchmark.py: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_an_unknown_option_exits_with_2(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        scripts.compare(["--nope", "5"], root=elsewhere, program="benchmark.py")
    assert caught.value.code == 2
    assert "unrecognized arguments: --nope 5" in capsys.readouterr().err


def test_results_that_cannot_be_written_are_no_verdict(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 would say that the queue is too slow."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "write", full)
    arguments = ["--clients=2", *SHORT, *SELF, "--budget=0.001"]
    assert scripts.compare(arguments, root=elsewhere, program="benchmark.py") == 2
    assert "benchmark.py: [Errno 28] No space left on device\n" in capsys.readouterr().err


def test_the_default_client_counts_of_a_script_are_its_own(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """benchmark.py measures 50 and 100 clients, one after the other, unless told."""
    counts: list[int] = []
    monkeypatch.setattr(scripts, "_compare_one", lambda campaign, count: counts.append(count) or Verdict.PASS)
    assert scripts.compare([], root=elsewhere, clients="50,100", program="benchmark.py") == 0
    assert scripts.compare(["--clients=7"], root=elsewhere, clients="50,100", program="benchmark.py") == 0
    assert counts == [50, 100, 7]
    assert "workload thumbnail, 50, 100 clients" in capsys.readouterr().out


def test_help_tells_the_options_and_the_exit_status(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scripts.compare(["--help"], root=elsewhere, clients="50,100", program="benchmark.py")
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "several counts are compared one by one (default: 50,100)" in shown
    assert "(default: throughput>=2x,p95<=0.6x)" in shown
    assert (
        "Exit status: 0 PASS, 1 FAIL, 2 bad options, or no room for ledgers or results, 3 INCONCLUSIVE, 4 INVALID"
        in shown
    )


# --- task_queue_optimized.py


def test_the_sample_runs_from_anywhere(script: Script, elsewhere: Path) -> None:
    """The images it names are generated; nothing is left behind."""
    done = script(ROOT / "task_queue_optimized.py", SAMPLE)
    assert done.returncode == (0 if pillow() else 1)
    distinct = {task.key for task in read_tasks(SAMPLE)}
    assert done.stdout.startswith(f"tasks       8 ({8 - len(distinct)} duplicates, ")
    assert re.findall(r"^(\w+)", done.stdout, re.MULTILINE) == ["tasks", "elapsed", "throughput", "mean", "P95"]
    assert list(elsewhere.iterdir()) == []


def pillow() -> bool:
    """Without it the images of the sample, which are JPEGs, cannot be made."""
    try:
        import PIL  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.usefixtures("elsewhere")
def test_without_a_file_tasks_are_generated(capsys: pytest.CaptureFixture[str]) -> None:
    assert scripts.optimized(["--count=20", "--workers=2", "--round-trip=0"]) == 0
    assert capsys.readouterr().out.startswith("tasks       20 (0 duplicates, 0 failed)\n")


def test_failed_tasks_exit_with_1_and_are_named(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "images").mkdir()
    (elsewhere / "tasks.json").write_text('[{"image_key": "none.bin", "variant": "64x64"}]', encoding="utf-8")
    assert scripts.optimized(["tasks.json"]) == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("tasks       1 (0 duplicates, 1 failed)\n")
    assert re.match(r"failed: \[\"none\.bin\",\"64x64\"\]: FileNotFoundError: ", shown.err)


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (None, ["tasks.json"], "tasks.json: cannot be read"),
        ("[1", ["tasks.json"], "tasks.json: no JSON"),
        ('[{"image": "a"}]', ["tasks.json"], 'tasks.json, task 1: no "image_key" (has: "image")'),
        ("[]", ["tasks.json", "--images", "nowhere"], "there is no folder 'nowhere' to take images from"),
        (None, ["--round-trip", "-1"], "round_trip must be a number of seconds, 0 or more, got -1.0"),
    ],
)
def test_bad_input_exits_with_2_in_one_line(
    elsewhere: Path, capsys: pytest.CaptureFixture[str], content: str | None, arguments: list[str], message: str
) -> None:
    if content is not None:
        (elsewhere / "tasks.json").write_text(content, encoding="utf-8")
    assert scripts.optimized([*arguments, "--count=1"]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"task_queue_optimized.py: {message}")
    assert shown.err.count("\n") == 1
    assert shown.out == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "argument --workers: '0' is no whole number of at least 1"),
        (["--clients", "\u00b2"], "argument --clients: '\u00b2' is no whole number of at least 1"),
        (["tasks.json", "--benchmark"], "--benchmark measures tasks of its own: leave the task file out"),
        (["--images", "x"], "--images is where the images of a task file are: name the file, too"),
    ],
)
def test_options_that_make_no_sense_exit_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        scripts.optimized(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def short_benchmark(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(scripts, "WARMUP_S", 0.05)
    monkeypatch.setattr(scripts, "WINDOW_S", 0.1)
    return ["--benchmark", "--clients=5", "--workers=4"]


def test_benchmark_measures_the_optimized_queue_alone(
    short_benchmark: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Throughput, mean, P95, error rate."""
    assert scripts.optimized(short_benchmark) == 0
    shown = capsys.readouterr()
    first, *lines = shown.out.splitlines()
    assert first.startswith("optimized queue alone: thumbnails of 640x480 JPEGs")
    assert first.endswith("; 5 clients, 4 workers")
    assert [re.sub(r"[\d,]+\.\d+", "#", line) for line in lines] == [
        "throughput  # tasks/s", "mean        # s", "P95         # s", "error rate  #%",
    ]  # fmt: skip
    assert shown.err == ""


def test_benchmark_of_wrong_work_exits_with_4(
    short_benchmark: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(BUILT_IN, "optimized", toys.Doubles)
    monkeypatch.setattr(toys.Doubles, "threads", 4)
    found, io = Catalogue(), lambda name, seed: Catalogue().workload("io", seed)
    monkeypatch.setattr(scripts, "Catalogue", lambda: SimpleNamespace(subject=found.subject, workload=io))
    assert scripts.optimized(short_benchmark) == 4
    assert capsys.readouterr().err == f"INVALID: 1 task worked on more than once: io-{toys.ONE}\n"


# --- run_tests.sh

BASH = shutil.which("bash")
STAND_IN = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/calls"
"""


@pytest.mark.skipif(BASH is None or sys.platform == "win32", reason="bash is not installed")
class TestRunTests:
    """With a stand-in for Python: nothing is installed here."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        folder = tmp_path / "check out"
        folder.mkdir()
        shutil.copy(ROOT / "run_tests.sh", folder)
        (folder / "pyproject.toml").touch()
        return folder

    def start(self, checkout: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BASH), str(checkout / "run_tests.sh"), *arguments],
            cwd=checkout.parent, env={**os.environ, **env}, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip

    def test_installs_once_and_hands_the_arguments_on(self, checkout: Path) -> None:
        """-rA without any; again when pyproject.toml has changed."""
        python = checkout / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN, encoding="utf-8")
        python.chmod(0o755)
        install = "-m pip install --quiet --disable-pip-version-check -e .[images,dotenv,dev]"
        for arguments, calls in (
            ((), [install, "-m pytest -rA"]),
            (("-k", "a b"), ["-m pytest -k a b"]),
        ):
            assert self.start(checkout, *arguments).returncode == 0
            assert (python.parent / "calls").read_text(encoding="utf-8").splitlines() == calls
            (python.parent / "calls").unlink()
        os.utime(checkout / ".venv" / ".installed", (0, 0))
        self.start(checkout)
        assert install in (python.parent / "calls").read_text(encoding="utf-8")

    @pytest.mark.parametrize("python", ["false", "no-such-python"])
    def test_says_which_python_it_needs(self, checkout: Path, python: str) -> None:
        done = self.start(checkout, PYTHON=python)
        assert done.returncode == 2
        assert "Python 3.11 or later is needed" in done.stderr
        assert not (checkout / ".venv").exists()
