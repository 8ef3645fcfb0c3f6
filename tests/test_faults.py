"""Seeded faults: the same plan for the same seed, however many threads, and always releasable."""

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskqueue_core import FaultInjector, ObjectStore, PermanentError, Processor, Task, TransientError

LONG = 20.0  # seconds: a limit that only a hang reaches


def fails(injector):
    try:
        injector()
    except TransientError:
        return True
    return False


def test_same_seed_gives_the_same_plan():
    """And another seed another one."""
    injectors = [FaultInjector(error_rate=0.3, seed=seed) for seed in (1, 1, 2)]
    plans = [[fails(injector) for _ in range(200)] for injector in injectors]
    assert plans[0] == plans[1] != plans[2]


def test_number_of_failures_does_not_depend_on_threads():
    """Sixteen threads share one sequence: as many of 4,800 attempts fail as in one thread, all are counted."""
    alone, shared = FaultInjector(error_rate=0.3, seed=4), FaultInjector(error_rate=0.3, seed=4)
    expected = sum(fails(alone) for _ in range(4800))
    barrier, interval = threading.Barrier(16), sys.getswitchinterval()

    def attempts(_):
        barrier.wait(LONG)
        return sum(fails(shared) for _ in range(300))

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(attempts, range(16))) == expected
    finally:
        sys.setswitchinterval(interval)
    assert (shared.calls, shared.failures) == (4800, expected) == (alone.calls, alone.failures)


@pytest.mark.parametrize("rate", [0, 1])
def test_rate_of_none_and_all(rate):
    """The ends of the scale are exact."""
    injector = FaultInjector(error_rate=rate)
    assert sum(fails(injector) for _ in range(50)) == 50 * rate


@pytest.mark.parametrize("error", [PermanentError, lambda text: OSError(28, text)])
def test_error_is_the_one_asked_for(error):
    """A class, or anything that makes an exception from the text."""
    with pytest.raises((PermanentError, OSError), match=r"injected fault \(attempt 1"):
        FaultInjector(error_rate=1.0, error=error)()


def test_release_ends_waits_now_and_later():
    """A wait of hours is over as soon as it is released; one that begins afterwards does not wait."""
    injector, begun, done = FaultInjector(latency=(3600, 3600)), threading.Event(), threading.Event()

    def wait():
        begun.set()
        injector()
        done.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert begun.wait(LONG)
    assert not done.wait(0.05)
    injector.release()
    assert done.wait(LONG)
    thread.join(LONG)
    injector()


def test_wrapped_processor_meets_the_fault_first():
    """A failing attempt does not reach the processor, the others return what it returns."""
    reached, returned, injector = [], [], FaultInjector(error_rate=0.5, seed=1)

    @injector.wrap
    def processor(task):
        reached.append(task)
        return len(reached)

    for _ in range(40):
        with contextlib.suppress(TransientError):
            returned.append(processor(Task("a")))
    assert returned == [*range(1, 41 - injector.failures)]
    assert 0 < injector.failures < 40
    assert processor.__name__ == "processor"


def test_wrapped_processor_keeps_discard(tmp_path):
    """What attempts left behind when their process died is still removed."""
    store, task = ObjectStore(tmp_path), Task("cat", "1x1")
    staged = store.stage(task.key, [b"1"])
    FaultInjector().wrap(Processor(store)).discard([task])
    assert not staged.exists()


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        *(("latency", bad) for bad in ((-1, 0), (2, 1), (0, float("inf")), (float("nan"), 1))),
        *(("error_rate", bad) for bad in (-0.1, 1.1, float("nan"))),
    ],
)
def test_bad_option_is_refused(option, bad):
    """The message names the option."""
    with pytest.raises(ValueError, match=option):
        FaultInjector(**{option: bad})
