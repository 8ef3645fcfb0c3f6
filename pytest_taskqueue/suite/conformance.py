"""The promises of a queue as test items: `pytest --pyargs pytest_taskqueue.suite.conformance --tq-subject NAME`."""

from __future__ import annotations

import pytest

from pytest_taskqueue.conformance import Status, table
from pytest_taskqueue.conformance.checks import CHECKS, Check
from pytest_taskqueue.examining import OUTCOME, RUN


@pytest.fixture(autouse=True)
def _fit(check: Check, request: pytest.FixtureRequest) -> None:
    """There is a queue that can be examined."""
    request.config.stash[RUN].fit(request.node, check)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_promise(check: Check, request: pytest.FixtureRequest) -> None:
    """It is kept; skipped where it is not promised, and what was found is the reason."""
    outcome = request.config.stash[RUN].examination.outcome(check)
    request.node.stash[OUTCOME] = outcome
    if outcome.status is Status.BROKEN:
        pytest.fail(table.failure_text(outcome), pytrace=False)
    if outcome.status is not Status.KEPT:
        pytest.skip(f"{outcome.status}: {outcome.evidence}")
