"""The observer of queues: what it is told, and which queues are open."""

from __future__ import annotations

import threading

import pytest
from helpers import LONG, Work, failure, orphans

from taskqueue_core import LedgerInUseError, LedgerView, PermanentError, Status, Task, TaskQueue, watch

CAT = Task("cat.jpg")


class Notes:
    """An observer that writes everything down."""

    def __init__(self):
        self.told = []
        self.done = []

    def opened(self, queue):
        self.told.append(("opened", queue))

    def failed(self, ledger, record):
        self.told.append(("failed", ledger, record.idempotency_key))
        self.done.append(record.status)

    def read(self, ledger):
        self.told.append(("read", ledger))

    def seen(self, ledger, failure):
        self.told.append(("seen", ledger, failure.key))


@pytest.fixture
def notes():
    notes, former = Notes(), watch.observer
    with watch.observing(notes):
        yield notes
    assert watch.observer is former


def test_a_queue_is_open_from_its_opening_to_its_close(open_queue, path, notes):
    """One that could not be opened never was."""
    before = watch.open_queues()
    queue = open_queue()
    assert [one for one in watch.open_queues() if one not in before] == [queue]
    with pytest.raises(LedgerInUseError):
        TaskQueue(Work(), ledger=path)
    assert notes.told == [("opened", queue)]
    assert not queue.closed
    queue.close(LONG)
    assert queue.closed
    assert watch.open_queues() == before


def test_a_failure_is_told_and_who_reads_it(open_queue, path, notes):
    """By the ledger's file, wherever it is read; nothing is told of tasks that succeed."""
    queue = open_queue(Work({"cat.jpg": [PermanentError("no")]}))
    queue.submit(Task("dog.jpg")).result(LONG)
    failure(queue, CAT)
    queue.dead_letters()
    queue.close(LONG)
    with LedgerView.inspect(path.parent / "." / path.name) as view:
        assert view.counts()[Status.FAILED] == 1
    file = path.resolve()
    expected = [("failed", file, CAT.key), ("seen", file, CAT.key), ("seen", file, CAT.key), ("read", file)]
    assert notes.told == [("opened", queue), *expected]
    assert notes.done == [Status.FAILED]


def test_a_task_that_kills_its_process_is_told_when_it_is_buried(open_queue, path, notes):
    """At the open that finds it for the third time."""
    orphans(path, ["poison"], crashes=3)
    queue = open_queue()
    assert notes.told == [("failed", path.resolve(), "poison"), ("opened", queue)]


def test_observers_may_end_in_any_order(notes):
    """The last one that is left is told, and none that has ended."""
    first, second = watch.observing(Notes()), watch.observing(other := Notes())
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert watch.observer is other
    second.__exit__(None, None, None)
    assert watch.observer is notes


def test_what_is_read_aside_is_not_told(open_queue, notes):
    """Nor a look into a file; only in that thread, and until the block is left."""
    queue = open_queue(Work({"cat.jpg": [PermanentError("no")]}))
    failure(queue, CAT)
    del notes.told[:]
    with watch.aside(), watch.aside(), LedgerView.inspect(queue.path) as view:
        assert [*view.records(), *queue.view().dead_letters()]
    assert notes.told == []
    with watch.aside():
        thread = threading.Thread(target=queue.records)
        thread.start()
        thread.join(LONG)
    assert notes.told == [("seen", queue.path, CAT.key)]


def test_a_queue_in_memory_has_no_path(open_queue, path, notes):
    """And reads its own ledger like any other."""
    queue = open_queue(Work({"cat.jpg": [PermanentError("no")]}), ledger=":memory:")
    failure(queue, CAT)
    assert queue.path is None
    assert notes.told[1:] == [("failed", None, CAT.key), ("seen", None, CAT.key)]
    assert queue.view().counts()[Status.FAILED] == 1
    assert open_queue().path == path.resolve()
