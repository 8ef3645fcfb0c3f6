"""The options of a comparison: one table, four sources, one frozen value.

Command line > environment (PYTEST_TQ_*) > ini file (tq_*) > default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # read in every pytest run, so it loads no more than it must
    from pytest_taskqueue.verdict import Gate

DEFAULT_GATES = ("throughput>=2x", "p95<=0.6x")
"""Twice the throughput, and at most 60 % of the P95 latency."""

FLAG_PREFIX = "--tq-"
ENV_PREFIX = "PYTEST_TQ_"
INI_PREFIX = "tq_"


class ConfigError(ValueError):
    """An option that cannot be used: says where it was given, what it was, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: `--tq-NAME`, PYTEST_TQ_NAME and tq_NAME all mean the same; the scripts call it `--NAME`."""

    name: str
    metavar: str
    default: str
    help: str
    parse: Callable[[str], Any]
    repeatable: bool = False

    def flag(self, prefix: str = FLAG_PREFIX) -> str:
        """Its spelling on a command line."""
        return prefix + self.name.replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """What to compare, under which load, and by which gates. Times are seconds; `slot` None: chosen by itself.

    `given` tells where the text of each option came from, for messages.
    """

    clients: tuple[int, ...]
    workers: int
    queue_size: int
    seed: int
    gates: tuple[Gate, ...]
    baseline: str
    optimized: str
    workload: str
    slot: float | None
    budget: float
    report: str
    given: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def resolve(
    command_line: Mapping[str, str | None],
    environ: Mapping[str, str],
    ini: Callable[[str], str | None],
    *,
    prefix: str = FLAG_PREFIX,
) -> CompareConfig:
    """Read every option from its strongest source. Raises ConfigError for the first bad one.

    `prefix` is how the options of this command line begin.
    """
    values, given = {}, {}
    for option in OPTIONS:
        given[option.name], text = _strongest(option, command_line, environ, ini, prefix)
        try:
            values[option.name] = option.parse(text)
        except ValueError as error:
            raise ConfigError(f"{given[option.name]} {text!r}: {error}") from None
    values["gates"] = values.pop("gate")
    return CompareConfig(**values, given=given)


def dotenv(folder: Path) -> dict[str, str]:
    """The settings of the file .env in a folder; none without that file or without python-dotenv."""
    if not (folder / ".env").is_file():
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError:
        return {}
    return {name: value for name, value in dotenv_values(folder / ".env").items() if value is not None}


def _strongest(
    option: Option,
    command_line: Mapping[str, str | None],
    environ: Mapping[str, str],
    ini: Callable[[str], str | None],
    prefix: str,
) -> tuple[str, str]:
    variable, key = ENV_PREFIX + option.name.upper(), INI_PREFIX + option.name
    if (text := command_line.get(option.name)) is not None:
        return option.flag(prefix), text
    if text := environ.get(variable):
        return variable, text
    if text := ini(key):
        return key, text
    return "default of " + option.flag(prefix), option.default


def _count(text: str) -> int:
    if not text.strip().isascii() or not text.strip().isdigit() or int(text) < 1:
        raise ValueError("expected a whole number of at least 1")
    return int(text)


def _clients(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(_count(part) for part in text.split(","))
    except ValueError:
        raise ValueError("expected a number of clients of at least 1, or several such as 50,100") from None
    if len(set(counts)) != len(counts):
        raise ValueError("each number of clients may stand there once")
    return counts


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError("expected a number of seconds above 0")
    return seconds


def _slot(text: str) -> float | None:
    return None if text.strip() == "auto" else _seconds(text)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("expected a whole number") from None


def _gates(text: str) -> tuple[Gate, ...]:
    from pytest_taskqueue.verdict import parse_gate

    gates = tuple(parse_gate(part) for part in text.replace("\n", ",").split(",") if part.strip())
    if not gates:
        raise ValueError(f"expected at least one gate such as {DEFAULT_GATES[0]}")
    if len({gate.metric for gate in gates}) != len(gates):
        raise ValueError("each metric may have one gate")
    return gates


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("expected a name")
    return text.strip()


OPTIONS = (
    Option("clients", "N[,N]", "100", "client threads of the load; several counts are compared one by one", _clients),
    Option("workers", "N", "8", "worker threads of each queue", _count),
    Option("queue_size", "N", "200", "places of the optimized queue", _count),
    Option("seed", "N", "7", "seed of the tasks, the order of the slots and the samples", _whole),
    Option(
        "gate",
        "EXPR",
        ",".join(DEFAULT_GATES),
        "what the optimized queue must show, as a ratio to the baseline; may be given several times",
        _gates,
        repeatable=True,
    ),
    Option("baseline", "SUBJECT", "baseline", "the old queue: a name, package.module:attr or path/file.py:attr", _name),
    Option("optimized", "SUBJECT", "optimized", "the new queue, likewise", _name),
    Option("workload", "NAME", "thumbnail", "the work of a task: thumbnail, io, cpu or noop", _name),
    Option("slot", "SECONDS", "auto", "measured window of a slot; auto: 3 x P95 of the slower queue, 1 to 5 s", _slot),
    Option("budget", "SECONDS", "300", "longest time for the slots of one client count", _seconds),
    Option("report", "DIR", "bench_results", "folder for the result files, below the root folder if relative", _name),
)
