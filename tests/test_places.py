"""Places of the bounded queue, and the deadline that waits share."""

import threading
from concurrent.futures import Future
from concurrent.futures import wait as done_waiting
from types import SimpleNamespace

import pytest

from taskqueue_core import QueueClosedError
from taskqueue_core.deadline import Deadline
from taskqueue_core.metrics import Depth
from taskqueue_core.places import Places

LONG = 20.0  # seconds: a limit that only a hang reaches
FOREVER, NOW = Deadline(None), Deadline(0)


def in_thread(call, *arguments):
    """The future of a call; a thread that hangs keeps nobody from ending."""
    future = Future()

    def run():
        try:
            future.set_result(call(*arguments))
        except QueueClosedError as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.fixture
def waits(monkeypatch):
    """Released each time a thread begins to wait; it does so under the lock, so whoever comes next finds it waiting."""
    semaphore = threading.Semaphore(0)

    class Announcing(threading.Condition):
        def wait(self, timeout=None):
            semaphore.release()
            return super().wait(timeout)

    monkeypatch.setattr("taskqueue_core.places.threading", SimpleNamespace(Lock=threading.Lock, Condition=Announcing))
    return semaphore


@pytest.fixture
def start(waits):
    """Run a call in a thread of its own until it waits; its future."""

    def run(call, *arguments):
        future = in_thread(call, *arguments)
        assert waits.acquire(timeout=LONG)
        return future

    return run


@pytest.fixture
def places(start):
    """One place, and it is taken."""
    places = Places(1)
    assert places.take_now(1)
    return places


def test_take_gives_what_is_free_and_take_now_all_or_nothing():
    """As many as wanted or as there are, and none once the deadline has passed; too many wanted now takes none."""
    places = Places(5)
    assert [places.take(3, FOREVER), places.take(3, FOREVER), places.take(3, NOW)] == [3, 2, 0]
    places.give(5)
    assert [places.take_now(n) for n in (6, 3, 3, 2, 1)] == [False, True, False, True, False]


@pytest.mark.parametrize("timeout", [None, LONG, float("inf"), 1e300])
def test_waiting_submit_gets_the_place_given_back(places, start, timeout):
    """However long it is ready to wait."""
    taken = start(places.take, 3, Deadline(timeout))
    places.give()
    assert taken.result(LONG) == 1


def test_feeder_goes_before_waiting_submits(places, start):
    """A submit that has waited longer, and one that comes just now, get the places after the feeder's."""
    submit = start(places.take, 1, FOREVER)
    feeder = start(places.take_first)
    places.give()
    assert not places.take_now(1)
    assert feeder.result(LONG)
    assert not submit.done()
    places.give()
    assert submit.result(LONG) == 1


def test_feeder_passes_on_what_it_leaves(places, start):
    """Two places come back at once: one for the feeder, one for the submit behind it."""
    submit = start(places.take, 1, FOREVER)
    feeder = start(places.take_first)
    places.give(2)
    assert (feeder.result(LONG), submit.result(LONG)) == (True, 1)


def test_submits_held_back_leave_the_places_to_the_feeder(places, start):
    """Until they are let go on, free places or not."""
    places.give(3)
    places.hold_back(True)
    assert (places.take_now(1), places.take(1, NOW), places.take_first()) == (False, 0, True)
    submit = start(places.take, 3, FOREVER)
    places.hold_back(False)
    assert submit.result(LONG) == 2


def test_closing_to_submits_refuses_them_alone(places, start):
    """Waiting ones and new ones get QueueClosedError, the feeder still gets its place."""
    submit = start(places.take, 1, FOREVER)
    places.close_to_submits()
    with pytest.raises(QueueClosedError):
        submit.result(LONG)
    for call in (lambda: places.take(1, FOREVER), lambda: places.take_now(1), lambda: places.take_now(9)):
        with pytest.raises(QueueClosedError):
            call()
    places.give()
    assert places.take_first()


def test_closing_ends_the_feeders_wait(places, start):
    """It gets no place, now and later, and submits are refused too."""
    feeder = start(places.take_first)
    places.close()
    assert not feeder.result(LONG)
    places.give()
    assert not places.take_first()
    with pytest.raises(QueueClosedError):
        places.take(1, FOREVER)


def test_a_worker_that_vacates_a_place_waits_for_nobody():
    """Somebody else has the lock; the place is counted by the next one who comes, or by `catch_up`."""
    depth = Depth()
    places = Places(3, depth)
    assert places.take_now(3)
    with places._lock:
        for _ in range(2):
            in_thread(places.vacate).result(LONG)
        assert depth.now == 3
    assert places.take_now(2)
    with places._lock:
        in_thread(places.vacate).result(LONG)
    places.catch_up()
    assert depth.now == 2
    places.vacate()
    assert depth.now == 1, "nobody has the lock: it is counted at once"


