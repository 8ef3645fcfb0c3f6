"""What the scripts at the top of the project do: parse, measure or run, print. Each returns its exit status."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

from pytest_taskqueue import report
from pytest_taskqueue.campaign import Campaign
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.comparison import declaration
from pytest_taskqueue.config import INI_PREFIX, OPTIONS, CompareConfig, dotenv, resolve
from pytest_taskqueue.hangs import watch_exit
from pytest_taskqueue.input_new.generate_tasks import generate
from pytest_taskqueue.load import ClosedLoop
from pytest_taskqueue.results import ComparisonResult, Standing
from pytest_taskqueue.slots import SlotRunner
from pytest_taskqueue.verdict import Verdict, worst
from taskqueue_core import (
    MetricsSnapshot,
    ObjectStore,
    Processor,
    Task,
    TaskQueue,
    TaskQueueError,
    WorkerPool,
    read_tasks,
)

USAGE, INTERRUPTED = 2, 130
WARMUP_S, WINDOW_S = 1.0, 5.0


def compare(argv: Sequence[str] | None = None, *, root: Path, clients: str = "", program: str) -> int:
    """Compare two queues and print the verdict of every client count.

    Results go below `root`. Exit status: 0 PASS, 1 FAIL, 2 usage, 3 INCONCLUSIVE, 4 INVALID; the worst counts.
    """
    parser = _compare_parser(program, clients)
    given = {name: ",".join(v) if isinstance(v, list) else v for name, v in vars(parser.parse_args(argv)).items()}
    defaults = {INI_PREFIX + "clients": clients}
    try:
        config = resolve(given, {**dotenv(root), **os.environ}, defaults.get, prefix="--")
        campaign = Campaign(config, root, shlex.join([program, *(sys.argv[1:] if argv is None else argv)]), _print_slot)
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return USAGE
    print("\n".join(declaration(config)), flush=True)
    try:
        return worst(_compare_one(campaign, count) for count in config.clients).exit_status
    except OSError as error:  # no room for the ledgers or the results: nothing that a queue did
        print(f"{program}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"{program}: interrupted; a comparison that was not finished has no verdict", file=sys.stderr)
        return INTERRUPTED


def leave(status: int) -> NoReturn:
    """End the script. Threads that a measured queue has left behind are not waited for."""
    watch_exit(status, [threading.main_thread()])
    sys.exit(status)


def _compare_parser(program: str, clients: str) -> argparse.ArgumentParser:
    """The options of --tq-compare, without their prefix."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Run a baseline queue and an optimized queue under the same load and decide.",
        epilog="Exit status: 0 PASS, 1 FAIL, 2 bad options, or no room for ledgers or results, 3 INCONCLUSIVE, "
        "4 INVALID, 130 interrupted; of several client counts the worst.",
    )
    for option in OPTIONS:
        default = clients if clients and option.name == "clients" else option.default
        names = (option.flag("--"), option.flag())  # the texts of a comparison name them as pytest does
        help_text = f"{option.help} (default: {default})"
        parser.add_argument(*names, dest=option.name, help=help_text, **option.arguments())
    return parser


def _compare_one(campaign: Campaign, clients: int) -> Verdict:
    try:
        result = campaign.result(clients)
    except OSError:
        if clients not in campaign.files:
            raise
        _print_result(campaign.result(clients), [])  # it was measured; only its files could not be written
        raise
    _print_result(result, campaign.files[clients])
    return result.verdict


def _print_result(result: ComparisonResult, files: Sequence[Path]) -> None:
    print(f"\n{result.clients} clients\n" + "\n".join(report.table(result)) + "\n")
    if text := report.failure_text(result):
        print(text + "\n")
    print(report.verdict_line(result))
    print("report: " + "  ".join(map(str, files)) if files else "report: none", flush=True)


def _print_slot(standing: Standing) -> None:
    print(report.progress_line(standing), flush=True)


def optimized(argv: Sequence[str] | None = None) -> int:
    """Run tasks through the optimized queue, or with --benchmark measure it alone.

    Exit status: 0, 1 when tasks failed, 2 for bad input, 4 when the measured queue did wrong work.
    """
    parser = _optimized_parser()
    arguments = parser.parse_args(argv)
    if arguments.benchmark and arguments.tasks is not None:
        parser.error("--benchmark measures tasks of its own: leave the task file out")
    if arguments.images is not None and arguments.tasks is None:
        parser.error("--images is where the images of a task file are: name the file, too")
    run: Callable[[argparse.Namespace], int] = _benchmark if arguments.benchmark else _run
    try:
        return run(arguments)
    except (TaskQueueError, ValueError, OSError) as error:
        print(f"task_queue_optimized.py: {error}", file=sys.stderr)
        return USAGE


