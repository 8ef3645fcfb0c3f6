"""Every option of a comparison: where it may be given, which source wins, what a bad value is told."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_taskqueue.config import ENV_PREFIX, OPTIONS, CompareConfig, ConfigError, dotenv, resolve
from pytest_taskqueue.verdict import Gate
from taskqueue_core import QueueSettings
from taskqueue_core.settings import variables

EXAMPLE = Path(__file__).parents[1] / ".env.example"
GATE = Gate("throughput", ">=", 3.0)

THREE = {
    "clients": ("1", "2,3", " 4 , 5 "),
    "workers": ("1", "2", " 3 "),
    "queue_size": ("1", "2", "3"),
    "seed": ("1", "-2", "0"),
    "gate": ("throughput>=3x", "p95<=0.5X,mean<=1x", "p50 <= 0.7x\np99 <= 1e-1x"),
    "baseline": ("a:A", "b.c:B", "d/e.py:C"),
    "optimized": ("a:A", "b.c:B", "d/e.py:C"),
    "workload": ("io", "cpu", " noop "),
    "slot": ("1", "0.25", "2e1"),
    "budget": ("1", "0.5", "600"),
    "report": ("a", "b/c", "/d e"),
}
"""Three good texts for every option, for the three places where it may be given."""

BAD = {
    "clients": ("at least 1", "0", "-1", "x", "1.5", "5,,6", ",", "\u0663", "1e2"),
    "workers": ("at least 1", "0", "-1", "many", "2.5", "\u00b2"),
    "queue_size": ("at least 1", "0", "-1", "many", "2.5"),
    "seed": ("whole number", "x", "1.5"),
    "gate": ("throughput>=RATIOx", "nonsense", "throughput>=0x", "throughput<=2x", "p95>=1x", "p90<=1x", "p95<=nanx"),
    "baseline": ("a name", " "),
    "optimized": ("a name", " "),
    "workload": ("a name", " "),
    "slot": ("above 0", "0", "-1", "nan", "inf", "soon"),
    "budget": ("above 0", "0", "-1", "nan", "inf", "auto"),
    "report": ("a name", " "),
}
"""What is allowed, in the words of the message, and texts that are not."""


def settings(
    cli: Mapping[str, str] = {}, env: Mapping[str, str] = {}, ini: Mapping[str, str] = {}, **options: str
) -> CompareConfig:
    environ = {ENV_PREFIX + name.upper(): text for name, text in env.items()}
    return resolve(cli, environ, {"tq_" + name: text for name, text in ini.items()}.get, **options)


def test_the_tables_below_know_every_option() -> None:
    assert list(THREE) == list(BAD) == [option.name for option in OPTIONS]


@pytest.mark.parametrize("name", THREE)
def test_command_line_beats_environment_beats_ini_beats_default(name: str) -> None:
    """The others keep their defaults; `given` says which source it was, for messages."""
    cli, env, ini = ({name: text} for text in THREE[name])
    flag = "--tq-" + name.replace("_", "-")
    expected = [
        (settings(cli, env, ini), settings(cli), flag),
        (settings({}, env, ini), settings(cli=env), ENV_PREFIX + name.upper()),
        (settings({}, {}, ini), settings(cli=ini), "tq_" + name),
        (settings(), resolve({}, {}, {}.get), "default of " + flag),
    ]
    for found, same, where in expected:
        assert found == same
        assert found.given[name] == where
    assert len({repr(found) for found, _, _ in expected}) == 4


def test_texts_become_values() -> None:
    found = settings({name: texts[2] for name, texts in THREE.items()})
    assert (found.clients, found.workers, found.seed, found.workload) == ((4, 5), 3, 0, "noop")
    assert found.gates == (Gate("p50", "<=", 0.7), Gate("p99", "<=", 0.1))
    assert (found.slot, found.budget, found.report) == (20.0, 600.0, "/d e")


def test_the_defaults_are_those_the_gate_rules_name() -> None:
    found = settings()
    assert (found.clients, found.budget, found.slot) == ((100,), 300.0, None)
    assert list(map(str, found.gates)) == ["throughput>=2x", "p95<=0.6x"]
    assert (found.baseline, found.optimized, found.workload) == ("baseline", "optimized", "thumbnail")


@pytest.mark.parametrize("name", THREE)
def test_empty_in_the_environment_or_the_ini_file_means_not_given(name: str) -> None:
    assert settings(env={name: ""}, ini={name: ""}) == settings()
    assert settings(env={name: ""}, ini={name: THREE[name][1]}) == settings({name: THREE[name][1]})


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, (_, *texts) in BAD.items() for text in texts])
def test_a_bad_value_says_where_it_stood_what_it_was_and_what_is_allowed(name: str, text: str) -> None:
    allowed, flag = BAD[name][0], name.replace("_", "-")
    bad = {name: text}
    for where, sources, options in (
        (f"--tq-{flag}", (bad,), {}),
        (f"--{flag}", (bad,), {"prefix": "--"}),
        (f"PYTEST_TQ_{name.upper()}", ({}, bad), {}),
        (f"tq_{name}", ({}, {}, bad), {}),
    ):
        with pytest.raises(ConfigError) as caught:
            settings(*sources, **options)
        assert str(caught.value).startswith(f"{where} {text!r}: ")
        assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("clients", "", "at least 1"),
        ("clients", "50,50", "once"),
        ("gate", " , ", "at least one gate"),
        ("gate", "p95<=0.6x,p95<=0.5x", "one gate"),
    ],
)
def test_values_that_contradict_themselves_are_refused(name: str, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        settings({name: text})


def test_a_repeated_gate_option_adds_up() -> None:
    """The command line joins them by commas before they come here."""
    assert settings({"gate": "throughput>=3x,p95<=0.5x"}).gates == (GATE, Gate("p95", "<=", 0.5))
    assert [option.name for option in OPTIONS if option.repeatable] == ["gate"]


# --- .env


def example() -> dict[str, str]:
    lines = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs = (line.split("=", 1) for line in lines)
    return {name: value.strip('"') for name, value in pairs}  # quoted where a shell would see a redirection


def test_the_example_names_every_setting_once_with_its_default() -> None:
    """Copying it changes nothing."""
    found = example()
    names = [ENV_PREFIX + option.name.upper() for option in OPTIONS]
    assert list(found) == variables() + names
    assert resolve({}, found, {}.get) == settings()
    assert QueueSettings.from_env(found) == QueueSettings()


def test_dotenv_reads_the_file_of_a_folder(tmp_path: Path) -> None:
    """The example in the original spelling, comments left out; no file, no settings."""
    pytest.importorskip("dotenv", reason="python-dotenv is not installed")
    assert dotenv(tmp_path) == {}
    shutil.copyfile(EXAMPLE, tmp_path / ".env")
    assert dotenv(tmp_path) == example()


def test_without_python_dotenv_the_file_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dotenv", None)
    shutil.copyfile(EXAMPLE, tmp_path / ".env")
    assert dotenv(tmp_path) == {}
