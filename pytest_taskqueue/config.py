"""The options of a comparison: one table, four sources, one frozen value.

Command line > environment (PYTEST_TQ_*) > ini file (tq_*) > default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # read in every pytest run, so it loads no more than it must
    from pytest_taskqueue.verdict import Gate

DEFAULT_GATES = ("throughput>=2x", "p95<=0.6x")
"""Twice the throughput, and at most 60 % of the P95 latency."""

LONGEST = 1e6
"""Seconds that a time may have: more is a slip of the pen."""

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
    switch: bool = False  # on a command line it stands alone, and means "yes"

    def flag(self, prefix: str = FLAG_PREFIX) -> str:
        """Its spelling on a command line."""
        return prefix + self.name.replace("_", "-")

    def arguments(self) -> dict[str, Any]:
        """How a parser of command lines is to take it."""
        if self.switch:
            return {"action": "store_const", "const": "yes"}
        return {"action": "append" if self.repeatable else "store", "metavar": self.metavar}


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
    inconclusive: str
    aa: bool
    rate: float | None
    report: str
    given: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)


def resolve(
    command_line: Mapping[str, str | None],
    environ: Mapping[str, str],
    ini: Callable[[str], str | None],
    *,
    prefix: str = FLAG_PREFIX,
    marked: frozenset[str] = frozenset(),
) -> CompareConfig:
    """Read every option from its strongest source. Raises ConfigError for the first bad one.

    `prefix` is how the options of this command line begin; those in `marked` come from a marker.
    """
    values, given = {}, {}
    for option in OPTIONS:
        given[option.name], text = strongest(option, command_line, environ, ini, prefix)
        if option.name in marked:
            given[option.name] = f"{option.name} of tq_compare"
        try:
            values[option.name] = option.parse(text)
        except ValueError as error:
            raise ConfigError(f"{given[option.name]} {text!r}: {error}") from None
    values["gates"] = values.pop("gate")
    if values["aa"]:
        values["gates"] = _of_ratios(values["gates"])
    return CompareConfig(**values, given=given)


def resolve_marker(
    args: Sequence[object],
    options: Mapping[str, object],
    command_line: Mapping[str, str | None],
    environ: Mapping[str, str],
    ini: Callable[[str], str | None],
) -> CompareConfig:
    """The same for one marked test: `@pytest.mark.tq_compare(clients=20, gate=["throughput>=3x"])`."""
    known = [option.name for option in OPTIONS]
    options = {"gate" if name == "gates" else name: value for name, value in options.items()}
    unknown = [name for name in options if name not in known]
    if args or unknown:
        wrong = repr(args[0]) if args else repr(unknown[0])
        raise ConfigError(f"tq_compare takes options by name, not {wrong}: there are {', '.join(known)}")
    texts = {name: _marked(value) for name, value in options.items()}
    config = resolve({**command_line, **texts}, environ, ini, marked=frozenset(texts))
    if len(config.clients) > 1:
        raise ConfigError(f"{config.given['clients']}: a marked test has one number of clients")
    return config


def _marked(value: object) -> str:
    """An option of a marker, as the same text that a command line would have."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)


def dotenv(folder: Path) -> dict[str, str]:
    """The settings of the file .env in a folder; none without that file or without python-dotenv."""
    if not (folder / ".env").is_file():
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError:
        return {}
    return {name: value for name, value in dotenv_values(folder / ".env").items() if value is not None}


def strongest(
    option: Option,
    command_line: Mapping[str, str | None],
    environ: Mapping[str, str],
    ini: Callable[[str], str | None],
    prefix: str = FLAG_PREFIX,
) -> tuple[str, str]:
    """Where an option is given by the strongest of its sources, and its text there."""
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
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"expected a number of seconds above 0, at most {LONGEST:,.0f}")
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


def _of_ratios(gates: tuple[Gate, ...]) -> tuple[Gate, ...]:
    """For an arm against itself: what its ratios are of."""
    return tuple(gate for gate in gates if gate.relative) or _gates(",".join(DEFAULT_GATES))


def _choice(*allowed: str) -> Callable[[str], str]:
    def choice(text: str) -> str:
        if text.strip() not in allowed:
            raise ValueError(f"expected {' or '.join(allowed)}")
        return text.strip()

    return choice


def _rate(text: str) -> float | None:
    if text.strip() == "off":
        return None
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise ValueError("expected off, or a share of the baseline's throughput between 0 and 1, such as 0.7")
    return share


def _yes(text: str) -> bool:
    return _choice("yes", "no")(text) == "yes"


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
        "what the optimized queue must show: a ratio to the baseline (p95<=0.6x) or a limit of its own (p99<=50ms); "
        "may be given several times",
        _gates,
        repeatable=True,
    ),
    Option(
        "baseline",
        "SUBJECT",
        "baseline",
        "the old queue: baseline, optimized, executor, threads, package.module:attr, path/file.py:attr, or a name that "
        "the hook pytest_taskqueue_subjects gives",
        _name,
    ),
    Option("optimized", "SUBJECT", "optimized", "the new queue, likewise", _name),
    Option(
        "workload",
        "NAME",
        "thumbnail",
        "the work of a task: thumbnail, io, cpu, noop, mixed (heavy-tailed sizes), a path as above, or a name that the "
        "hook pytest_taskqueue_workloads gives",
        _name,
    ),
    Option("slot", "SECONDS", "auto", "measured window of a slot; auto: 3 x P95 of the slower queue, 1 to 5 s", _slot),
    Option("budget", "SECONDS", "300", "longest time for the slots of one client count", _seconds),
    Option(
        "inconclusive",
        "fail|skip",
        "fail",
        "whether a gate that could not be decided is shown as failed or as skipped; it never counts as passed",
        _choice("fail", "skip"),
    ),
    Option(
        "aa",
        "",
        "no",
        "run the baseline against itself: is there no difference where there is none?",
        _yes,
        switch=True,
    ),
    Option(
        "rate",
        "SHARE",
        "off",
        "then also send tasks by a plan, at this share of the baseline's throughput (0.7), and show the latencies, "
        "for information",
        _rate,
    ),
    Option("report", "DIR", "bench_results", "folder for the result files, below the root folder if relative", _name),
)
