"""Real thumbnails, disk to disk: a 1600x1200 JPEG becomes one of 200x200 at most."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

from input_new.generate_tasks import GRAIN, QUALITY, make_images
from taskqueue_core import ObjectStore, Processor, Task, TaskQueue, output_key
from tests.benchmarks.measurement import Figures, Setting, check_done, main

TASKS = 400
IMAGES = 8
SIZE = (1600, 1200)  # pixels
VARIANT = "200x200"
SEED = 7


class Job:
    """The images, the tasks, and the processor that all contenders share."""

    def __init__(self, setting: Setting) -> None:
        source = setting.directory / "source"
        names = make_images(source, images=IMAGES, seed=SEED)
        for name in names:
            _enlarge(source / name)
        self.outputs = setting.directory / "outputs"
        self.outputs.mkdir()
        self.processor = Processor(ObjectStore(source), outputs=ObjectStore(self.outputs))
        count = setting.count(TASKS)
        self.tasks = [Task(names[n % IMAGES], VARIANT, idempotency_key=f"t{n}") for n in range(count)]

    def direct(self, task: Task) -> None:
        """The same work without a queue: the output gets its name, nothing is synced or written down."""
        made = Path(self.processor(task).temp_path)
        made.replace(made.with_name(output_key(task.key, made.suffix)))

    def rate(self, run: Callable[[], object]) -> Figures:
        """Thumbnails per second, counted on the disk."""
        start = perf_counter()
        run()
        seconds = perf_counter() - start
        check_done(len(self.tasks), sum(1 for path in self.outputs.iterdir() if not path.name.startswith(".")))
        return {"rate": len(self.tasks) / seconds}


def loop(setting: Setting) -> Figures:
    """One after the other."""
    job = Job(setting)
    return job.rate(lambda: deque(map(job.direct, job.tasks), maxlen=0))


def tpe(setting: Setting) -> Figures:
    """ThreadPoolExecutor, which keeps nothing."""
    job = Job(setting)
    with ThreadPoolExecutor(setting.workers) as executor:
        return job.rate(lambda: [future.result() for future in [executor.submit(job.direct, t) for t in job.tasks]])


def taskqueue(setting: Setting) -> Figures:
    """TaskQueue, durable against power loss: tasks, results and files."""
    job = Job(setting)
    with TaskQueue(job.processor, ledger=setting.ledger, max_workers=setting.workers) as queue:
        return job.rate(lambda: [future.result() for future in [queue.submit(task) for task in job.tasks]])


def _enlarge(path: Path) -> None:
    """Bring a generated photo to full size, with grain of its own: without it a decoder has little to do."""
    from PIL import Image

    with Image.open(path) as small:
        large = small.resize(SIZE, Image.Resampling.BICUBIC)
    grain = Image.frombytes("RGB", SIZE, random.Random(path.name).randbytes(SIZE[0] * SIZE[1] * 3))
    Image.blend(large, grain, GRAIN).save(path, "JPEG", quality=QUALITY)


if __name__ == "__main__":
    main({"loop": loop, "tpe": tpe, "taskqueue-power": taskqueue})
