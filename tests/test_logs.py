"""One JSON object a line, whatever is logged."""

import io
import json
import logging
import time
from types import SimpleNamespace

import pytest

from taskqueue_core import JsonFormatter
from taskqueue_core.logs import log_event, logger

KEY = '["cät\n",""]'
ROW = SimpleNamespace(id=7, attempt=2)


@pytest.fixture
def lines():
    """What the queue's logger writes."""
    stream, level = io.StringIO(), logger.level
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lambda: stream.getvalue().splitlines()
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_event_of_a_task(lines):
    """The line says which task, which attempt, what happened and which error."""
    log_event("retried", KEY, ROW, error=OSError("disk"), level=logging.WARNING)
    entry = json.loads(*lines())
    assert entry.pop("time")
    assert [entry.pop(name) for name in ("level", "event", "error_class")] == ["warning", "retried", "OSError"]
    assert entry == {"task_id": 7, "idempotency_key": KEY, "attempt": 2, "message": "retried: OSError: disk"}


def test_time_is_utc_with_milliseconds(monkeypatch):
    """The same on every machine, here one that is hours ahead."""
    monkeypatch.setattr(time, "localtime", lambda seconds: time.gmtime(seconds + 9999))
    record = logging.makeLogRecord({"created": 86399.25, "msecs": 250.0})
    assert json.loads(JsonFormatter().format(record))["time"] == "1970-01-01T23:59:59.250Z"


@pytest.mark.parametrize(
    "text", ["a\nb\r\nc", "\u2028\u2029\x85\x0b\x0c", "日本 \U0001f600", "\ud800", '"\\\0', "%s"], ids=ascii
)
def test_no_text_breaks_the_line(text):
    """Line breaks, separators, other alphabets and lone surrogates come back from one line of ASCII."""
    record = logging.makeLogRecord({"msg": "failed: %s", "args": (ValueError(text),), "event": text})
    (line,) = JsonFormatter().format(record).encode("ascii").decode().splitlines()
    assert (json.loads(line)["message"], json.loads(line)["event"]) == (f"failed: {text}", text)


def test_traceback_stays_in_its_line(lines):
    """Also with values that JSON does not know."""
    try:
        raise KeyError("gone")
    except KeyError:
        logger.exception("no luck with %s", "it", extra={"event": {1, 2}})
    entry = json.loads(*lines())
    assert (entry["level"], entry["message"], entry["event"]) == ("error", "no luck with it", "{1, 2}")
    assert "KeyError: 'gone'" in entry["traceback"]


def test_event_below_the_level_costs_nothing(lines):
    """Neither the record nor the error is looked at."""
    log_event("claimed", None, None, error=None, level=logging.DEBUG)
    assert lines() == []


def test_broken_handler_costs_no_event(lines, monkeypatch, capsys):
    """What a host's handler raises is shown and goes no further."""
    monkeypatch.setattr(logger, "handle", lambda record: 1 / 0)
    log_event("failed", KEY, ROW, error=ValueError("\ud800"))
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_library_is_silent_by_default():
    """Without a handler of the host's, logging's last resort would write to stderr."""
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("taskqueue").handlers)
