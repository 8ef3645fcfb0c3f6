"""The original queue: worker threads, a list, a lock. Frozen: it is what the optimized queue is measured against.

It is what such code really looks like, and no worse. One file, standard library, and Pillow when it is there; it
imports nothing of this project. Its known defects, and how to see each of them, are in notes.md.

    python baseline_task_queue_v2.py                          # 300 generated tasks
    python baseline_task_queue_v2.py sample_tasks_small.json  # the tasks of a file
"""

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

try:
    from PIL import Image
except ImportError:
    Image = None  # type: ignore[assignment]

CHUNK = 65536  # bytes


class Handle:
    """What submit() returns: one task and how it ended."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task = task
        self.output: Path | None = None
        self.error: Exception | None = None
        self.done = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds; return whether the task is done, well or with `error`."""
        return self.done.wait(timeout)


class BaselineTaskQueue:
    """A thread pool plus a list and a lock.

    `round_trip` is the simulated way to the object store in seconds, spent once for the get and once for the put.
    `source` is the folder of the objects, `output` the folder for the results, made when needed.
    """

    def __init__(
        self,
        workers: int = 8,
        round_trip: float = 0.002,
        *,
        source: str | Path = ".",
        output: str | Path = "output",
    ) -> None:
        self.round_trip = round_trip
        self.source = Path(source)
        self.output = Path(output)
        self._lock = threading.Lock()  # THE global lock: whoever works on a task holds it
        mutex = threading.Lock()  # guards the list, the count and the flag, so that submit() waits for no task
        self._arrived = threading.Condition(mutex)
        self._finished = threading.Condition(mutex)
        self._tasks: list[Handle] = []  # first in, first out, without a bound
        self._unfinished = 0
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"baseline-{number}", daemon=True) for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: dict[str, Any]) -> Handle:
        """Put a task at the end of the list; raise RuntimeError after stop()."""
        handle = Handle(task)
        with self._arrived:
            if self._stopped:
                raise RuntimeError("the queue is stopped: it takes no more tasks")
            self._tasks.append(handle)
            self._unfinished += 1
            self._arrived.notify()
        return handle

    def pending(self) -> int:
        """Return how many tasks wait in the list."""
        return len(self._tasks)

    def join(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds; return whether all tasks are done (those stop() dropped never are)."""
        with self._finished:
            self._finished.wait_for(lambda: self._stopped or self._unfinished == 0, timeout)
            return self._unfinished == 0

    def stop(self) -> None:
        """End the workers after the task they work on, and wait for them. Waiting tasks are dropped."""
        with self._arrived:
            self._stopped = True
            self._tasks.clear()
            self._arrived.notify_all()
            self._finished.notify_all()
        for thread in self._threads:
            thread.join()

    def process(self, task: dict[str, Any]) -> Path:
        """Get the object, make the variant, put the result; return its path."""
        source = self.source / task["image_key"]
        name = task.get("idempotency_key") or f"{source.stem}_{task['variant']}"
        self.output.mkdir(parents=True, exist_ok=True)
        if Image is None:
            return self._compress(source, self.output / f"{name}.bin", task["variant"])
        return self._thumbnail(source, self.output / f"{name}.jpg", task["variant"])

    def _thumbnail(self, source: Path, output: Path, variant: str) -> Path:
        width, height = (int(side) for side in variant.split("x"))
        time.sleep(self.round_trip)  # the get
        image: Image.Image = Image.open(BytesIO(source.read_bytes()))
        image.thumbnail((width, height))
        if image.mode != "RGB":
            image = image.convert("RGB")
        time.sleep(self.round_trip)  # the put
        with output.open("wb") as file:
            image.save(file, "JPEG", quality=85)
        return output

    def _compress(self, source: Path, output: Path, variant: str) -> Path:
        """Stand in for the thumbnail where there is no Pillow."""
        packer = zlib.compressobj(6)
        time.sleep(self.round_trip)  # the get
        with source.open("rb") as reader:
            time.sleep(self.round_trip)  # the put
            with output.open("wb") as writer:
                writer.write(packer.compress(f"{variant}\n".encode()))
                while chunk := reader.read(CHUNK):
                    writer.write(packer.compress(chunk))
                writer.write(packer.flush())
        return output

    def _work(self) -> None:
        while self._wait_for_task():
            with self._lock:
                # Taken under the global lock, so that no worker sits on an old task while the lock goes to others.
                handle = self._take()
                if handle is None:
                    continue
                try:
                    handle.output = self.process(handle.task)
                except Exception as error:  # noqa: BLE001 - kept on the handle, told nobody
                    handle.error = error
            handle.done.set()
            with self._finished:
                self._unfinished -= 1
                if self._unfinished == 0:
                    self._finished.notify_all()

    def _wait_for_task(self) -> bool:
        """Wait until the list has a task; return False when the queue is stopped."""
        with self._arrived:
            while not self._tasks and not self._stopped:
                self._arrived.wait()
            return not self._stopped

    def _take(self) -> Handle | None:
        """Return the oldest task, or None when another worker or stop() was faster."""
        with self._arrived:
            return self._tasks.pop(0) if self._tasks else None


# --- the stand-alone run ----------------------------------------------------------------------------------------------


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """Return the tasks of a file; raise ValueError, one line: the file, the position (from 1), what was expected."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path}: expected a readable task file: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON list of tasks, but this is not JSON: {error}") from error
    if not isinstance(tasks, list) or not tasks:
        raise ValueError(f"{path}: expected a JSON list of at least one task, got {_short(tasks)}")
    for position, task in enumerate(tasks, start=1):
        if fault := _fault(task):
            raise ValueError(f"{path}: task {position}: expected {fault}, got {_short(task)}")
    return tasks


