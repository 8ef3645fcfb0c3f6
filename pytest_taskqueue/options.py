"""The --tq-* options as pytest knows them: on the command line, in the environment, in .env, in the ini file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import pytest

from pytest_taskqueue.config import (
    INI_PREFIX,
    OPTIONS,
    CompareConfig,
    ConfigError,
    Option,
    dotenv,
    resolve,
    resolve_marker,
    strongest,
)

CONFIG: pytest.StashKey[CompareConfig] = pytest.StashKey()

CONFORMANCE = (
    Option("subject", "SUBJECT", "optimized", "queue that the conformance suite examines, named as above", str),
    Option(
        "promises",
        "NAMES",
        "own",
        "what the conformance suite holds it to, beyond the basics: own (what it promises itself), all, or names such "
        "as bounded,durable",
        str,
    ),
    Option("conformance_json", "FILE", "", "file to write what the conformance suite found to, as JSON", str),
)
"""The options of `pytest --pyargs pytest_taskqueue.suite.conformance`."""


def add_options(parser: pytest.Parser) -> None:
    """Add --tq-compare, and one option and one ini key for each entry of OPTIONS."""
    group = parser.getgroup("taskqueue", "taskqueue: is the new queue really faster?")
    group.addoption(
        "--tq-compare",
        action="store_true",
        help="run a baseline queue and an optimized queue under the same load and decide; nothing else is run",
    )
    for option in (*OPTIONS, *CONFORMANCE):
        group.addoption(
            option.flag(),
            dest=INI_PREFIX + option.name,
            help=f"{option.help} (default: {option.default or 'none'})",
            **option.arguments(),
        )
        parser.addini(INI_PREFIX + option.name, f"default of {option.flag()}", type="string", default="")


def settings(
    config: pytest.Config, named: Mapping[str, object] | None = None, args: Sequence[object] = ()
) -> CompareConfig:
    """The options of this run, or those of a test that names some of them, which win. Raises pytest.UsageError."""
    if named is None and CONFIG in config.stash:
        return config.stash[CONFIG]
    command_line = {option.name: getattr(config.option, INI_PREFIX + option.name) for option in OPTIONS}
    given = {name: _text(value) for name, value in command_line.items()}
    try:
        if named is not None:
            return resolve_marker(args, named, given, _environment(config), config.getini)
        config.stash[CONFIG] = resolve(given, _environment(config), config.getini)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    return config.stash[CONFIG]


def conformance_options(config: pytest.Config) -> dict[str, str]:
    """The options of the conformance suite, from the same sources."""
    given = {option.name: getattr(config.option, INI_PREFIX + option.name) or None for option in CONFORMANCE}
    environ = _environment(config)
    return {option.name: strongest(option, given, environ, config.getini)[1] for option in CONFORMANCE}


def _environment(config: pytest.Config) -> dict[str, str]:
    return {**dotenv(config.rootpath), **os.environ}


def _text(value: str | list[str] | None) -> str | None:
    return ",".join(value) if isinstance(value, list) else value
