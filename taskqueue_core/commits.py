"""Group commit: the changes that wait while one transaction commits go together into the next one.

A caller that must not go on before its change is on the disk waits (`write`); a worker leaves its change in a stream
and goes on (`Stream.post`). Whoever waits first leads: it writes for everybody, and returns. A lone caller waits for
nobody and pays for no thread switch; under load the batches form by themselves, because more changes arrive while the
disk is busy or, while the workers have enough to do, in a short wait (`_await_company`). What was posted and has no
waiting caller to lead it is written by an idle worker or by a caller who asks for a result (`help`), or else by the
commit thread. The idea is that of database servers' commit logs (and of "leader/follower" thread pools). The
transactions are in writer.py.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from taskqueue_core.database import refuse_after_fork
from taskqueue_core.errors import LedgerError
from taskqueue_core.logs import logger
from taskqueue_core.streams import Stream
from taskqueue_core.writer import UNKNOWN, Apply, Done, Request, Transaction, Writer, grouped

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")

PAUSE = 1.0
"""Seconds between tries while the ledger cannot be written."""
LOOK = 0.0005
"""Seconds between looks of the commit thread while there is work: to wake it for each change would cost more than
the change."""
TIDY = 1.0
"""Seconds after a change, at least, after which the commit thread tidies up."""


class GroupCommit:
    """Many threads' changes, one transaction at a time; a request is answered after its COMMIT."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._pid = os.getpid()
        self.door = threading.Lock()  # guards the fields below, and what was posted to the streams;
        # _led, _woken and closed are also read without it, as hints
        self._waiting: list[Request] = []
        self._kept: list[Request] = []  # posted, failed, to be tried again after PAUSE
        self._due: list[Request] = []  # those whose PAUSE is over
        self._led = False
        self._leader: object = None  # who leads: a request, or a token of `help`
        self._woken = False
        self.closed = False
        self._thread: threading.Thread | None = None  # the commit thread
        self._streams: list[Stream] = []
        self._wake = threading.Lock()  # released to wake the commit thread
        self._wake.acquire()
        self._untold: deque[list[Request]] = deque()  # written, and those who asked are still to be told
        self._resume_at: float | None = None
        self._tidy_at = math.inf
        self._callers = 0  # how many requests waited for the last transaction
        self._ended = 0.0  # when it ended, time.perf_counter
        self.delay: Callable[[], float] = lambda: 0.0
        """Seconds for which the workers can spare the next transaction after one has ended, see `_await_company`."""
        writer.failed = self._pause

    @property
    def troubled(self) -> bool:
        """A transaction failed a moment ago, or the file is damaged: a bad time to begin new work."""
        return self._resume_at is not None or self._writer.damage is not None

    def stream(self, apply: Apply, *, durable: bool) -> Stream:
        """A new kind of changes to post."""
        stream = Stream(apply, durable=durable, door=self.door, closed=lambda: self.closed)
        self._streams.append(stream)
        return stream

    def write(
        self,
        apply: Callable[[Transaction, list[I]], list[R]],
        items: list[I],
        *,
        durable: bool = True,
        done: Callable[[list[I], list[R]], None] | None = None,
    ) -> list[R]:
        """Apply changes in a transaction and return what `apply` returned, after the COMMIT.

        `done(items, results)` is called before that, by the leader for its own items and once for all others. Raises
        what `apply` raised, with nothing written, or LedgerError. An error of a neighbour's change does not touch
        this one. KeyboardInterrupt during the wait says that the outcome is unknown.
        """
        refuse_after_fork(self._pid)
        request = Request(apply, items, durable, done, posted=False)
        try:
            with self.door:
                self._waiting.append(request)
                if self._led:
                    request.gate = threading.Lock()
                    request.gate.acquire()
                else:
                    self._leader = request
                    self._led = request.leads = True
            if request.leads:
                self._lead(request)
            else:
                self._wait(request)
        except BaseException:
            self._resign(request)
            raise
        if request.error is not None:
            raise LedgerError(*UNKNOWN.args) if request.error is UNKNOWN else request.error
        return request.results

    @property
    def busy(self) -> bool:
        """Whether anything is still to be written or told."""
        return self._led or self._pending() or bool(self._untold)

    def nudge(self) -> None:
        """See that what was posted is written: by the commit thread, if nobody else does. One that is awake looks once
        more after it has said that it sleeps.
        """
        if not self._led and not self._woken and self._pending():
            with self.door:
                self._wake_thread()

    def help(self) -> bool:
        """Write what was posted, if nobody else does; for an idle worker, or a caller who waits for a result."""
        if self._led or not self._pending():
            return False
        token = object()
        try:
            with self.door:
                if self._led or not self._pending():
                    return False
                self._leader = token
                self._led = True
            self._lead(None)
        except BaseException:
            self._resign(token)
            raise
        return True

    def run(self, tidy: Callable[[], None], resumed: Callable[[], None]) -> None:
        """The commit thread: write what was posted and nobody else writes, until `close`.

        `tidy` is called some time after changes, `resumed` some time after a transaction failed: it may be worth
        another try.
        """
        self._thread = threading.current_thread()
        while not self.closed:
            woken = self._wake.acquire(timeout=self._until_next_look())
            resumes = self._resumes()
            if woken:
                self._work()
            if resumes:
                self.help()
                _safely(resumed)
            elif time.monotonic() >= self._tidy_at:
                self._tidy_at = math.inf
                _safely(tidy)

    def tidy_soon(self) -> None:
        """See that the commit thread tidies up now."""
        with self.door:
            self._tidy_at = time.monotonic()
            self._wake_thread()

    def _work(self) -> None:
        """Write and tell until there is nothing for a while; meanwhile nobody has to wake this thread again."""
        idle = 0
        while idle < 2:
            self._tell()
            idle = 0 if self.help() else idle + 1
            if idle:
                self._wake.acquire(timeout=LOOK)
        with self.door:
            self._woken = False
        self._tell()
        self.help()

    def close(self) -> None:
        """Write what is posted, tell those who posted it, and end the commit thread soon."""
        with self.door:
            self.closed = True
            self._due += self._kept
            self._kept = []
            self._wake_thread()
        with contextlib.suppress(LedgerError):  # whoever posted is told of it
            self.write(lambda _, items: items, [], durable=False)  # takes along all that was posted before
        self._tell()

    def _pending(self) -> bool:
        return bool(self._waiting or self._due) or any(stream.items for stream in self._streams)

    def _until_next_look(self) -> float:
        """Seconds; -1, which means no limit, when there is nothing to look at."""
        at = self._tidy_at if self._resume_at is None else self._resume_at
        return -1 if at == math.inf else max(at - time.monotonic(), 0.0)

    def _resumes(self) -> bool:
        """Whether it is time to try again after a failure; what was kept is due then."""
        with self.door:
            if self._resume_at is None or time.monotonic() < self._resume_at:
                return False
            self._resume_at = None
            self._due += self._kept
            self._kept = []
            return True

    def _wait(self, request: Request) -> None:
        assert request.gate is not None
        patience = LOOK if threading.current_thread() is self._thread else -1  # it may be the one to tell itself
        try:
            while not request.gate.acquire(timeout=patience):
                self._tell()
        except BaseException:
            self._withdraw(request, request.gate)
            raise
        if not request.finished:
            self._lead(request)

    def _withdraw(self, request: Request, gate: threading.Lock) -> None:
        """The caller was interrupted. If its request is not being written yet it never is; else the outcome is
        waited for, so that everything has its place when the interrupt goes on. A second one does not wait.
        """
        with self.door:
            waits = request in self._waiting
            if waits:
                self._waiting.remove(request)
        if not waits:
            gate.acquire()
        elif request.leads:
            self._lead(None)

    def _resign(self, leader: object) -> None:
        """An interrupt struck after the lead was taken and before it was given on: somebody else leads."""
        if self._leader is leader:
            with self.door:
                if leader in self._waiting:
                    self._waiting.remove(leader)
            self._hand_over(tells=False)

    def _lead(self, own: Request | None) -> None:
        """Write everything that waits, let the first of the latecomers lead, and tell those who asked.

        An interrupt, or a full stack, may strike anywhere here: what was taken is told, and somebody leads.
        """
        batch: list[Request] = []
        finished = False
        self._await_company()  # nothing is taken yet: who is interrupted here resigns
        try:
            with self.door:
                batch, self._waiting = self._waiting, []
                self._callers = len(batch)
                for stream in self._streams:
                    stream.take(batch)
                batch += self._due
                self._due = []
            batch = self._writer.execute(batch)
            self._ended = time.perf_counter()
            finished = True
        finally:
            self._untold.append(batch)
            try:
                self._hand_over(tells=finished)
            except BaseException:
                self._led = False  # the commit thread leads; told without a call, the stack may be full
                if not self._woken:
                    self._woken = True
                    self._wake.release()
                raise
        try:
            if own is not None and own.error is None and own.done is not None:
                own.done(own.items, own.results)
        finally:
            self._tell_or_delegate()

    def _await_company(self) -> None:
        """Where several callers write at once and the workers have enough to do, let more of them come: the next
        transaction waits until `delay` seconds after the last one. A lone caller waits for nobody. 100 clients over 8
        workers with tasks of 2 ms: 0.7 times the CPU time for each task, 1.01 to 1.04 times the throughput. The idea is
        PostgreSQL's commit_delay and commit_siblings.
        """
        if self._callers > 1 and not self.closed:
            wait = self._ended + self.delay() - time.perf_counter()
            if wait > 0:
                time.sleep(wait)

    def _hand_over(self, *, tells: bool) -> None:
        """The first of those who came in the meantime leads from now on, or else the commit thread; which also tells
        those who asked when this thread does not.
        """
        with self.door:
            if self._tidy_at == math.inf:
                self._tidy_at = time.monotonic() + TIDY
                self._wake_thread()  # it sleeps until it knows when
            successor = self._waiting[0] if self._waiting else None
            self._leader = successor
            self._led = successor is not None
            if successor is not None:
                successor.leads = True
            if not tells or (successor is None and self._pending()):
                self._wake_thread()
        if successor is not None and successor.gate is not None:
            successor.gate.release()

    def _tell_or_delegate(self) -> None:
        """The main thread may be interrupted anywhere: others' results do not pass through its hands."""
        if self._untold and threading.current_thread() is threading.main_thread() and not self.closed:
            with self.door:
                self._wake_thread()
        else:
            self._tell()

    def _tell(self) -> None:
        """Tell everybody whose changes were written, or failed; the leaders know."""
        while self._untold:
            try:
                batch = self._untold.popleft()
            except IndexError:
                return
            others = [request for request in batch if not request.leads]
            for done, requests in grouped(others, lambda request: request.done).items():
                if done is not None:
                    self._answer(done, requests)
                for request in requests:
                    if request.gate is not None:
                        request.finished = True
                        request.gate.release()

    def _answer(self, done: Done, requests: Sequence[Request]) -> None:
        items: list[Any] = []
        results: list[Any] = []
        for request in requests:
            if request.error is None:
                items += request.items
                results += request.results
            elif request.posted and not self._keep(request):
                items += request.items
                results += [request.error] * len(request.items)
        try:
            if items:
                done(items, results)
        except Exception as error:  # noqa: BLE001 - a bug must not end the thread that writes for everybody
            logger.exception("the ledger's writer met an error of the queue")
            for request in requests:
                request.error = request.error or error

    def _keep(self, request: Request) -> bool:
        """Whether a posted request is to be tried again later."""
        if not (request.durable and isinstance(request.error, LedgerError)):
            return False
        with self.door:
            if self.closed or request.error.damaged:
                return False
            request.again = True
            self._kept.append(request)
            self._resume_at = self._resume_at or time.monotonic() + PAUSE
        return True

    def _wake_thread(self) -> None:
        """Called with the door's lock held."""
        if not self._woken:
            self._woken = True
            self._wake.release()

    def _pause(self, error: LedgerError) -> None:
        """A transaction failed: the commit thread looks again after PAUSE."""
        if self.closed and error.code == "ProgrammingError":
            return  # a late caller met a closed connection, and is told so; there is nothing to try again
        if self._resume_at is None:
            logger.error(
                "the ledger cannot be written, finished work is kept and tried again in %s s: %s", PAUSE, error
            )
        self._resume_at = time.monotonic() + PAUSE


def _safely(call: Callable[[], None]) -> None:
    """A bug in what is called must not end the thread that writes for everybody."""
    try:
        call()
    except Exception:  # noqa: BLE001
        logger.exception("the ledger's writer met an error of the queue")
