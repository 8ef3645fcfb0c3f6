"""What can be measured: anything with `submit(task) -> future` and `close(timeout)`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pytest_taskqueue.input_new.baseline_task_queue_v2 import BaselineTaskQueue, Handle
from pytest_taskqueue.workloads import Images, image_processor
from taskqueue_core import CloseReport, Output, Task, TaskQueue


class Subject(Protocol):
    """A queue under load. Two more methods are used where they are there: `depth() -> int`, how many tasks wait,
    and `output(task) -> Path`, where the output file of a task lies if not at `Images.output(task)`.
    """

    def submit(self, task: Task, /) -> Any:
        """Accept a task, from any of many threads; what comes back has `result(timeout)`, as a Future has."""

    def close(self, timeout: float) -> object:
        """End within `timeout` seconds and leave no thread and no open file."""


@dataclass(frozen=True, slots=True)
class Span:
    """From when to when a task was worked on; a queue that brings its own work tells only the end."""

    begun: float | None
    done: float

    @property
    def earliest(self) -> float:
        """The first moment at which it is known to have been in hand."""
        return self.done if self.begun is None else self.begun


class Tally:
    """Counts, inside the work itself, how often each task was worked on. Each thread has counts of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the lists, whose dictionaries have one writer each
        self._counts: list[dict[str, int]] = []
        self._spans: list[dict[str, Span]] = []
        self._local = threading.local()

    def count(self, key: str, begun: float | None = None, *, now: Callable[[], float] = time.perf_counter) -> None:
        """The work of this task is done; it was begun then, where that is known. The clock is bound here: replacing
        it elsewhere does not reach it.
        """
        if not hasattr(self._local, "counts"):
            self._local.counts, self._local.spans = {}, {}
            with self._lock:
                self._counts.append(self._local.counts)
                self._spans.append(self._local.spans)
        self._local.spans[key] = Span(begun, now())
        self._local.counts[key] = self._local.counts.get(key, 0) + 1

    def spans(self) -> dict[str, Span]:
        """When each task was worked on, by `time.perf_counter`; for when the threads have ended."""
        with self._lock:
            return {key: span for spans in self._spans for key, span in spans.copy().items()}

    def total(self) -> Counter[str]:
        """How often the work of each task was done; for when the threads have ended."""
        total: Counter[str] = Counter()
        with self._lock:
            for counts in self._counts:
                total.update(counts.copy())  # a worker that was left behind may still be counting
        return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a subject is made from, fresh for every slot.

    work        does one task, counts it and returns its value; the queue calls it once per task
    workers     how many threads may call it at once
    queue_size  how many tasks may wait
    directory   an empty folder for whatever the queue keeps
    images      for queues that bring their own image work: where it reads and writes; None for other workloads
    tally       what such a queue must tell of each task once its own work is done
    """

    work: Callable[[Task], Any]
    workers: int
    queue_size: int
    directory: Path
    images: Images | None = None
    tally: Tally = field(default_factory=Tally)


SubjectFactory = Callable[[Setup], Subject]


class BaselineSubject:
    """The original queue of input_new, which makes thumbnails by itself."""

    def __init__(self, setup: Setup) -> None:
        self._queue = _CountedBaseline(setup)
        self._images = setup.images

    def submit(self, task: Task) -> _HandleFuture:
        """Its tasks are dictionaries, its handles can only be waited for."""
        fields = {"image_key": task.image_key, "variant": task.variant, "params": dict(task.params)}
        return _HandleFuture(self._queue.submit({**fields, "idempotency_key": task.key}))

    def close(self, timeout: float) -> None:
        """Wait for all tasks, then stop: `stop` alone drops those that wait."""
        self._queue.join(timeout)
        self._queue.stop()

    def depth(self) -> int:
        """How many tasks wait."""
        return self._queue.pending()

    def output(self, task: Task) -> Path:
        """It names its results after their tasks."""
        assert self._images is not None
        return self._images.outputs / f"{task.key}{self._images.suffix}"


class _CountedBaseline(BaselineTaskQueue):
    """The original, told to count, and to do another workload than images where there is one."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        images = setup.images
        if images is None:
            super().__init__(setup.workers, 0.0)
        else:
            super().__init__(setup.workers, images.round_trip, source=images.source, output=images.outputs)

    def process(self, task: dict[str, Any]) -> Any:
        key = task["idempotency_key"]
        if self._setup.images is None:
            return self._setup.work(Task(task["image_key"], task["variant"], task["params"], key))
        path = super().process(task)
        self._setup.tally.count(key)
        return path


class _HandleFuture:
    """A handle of the original queue, as far as the load needs a future."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def result(self, timeout: float | None = None) -> Any:
        """Wait; raise what the work raised, or TimeoutError."""
        if not self._handle.wait(timeout):
            raise TimeoutError
        if self._handle.error is not None:
            raise self._handle.error
        return self._handle.output


class OptimizedSubject:
    """TaskQueue with a ledger on disk, durable against power loss, and the built-in image processor."""

    def __init__(self, setup: Setup) -> None:
        self._images = setup.images
        self._tally = setup.tally
        self._process: Callable[[Task], Any] = setup.work if self._images is None else self._make_image
        if self._images is not None:
            self._processor = image_processor(self._images)
        self._queue = TaskQueue(
            self._process,
            ledger=setup.directory / "tasks.db",
            durability="power",
            max_workers=setup.workers,
            queue_size=setup.queue_size,
        )

    def submit(self, task: Task) -> Future[Any]:
        """On disk when it returns."""
        return self._queue.submit(task)

    def close(self, timeout: float) -> CloseReport:
        """Drain and close."""
        return self._queue.close(timeout)

    def depth(self) -> int:
        """How many tasks wait."""
        return self._queue.metrics.snapshot().queue_depth

    def _make_image(self, task: Task) -> Output:
        output = self._processor(task)
        self._tally.count(task.key)
        return output


BUILT_IN: dict[str, SubjectFactory] = {"baseline": BaselineSubject, "optimized": OptimizedSubject}


def find_subject(name: str) -> SubjectFactory:
    """A subject by its built-in name, "package.module:attr", or "path/file.py:attr".

    Raises ValueError that says what was looked for and what there is.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    where, separator, attribute = name.rpartition(":")
    if not separator or not where or not attribute:
        known = ", ".join(BUILT_IN)
        raise ValueError(f"unknown subject {name!r}: use {known}, package.module:attr or path/file.py:attr")
    module = _module_from_file(Path(where)) if where.endswith(".py") else _module(where)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ValueError(f"subject {name!r}: {where} has no class or function {attribute!r}")
    return factory


def _module(name: str) -> ModuleType:
    try:
        with _importing_from(Path.cwd()):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"subject module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """A subject may import its neighbours, as a script does."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(str(folder))


def _module_from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r} to take a subject from")
    try:
        return _execute(path.resolve())
    except (Exception, SystemExit) as error:
        raise ValueError(f"subject file {str(path)!r} cannot be imported: {type(error).__name__}: {error}") from error


@cache  # once, however often its subject is asked for
def _execute(path: Path) -> ModuleType:
    name = f"taskqueue_subject_{path.stem}_{zlib.crc32(str(path).encode(errors='replace')):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importing_from(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