def _fault(task: object) -> str:
    """Return what was expected of the task, or "" when nothing is wrong with it."""
    if not isinstance(task, dict):
        return "an object with image_key and variant"
    key, variant, unique = task.get("image_key"), task.get("variant"), task.get("idempotency_key", "")
    if not isinstance(key, str) or not key:
        return "an image_key, a non-empty string"
    if not isinstance(variant, str) or not re.fullmatch("[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", variant):
        return "a variant like '200x200'"
    if not isinstance(unique, str):
        return "an idempotency_key that is a string, or none"
    return ""


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def prepare(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], Path]:
    """Return the tasks and the folder of their images; what is missing is generated in `folder`.

    Raises ValueError when the task file is bad, CalledProcessError when nothing could be generated.
    """
    tasks = read_tasks(options.tasks) if options.tasks else []
    if options.images:
        return tasks, options.images
    if options.tasks and (options.tasks.parent / "images").is_dir():
        return tasks, options.tasks.parent / "images"
    script = Path(__file__).resolve().with_name("generate_tasks.py")
    arguments = ["--out", str(folder), f"--count={options.count}", f"--seed={options.seed}"]
    subprocess.run([sys.executable, str(script), *arguments], check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return tasks or read_tasks(folder / "tasks.json"), folder / "images"


def run(queue: BaselineTaskQueue, tasks: list[dict[str, Any]]) -> tuple[float, list[float], list[Exception]]:
    """Submit all tasks up front and wait for each; return elapsed seconds, latencies in seconds, errors."""
    started = time.perf_counter()
    submitted = [(time.perf_counter(), queue.submit(task)) for task in tasks]
    latencies = []
    for since, handle in submitted:
        while not handle.wait(1.0):
            pass  # short waits, because Windows cannot interrupt an endless one
        latencies.append(time.perf_counter() - since)  # they end in order, so nobody waits behind a later one
    elapsed = time.perf_counter() - started
    return elapsed, latencies, [handle.error for _, handle in submitted if handle.error is not None]


def report(elapsed: float, latencies: list[float], errors: list[Exception]) -> None:
    """Print the numbers of a run."""
    p95 = sorted(latencies)[math.ceil(0.95 * len(latencies)) - 1]  # nearest rank
    waiting = "incl. waiting in the list: all tasks are submitted up front"
    print(f"tasks         {len(latencies)}")
    print(f"elapsed       {elapsed:.3f} s")
    print(f"throughput    {len(latencies) / elapsed:.1f} tasks/s")
    print(f"mean latency  {sum(latencies) / len(latencies):.3f} s  ({waiting})")
    print(f"P95 latency   {p95:.3f} s  ({waiting})")
    print(f"errors        {len(errors)}" + (f"  (the first: {errors[0]!r})" if errors else ""))


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no duration in seconds")
    return number


def _folder(text: str) -> Path:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Run tasks through the original queue and print how long they took. Results are thrown away.",
        epilog="Exit status: 0 all tasks done, 1 some ended with an error, 2 bad arguments or a bad task file.",
    )
    parser.add_argument("tasks", nargs="?", type=Path, metavar="tasks.json", help="default: generated tasks")
    parser.add_argument(
        "--images",
        type=_folder,
        metavar="DIR",
        help="the images of tasks.json (default: the folder 'images' beside it, or else generated ones)",
    )
    parser.add_argument("--count", type=_positive, default=300, help="tasks to generate (default: %(default)s)")
    parser.add_argument("--workers", type=_positive, default=8, help="worker threads (default: %(default)s)")
    parser.add_argument(
        "--round-trip",
        type=_seconds,
        default=0.002,
        metavar="SECONDS",
        help="simulated way to the object store, spent for each get and each put (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=7, help="of what is generated (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.images and not options.tasks:
        parser.error("--images goes with a task file")
    with tempfile.TemporaryDirectory(prefix="baseline-") as name:
        folder = Path(name)
        try:
            tasks, images = prepare(options, folder)
        except (ValueError, subprocess.CalledProcessError) as error:
            print(error, file=sys.stderr)
            return 2
        print(f"baseline task queue v2: {options.workers} workers, one global lock")
        print(f"round trip    {options.round_trip:g} s, simulated, once for the get and once for the put of a task")
        print(f"work          {'the standard-library transform (zlib)' if Image is None else 'Pillow thumbnails'}")
        print(f"sources       {f'generated, seed {options.seed}' if folder in images.parents else images}")
        queue = BaselineTaskQueue(options.workers, options.round_trip, source=images, output=folder / "output")
        try:
            elapsed, latencies, errors = run(queue, tasks)
        finally:
            queue.stop()
    report(elapsed, latencies, errors)
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
