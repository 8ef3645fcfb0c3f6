"""The `taskqueue` command: run a task file over a folder of images, and look into a ledger."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from taskqueue_core.check import check, check_lines
from taskqueue_core.closing import CloseReport
from taskqueue_core.database import LedgerView
from taskqueue_core.exits import EXPECTED, INTERRUPTED, OK, WRONG, drop_output, explain, leave, say
from taskqueue_core.logs import JsonFormatter, logger
from taskqueue_core.metrics import MetricsSnapshot
from taskqueue_core.objectstore import ObjectStore
from taskqueue_core.options import make_parser
from taskqueue_core.processor import Processor, find_pillow
from taskqueue_core.run import Run
from taskqueue_core.settings import QueueSettings
from taskqueue_core.signals import Signals
from taskqueue_core.status import plural, status_lines
from taskqueue_core.task import TaskRecord
from taskqueue_core.taskfile import read_tasks

HANDLED_SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGBREAK") if name in signal.Signals.__members__
)
"""The signals that end `run` gracefully. SIGBREAK is what Windows sends for Ctrl-Break."""
SHOWN = 10
"""How many failed or stuck tasks are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status: 0, 1 when tasks failed, time ran out or a ledger is damaged, 2 for bad
    input, 128 + the number of the signal that ended it, 141 when nobody reads its output any more.

    When tasks are stuck in their threads at the end of `run`, it does not return: it ends the process (os._exit).
    """
    try:
        try:
            return _command(argv)
        finally:
            if sys.stdout is not None:  # now, and not when Python exits: it would show a traceback
                sys.stdout.flush()
    except BrokenPipeError:
        return drop_output()


def _command(argv: Sequence[str] | None) -> int:
    arguments = make_parser().parse_args(argv)
    try:
        return _COMMANDS[arguments.command](arguments)
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        return explain(error)
    except KeyboardInterrupt:
        say("interrupted")
        return INTERRUPTED


def _run(arguments: argparse.Namespace) -> int:
    tasks = read_tasks(arguments.tasks)
    settings = _settings(arguments)
    processor = _processor(arguments)
    if arguments.log:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    run = Run(tasks, close_timeout=arguments.close_timeout, replay=arguments.replay)
    with Signals(HANDLED_SIGNALS) as signals:
        error = run.execute(
            processor,
            signals,
            ledger=arguments.ledger,
            settings=settings,
            timeout=arguments.timeout,
            on_signal=lambda: _say_closing(signals, arguments.close_timeout),
        )
        try:
            status = _end(run, error, signals, arguments)
        finally:
            if run.stuck:
                leave(signals.status or WRONG)
    return status


def _processor(arguments: argparse.Namespace) -> Processor:
    if not Path(arguments.store).is_dir():
        raise ValueError(f"there is no folder {arguments.store!r} to take the images from: name it with --store")
    if find_pillow() is None:
        say("Pillow is not installed: objects are compressed, no thumbnails are made")
    outputs = ObjectStore(arguments.outputs or Path(arguments.store) / "outputs")
    return Processor(ObjectStore(arguments.store), outputs=outputs)


def _settings(arguments: argparse.Namespace) -> QueueSettings:
    """TASKQUEUE_* from the environment; the command line wins."""
    given = {
        "max_workers": arguments.workers,
        "queue_size": arguments.queue_size,
        "durability": arguments.durability,
    }
    return replace(QueueSettings.from_env(), **{name: value for name, value in given.items() if value is not None})


def _say_closing(signals: Signals, timeout: float) -> None:
    name = "" if signals.first is None else signals.first.name
    say(
        f"{name}: closing: nothing more is submitted, running tasks have {timeout:g} s to finish, the others stay "
        "queued; another signal leaves at once"
    )


def _end(run: Run, error: Exception | None, signals: Signals, arguments: argparse.Namespace) -> int:
    """Tell how the run ended; its exit status."""
    status = OK if error is None else explain(error)
    if run.report is not None and (signals.first or error or run.stuck):
        _say_left(run.report, arguments.ledger, goes_on=signals.first is not None or run.report.waiting != 0)
    if run.metrics is not None:
        print(_summary(run.metrics))
        if arguments.metrics:
            Path(arguments.metrics).write_text(run.metrics.to_json() + "\n", encoding="utf-8")
    _say_failed(run.failed, arguments.ledger)
    if signals.status is not None:
        return signals.status
    return WRONG if run.failed else status


def _say_left(report: CloseReport, ledger: str, *, goes_on: bool) -> None:
    waiting = plural(report.waiting, "task") + (" waits" if report.waiting == 1 else " wait")
    if report.waiting < 0:
        waiting = "an unknown number of tasks waits"
    rest = "; the same command goes on" if goes_on else ""
    say(f"closed in {report.elapsed_s:.1f} s: {waiting} in {ledger}, {len(report.stuck):,} stuck{rest}")
    for key in report.stuck[:SHOWN]:
        say(f"stuck: {key}: its thread cannot be ended, and is left behind")


def _say_failed(records: Sequence[TaskRecord], ledger: str) -> None:
    for record in records[:SHOWN]:
        print(f"failed: {record.idempotency_key}: {record.error}", file=sys.stderr)
    if len(records) > SHOWN:
        print(f"... {len(records) - SHOWN:,} more: taskqueue dead-letters {ledger}", file=sys.stderr)
    if records:
        print("once the cause is mended, the same command with --replay tries them again", file=sys.stderr)


def _summary(metrics: MetricsSnapshot) -> str:
    rate = metrics.succeeded / metrics.elapsed_s if metrics.elapsed_s else 0.0
    return (
        f"success {metrics.succeeded:,}   failed {metrics.failed:,}   duplicates {metrics.duplicates:,}   "
        f"retried {metrics.retried:,}   in {metrics.elapsed_s:.2f} s ({rate:,.0f} /s)   "
        f"latency mean {metrics.latency_mean_s:.3f} s  P95 {metrics.latency_p95_s:.3f} s"
    )


def _status(arguments: argparse.Namespace) -> int:
    print(*status_lines(Path(arguments.ledger)), sep="\n")
    return OK


def _dead_letters(arguments: argparse.Namespace) -> int:
    with LedgerView.inspect(arguments.ledger) as view:
        for letter in view.dead_letters():
            print(json.dumps(asdict(letter), ensure_ascii=False))
    return OK


def _check(arguments: argparse.Namespace) -> int:
    path = Path(arguments.ledger)
    found = check(path, quick=arguments.quick)
    print(*check_lines(path, found, quick=arguments.quick), sep="\n")
    return OK if found.sound else WRONG


_COMMANDS = {"run": _run, "status": _status, "dead-letters": _dead_letters, "check": _check}
