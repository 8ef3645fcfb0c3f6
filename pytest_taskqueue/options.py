"""The --tq-* options as pytest knows them: on the command line, in the environment, in .env, in the ini file."""

from __future__ import annotations

import os

import pytest

from pytest_taskqueue.config import INI_PREFIX, OPTIONS, CompareConfig, ConfigError, dotenv, resolve

CONFIG: pytest.StashKey[CompareConfig] = pytest.StashKey()


def add_options(parser: pytest.Parser) -> None:
    """Add --tq-compare, and one option and one ini key for each entry of OPTIONS."""
    group = parser.getgroup("taskqueue", "taskqueue: is the new queue really faster?")
    group.addoption(
        "--tq-compare",
        action="store_true",
        help="run a baseline queue and an optimized queue under the same load and decide; nothing else is run",
    )
    for option in OPTIONS:
        group.addoption(
            option.flag(),
            dest=INI_PREFIX + option.name,
            metavar=option.metavar,
            action="append" if option.repeatable else "store",
            help=f"{option.help} (default: {option.default})",
        )
        parser.addini(INI_PREFIX + option.name, f"default of {option.flag()}", type="string", default="")


def settings(config: pytest.Config) -> CompareConfig:
    """The options of this run. Raises pytest.UsageError."""
    if CONFIG not in config.stash:
        command_line = {option.name: getattr(config.option, INI_PREFIX + option.name) for option in OPTIONS}
        given = {name: ",".join(text) if isinstance(text, list) else text for name, text in command_line.items()}
        try:
            config.stash[CONFIG] = resolve(given, {**dotenv(config.rootpath), **os.environ}, config.getini)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[CONFIG]
