"""The workers: threads that run claimed tasks, and the claims that keep them busy.

A task waits in the bounded queue.Queue until it is claimed, and then, for a moment, until a worker is free to take
it. Claims are made for many tasks at once and go into the same COMMIT as the results of others, so a worker waits
for neither: it takes the next claimed task while its last result is on its way to the disk.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil

from taskqueue_core import clock
from taskqueue_core.deadline import Deadline
from taskqueue_core.entries import Entry
from taskqueue_core.logs import logger
from taskqueue_core.metrics import Metrics, WorkerMetrics

LINGER = 0.1
"""Seconds for which an idle worker stays before it goes back to the executor."""
COMMIT_DELAY = 0.0005
"""Seconds by which a commit may be put off for company, at most."""
QUICK = 0.001
"""Seconds; attempts that are shorter are counted many at once."""
UNLIMITED = sys.maxsize


class Waiting(queue.Queue[Entry]):
    """The bounded queue, with steps for many tasks at once: a lock for each would cost more than the task. The places
    keep the bound: whoever puts a task holds one.
    """

    queue: deque[Entry]

    def put_all(self, entries: Sequence[Entry]) -> None:
        """Put tasks that hold places; there is room for them."""
        with self.mutex:
            self.queue.extend(entries)

    def get_up_to(self, count: int) -> list[Entry]:
        """Take the first `count` tasks, or all."""
        with self.mutex:
            return [self.queue.popleft() for _ in range(min(count, len(self.queue)))]

    def remove(self, entry: Entry) -> bool:
        """Take one task out of the middle; False when it is not here."""
        with self.mutex:
            try:
                self.queue.remove(entry)
            except ValueError:
                return False
            return True

    def first(self) -> Entry | None:
        """The task that waits longest."""
        with self.mutex:
            return self.queue[0] if self.queue else None

    def oldest_age(self) -> float:
        """Seconds for which that one has been due."""
        first = self.first()
        return 0.0 if first is None else max(clock.now() - first.due_at, 0.0)


class Workers:
    """Runs tasks on a ThreadPoolExecutor: `run(entry, metrics)` for each that `claim(entries)` has claimed.

    `claim` posts claims; it, or whoever it told, calls `ready` or `lost` for each of the entries. `run` tells whether
    somebody waits for the result. `help` writes what was posted, `nudge` sees that somebody does, `taken` is told of
    each task that leaves the bounded queue, `halted` says that this is no time for claims, `busy` that results are
    still to be written; `ended` is called when there can be no more workers because the interpreter ends.
    """

    def __init__(
        self,
        *,
        size: int,
        places: int,
        metrics: Metrics,
        claim: Callable[[Sequence[Entry]], None],
        run: Callable[[Entry, WorkerMetrics], bool],
        taken: Callable[[], None],
        help: Callable[[], bool],  # noqa: A002
        nudge: Callable[[], None],
        halted: Callable[[], bool],
        busy: Callable[[], bool],
        ended: Callable[[], None],
        commit_seconds: Callable[[], float],
    ) -> None:
        self.waiting = Waiting(places)
        self._size = size
        self._metrics = metrics
        self._claim = claim
        self._run = run
        self._taken = taken
        self._help = help
        self._nudge = nudge
        self._halted = halted
        self._busy = busy
        self._ended = ended
        self._commit_seconds = commit_seconds
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="taskqueue-worker")
        self._ready: queue.SimpleQueue[Entry | None] = queue.SimpleQueue()
        self._uncounted: deque[float] = deque()  # seconds of each attempt that is over; taken out with the lock held
        self._lock = threading.Lock()  # guards the fields below; _done, _next, paused and commit_delay only read some
        self._changed = threading.Condition(self._lock)  # a claim is answered, or a worker has left
        self._claiming = 0  # claims that are posted
        self._allowed = UNLIMITED  # claims that may still be posted; none while paused
        self._limited = False  # they are counted: one that is lost may be made again
        self._earlier = 0  # claims that were posted before they were counted, and are not answered yet
        self._in_hand = 0  # claims that are posted, tasks that are claimed, and those that run
        self._active = 0  # threads at work, or waiting for it
        self._idents: set[int] = set()
        self._run_seconds = 0.0  # a moving average
        self._ahead = 0  # claims beyond the tasks that run
        self._stopping = False

    def enqueue(self, entries: Sequence[Entry]) -> None:
        """Take tasks that hold places; never fails, because their rows stand."""
        self.waiting.put_all(entries)
        self.pump()

    def pump(self) -> None:
        """Claim as many of the waiting tasks as the workers can take, and soon will."""
        self._post_claims()
        self._nudge()

    def reserve(self, count: int) -> int:
        """For how many of `count` new tasks a worker is free, or soon will be: they are claimed as they are inserted,
        and `ready` or `lost` follows. 0 while others wait.
        """
        if self.waiting.queue or self._halted():
            return 0
        with self._lock:
            if self._stopping:
                return 0
            self._count()
            reserved = max(min(count, self._size + self._ahead - self._in_hand, self._allowed), 0)
            self._allowed -= reserved
            self._in_hand += reserved
            self._claiming += reserved
            return reserved

    def ready(self, entries: Sequence[Entry]) -> None:
        """These are claimed: the next free workers take them."""
        with self._lock:
            self._count()
            for entry in entries:
                self._ready.put(entry)
            self._claiming -= len(entries)
            self._earlier = max(self._earlier - len(entries), 0)
            self._changed.notify_all()
            missing = 0 if self._stopping else min(self._in_hand, self._size) - self._active
            self._active += max(missing, 0)
        for _ in range(missing):
            self._start_thread()

    def lost(self, count: int) -> None:
        """So many could not be claimed: they are the feeder's again, or cancelled."""
        with self._lock:
            self._claiming -= count
            self._in_hand -= count
            self._refund(max(count - self._earlier, 0))
            self._earlier = max(self._earlier - count, 0)
            self._changed.notify_all()
        self.pump()

    def allow(self, claims: int) -> None:
        """Make so many claims from now on, and then none; UNLIMITED ends it. With 0 none is made once this returns."""
        with self._lock:
            self._allowed = claims
            self._limited = 0 < claims < UNLIMITED
            self._earlier = self._claiming

    @property
    def paused(self) -> bool:
        """Whether no claims are allowed."""
        return self._allowed <= 0

    def at_rest(self) -> tuple[bool, bool]:
        """Whether no worker has, or will soon have, a task; and whether none may be claimed. Both at one moment."""
        with self._lock:
            self._count()
            return self._in_hand == 0, self._allowed <= 0

    def is_worker(self) -> bool:
        """Whether the calling thread is a worker."""
        with self._lock:
            return threading.get_ident() in self._idents

    def commit_delay(self) -> float:
        """Seconds by which a commit may be put off: as many tasks wait unclaimed as there are workers, and claims go as
        much further ahead, so that the workers have tasks meanwhile.
        """
        return min(COMMIT_DELAY, self._run_seconds / 4) if len(self.waiting.queue) >= self._size else 0.0

    def stop(self, deadline: Deadline) -> list[Entry]:
        """Claim nothing more and take nothing more; the tasks that are claimed and were not taken."""
        with self._lock:
            self._stopping = True
            self._nudge()
            self._changed.wait_for(lambda: not self._claiming, deadline.remaining())
        untaken = self.take_untaken()
        with self._lock:
            lingering = self._active
        for _ in range(lingering):
            self._ready.put(None)
        return untaken

    def take_untaken(self) -> list[Entry]:
        """Take back the tasks that are claimed and that no worker has taken."""
        entries = []
        while True:
            try:
                entry = self._ready.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entries.append(entry)
        with self._lock:
            self._in_hand -= len(entries)
            self._refund(len(entries))
        return entries

    def wait_left(self, deadline: Deadline) -> bool:
        """Wait until all threads have left; False when the deadline passed."""
        with self._lock:
            return self._changed.wait_for(lambda: self._active <= 0, deadline.remaining())

    def shutdown(self, *, wait: bool) -> None:
        """End the executor's threads; `wait` for those that have left."""
        self._executor.shutdown(wait=wait)

    def _post_claims(self) -> None:
        if not self.waiting.queue or self._halted():
            return
        with self._lock:
            self._count()
            room = min(self._size + self._ahead - self._in_hand, self._allowed)
            if self._stopping or room <= 0 or (room * 4 <= self._ahead and self._in_hand >= self._size):
                return  # while all workers are busy, claims are made in larger lots
            entries = self.waiting.get_up_to(room)
            self._allowed -= len(entries)
            self._in_hand += len(entries)
            self._claiming += len(entries)
        if entries:
            self._claim(entries)

    def _refund(self, claims: int) -> None:
        """So many came to nothing; called with the lock held."""
        self._allowed += claims if self._limited else 0

    def _start_thread(self) -> None:
        try:
            self._executor.submit(self._work)
        except RuntimeError as error:  # the tasks' rows are on the disk
            ended = "shutdown" in str(error)  # the interpreter ends
            with self._lock:
                self._active -= 1
                self._stopping = self._stopping or ended
            if ended:
                self._ended()
            else:
                logger.exception("a worker could not be started")

    def _work(self) -> None:
        """A worker: task after task until none comes for a while.

        It then goes back to the executor, which can end it; a worker that waited here for ever would keep a
        program that forgot `close` from exiting.
        """
        metrics = self._metrics.worker()
        with self._lock:
            self._idents.add(threading.get_ident())
        awaited = False
        while (entry := self._next(awaited)) is not None:
            self._taken()
            try:
                awaited = self._run(entry, metrics)
            except BaseException:  # noqa: BLE001 - a worker never dies of one task
                logger.exception("a worker met an error of its own at %r", entry.draft.key)
            self._done(metrics.last)
        self._metrics.retire(metrics)

    def _next(self, awaited: bool) -> Entry | None:
        """The next claimed task; None when the worker may go.

        With nothing to run, and when somebody waits for its last result, a worker writes what was posted; else the
        next caller or the commit thread does.
        """
        while not self._stopping:
            try:
                entry = self._ready.get_nowait()
                self._nudge()
            except queue.Empty:
                if awaited and self._help():
                    continue
                self._nudge()
                try:
                    entry = self._ready.get(timeout=LINGER)
                except queue.Empty:
                    if self._may_leave():
                        return None
                    continue
            if entry is not None:
                return entry
        self._nudge()
        self._leave()
        return None

    def _done(self, seconds: float) -> None:
        """An attempt is over. Short ones are counted many at once, and claims made for them: workers that all took a
        lock for each of their tasks would wait for each other more than they work, see Places.

        Nobody is left out: the last one that is needed finds less in hand than there are workers. It reads `uncounted`
        before `_in_hand`, so whoever counts in between makes one look too many, never one too few.
        """
        self._uncounted.append(seconds)
        uncounted = len(self._uncounted)
        if seconds > QUICK or uncounted * 4 > self._ahead or self._in_hand - uncounted < self._size:
            self._post_claims()

    def _count(self) -> None:
        """Count the attempts that are over, and see how far claims go ahead now; called with the lock held."""
        if not self._uncounted:
            return
        for _ in range(len(self._uncounted)):
            self._in_hand -= 1
            self._run_seconds += (self._uncounted.popleft() - self._run_seconds) / 16
        self._ahead = self._claims_ahead()

    def _claims_ahead(self) -> int:
        """How many tasks all workers finish while four transactions are put off and written: so many are claimed beyond
        those that run.

        0 where a commit is short beside a task, so that nothing is claimed long before it runs.
        """
        finished = 4 * self._size * (self._commit_seconds() + self.commit_delay()) / max(self._run_seconds, 1e-6)
        return min(ceil(finished), self.waiting.maxsize) if finished > 0.05 else 0

    def _may_leave(self) -> bool:
        """Sign off, unless a task came in the meantime: `ready` counts the workers under the same lock."""
        with self._lock:
            self._count()
            if not self._stopping and (self._in_hand >= self._active or self._busy()):
                return False
            self._sign_off()
            return True

    def _leave(self) -> None:
        with self._lock:
            self._sign_off()

    def _sign_off(self) -> None:
        self._active -= 1
        self._idents.discard(threading.get_ident())
        self._changed.notify_all()
