"""Every knob is checked once, wherever it comes from."""

import re

import pytest

from taskqueue_core import QueueSettings, RetryPolicy
from taskqueue_core.settings import combine, variables

EVERY = {
    "DURABILITY": ("process", {"durability": "process"}),
    "MAX_WORKERS": (" 3 ", {"max_workers": 3}),
    "QUEUE_SIZE": ("5", {"queue_size": 5}),
    "OVERFLOW": ("reject", {"overflow": "reject"}),
    "TASK_TIMEOUT": ("2.5", {"task_timeout": 2.5}),
    "MAX_RETRYING": ("11", {"max_retrying": 11}),
    "RETAIN": ("1000", {"retain": 1000}),
    "RETAIN_FOR": ("86400", {"retain_for": 86400.0}),
    "MAX_ATTEMPTS": ("4", {"retry": RetryPolicy(max_attempts=4)}),
    "RETRY_BASE": ("2", {"retry": RetryPolicy(base=2.0)}),
    "RETRY_CAP": ("60", {"retry": RetryPolicy(cap=60.0)}),
}


@pytest.mark.parametrize(
    ("knob", "bad"),
    [
        *(("durability", bad) for bad in ("", "Power", "full", None, 1)),
        *(("overflow", bad) for bad in ("", "drop", None)),
        *((knob, bad) for knob in ("max_workers", "queue_size") for bad in (0, -1, 1.5, "8", True, None)),
        *((knob, bad) for knob in ("max_retrying", "retain") for bad in (0, -1, 1.5, "8", False)),
        *((knob, bad) for knob in ("task_timeout", "retain_for") for bad in (0, -1, float("nan"), float("inf"))),
        ("retry", 3),
    ],
)
def test_bad_value_is_refused(knob, bad):
    """The message names the knob and shows the value."""
    with pytest.raises((ValueError, TypeError), match=f"{knob} .*{bad!r}"):
        QueueSettings(**{knob: bad})


def test_retrying_limit_follows_the_queue_size():
    """Ten times queue_size unless set."""
    assert QueueSettings(queue_size=7).retrying_limit == 70
    assert QueueSettings(queue_size=7, max_retrying=3).retrying_limit == 3


@pytest.mark.parametrize(("variable", "text", "knobs"), [(name, *given) for name, given in EVERY.items()])
def test_every_variable_is_read(monkeypatch, variable, text, knobs):
    """Each sets its knob, from a mapping or from the process's own environment; spaces around are ignored."""
    name = f"TASKQUEUE_{variable}"
    assert QueueSettings.from_env({name: text, variable: "other"}) == QueueSettings(**knobs)
    monkeypatch.setenv(name, text)
    assert QueueSettings.from_env() == QueueSettings(**knobs)


def test_empty_environment_means_the_defaults():
    """Unset, empty and blank variables alike, and the test above knows all of them."""
    assert variables() == [f"TASKQUEUE_{name}" for name in EVERY]
    assert QueueSettings.from_env({}) == QueueSettings() == QueueSettings.from_env(dict.fromkeys(variables(), " "))


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        *(("DURABILITY", "full"), ("OVERFLOW", "drop"), ("MAX_WORKERS", "many"), ("MAX_WORKERS", "0")),
        *(("QUEUE_SIZE", "2.5"), ("QUEUE_SIZE", "-1"), ("MAX_RETRYING", "0"), ("TASK_TIMEOUT", "soon")),
        *(("TASK_TIMEOUT", "nan"), ("TASK_TIMEOUT", "inf"), ("MAX_ATTEMPTS", "0"), ("MAX_ATTEMPTS", "x")),
        *(("RETRY_BASE", "31"), ("RETRY_CAP", "0"), ("RETAIN", "0"), ("RETAIN", "1.5"), ("RETAIN", "all")),
        *(("RETAIN_FOR", "0"), ("RETAIN_FOR", "-1"), ("RETAIN_FOR", "inf"), ("RETAIN_FOR", "1d")),
    ],
)
def test_bad_variable_is_named(variable, text):
    """Whether it cannot be converted or its value is out of range, the error names this variable and no other."""
    fine = {f"TASKQUEUE_{name}": text for name, (text, _) in EVERY.items() if not name.startswith("RETRY_")}
    with pytest.raises(ValueError, match=text) as caught:
        QueueSettings.from_env({**fine, f"TASKQUEUE_{variable}": text})
    assert re.findall(r"\bTASKQUEUE_\w+", str(caught.value)) == [f"TASKQUEUE_{variable}"]


@pytest.mark.parametrize(
    ("knob", "value"), [("max_workers", 3), ("overflow", "reject"), ("retry", RetryPolicy(2)), ("task_timeout", 1.0)]
)
def test_knob_given_twice_is_refused(knob, value):
    """Settings and a single knob contradict each other: the error names the knob; defaults do not."""
    settings = QueueSettings(max_workers=5)
    with pytest.raises(TypeError, match=knob):
        combine(settings, **{knob: value})
    assert combine(settings, max_workers=8, overflow="block", retry=RetryPolicy()) is settings
    assert combine(None, **{knob: value}) == QueueSettings(**{knob: value})
