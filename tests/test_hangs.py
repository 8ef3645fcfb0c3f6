"""Calls that are given up, the stacks of those who hang, and the way out of a process."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from helpers import environ, until
from toys import LONG

from pytest_taskqueue.hangs import FRAMES, GROUPS, Hand, Hang, stacks

SOON = 0.05  # seconds: what a call that hangs is given
EXIT = 77


@pytest.fixture
def go() -> Iterator[threading.Event]:
    """What all who hang in a test wait for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def hand(go: threading.Event) -> Iterator[Hand]:
    """A hand whose thread is gone after the test."""
    hand = Hand("the hand")
    yield hand
    go.set()
    hand.end()
    hand.thread.join(LONG)
    assert not hand.thread.is_alive()


# --- Hand


def test_a_call_returns_what_it_returns_and_raises_what_it_raises(hand: Hand) -> None:
    """What would end the whole program is an error like any other: a queue must not end a comparison with status 0."""
    assert hand.call(lambda: 7, LONG) == 7
    with pytest.raises(ZeroDivisionError):
        hand.call(lambda: 1 // 0, LONG)
    with pytest.raises(RuntimeError, match="SystemExit: 0"):
        hand.call(lambda: sys.exit(0), LONG)
    assert hand.call(lambda: 8, LONG) == 8, "it makes further calls"


def test_all_calls_of_a_hand_are_made_in_its_thread(hand: Hand) -> None:
    """A queue may hold what belongs to the thread that opened it, as a connection of sqlite3 does."""
    assert {hand.call(threading.current_thread, LONG) for _ in range(3)} == {hand.thread}
    assert hand.thread.daemon


def test_a_call_that_takes_too_long_is_given_up_and_shown(hand: Hand, go: threading.Event) -> None:
    """Hang says how long it was waited for, and where the thread is."""

    def never_ending() -> None:
        go.wait(LONG)

    with pytest.raises(Hang, match=r"^no answer within 0\.05 s$") as caught:
        hand.call(never_ending, SOON)
    (stack,) = caught.value.stacks
    assert stack.startswith("thread the hand:\n")
    assert f'File "{__file__}"' in stack
    assert "in never_ending\n" in stack


def test_a_timeout_of_the_call_itself_is_no_hang(hand: Hand) -> None:
    def impatient() -> None:
        raise TimeoutError("the peer is slow")

    with pytest.raises(TimeoutError, match="the peer is slow"):
        hand.call(impatient, LONG)


def test_a_hand_that_is_ended_makes_the_call_it_has_and_no_other(hand: Hand, go: threading.Event) -> None:
    made: list[int] = []
    with pytest.raises(Hang):
        hand.call(lambda: made.append(1) or go.wait(LONG) or made.append(2), SOON)
    hand.end()
    go.set()
    hand.thread.join(LONG)
    assert made == [1]


# --- stacks


@pytest.fixture
def waiting(go: threading.Event) -> Iterator[Callable[..., list[threading.Thread]]]:
    """Start threads of these names in a function, and wait until they are in it."""
    started: list[threading.Thread] = []

    def waiting(target: Callable[[threading.Event], object], *names: str) -> list[threading.Thread]:
        threads = [threading.Thread(target=target, args=(go,), name=name) for name in names]
        for thread in threads:
            thread.start()
        started.extend(threads)
        until(lambda: all("in wait\n" in stacks([thread])[0] for thread in threads))
        return threads

    yield waiting
    go.set()
    for thread in started:
        thread.join(LONG)


def crowd(event: threading.Event) -> None:
    event.wait(LONG)


def loner(event: threading.Event) -> None:
    event.wait(LONG)


def test_threads_at_the_same_place_are_shown_once_the_loneliest_first(
    waiting: Callable[..., list[threading.Thread]],
) -> None:
    """The one that is stuck elsewhere than all others tells more than they do."""
    many, one = waiting(crowd, "a", "b", "c"), waiting(loner, "d")
    first, second = stacks([*many, *one])
    assert first.startswith("thread d:\n")
    assert "in loner\n" in first
    assert second.startswith("thread a and 2 more threads:\n")
    assert "in crowd\n" in second


def test_a_stack_begins_with_the_thread_s_own_function(waiting: Callable[..., list[threading.Thread]]) -> None:
    """How threading begins a thread says nothing; where it waits in the end does."""
    (stack,) = stacks(waiting(crowd, "a"))
    functions = re.findall(r'^  File ".*", line \d+, in (\w+)$', stack, re.MULTILINE)
    assert functions[:2] == ["crowd", "wait"]
    assert "_bootstrap" not in stack


def test_of_a_deep_stack_the_innermost_frames_are_shown(waiting: Callable[..., list[threading.Thread]]) -> None:
    def there(event: threading.Event, more: int = 2 * FRAMES) -> object:
        return back(event, more - 1) if more else innermost(event)

    def back(event: threading.Event, more: int) -> object:
        return there(event, more - 1)

    def innermost(event: threading.Event) -> object:
        return event.wait(LONG)

    (stack,) = stacks(waiting(there, "a"))
    functions = re.findall(r'^  File ".*", line \d+, in (\w+)$', stack, re.MULTILINE)
    assert len(functions) == FRAMES
    assert "innermost" in functions
    assert "back" in functions


def test_only_some_different_stacks_are_shown_and_the_others_are_counted(
    waiting: Callable[..., list[threading.Thread]],
) -> None:
    def at_line(number: int) -> Callable[[threading.Event], object]:
        namespace: dict[str, Callable[[threading.Event], object]] = {}
        exec(f"def place_{number}(event): event.wait({LONG})", namespace)
        return namespace[f"place_{number}"]

    threads = [thread for number in range(GROUPS + 2) for thread in waiting(at_line(number), f"t{number}")]
    *shown, last = stacks(threads)
    assert len(shown) == GROUPS
    assert last == "... and 2 other stacks"


def test_a_thread_that_has_ended_has_no_stack() -> None:
    """Nor one that was not begun."""
    thread = threading.Thread(target=int)
    assert stacks([thread]) == []
    thread.start()
    thread.join(LONG)
    assert stacks([thread]) == []


# --- watch_exit


def leaves(code: str) -> subprocess.CompletedProcess[str]:
    """A process that runs these lines and then leaves by watch_exit."""
    lines = [
        "import threading",
        "from pytest_taskqueue.hangs import watch_exit",
        "before = threading.enumerate()",
        code,
        f"watch_exit({EXIT}, before)",
    ]
    buffered = {name: value for name, value in environ().items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(lines)],
        env=buffered,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


STUCK = {
    "a thread": "threading.Thread(target=threading.Event().wait, name='stuck').start()",
    "a thread that prints": (
        "def work():\n threading.Event().wait(0.2)\n print('and this')\n threading.Event().wait()\n"
        "threading.Thread(target=work, name='stuck').start()"
    ),
    "an executor": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "ThreadPoolExecutor(thread_name_prefix='stuck').submit(threading.Event().wait)"
    ),
}


