"""A process that forks while a queue is open in it."""

from __future__ import annotations

import json
import os
import select
import signal
import warnings
from collections.abc import Callable
from typing import Any

from pytest_taskqueue.conformance.player import one_line

SOON = 1.0
"""Seconds for the result of a task that was accepted where it should not have been."""


def forked(submit: Callable[[], Any], seconds: float) -> dict[str, str]:
    """What a submit in a forked child leads to: `refused`, `accepted` or `hung`, and how."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there are threads is the point
        pid = os.fork()
    if pid == 0:
        _in_child(submit, writer)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], seconds + SOON)
        answer = os.read(reader, 65536) if ready else b'{"hung": "submit does not come back"}'
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
    found: dict[str, str] = json.loads(answer or b'{"hung": "the child ended without an answer"}')
    return found


def _in_child(submit: Callable[[], Any], writer: int) -> None:
    """Never returns."""
    try:
        os.write(writer, json.dumps(_tried(submit)).encode())
    finally:
        os._exit(0)


def _tried(submit: Callable[[], Any]) -> dict[str, str]:
    try:
        given = submit()
        try:
            return {"accepted": f"done, with the result {given.result(SOON)!r:.60}"}
        except TimeoutError as error:
            return {"refused": one_line(error)} if str(error) else {"accepted": "and never done"}
    except Exception as error:  # noqa: BLE001 - it is the answer
        return {"refused": one_line(error)}