def _optimized_parser() -> argparse.ArgumentParser:
    text = "Run tasks through the durable queue; with --benchmark measure it under a closed loop of clients."
    parser = argparse.ArgumentParser(prog="task_queue_optimized.py", description=text)
    parser.add_argument("--workers", type=_positive, default=8, metavar="N", help="worker threads (default: 8)")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="seed of the tasks (default: 7)")
    run = parser.add_argument_group("to run tasks")
    run.add_argument("tasks", nargs="?", help="a task file (default: generated tasks)")
    run.add_argument(
        "--images",
        metavar="DIR",
        help="folder of the images (default: images, beside the task file; generated ones if that is missing)",
    )
    run.add_argument("--count", type=_positive, default=300, metavar="N", help="tasks to generate (default: 300)")
    run.add_argument(
        "--round-trip",
        type=float,
        default=0.002,
        metavar="S",
        help="simulated round trip of the object store per get and per put, in seconds (default: 0.002)",
    )
    benchmark = parser.add_argument_group("to measure; the tasks are those of a comparison")
    benchmark.add_argument("--benchmark", action="store_true", help="print throughput, mean, P95 and error rate")
    benchmark.add_argument("--clients", type=_positive, default=100, metavar="N", help="client threads (default: 100)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _benchmark(arguments: argparse.Namespace) -> int:
    """The optimized arm alone, in one slot as in a comparison. A comparison says more: machines differ."""
    config: CompareConfig = resolve(
        {"workers": str(arguments.workers), "seed": str(arguments.seed)}, {}, lambda _: None
    )
    workload, queue = Catalogue().workload("thumbnail", config.seed), Catalogue().subject("optimized")
    with tempfile.TemporaryDirectory(prefix="taskqueue-", ignore_cleanup_errors=True) as folder:
        runner = SlotRunner(workload, config, arguments.clients, Path(folder))
        for window in (WARMUP_S, WINDOW_S):
            slot = runner.run("optimized", queue, partial(ClosedLoop.run, window=window)).result
    figures = slot.figures
    print(f"optimized queue alone: {workload.text}; {arguments.clients} clients, {arguments.workers} workers")
    print(f"throughput  {figures.throughput:,.1f} tasks/s")
    print(f"mean        {figures.mean_s:.3f} s")
    print(f"P95         {figures.p95_s:.3f} s")
    print(f"error rate  {figures.errors / max(figures.tasks, 1):.2%}")
    for problem in slot.problems:
        print(f"INVALID: {problem}", file=sys.stderr)
    return Verdict.INVALID.exit_status if slot.problems else 0


def _run(arguments: argparse.Namespace) -> int:
    """All tasks of a file, or generated ones, through the queue, with a ledger that is thrown away."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="taskqueue-", ignore_cleanup_errors=True)))
        tasks, images = _inputs(arguments, folder)
        store = ObjectStore(images, round_trip=arguments.round_trip)
        outputs = ObjectStore(folder / "outputs", round_trip=arguments.round_trip)
        queue = stack.enter_context(
            TaskQueue(Processor(store, outputs=outputs), ledger=folder / "tasks.db", max_workers=arguments.workers)
        )
        started = time.perf_counter()
        metrics = WorkerPool(queue).run(tasks)
        _print_run(len(tasks), time.perf_counter() - started, metrics)
        for letter in queue.dead_letters():
            print(f"failed: {letter.idempotency_key}: {letter.error}", file=sys.stderr)
    return 1 if metrics.failed else 0


def _inputs(arguments: argparse.Namespace, folder: Path) -> tuple[list[Task], Path]:
    """The tasks and the folder of their images; what is missing is generated."""
    if arguments.tasks is None:
        return _generated(arguments, folder)
    tasks = read_tasks(arguments.tasks)
    images = Path(arguments.images or Path(arguments.tasks).parent / "images")
    if images.is_dir():
        return tasks, images
    if arguments.images is not None:
        raise ValueError(f"there is no folder {arguments.images!r} to take images from")
    return tasks, _generated(arguments, folder)[1]


def _generated(arguments: argparse.Namespace, folder: Path) -> tuple[list[Task], Path]:
    generate(folder, count=arguments.count, seed=arguments.seed)
    return read_tasks(folder / "tasks.json"), folder / "images"


def _print_run(tasks: int, elapsed: float, metrics: MetricsSnapshot) -> None:
    print(f"tasks       {tasks:,} ({metrics.duplicates:,} duplicates, {metrics.failed:,} failed)")
    print(f"elapsed     {elapsed:.2f} s")
    print(f"throughput  {tasks / elapsed:,.1f} tasks/s")
    print(f"mean        {metrics.latency_mean_s:.3f} s (from submit to the committed result)")
    print(f"P95         {metrics.latency_p95_s:.3f} s")
