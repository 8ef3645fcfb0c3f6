"""Hooks of this plugin, for a `conftest.py` or another plugin: `def pytest_taskqueue_subjects(): ...`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from pytest_taskqueue.subjects import SubjectFactory


def pytest_taskqueue_subjects(config: pytest.Config) -> Mapping[str, SubjectFactory]:  # type: ignore[empty-body]
    """Give queues a name for --tq-baseline, --tq-optimized, --tq-subject and the marker tq_compare.

    Returns names and classes (or functions of a Setup, see pytest_taskqueue.subjects). All answers count; a name that
    is given twice, or is a built-in one, is an error. Called once in each run that uses such a name. Since 0.1.

        def pytest_taskqueue_subjects():
            return {"old": OldQueue, "new": NewQueue}
    """


def pytest_taskqueue_workloads(config: pytest.Config) -> Mapping[str, Callable[[int], Any]]:  # type: ignore[empty-body]
    """Give workloads a name for --tq-workload and the marker tq_compare.

    Returns names and classes that are called with the seed (see pytest_taskqueue.workloads.OwnWorkload). All answers
    count, as above. Since 0.1.

        def pytest_taskqueue_workloads():
            return {"invoices": Invoices}
    """
