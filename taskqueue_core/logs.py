"""Structured logs: one JSON object a line."""

from __future__ import annotations

import json
import logging
import time
import traceback
from typing import Any, Protocol

from taskqueue_core.errors import describe

logger = logging.getLogger("taskqueue")
logger.addHandler(logging.NullHandler())  # a library is silent until its host configures logging

_FIELDS = ("task_id", "idempotency_key", "attempt", "event", "error_class")


class JsonFormatter(logging.Formatter):
    """Writes each log record as one JSON object: time (UTC), level, event, and what is known of the task.

    In ASCII, so that no stream's encoding and no Unicode line separator can break a line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return one line of JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {"time": f"{stamp}.{int(record.msecs):03d}Z", "level": record.levelname.lower()}
        entry |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        entry["message"] = record.getMessage()
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=repr)


class Logged(Protocol):
    """What a log line tells of a task, besides its key."""

    @property
    def id(self) -> int: ...
    @property
    def attempt(self) -> int: ...


def log_event(
    event: str, key: str, row: Logged, *, error: BaseException | None = None, level: int = logging.INFO
) -> None:
    """Log what happened to a task. Costs one comparison when the level is off."""
    if not logger.isEnabledFor(level):
        return
    extra: dict[str, Any] = {
        "event": event,
        "task_id": row.id,
        "idempotency_key": key,
        "attempt": row.attempt,
    }
    if error is not None:
        extra["error_class"] = type(error).__name__
    try:
        logger.log(level, "%s: %s", event, key if error is None else describe(error), extra=extra)
    except Exception:  # noqa: BLE001 - a host's broken handler must not cost a task its outcome
        traceback.print_exc()