@pytest.mark.parametrize("kind", STUCK)
def test_a_process_is_left_though_python_would_wait_for_its_threads(kind: str) -> None:
    """With the status it was to have, what it had printed, and the name of who is not waited for."""
    done = leaves(f"{STUCK[kind]}\nprint('all that was said')")
    said = "all that was said\n" + "and this\n" * kind.endswith("prints")
    assert (done.returncode, done.stdout) == (EXIT, said)
    assert re.fullmatch(r"taskqueue: thread stuck\w* still at work, not waited for\n", done.stderr)


def test_a_process_without_other_threads_ends_as_ever() -> None:
    """No watchdog, no message: the status is the caller's."""
    done = leaves("print('all that was said')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "all that was said\n", "")


def test_a_process_whose_threads_end_by_themselves_ends_as_ever() -> None:
    """Exit handlers are run, as they are not when a process is left in haste."""
    brief = "threading.Thread(target=threading.Event().wait, args=(0.2,)).start()"
    done = leaves(f"import atexit\natexit.register(print, 'handled')\n{brief}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "handled\n", "")


def test_a_closed_standard_error_does_not_keep_the_process() -> None:
    """As under a service without one: it is left all the same."""
    done = leaves(f"{STUCK['a thread']}\nimport sys\nsys.stderr.close()")
    assert done.returncode == EXIT
