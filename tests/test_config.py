"""Every option of a comparison: where it may be given, which source wins, what a bad value is told."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_taskqueue.config import ENV_PREFIX, OPTIONS, CompareConfig, ConfigError, dotenv, resolve, resolve_marker
from pytest_taskqueue.options import CONFORMANCE
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
    "inconclusive": ("skip", "fail", " skip "),
    "aa": ("yes", "no", " yes "),
    "rate": ("0.7", "0.5", "9e-1"),
    "report": ("a", "b/c", "/d e"),
}
"""Three good texts for every option, for the three places where it may be given."""

TWO_VALUES = ("inconclusive", "aa")
"""Options with no third value: the same one comes from every other place."""

BAD = {
    "clients": ("at least 1", "0", "-1", "x", "1.5", "5,,6", ",", "\u0663", "1e2"),
    "workers": ("at least 1", "0", "-1", "many", "2.5", "\u00b2"),
    "queue_size": ("at least 1", "0", "-1", "many", "2.5"),
    "seed": ("whole number", "x", "1.5"),
    "gate": (
        "METRIC<=RATIOx",
        "nonsense",
        "throughput>=0x",
        "throughput<=2x",
        "p95>=1x",
        "p90<=1x",
        "p95<=nanx",
        "p99<=50",
        "errors<=1x",
        "rss<=2s",
        "throughput>=500ms",
        "p99<=0ms",
        "stall<=-1s",
    ),
    "baseline": ("a name", " "),
    "optimized": ("a name", " "),
    "workload": ("a name", " "),
    "slot": ("above 0", "0", "-1", "nan", "inf", "soon"),
    "budget": ("above 0", "0", "-1", "nan", "inf", "auto"),
    "inconclusive": ("fail or skip", "pass", "Skip", "yes"),
    "aa": ("yes or no", "true", "1", "No"),
    "rate": ("off, or a share", "0", "1", "-0.5", "nan", "70%", "Off"),
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
    assert len({repr(found) for found, _, _ in expected}) == (2 if name in TWO_VALUES else 4)


def test_texts_become_values() -> None:
    found = settings({name: texts[2] for name, texts in THREE.items()})
    assert (found.clients, found.workers, found.seed, found.workload) == ((4, 5), 3, 0, "noop")
    assert found.gates == (Gate("p50", "<=", 0.7), Gate("p99", "<=", 0.1))
    assert (found.slot, found.budget, found.report) == (20.0, 600.0, "/d e")
    assert (found.inconclusive, found.aa, found.rate) == ("skip", True, 0.9)


def test_the_defaults_are_those_the_gate_rules_name() -> None:
    found = settings()
    assert (found.clients, found.budget, found.slot) == ((100,), 300.0, None)
    assert (found.inconclusive, found.aa, found.rate) == ("fail", False, None)
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


def test_only_aa_stands_alone_on_a_command_line_and_means_yes() -> None:
    """It takes no value there; everywhere else it is written out."""
    arguments = {option.name: option.arguments() for option in OPTIONS}
    assert arguments.pop("aa") == {"action": "store_const", "const": "yes"}
    assert arguments.pop("gate") == {"action": "append", "metavar": "EXPR"}
    assert {found["action"] for found in arguments.values()} == {"store"}


def test_limits_are_gates_in_their_own_units() -> None:
    found = settings({"gate": "p99<=50ms, stall <= 0.5s\nrss<=20MB,errors<=0,throughput>=500/s"}).gates
    assert found == (
        Gate("p99", "<=", 50.0, "ms"),
        Gate("stall", "<=", 0.5, "s"),
        Gate("rss", "<=", 20.0, "MB"),
        Gate("errors", "<=", 0.0, ""),
        Gate("throughput", ">=", 500.0, "/s"),
    )


@pytest.mark.parametrize(
    ("gates", "left"),
    [
        ("mean<=0.5x,p99<=50ms", ["mean<=0.5x"]),
        ("p99<=50ms,errors<=0", ["throughput>=2x", "p95<=0.6x"]),
        ("throughput>=3x", ["throughput>=3x"]),
    ],
)
def test_for_an_arm_against_itself_only_ratios_are_left_or_the_usual_ones(gates: str, left: list[str]) -> None:
    assert list(map(str, settings({"gate": gates, "aa": "yes"}).gates)) == left
    assert ",".join(map(str, settings({"gate": gates}).gates)) == gates


# --- the marker


def marked(*args: object, cli: Mapping[str, str] = {}, env: Mapping[str, str] = {}, **options: Any) -> CompareConfig:
    environ = {ENV_PREFIX + name.upper(): text for name, text in env.items()}
    return resolve_marker(args, options, cli, environ, {}.get)


def test_a_marker_wins_over_command_line_and_environment_which_give_the_rest() -> None:
    found = marked(cli={"clients": "5", "workers": "3"}, env={"clients": "6", "seed": "9"}, clients=20)
    assert (found.clients, found.workers, found.seed) == ((20,), 3, 9)
    assert found.given["clients"] == "clients of tq_compare"
    assert found.given["workers"] == "--tq-workers"
    assert found.given["seed"] == "PYTEST_TQ_SEED"


def test_a_marker_takes_python_values() -> None:
    """A list of gates, a bool, a number."""
    found = marked(gate=["throughput>=3x", "p99<=50ms"], slot=0.25, optimized="new.py:New", inconclusive="skip")
    assert found.gates == (GATE, Gate("p99", "<=", 50.0, "ms"))
    assert (found.slot, found.optimized, found.inconclusive) == (0.25, "new.py:New", "skip")
    assert (marked(aa=True).aa, marked(aa=False).aa) == (True, False)
    assert not marked(cli={"aa": "yes"}, aa=False).aa
    assert marked(gate=("throughput>=3x",)).gates == (GATE,)


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        ((20,), {}, "tq_compare takes options by name, not 20: there are clients, workers, "),
        ((), {"client": 20}, "tq_compare takes options by name, not 'client': there are clients, workers, "),
        ((), {"clients": "5,6"}, "clients of tq_compare: a marked test has one number of clients"),
        ((), {"clients": [5, 6]}, "clients of tq_compare: a marked test has one number of clients"),
        ((), {"clients": 0}, "clients of tq_compare '0': expected a number of clients of at least 1"),
        ((), {"aa": "perhaps"}, "aa of tq_compare 'perhaps': expected yes or no"),
        ((), {"gate": []}, "gate of tq_compare '': expected at least one gate"),
        ((), {"budget": None}, "budget of tq_compare 'None': expected a number of seconds above 0"),
    ],
)
def test_a_marker_that_cannot_be_used_says_so_by_its_name(
    args: tuple[object, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        marked(*args, **options)
    assert str(caught.value).startswith(message)


def test_several_client_counts_of_the_command_line_are_no_number_for_a_marked_test() -> None:
    """The message names where they stood; a marker of its own helps."""
    with pytest.raises(ConfigError, match=r"^--tq-clients: a marked test has one number of clients"):
        marked(cli={"clients": "50,100"})
    assert marked(cli={"clients": "50,100"}, clients=7).clients == (7,)


# --- .env


def example() -> dict[str, str]:
    lines = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs = (line.split("=", 1) for line in lines)
    return {name: value.strip('"') for name, value in pairs}  # quoted where a shell would see a redirection


def test_the_example_names_every_setting_once_with_its_default() -> None:
    """Copying it changes nothing."""
    found = example()
    names = [ENV_PREFIX + option.name.upper() for option in (*OPTIONS, *CONFORMANCE)]
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
