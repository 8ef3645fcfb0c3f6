"""When a failed attempt is tried again, and how long it waits."""

import random

import pytest

from taskqueue_core import ErrorClass, PermanentError, RetryPolicy, TransientError

HUGE = 10**9


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 64, 1023, 1024, 5000, HUGE])
@pytest.mark.parametrize(("base", "cap"), [(0.1, 30.0), (1.0, 1.0), (1e-9, 1e9), (1e300, 1.7e308)])
def test_delay_stays_within_its_bounds(n, base, cap):
    """Every draw lies between `base` and min(cap, base * 2**n), also for a retry number beyond all floats."""
    policy, rng = RetryPolicy(base=base, cap=cap), random.Random(n)
    highest = cap if n > 100 else min(cap, base * 2**n)
    assert all(base <= policy.delay(n, rng) <= highest for _ in range(300))


def test_delays_spread_over_the_whole_range():
    """Tasks that failed together do not come back together: every tenth of the range gets its share."""
    policy, rng = RetryPolicy(base=1.0, cap=1000.0), random.Random(5)
    tenths = [int((policy.delay(5, rng) - 1.0) / 31.0 * 10) for _ in range(2000)]
    assert min(tenths.count(tenth) for tenth in range(10)) > 140


@pytest.mark.parametrize("policy", [RetryPolicy(), *(RetryPolicy(max_attempts=n) for n in (1, 2, 3, 10))])
def test_attempts_end_at_max_attempts(policy):
    """A task that always fails is attempted max_attempts times, 3 by default, with the delay of each retry between."""
    retries = 0
    while (delay := policy.decide(TransientError(), retries, random.Random(7))) is not None:
        retries += 1
        assert delay == policy.delay(retries, random.Random(7))
    assert retries + 1 == policy.max_attempts
    assert RetryPolicy() == RetryPolicy(3, 0.1, 30.0)


def test_permanent_error_is_never_tried_again():
    """However many attempts are left."""
    policy = RetryPolicy(max_attempts=HUGE)
    assert all(policy.decide(error, 0, random.Random(0)) is None for error in (PermanentError(), ValueError()))


@pytest.mark.parametrize("retry_after", [3600.0, 40.0, 0.01, 0.0, -5.0])
def test_retry_after_is_honoured(retry_after):
    """The error's own delay is waited for, beyond the cap too, but never shortens the backoff."""
    backoff = RetryPolicy().delay(1, random.Random(1))
    error = TransientError(retry_after=retry_after)
    assert RetryPolicy().decide(error, 0, random.Random(1)) == (retry_after if retry_after > 1 else backoff)


def test_own_classify_decides():
    """`classify` turns the rule round."""
    kinds = {ValueError: ErrorClass.TRANSIENT, TransientError: ErrorClass.PERMANENT}
    policy = RetryPolicy(classify=lambda error: kinds[type(error)])
    assert policy.decide(ValueError(), 0, random.Random(0)) is not None
    assert policy.decide(TransientError(), 0, random.Random(0)) is None


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        *(("max_attempts", bad) for bad in (0, -1, 2.5, float("nan"), "3")),
        *(("base", bad) for bad in (0, -0.1, 31.0, float("nan"))),
        *(("cap", bad) for bad in (0.05, float("inf"), float("nan"))),
    ],
)
def test_bad_policy_is_refused(field, bad):
    """The message names the field."""
    with pytest.raises(ValueError, match=field):
        RetryPolicy(**{field: bad})
