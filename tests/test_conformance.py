"""The conformance suite finds each broken promise, under its name, and blames no other one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import nonconforming
import pytest
from helpers import FILES
from test_layers import PLUGIN, files, packages

from pytest_taskqueue.conformance import Status, examine
from pytest_taskqueue.conformance.checks import CHECKS

BASICS = [check.name for check in CHECKS if check.promise is None]
NAMES = [check.name for check in CHECKS]

BROKEN = [
    ("Loses", "once", "has no result after"),
    ("Invents", "once", "1 task never worked on: once-"),
    ("Doubles", "once", "1 task worked on more than once: once-"),
    ("Swaps", "once", "has the result 'not once-"),
    ("Renames", "once", '200 tasks were worked on under keys that nobody submitted, such as \'["once-0-0.jpg",""]\''),
    ("OneThread", "once", "raised RuntimeError: another thread"),
    ("Flattens", "results", "the future gave \"{'"),
    ("Swallows", "exceptions", "its future gave the result None"),
    ("Hides", "exceptions", "its future RuntimeError: failed"),
    ("Dies", "exceptions", "gave no answer"),
    ("Takes", "closes", "a submit after close was taken, and its future gave no answer"),
    ("SaysNothing", "closes", "SaysNothing.submit returned None"),
    ("Goes", "closes", "a submit after close was taken, and its future gave the result None"),
    ("Forgets", "closes", "that were not done at close: their futures never end"),
    ("CloseHangs", "closes", "no answer within"),
    ("CloseRaises", "closes", "close(10) raised RuntimeError: the door is jammed"),
    ("LeavesThread", "leaves_nothing", "1 thread alive after close: forgotten"),
    ("LeavesFile", "leaves_nothing", "1 file still open after close: journal"),
    ("LeavesHalf", "leaves_nothing", "1 temporary file left behind: upload.tmp"),
    ("Unbounded", "bounded", "100 tasks accepted while none was done, with 4 places, 2 workers"),
    ("Overfull", "bounded", "7 tasks accepted while none was done, with 4 places, 2 workers"),
    ("Waits", "rejects", "submit of offered-6: no answer within"),
    ("RejectsNothing", "rejects", "100 tasks accepted while none was done, none refused"),
    ("RejectsAll", "rejects", "2 accepted, then RuntimeError: full"),
    ("RejectsAndKeeps", "rejects", "offered-6 was refused and worked on all the same"),
    ("RejectsForEver", "rejects", "offered again when there was room: RuntimeError: full"),
    ("Repeats", "deduplicates", "one task, submitted by 16 threads at once: worked on"),
    ("RepeatsLater", "deduplicates", "submitted again after it was done: worked on 2 times"),
    ("Races", "deduplicates", "one task, submitted by 16 threads at once: worked on"),
    ("Null", "deduplicates", "the results ['1', 'None'], where the first one's is 1"),
    (
        "ByImage",
        "deduplicates",
        "another task with another variant, so another task.key: worked on 0 times, with the r",
    ),
    (
        "ByImageOrKey",
        "deduplicates",
        "with another variant, so another task.key: worked on 0 times, with the result '[",
    ),
    ("ByImageAndVariant", "deduplicates", "with an idempotency_key, so another task.key: worked on 0 times, with the"),
    ("ByAll", "deduplicates", "one task, submitted again with another image_key: worked on 2 times"),
    ("ByImage", "conflicts", "a known key with other params and another image_key: accepted, with the result 'other'"),
    ("ByImageOrKey", "conflicts", "with other params and another variant, so another task.key: worked on 0 times"),
    ("ByImageAndVariant", "conflicts", "a known key with other params and another image_key: accepted, with the resul"),
    ("ByAll", "conflicts", "a known key with other params and another image_key: accepted, with the result 'other'"),
    ("Stale", "conflicts", "while the first is worked on: accepted, with the result 'first'"),
    ("StaleWhenDone", "conflicts", "after the first is done: accepted, with the result 'first'"),
    ("Refuses", "conflicts", "while the first is worked on: worked on 2 times"),
    ("NeverRetries", "retries", "two ConnectionErrors, then success: after 1 attempt TaskFailedError"),
    ("RetriesAll", "retries", "ValueError, which no attempt mends: 4 attempts"),
    ("RetriesForEver", "retries", "a task that always raises ConnectionError: after"),
    ("NoLetters", "dead_letters", "dead letters after one task failed: none listed; expected dead"),
    ("LettersForEver", "dead_letters", "dead letters after it was replayed and succeeded: 1 task listed: dead"),
    ("NoMethods", "dead_letters", "it has no method dead_letters: write def dead_letters(self)"),
    ("NoMethods", "joins", "it has no method join: write def join(self, timeout)"),
    ("ReplaysNothing", "dead_letters", "replayed, a task that would succeed: after 1 attempt no answer"),
    ("ReplaysTheError", "dead_letters", "replayed, a task that would succeed: after 1 attempt TaskFailedError"),
    ("JoinsEarly", "joins", "join(0.2) returned True while a task was blocked"),
    ("JoinsAtTwice", "joins", "join(10) did not wait while a task was blocked"),
    ("JoinsFirst", "joins", "returned True with 1 of 4 tasks done"),
    ("JoinsNever", "joins", "returned False with 4 of 4 tasks done"),
    ("JoinHangs", "joins", "join(0.2): no answer within"),
    ("Patient", "deadline", "close(0.5): no answer within"),
    ("Overstays", "deadline", "close(0.5): no answer within 2.5"),
    ("OverstaysAlways", "deadline", "close(0.5): no answer within 4.5 s"),
    ("ReprHangs", "results", "the text of a result: no answer within"),
    ("ReprExits", "results", "the text of a result raised RuntimeError: SystemExit"),
    ("TextHangs", "exceptions", "the text of HangingError: no answer within"),
    ("TextExits", "exceptions", "the text of an error raised RuntimeError: SystemExit: 3"),
    ("ReportHangs", "leaves_nothing", "its close report: no answer within"),
    ("JoinInterrupts", "joins", "join(0.2) raised RuntimeError: KeyboardInterrupt"),
    ("Interrupts", "joins", "its method join raised RuntimeError: KeyboardInterrupt"),
    ("Lists", "deduplicates", "the results ['[1]'], where the first one's is 1"),
    ("InMemory", "durable", "6 of 9 acknowledged tasks lost by kill -9: 2 of 2 that were running, 4 of 4 that"),
    ("Journal", "durable", '6 tasks were worked on under keys that nobody submitted, such as \'["running-0.jpg",""]\''),
    ("JournalWithGaps", "durable", "4 tasks were worked on under keys that nobody submitted, such as '[\"waiting-0"),
    ("Forgetful", "durable", "3 tasks done before kill -9, submitted after it: worked on again"),
    ("Blank", "durable", "submitted after it: the results [None, None, None], where each was "),
    ("ForkHangs", "fork_safe", "a submit in a forked child: hung, submit does not come back"),
    ("ForkTakes", "fork_safe", "a submit in a forked child: accepted, and never done"),
    ("ForkHarms", "fork_safe", "the parent does not go on as before: RuntimeError: after-0 has no result after 3 s"),
]

IMPATIENT = {
    *("ReprHangs", "TextHangs", "ReportHangs"),
    *("Loses", "Dies", "Takes", "Forgets", "CloseHangs", "Waits", "RejectsForEver", "RetriesForEver", "NoLetters"),
    *(
        "LettersForEver",
        "LeavesThread",
        "ReplaysNothing",
        "JoinsNever",
        "JoinHangs",
        "Patient",
        "InMemory",
        "Journal",
        "JournalWithGaps",
    ),
}
"""Those that are found by waiting for what does not come; the others answer, however long that takes."""

NO_CLOSE = {"CloseHangs", "CloseRaises"}

pytestmark = pytest.mark.tq_allow("errors", "open", "threads", "running", "files", reason="that is what they do wrong")


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    """Whoever hangs in this process goes on when the test is over."""
    yield
    nonconforming.STOP.set()
    nonconforming.STOP = threading.Event()
    while nonconforming.FILES:
        nonconforming.FILES.pop().close()


@pytest.mark.parametrize(("toy", "name", "evidence"), BROKEN, ids=[f"{name}-{toy}" for toy, name, _ in BROKEN])
def test_a_broken_promise_is_found_under_its_name(toy: str, name: str, evidence: str) -> None:
    if toy == "LeavesFile" and not FILES.is_dir():
        pytest.skip("this system does not tell who holds which file open")
    subject = getattr(nonconforming, toy)
    patience = 3.0 if name == "fork_safe" else 1.0 if toy in IMPATIENT else 10.0
    found = examine(subject, only=[name], patience=patience)[name]
    assert found.status is Status.BROKEN
    assert evidence in found.evidence


@pytest.mark.parametrize(("toy", "name"), [(toy, name) for toy, name, _ in BROKEN if name in BASICS])
def test_no_other_basic_promise_is_blamed(toy: str, name: str) -> None:
    """A close that hangs or raises is no clean end for anybody."""
    others = [basic for basic in BASICS if basic != name] if toy not in NO_CLOSE else ["results"]
    assert not examine(getattr(nonconforming, toy), only=others).broken


def test_a_known_key_with_another_image_may_be_answered_or_refused() -> None:
    """It is the key that makes a task: Kept refuses, Stale answers with the first one's result."""
    for subject in (nonconforming.Kept, nonconforming.Stale):
        assert not examine(subject, only=["deduplicates"]).broken


def test_the_checks_know_no_pytest() -> None:
    """They can be run from anywhere."""
    folder = PLUGIN / "conformance"
    assert not [file.name for file in files(folder) if "pytest" in packages(file)]


def test_no_basic_promise_is_blamed_for_another() -> None:
    """By a queue that breaks several of the others."""
    assert {outcome.status for outcome in examine(nonconforming.Bad, only=BASICS).outcomes} == {Status.KEPT}
