"""How a result comes to those who wait for it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError

from taskqueue_core.errors import TaskFailedError
from taskqueue_core.logs import logger
from taskqueue_core.task import JSON, TaskRecord


def deliver(
    futures: Sequence[Future[JSON]], value: str, failed: TaskRecord | None, cause: BaseException | None
) -> None:
    """Fulfil the futures of a finished task: with its value (JSON text), or with the error of the failed record.

    Every caller gets a value of its own. Callbacks of the callers run elsewhere, see futures.py.
    """
    for future in futures:
        if failed is None:
            fulfil(future, value=None if value == "null" else json.loads(value))
        else:
            fulfil(future, error=_failure(failed, cause))


def _failure(record: TaskRecord, cause: BaseException | None) -> TaskFailedError:
    key, attempts = record.idempotency_key, record.attempt
    error = TaskFailedError(f"task {key} failed after {attempts} attempt(s): {record.error}", record)
    error.__cause__ = cause
    return error


def fulfil(future: Future[JSON], *, value: JSON = None, error: BaseException | None = None) -> None:
    """Give one future its value or error; whatever its caller has done to it, nobody else suffers."""
    try:
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except InvalidStateError:
        pass  # its caller has cancelled it
    except Exception:  # noqa: BLE001 - one future's trouble must not keep the others from their results
        logger.exception("a future could not be fulfilled")
