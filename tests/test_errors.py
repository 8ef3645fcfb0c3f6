"""Which errors are worth another attempt, and what the error classes carry."""

import errno
import json
import pickle
import sqlite3

import pytest

from taskqueue_core import ErrorClass, RetryPolicy, Status, TaskRecord, classify, errors


def raised(call, *arguments):
    """The error that a call really raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call(*arguments)
    return caught.value


def sqlite_error(pragma, statement="INSERT INTO t VALUES (randomblob(100000))"):
    database = sqlite3.connect(":memory:", isolation_level=None)
    try:
        database.execute("CREATE TABLE t (x)")
        database.execute(f"PRAGMA {pragma}")
        return raised(database.execute, statement)
    finally:
        database.close()


TABLE = {
    ErrorClass.TRANSIENT: [
        *(OSError(code, "fault") for code in (errno.EINTR, errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ETIMEDOUT)),
        *(TimeoutError(), errors.TaskTimeoutError("slow"), ConnectionError(), ConnectionResetError(104, "reset")),
        *(errors.TransientError("busy"), type("Flaky", (errors.TransientError, ValueError), {})("says so itself")),
        *(
            OSError("no errno"),
            IndexError(3),
            RuntimeError("unknown"),
            MemoryError(),
            type("Unheard", (Exception,), {})(),
        ),
        sqlite_error("query_only = 1", "INSERT INTO missing VALUES (1)"),
    ],
    ErrorClass.PERMANENT: [
        *(ValueError(), TypeError(), KeyError("k"), errors.PermanentError("never"), errors.InvalidKeyError("bad")),
        *(FileNotFoundError(errno.ENOENT, "gone"), PermissionError(errno.EACCES, "no"), PermissionError()),
        *(raised(b"\xff".decode), raised("\ud800".encode), raised(json.loads, "{")),
    ],
    ErrorClass.ENVIRONMENT: [
        *(OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only")),
        *(sqlite_error("query_only = 1"), sqlite_error("max_page_count = 2")),
    ],
}


@pytest.mark.parametrize(("error", "kind"), [(error, kind) for kind, row in TABLE.items() for error in row], ids=repr)
def test_classification_table(error, kind):
    """Each row of the table is classified as written down, by `classify` and by the default policy."""
    assert classify(error) is RetryPolicy().classify(error) is kind


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), -float("inf")])
def test_retry_after_must_be_finite(retry_after):
    """A delay that no clock reaches is refused where it is made, not when the ledger must store it."""
    with pytest.raises(ValueError, match="retry_after"):
        errors.TransientError("later", retry_after=retry_after)


def test_errors_survive_pickling():
    """A process pool can hand the errors on with all that they carry."""
    numbers = dict.fromkeys(("id", "retries", "attempt", "crashes", "version", "created_at", "run_at", "size"), 1)
    texts = dict.fromkeys(("idempotency_key", "image_key", "variant", "output_key", "sha256", "value", "error"), "a")
    record = TaskRecord(**numbers, **texts, params={}, status=Status.FAILED)
    failed = pickle.loads(pickle.dumps(errors.TaskFailedError("it failed", record)))
    assert (str(failed), failed.record) == ("it failed", record)
    assert pickle.loads(pickle.dumps(errors.TransientError("busy", retry_after=2.5))).retry_after == 2.5


def test_description_is_text_whatever_the_error():
    """Lone surrogates and a broken __str__ do not reach the ledger or a log."""
    broken = type("Broken", (Exception,), {"__str__": lambda self: 1 / 0})
    assert errors.describe(ValueError("a\ud800")) == "ValueError: a?"
    assert errors.describe(broken()).startswith("Broken: ")


def test_error_family():
    """One `except` catches all errors of the queue, and the standard classes still catch theirs."""
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    assert len(found) == 11
    assert all(issubclass(each, errors.TaskQueueError) for each in found)
    assert issubclass(errors.InvalidKeyError, ValueError)
    assert issubclass(errors.TaskTimeoutError, TimeoutError)
