"""Promises that need a process of their own: kill -9 and fork."""

from __future__ import annotations

import os
from typing import Any

from pytest_taskqueue.conformance.address import address
from pytest_taskqueue.conformance.outcomes import Broken, Untried
from pytest_taskqueue.conformance.processes import Order, Process
from pytest_taskqueue.conformance.script import strange
from pytest_taskqueue.conformance.stage import Stage
from pytest_taskqueue.subjects import Promise
from pytest_taskqueue.wording import count


def durable(stage: Stage) -> str:
    """A process is killed with tasks that are done, worked on and waiting; another one opens the queue again.

    What `submit` has returned for was noted outside of the queue, on disk, before the kill.
    """
    with Process(_order(stage, "work")) as process:
        pid = process.answer()["pid"]
    with Process(_order(stage, "recover")) as process:
        found = process.answer()
    keys, missing, others = found["keys"], found["missing"], found["others"]
    for problem in strange(others):
        more = len(missing) - len(others)
        raise Broken(problem + (f"; {count(more, 'acknowledged task')} lost by kill -9" if more > 0 else ""))
    if missing:
        lost = f"{len(missing)} of {count(len(keys), 'acknowledged task')} lost by kill -9"
        raise Broken(f"{lost}: {_share(missing, keys, 'running')}, {_share(missing, keys, 'waiting')}")
    _expect_stored(found, pid)
    stored = "; those done before answered with the stored result" if found["again"] else ""
    running, waiting = (sum(key.startswith(kind) for key in keys) for kind in ("running", "waiting"))
    return f"{len(keys)} acknowledged, kill -9 with {running} running and {waiting} waiting: all done after it{stored}"


def _share(missing: list[str], keys: list[str], kind: str) -> str:
    lost, there = (sum(key.startswith(kind) for key in names) for names in (missing, keys))
    return f"{lost} of {there} that were {kind}"


def _expect_stored(found: dict[str, Any], pid: int) -> None:
    if repeated := found["repeated"]:
        raise Broken(f"{count(len(repeated), 'task')} done before kill -9, submitted after it: worked on again")
    if (values := [*found["again"].values()]) != [pid] * len(values):
        raise Broken(f"tasks done before kill -9, submitted after it: the results {values}, where each was {pid}")


def fork_safe(stage: Stage) -> str:
    """In a process of its own, with an open queue: the forked child submits, then the parent."""
    if not hasattr(os, "fork"):
        raise Untried("this system cannot fork")
    with Process(_order(stage, "fork")) as process:
        found = process.answer()
    answer = found["answer"]
    if "refused" not in answer:
        how, what = next(iter(answer.items()))
        raise Broken(f"a submit in a forked child: {how}, {what}", hung=how == "hung")
    if found["harm"]:
        raise Broken(f"after the fork the parent does not go on as before: {found['harm']}")
    return f"a submit in a forked child: {answer['refused']}; the parent went on and closed"


def _order(stage: Stage, part: str) -> Order:
    return Order(
        part=part,
        address=address(stage.cast.name, stage.cast.factory),
        folder=str(stage.folder),
        patience=stage.patience,
        deduplicates=Promise.DEDUPLICATES in stage.cast.promised,
    )
