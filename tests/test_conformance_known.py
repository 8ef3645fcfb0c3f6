"""What is known about the queues that come with the plugin, and about one that keeps everything."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

import nonconforming
import pytest
from nonconforming import Kept

from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.conformance import Report, Status, Unfit, examine
from pytest_taskqueue.conformance.checks import CHECKS
from pytest_taskqueue.conformance.examination import Examination
from pytest_taskqueue.subjects import BASICS, Promise, Setup

pytestmark = pytest.mark.tq_allow("errors", "open", "threads", "running", "files", reason="not all keep what we ask")

NAMES = [check.name for check in CHECKS]
SHORT = 1.0
"""Seconds for an answer, where it is known that there is none."""

KEEPS = {
    "optimized": set(NAMES),
    "executor": {"once", "results", "exceptions", "closes", "leaves_nothing"},
    "threads": {"once", "results", "exceptions", "closes", "leaves_nothing", "bounded", "deadline"},
    "baseline": {"once", "results", "exceptions", "leaves_nothing"},
}
"""Known truths. ThreadPoolExecutor is unbounded and keeps nothing; threads over queue.Queue have a bound and keep as
little; the original drops what waits when it is stopped, and knows no bound, no keys and no second attempt.
"""

SEEN = {
    ("executor", "bounded"): "100 tasks accepted while none was done",
    ("executor", "durable"): "6 of 9 acknowledged tasks lost by kill -9: 2 of 2 that were running, 4 of 4 that were",
    ("executor", "deadline"): "close(0.5): no answer",
    ("executor", "fork_safe"): "a submit in a forked child: accepted, and never done",
    ("threads", "rejects"): "submit of offered-6: no answer",
    ("threads", "conflicts"): "accepted, with the result 'other'",
    ("baseline", "closes"): "that were not done at close: their futures never end",
    ("baseline", "bounded"): "100 tasks accepted while none was done",
    ("baseline", "deduplicates"): "one task, submitted by 16 threads at once: worked on 16 times",
    ("baseline", "retries"): "two ConnectionErrors, then success: after 1 attempt ConnectionError",
    ("baseline", "dead_letters"): "it has no method dead_letters",
    ("baseline", "joins"): "it has no method join",
}


def statuses(report: Report) -> dict[str, set[str]]:
    return {
        str(status): {outcome.name for outcome in report.outcomes if outcome.status is status}
        for status in {outcome.status for outcome in report.outcomes}
    }


def test_the_optimized_queue_keeps_everything() -> None:
    assert statuses(examine("optimized")) == {"kept": set(NAMES)}


@pytest.mark.parametrize("subject", ["executor", "threads", "baseline"])
def test_held_to_everything_the_others_break_what_they_are_known_to_break(subject: str) -> None:
    kept = KEEPS[subject]
    well = examine(subject, promises="all", only=kept)
    ill = examine(subject, promises="all", only=set(NAMES) - kept, patience=SHORT)
    assert statuses(well) == {"kept": kept}
    assert statuses(ill) == {"broken": set(NAMES) - kept}
    for (name, promise), evidence in SEEN.items():
        if name == subject:
            assert evidence in ill[promise].evidence


def test_what_is_not_promised_is_looked_at_all_the_same_and_turns_nothing_red() -> None:
    """The evidence tells what would be broken."""
    report = examine("executor", only=["bounded", "durable", "joins"])
    assert statuses(report) == {"not promised": {"bounded", "durable", "joins"}}
    assert SEEN["executor", "bounded"] in report["bounded"].evidence
    assert SEEN["executor", "durable"] in report["durable"].evidence
    assert report["joins"].evidence.startswith("it has no method join")


class Modest(Kept):
    """Promises less than it keeps."""

    promises = frozenset({Promise.BOUNDED})


def test_what_holds_without_being_promised_says_so() -> None:
    report = examine(Modest, only=["bounded", "joins"])
    assert report["bounded"].status is Status.KEPT
    assert report["joins"].status is Status.NOT_PROMISED
    assert report["joins"].evidence.startswith("held here: False after 0.2 s")


def test_what_it_promises_is_read_once_of_each_queue() -> None:
    """It may be computed, and then by code of the queue."""
    report = examine(nonconforming.PromisesOnce, only=["joins", "bounded"])
    assert statuses(report) == {"kept": {"joins"}, "not promised": {"bounded"}}


def test_a_queue_can_be_held_to_some_promises() -> None:
    report = examine(Modest, only=["once", "joins", "bounded"], promises=["joins"])
    assert statuses(report) == {"kept": {"once", "joins"}, "not promised": {"bounded"}}
    assert statuses(examine(Modest, only=["joins"], promises="joins, once")) == {"kept": {"joins"}}


@pytest.mark.parametrize("knob", ["promises", "only"])
def test_an_unknown_promise_is_an_error_that_names_them_all(knob: str) -> None:
    with pytest.raises(ValueError, match=r"unknown promise 'speed': there are once, results, .*, fork_safe"):
        examine("executor", **{knob: ["speed"]})  # type: ignore[arg-type]


def test_an_unknown_subject_is_an_error_of_the_catalogue() -> None:
    with pytest.raises(ValueError, match="unknown subject 'nobody': use baseline, optimized, executor, threads, mine"):
        examine("nobody", catalogue=Catalogue({"mine": Kept}))


@pytest.mark.parametrize(
    ("toy", "evidence"),
    [
        ("nothing", "it returned None: return the object that has submit(task) and close(timeout)"),
        ("NoSubmit", "NoSubmit has no method submit: write def submit(self, task), which returns a Future"),
        ("NoClose", "NoClose has no method close: write def close(self, timeout), which returns nothing"),
        ("NoPromises", "NoPromises.promises: it is None, write a set such as {'bounded'}; there are"),
        ("Denies", "Denies.promises: it is a mappingproxy, write a set such as {'bounded'}; there are"),
        ("BoastsOfBasics", "BoastsOfBasics.promises: 'once' is promised by every queue, leave it out; there are"),
        ("NoTimeout", "NoTimeout.close() -> 'object' cannot be called with a timeout alone: write def close(self, ti"),
        ("NoFuture", "NoFuture.submit returned None: return a concurrent.futures.Future"),
        ("Boasts", "Boasts.promises: 'quick' is not a valid Promise; there are bounded, rejects"),
        ("CannotOpen", "opening it raised RuntimeError: no such driver"),
        ("SubmitRaises", "submit of first raised RuntimeError: no such driver"),
        ("OpenHangs", "opening it: no answer within 1 s"),
        ("SubmitHangs", "submit of first: no answer within 1 s"),
    ],
)
def test_what_is_no_queue_is_not_examined(toy: str, evidence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No promise is blamed; and where it hangs, or raises, is shown."""
    stop = threading.Event()
    monkeypatch.setattr(nonconforming, "STOP", stop)
    try:
        with pytest.raises(Unfit) as unfit:
            examine(getattr(nonconforming, toy), only=["once", "bounded", "durable"], patience=SHORT)
    finally:
        stop.set()
    assert str(unfit.value).startswith(f"no queue that can be examined: {toy}: {evidence}")
    if toy.endswith("Hangs"):
        assert "STOP.wait()" in unfit.value.stacks[0]
    elif toy in ("CannotOpen", "SubmitRaises"):
        assert re.search(
            r'^raised in:\n.*nonconforming.py", line \d+, in .*no such driver', *unfit.value.stacks, re.DOTALL
        )
    else:
        assert unfit.value.stacks == ()


