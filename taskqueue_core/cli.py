"""The `taskqueue` command: run a task file over a folder of images, and look into a ledger."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from taskqueue_core.database import SQLITE_VERSION, LedgerView, file_sizes
from taskqueue_core.errors import TaskQueueError
from taskqueue_core.logs import JsonFormatter, logger
from taskqueue_core.metrics import MetricsSnapshot
from taskqueue_core.objectstore import ObjectStore
from taskqueue_core.ownership import owner_alive, read_owner
from taskqueue_core.pool import WorkerPool
from taskqueue_core.processor import Processor, find_pillow
from taskqueue_core.queue import TaskQueue
from taskqueue_core.settings import DURABILITIES, QueueSettings
from taskqueue_core.task import Status, Task, TaskRecord
from taskqueue_core.taskfile import read_tasks

OK, SOME_FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
SHOWN = 10
"""How many failed tasks are shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; its exit status: 0, 1 when tasks failed or time ran out, 2 for bad input, 130 when
    interrupted.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.command(arguments)
    except TimeoutError as error:
        print(f"taskqueue: {error}; the same command goes on with them", file=sys.stderr)
        return SOME_FAILED
    except (TaskQueueError, ValueError, OSError) as error:
        print(f"taskqueue: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(
            "taskqueue: interrupted; what was submitted is in the ledger, and the same command goes on with it",
            file=sys.stderr,
        )
        return INTERRUPTED
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="taskqueue", description="A durable, bounded task queue over SQLite.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="make the image variants that a task file names")
    run.set_defaults(command=_run)
    run.add_argument("tasks", help='a JSON list of {"image_key": "cat.jpg", "variant": "200x200"}')
    run.add_argument("--store", default=".", metavar="DIR", help="folder of the source images (default: here)")
    run.add_argument("--outputs", metavar="DIR", help="folder for the results (default: outputs, in the store)")
    run.add_argument("--ledger", default="tasks.db", metavar="FILE", help="the ledger (default: tasks.db)")
    run.add_argument("--workers", type=int, metavar="N", help="worker threads (default: 8)")
    run.add_argument("--queue-size", type=int, metavar="N", help="places for waiting tasks (default: 200)")
    run.add_argument("--durability", choices=DURABILITIES, help="what accepted tasks survive (default: power)")
    run.add_argument(
        "--timeout", type=float, metavar="S", help="stop after S seconds; what was submitted until then stays queued"
    )
    run.add_argument("--metrics", metavar="FILE", help="write the final metrics there, as JSON")
    run.add_argument("--replay", action="store_true", help="try the file's tasks that failed before again")
    run.add_argument("--log", action="store_true", help="log one JSON object a line to the error output")
    status = commands.add_parser("status", help="show a ledger, also while its owner is running")
    status.set_defaults(command=_status)
    status.add_argument("ledger")
    letters = commands.add_parser("dead-letters", help="list the tasks that failed for good, one JSON object a line")
    letters.set_defaults(command=_dead_letters)
    letters.add_argument("ledger")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    tasks = read_tasks(arguments.tasks)
    settings = _settings(arguments)
    if not Path(arguments.store).is_dir():
        raise ValueError(f"there is no folder {arguments.store!r} to take the images from: name it with --store")
    if find_pillow() is None:
        print("taskqueue: Pillow is not installed: objects are compressed, no thumbnails are made", file=sys.stderr)
    if arguments.log:
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    outputs = ObjectStore(arguments.outputs or Path(arguments.store) / "outputs")
    processor = Processor(ObjectStore(arguments.store), outputs=outputs)
    with TaskQueue(processor, ledger=arguments.ledger, settings=settings) as queue:
        if arguments.replay:
            _replay(queue, tasks)
        snapshot = WorkerPool(queue, metrics_path=arguments.metrics).run(tasks, timeout=arguments.timeout)
        failed = [record for task in tasks if (record := queue.get(task.key)) and record.status is Status.FAILED]
    print(_summary(snapshot))
    _print_failed(list({record.id: record for record in failed}.values()), arguments.ledger)
    return SOME_FAILED if failed else OK


def _print_failed(records: Sequence[TaskRecord], ledger: str) -> None:
    for record in records[:SHOWN]:
        print(f"failed: {record.idempotency_key}: {record.error}", file=sys.stderr)
    if len(records) > SHOWN:
        print(f"... {len(records) - SHOWN:,} more: taskqueue dead-letters {ledger}", file=sys.stderr)
    if records:
        print("once the cause is mended, the same command with --replay tries them again", file=sys.stderr)


def _replay(queue: TaskQueue, tasks: Sequence[Task]) -> None:
    for key in {task.key for task in tasks}:
        record = queue.get(key)
        if record is not None and record.status is Status.FAILED:
            queue.replay(key)


def _settings(arguments: argparse.Namespace) -> QueueSettings:
    """TASKQUEUE_* from the environment; the command line wins."""
    given = {
        "max_workers": arguments.workers,
        "queue_size": arguments.queue_size,
        "durability": arguments.durability,
    }
    return replace(QueueSettings.from_env(), **{name: value for name, value in given.items() if value is not None})


def _summary(metrics: MetricsSnapshot) -> str:
    rate = metrics.succeeded / metrics.elapsed_s if metrics.elapsed_s else 0.0
    return (
        f"success {metrics.succeeded:,}   failed {metrics.failed:,}   duplicates {metrics.duplicates:,}   "
        f"retried {metrics.retried:,}   in {metrics.elapsed_s:.2f} s ({rate:,.0f} /s)   "
        f"latency mean {metrics.latency_mean_s:.3f} s  P95 {metrics.latency_p95_s:.3f} s"
    )


def _status(arguments: argparse.Namespace) -> int:
    path = Path(arguments.ledger)
    with LedgerView.inspect(path) as view:
        counts, oldest, letters = view.counts(), view.oldest_queued(), view.dead_letters()
        retrying = len(view.retry_waiting())
    owner = f"owner pid {read_owner(path)} (running)" if owner_alive(path) else "no owner"
    size, wal = file_sizes(path)
    print(f"{path}   {owner}   SQLite {SQLITE_VERSION}   {_bytes(size)} + WAL {_bytes(wal)}")
    waits = (
        f"oldest {max(time.time() - oldest, 0):.1f} s; {retrying:,} waiting for a retry" if oldest else "none waiting"
    )
    open_letters = [letter for letter in letters if letter.replayed_at is None]
    poison = sum(letter.reason == "poison" for letter in open_letters)
    print(
        f"queued {counts[Status.QUEUED]:,} ({waits})   running {counts[Status.RUNNING]:,}   "
        f"success {counts[Status.SUCCESS]:,}   failed {counts[Status.FAILED]:,} "
        f"({len(open_letters):,} dead letters, {poison:,} poison)"
    )
    return OK


def _dead_letters(arguments: argparse.Namespace) -> int:
    with LedgerView.inspect(arguments.ledger) as view:
        for letter in view.dead_letters():
            print(json.dumps(asdict(letter), ensure_ascii=False))
    return OK


def _bytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
