"""Task files: a JSON list of tasks, checked as a whole before any of them is used."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from taskqueue_core.errors import TaskQueueError
from taskqueue_core.task import JSON, Task, to_json

_EXPECTED = '{"image_key": "cat.jpg", "variant": "200x200"}'
_FIELDS = ("image_key", "variant", "params", "idempotency_key")


class TaskFileError(TaskQueueError, ValueError):
    """A task file that cannot be used: says the file, the position and what was expected."""


def read_tasks(path: str | os.PathLike[str]) -> list[Task]:
    """Read a task file. Raises TaskFileError; then nothing of the file is used."""
    name = os.fspath(path)
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TaskFileError(f"{name}: cannot be read ({error.strerror}); expected a JSON file with tasks") from error
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{name}: no UTF-8 text at byte {error.start}; expected a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise TaskFileError(f"{name}: no JSON ({error}); expected a list of tasks such as [{_EXPECTED}]") from error
    if not isinstance(entries, list):
        raise TaskFileError(f"{name}: expected a JSON list of tasks such as [{_EXPECTED}], found {_kind(entries)}")
    return [_task(name, position, entry) for position, entry in enumerate(entries, start=1)]


def _task(name: str, position: int, entry: JSON) -> Task:
    where = f"{name}, task {position}"
    if not isinstance(entry, Mapping):
        raise TaskFileError(f"{where}: expected an object such as {_EXPECTED}, found {_kind(entry)}")
    if "image_key" not in entry:
        has = ", ".join(json.dumps(key) for key in entry) or "nothing"
        raise TaskFileError(f'{where}: no "image_key" (has: {has}); each task needs {_EXPECTED}')
    if unknown := [key for key in entry if key not in _FIELDS]:
        raise TaskFileError(f"{where}: unknown {json.dumps(unknown[0])}; a task has {', '.join(_FIELDS)}")
    try:
        task = Task(**entry)
        to_json(task.params).encode()  # refuses NaN, 1e999 and lone surrogates, which json.loads lets through
    except (TypeError, ValueError, RecursionError) as error:
        raise TaskFileError(f"{where}: {error}") from error
    return task


def _kind(value: JSON) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