def test_what_is_no_queue_is_looked_at_once() -> None:
    """So that one that hangs does so once."""
    opened: list[Setup] = []
    examination = Examination("nothing", opened.append)  # type: ignore[arg-type]
    for check in CHECKS[:2]:
        with pytest.raises(Unfit):
            examination.outcome(check)
    assert len(opened) == 1


def test_the_basics_are_what_every_queue_promises() -> None:
    """By the same names, which a class is told to leave out."""
    assert [*BASICS] == [check.name for check in CHECKS if check.promise is None]


def test_a_queue_that_another_process_cannot_import_is_told_how_to_be_found() -> None:
    class Nested(Kept):
        pass

    found = examine(Nested, only=["durable"])["durable"]
    assert found.status is Status.BROKEN
    assert "another process cannot import test_a_queue_that" in found.evidence
    assert "define it at the top level of a module" in found.evidence


class Outer:
    """Where a class may stand, too."""

    class Inner(Kept):
        """In a class of a module."""


@pytest.mark.parametrize("subject", [f"{nonconforming.__file__}:factory", "nonconforming:factory", Outer.Inner])
def test_another_process_finds_files_modules_and_classes(subject: Any) -> None:
    """And does there what it would do here."""
    assert examine(subject, only=["durable"], promises=["durable"]).outcomes[0].status is Status.KEPT


class Prints(Kept):
    """Writes to standard output, where others look for answers."""

    def __init__(self, setup: Setup) -> None:
        os.write(1, b"opened\n")
        super().__init__(setup)


def test_what_a_queue_prints_is_no_answer() -> None:
    assert examine(Prints, only=["durable", "fork_safe"]).broken == ()


class HangsThere(Kept):
    """In a process that is not the first one."""

    first = 0

    def __init__(self, setup: Setup) -> None:
        if not self.first:
            threading.Event().wait()
        super().__init__(setup)


def test_a_queue_that_hangs_in_another_process_is_given_up_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HangsThere, "first", 1)
    found = examine(HangsThere, only=["durable"], patience=0.5)["durable"]
    assert found.evidence == "in another process there is no answer within 3.5 s"
    assert any("in __init__" in stack for stack in found.stacks)