@pytest.mark.parametrize(
    ("call", "vacated", "left"),
    [
        (lambda places: places.take(1, FOREVER), 0, 3),
        (lambda places: places.take_now(1), 0, 3),
        (lambda places: places.take_first(), 0, 3),
        (lambda places: places.give(1), 0, 1),
        (lambda places: places.hold_back(True), 1, 1),
        (lambda places: places.close_to_submits(), 1, 1),
        (lambda places: places.close(), 1, 1),
    ],
)
def test_a_place_vacated_while_somebody_has_the_lock_is_counted_when_he_is_done(call, vacated, left):
    """Nobody else may come for a long time. It is vacated while the depth is told of the call, or of what it counts."""

    class Interrupted(Depth):
        armed = False

        def set(self, level):
            super().set(level)
            if self.armed:
                self.armed = False
                in_thread(places.vacate).result(LONG)

    depth = Interrupted()
    places = Places(5, depth)
    assert places.take_now(3)
    places._vacated.extend([None] * vacated)
    depth.armed = True
    call(places)
    assert depth.now == left


def test_a_place_that_is_vacated_just_before_somebody_sleeps_wakes_him(waits, monkeypatch):
    """He has looked, and has the lock until he sleeps: the worker waits for it."""
    places, vacating = Places(1), []
    assert places.take_now(1)
    condition = places._for_submits
    sleep = condition.wait

    def vacated_meanwhile(timeout=None):
        if not vacating:
            vacating.append(in_thread(places.vacate))
            done_waiting(vacating, timeout=0.1)  # it cannot be done yet
        return sleep(timeout)

    monkeypatch.setattr(condition, "wait", vacated_meanwhile)
    assert in_thread(places.take, 1, FOREVER).result(LONG) == 1


def test_whoever_counts_a_vacated_place_wakes_who_waits(places, start):
    """The worker stands between its two steps, and finds nothing left to do."""
    submit = start(places.take, 1, FOREVER)
    feeder = start(places.take_first)
    places._vacated.append(None)
    assert not places.take_now(1)
    assert feeder.result(LONG)
    places._vacated.extend([None, None])
    assert places.take_now(1)
    assert submit.result(LONG) == 1


@pytest.mark.parametrize("who", ["submit", "feeder"])
def test_a_place_that_a_worker_vacates_goes_to_whoever_waits(places, start, who):
    """It wakes them, and the feeder first."""
    submit = start(places.take, 1, FOREVER)
    waiting = start(places.take_first) if who == "feeder" else submit
    places.vacate()
    assert waiting.result(LONG)
    if who == "feeder":
        assert not submit.done()
        places.vacate()
        assert submit.result(LONG) == 1


@pytest.mark.parametrize("back", ["give", "leave"])
def test_never_more_places_out_than_there_are(back):
    """Eight submits and the feeder in a crowd: three at once at most, and all of them back and counted at the end."""
    depth = Depth()
    places, lock, out, highest = Places(3, depth), threading.Lock(), 0, 0

    def use(taken):
        nonlocal out, highest
        with lock:
            out += taken
            highest = max(highest, out)
        with lock:
            out -= taken
        if back == "give":
            places.give(taken)
        else:
            for _ in range(taken):
                places.vacate()

    def work(index):
        for _ in range(200):
            use(places.take(2, FOREVER) if index else int(places.take_first()))

    for future in [in_thread(work, index) for index in range(9)]:
        future.result(LONG)
    assert depth.now == 0
    assert [places.take_now(n) for n in (3, 1)] == [True, False]
    assert 0 < highest <= 3


def test_depth_is_told_of_every_change():
    """How many places are taken, by whatever way they were taken or given back; the highest is remembered."""
    depth = Depth()
    places, seen = Places(4, depth), []
    for change in (
        lambda: places.take(3, FOREVER),
        lambda: places.give(2),
        lambda: places.take_now(2),
        lambda: places.take_now(2),
        places.take_first,
        lambda: places.give(4),
    ):
        change()
        seen.append(depth.now)
    assert (seen, depth.highest) == ([3, 1, 3, 3, 4, 0], 4)


@pytest.mark.parametrize("timeout", [0, -1, -0.001])
def test_deadline_of_no_time_has_passed(timeout):
    """What is left is never negative, which locks would take for endless."""
    assert (Deadline(timeout).passed, Deadline(timeout).remaining()) == (True, 0.0)


def test_deadline_without_limit_never_passes():
    """None is no limit, and stays none when put off; infinity is as long as a lock can wait."""
    assert (FOREVER.passed, FOREVER.remaining(), FOREVER.later(1).remaining()) == (False, None, None)
    assert not Deadline(0).later(LONG).passed
    assert not Deadline(float("inf")).passed
    assert Deadline(float("inf")).remaining() == threading.TIMEOUT_MAX
