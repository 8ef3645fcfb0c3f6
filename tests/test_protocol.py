"""A subject that is none gets one error, which names the subject, the method and how to mend it."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from plugin_runs import SAME, SHORT, out, run

from pytest_taskqueue.subjects import Promise, ProtocolError, Setup, checked_future, opened, promises_of

MISFITS = '''
from concurrent.futures import Future, ThreadPoolExecutor

class Queue:
    def __init__(self, setup):
        self.work, self.executor = setup.work, ThreadPoolExecutor(4)
    def submit(self, task):
        return self.executor.submit(self.work, task)
    def close(self, timeout):
        self.executor.shutdown()

class ReturnsNone(Queue):
    def submit(self, task):
        self.executor.submit(self.work, task)

class Deaf:
    """A future that cannot be waited for with an end."""
    def __init__(self, future):
        self.future = future
    def result(self):
        return self.future.result()

class NoTimeout(Queue):
    def submit(self, task):
        return Deaf(super().submit(task))

class Raises:
    def __init__(self, setup):
        raise RuntimeError("no licence for this machine")

class NoArgument(Queue):
    def __init__(self):
        pass

class NoSubmit:
    def __init__(self, setup): pass
    def close(self, timeout): pass

class NoClose:
    def __init__(self, setup): pass
    def submit(self, task): return 0

class ClosesWithout(Queue):
    def close(self):
        self.executor.shutdown()

class TakesTwo(Queue):
    def submit(self, task, priority):
        return super().submit(task)

class Boasts(Queue):
    promises = {"durable", "free of charge"}

def forgets(setup):
    Queue(setup).close(1)
'''

SAID = {
    "ReturnsNone": "broke under load: ReturnsNone.submit returned None: return a concurrent.futures.Future, or what "
    "has result(timeout) like one",
    "NoTimeout": "broke under load: NoTimeout.submit returned <misfits.Deaf object at 0x>, whose result() takes no "
    "timeout: write def result(self, timeout=None)",
    "Raises": "could not be opened: RuntimeError: no licence for this machine",
    "NoArgument": "could not be opened: NoArgument is called with one argument, a Setup, and that fails (too many "
    "positional arguments): write def __init__(self, setup)",
    "NoSubmit": "could not be opened: NoSubmit has no method submit: write def submit(self, task), which returns a "
    "Future",
    "NoClose": "could not be opened: NoClose has no method close: write def close(self, timeout), which returns "
    "nothing, within `timeout` seconds",
    "ClosesWithout": "could not be opened: ClosesWithout.close() cannot be called with a timeout alone: write "
    "def close(self, timeout), which returns nothing, within `timeout` seconds",
    "TakesTwo": "could not be opened: TakesTwo.submit(task, priority) cannot be called with a task alone: write "
    "def submit(self, task), which returns a Future",
    "Boasts": "could not be opened: Boasts.promises: 'free of charge' is not a valid Promise; there are bounded, "
    "rejects, deduplicates, conflicts, retries, dead_letters, joins, deadline, durable, fork_safe",
    "forgets": "could not be opened: it returned None: return the object that has submit(task) and close(timeout)",
}


@pytest.mark.parametrize("name", SAID)
def test_one_error_says_what_to_change(name: str, pytester: pytest.Pytester) -> None:
    """In a comparison: the arm, what the queue is called, the method, the remedy; and nothing else is said of it."""
    pytester.makepyfile(misfits=MISFITS)
    result = run(pytester, *SHORT, SAME[0], f"--tq-optimized=misfits.py:{name}", "-q")
    text = re.sub(
        r" at 0x\w+|taskqueue_file_|_[0-9a-f]{8}(?=\.)", lambda m: " at 0x" if "0x" in m[0] else "", out(result)
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert f"verdict: INVALID c2 optimized (misfits.py:{name}) {SAID[name]}" in text.splitlines()
    errors = re.findall(r"^INVALID: .*$", text, re.MULTILINE)
    assert set(errors) == {f"INVALID: optimized (misfits.py:{name}) {SAID[name]}"}


# --- the checks themselves


class Good:
    """As little as a subject needs."""

    def __init__(self, setup: Setup) -> None:
        self.executor = ThreadPoolExecutor(1)

    def submit(self, task: Any) -> Future[Any]:
        return self.executor.submit(lambda: task)

    def close(self, timeout: float = 1.0) -> None:
        self.executor.shutdown()


def setup(folder: Path) -> Setup:
    return Setup(work=lambda task: None, workers=1, queue_size=1, directory=folder)


def test_what_has_the_methods_is_a_subject(tmp_path: Path) -> None:
    """A class, and what else can be called with a Setup."""
    kinds: list[Any] = [
        Good,
        partial(Good),
        lambda setup, more=None: Good(setup),
    ]
    for factory in kinds:
        subject = opened(factory, setup(tmp_path))
        assert promises_of(subject) == frozenset()
        given = subject.submit(7)  # type: ignore[arg-type]
        assert checked_future(subject, given) is given
        subject.close(1.0)


def test_promises_are_names_or_members() -> None:
    good = Good.__new__(Good)
    for given, found in (
        ({"bounded", Promise.DURABLE}, {Promise.BOUNDED, Promise.DURABLE}),
        (["joins"], {Promise.JOINS}),
        ("retries", {Promise.RETRIES}),
        ((), set()),
    ):
        good.promises = given  # type: ignore[attr-defined]
        assert promises_of(good) == found
    for wrong in ("everything", [3], 7):
        good.promises = wrong  # type: ignore[attr-defined]
        with pytest.raises(ProtocolError, match=r"^Good\.promises: .*; there are bounded, rejects, "):
            promises_of(good)


def test_a_dict_is_no_set_of_promises() -> None:
    """It may say False, and would count as said."""
    good = Good.__new__(Good)
    good.promises = {"bounded": False}  # type: ignore[attr-defined]
    with pytest.raises(ProtocolError, match=r"^Good\.promises: it is a dict, write a set such as \{'bounded'\};"):
        promises_of(good)


def test_an_error_of_the_task_is_none_of_the_protocol(pytester: pytest.Pytester) -> None:
    """AttributeError and TypeError are what a work raises, too."""
    pytester.makepyfile(
        misfits=MISFITS
        + """
class Mistaken(Queue):
    def submit(self, task):
        return self.executor.submit(lambda: None + 1)
"""
    )
    shown = out(run(pytester, *SHORT, SAME[0], "--tq-optimized=misfits.py:Mistaken", "-q"))
    assert re.search(r"INVALID: optimized: [\d,]+ tasks failed: io-0-0: TypeError: unsupported operand", shown)
