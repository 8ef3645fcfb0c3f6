"""How a result comes to those who wait for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import Future

from taskqueue_core.errors import TaskFailedError
from taskqueue_core.logs import logger
from taskqueue_core.task import JSON, Status, TaskRecord


def deliver(futures: Sequence[Future[JSON]], record: TaskRecord, cause: BaseException | None) -> None:
    """Fulfil the futures of a finished task. Every caller gets a value of its own."""
    interrupt = None
    for index, future in enumerate(futures):
        try:
            if record.status is Status.SUCCESS:
                fulfil(future, value=copy.deepcopy(record.value) if index else record.value)
            else:
                fulfil(future, error=_failure(record, cause))
        except KeyboardInterrupt as error:
            interrupt = error  # of the main thread: raised once everybody has his result
    if interrupt is not None:
        raise interrupt


def _failure(record: TaskRecord, cause: BaseException | None) -> TaskFailedError:
    key, attempts = record.idempotency_key, record.attempt
    error = TaskFailedError(f"task {key} failed after {attempts} attempt(s): {record.error}", record)
    error.__cause__ = cause
    return error


def fulfil(future: Future[JSON], *, value: JSON = None, error: BaseException | None = None) -> None:
    """Give one future its value or error; whatever its caller has done to it, nobody else suffers."""
    try:
        if not future.set_running_or_notify_cancel():
            return  # its caller has cancelled it
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - one future's callback must not keep the others from their results
        logger.exception("a callback of a future failed")
