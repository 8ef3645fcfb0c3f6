"""A ledger that cannot be written for a while: full, read-only, a failing disk. And one that is damaged for good."""

import errno
import sqlite3
import time
from contextlib import contextmanager, suppress

import pytest
from helpers import LONG, Work, balance, nothing_held, output, sql, tasks, threads, until, wait_looks

from taskqueue_core import (
    LedgerError,
    PermanentError,
    QueueClosedError,
    Status,
    Task,
    TransientError,
    output_key,
)
from taskqueue_core.publish import Publication

BIG = "x" * 50_000  # it needs pages of its own: in a full file there are none
CAT = Task("cat.jpg", params={"big": BIG})
MESSAGE = "the ledger cannot be written"


def sqlite_error(name, kind=sqlite3.OperationalError):
    """What SQLite raises, with its code."""
    error = kind(f"{name} by the test")
    error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)
    return error


class Failing:
    """A connection whose statements fail when `fault` has an error for them; it counts those it lets through."""

    def __init__(self, database, fault):
        self._database = database
        self._fault = fault
        self.executed = []

    def execute(self, statement, *args):
        error = self._fault(statement)
        if error is not None:
            raise error
        self.executed.append(statement)
        return self._database.execute(statement, *args)

    def __getattr__(self, name):
        return getattr(self._database, name)


@contextmanager
def failing(queue, fault):
    """The queue's writing connection fails so."""
    writer = queue._ledger.writer
    database = writer._database
    writer._database = Failing(database, fault)
    try:
        yield
    finally:
        with writer._lock:
            writer._database = database


@contextmanager
def pragma(queue, on, off):
    """The queue's writing connection is set so."""
    database, lock = queue._ledger._writer, queue._ledger._lock
    with lock:
        database.execute(f"PRAGMA {on}").fetchall()
    try:
        yield
    finally:
        with lock, suppress(sqlite3.ProgrammingError):  # the queue may be closed by now
            database.execute(f"PRAGMA {off}").fetchall()


def disk_full(queue):
    return pragma(queue, "max_page_count = 1", "max_page_count = 1000000")  # SQLite makes it what the file has


def read_only(queue):
    return pragma(queue, "query_only = 1", "query_only = 0")


def disk_error(queue):
    return failing(queue, lambda statement: sqlite_error("SQLITE_IOERR_WRITE"))


def commit_error(queue):
    """Every COMMIT fails, as when an fsync does."""
    queue._ledger.writer.at_once = lambda database, changes: None  # all in parts
    return failing(queue, lambda statement: sqlite_error("SQLITE_IOERR_FSYNC") if statement == "COMMIT" else None)


FAULTS = {
    disk_full: "SQLITE_FULL",
    read_only: "SQLITE_READONLY",
    disk_error: "SQLITE_IOERR_WRITE",
    commit_error: "SQLITE_IOERR_FSYNC",
}
all_faults = pytest.mark.parametrize(
    ("fault", "code"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", "")
)


@pytest.fixture
def pause(monkeypatch):
    """How long the queue waits before it tries again."""

    monkeypatch.setattr("taskqueue_core.commits.TIDY", 0.01)  # the commit thread sleeps no longer than that

    def set_to(seconds):
        for module in ("commits", "attempts", "feeder"):
            monkeypatch.setattr(f"taskqueue_core.{module}.PAUSE", seconds)

    set_to(0.01)
    return set_to


def elapse(queue):
    """The pause is over."""
    commits = queue._ledger.commits
    with commits.door:
        commits._resume_at = time.monotonic()
        commits._wake_thread()


def untouched(queue):
    """No attempt was used by any task, and each was claimed once."""
    return {(record.attempt, record.retries, record.crashes) for record in queue.records()} == {(1, 0, 0)}


@all_faults
def test_a_submit_fails_closed_and_says_why(open_queue, pause, path, fault, code):
    """G9: nothing is left behind; once it is over the same submit gets in, and is done by itself."""
    queue = open_queue(queue_size=3)
    with fault(queue):
        for _ in range(5):
            with pytest.raises(LedgerError) as caught:
                queue.submit(CAT)
            assert caught.value.code == code
            assert not caught.value.damaged
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        with pytest.raises(LedgerError):
            queue.submit_many([CAT, Task("other", params={"big": BIG})], futures=False)
        assert queue.join(0)
        assert sql(path, "SELECT count(*) FROM tasks") == [(0,)]
    assert queue.submit(CAT).result(LONG) == {"big": BIG}
    assert untouched(queue)
    assert nothing_held(queue, places=3)


@all_faults
def test_finished_work_is_kept_and_recorded_once(open_queue, pause, path, caplog, fault, code):
    """The row is as it was, the callers wait; nothing runs twice, no attempt is used, and all resumes by itself."""
    names = [f"t{n}" for n in range(8)]
    work = Work({name: [BIG] for name in names}, hold=True)
    queue = open_queue(work, max_workers=8)
    futures = queue.submit_many([Task(name) for name in names])
    work.wait_started(8)
    with fault(queue):
        work.release()
        until(lambda: caplog.text.count(MESSAGE) >= 3)
        assert code in caplog.text
        assert not any(future.done() for future in futures)
        assert sql(path, "SELECT DISTINCT status, version FROM tasks") == [("running", 2)]
    assert [future.result(LONG) for future in futures] == [BIG] * 8
    assert queue.join(LONG)
    assert sorted(work.calls) == names
    assert untouched(queue)
    assert queue.metrics.snapshot().succeeded == 8
    assert queue.metrics.snapshot().fenced == 0
    assert nothing_held(queue)
    queue.close()
    assert balance(path, 8)[Status.SUCCESS] == 8


@pytest.mark.parametrize("error", [PermanentError("no"), TransientError("again")], ids=["permanent", "transient"])
@pytest.mark.parametrize("fault", [read_only, disk_error, commit_error])
def test_the_outcome_of_a_failed_attempt_is_kept(open_queue, pause, caplog, fault, error):
    """It is tried again, not the work."""
    keep_an_outcome(open_queue, caplog, fault, error)


def test_a_dead_letter_that_finds_no_space_is_kept(open_queue, pause, caplog):
    """A retry needs none: its row does not grow."""
    keep_an_outcome(open_queue, caplog, disk_full, PermanentError("no"))


def keep_an_outcome(open_queue, caplog, fault, error):
    work = Work({"cat.jpg": [error, "second"]}, hold=True)
    queue = open_queue(work)
    future = queue.submit(CAT)
    work.wait_started()
    with fault(queue):
        work.release()
        until(lambda: caplog.text.count("an outcome could not be recorded") >= 2)
        assert not future.done()
        assert work.calls == ["cat.jpg"]
    record = until(lambda: (record := queue.get(CAT.key)).finished and record)
    assert (record.status, len(work.calls)) == (("failed", 1) if isinstance(error, PermanentError) else ("success", 2))
    assert record.retries == len(work.calls) - 1
    assert len(queue.dead_letters()) == 2 - len(work.calls)
    assert queue.join(LONG)


@all_faults
def test_nothing_is_begun_while_the_ledger_cannot_be_written(open_queue, pause, path, caplog, fault, code):
    """Tasks wait, workers are free, the feeder looks: no claim before the pause is over; then all are done."""
    pause(1000.0)
    work = Work({"busy": [BIG]}, hold=True)
    queue = open_queue(work, max_workers=1)
    queue._workers._claims_ahead = lambda: 0
    busy = queue.submit(Task("busy"))
    work.wait_started()
    futures = queue.submit_many(tasks(5))
    with fault(queue):
        work.release()
        until(lambda: MESSAGE in caplog.text)
        wait_looks(queue, 3)
        most = 2 if fault is disk_full else 1  # a claim needs no space, and may have gone along
        assert len(work.calls) <= most
        assert not busy.done()
        if fault is not disk_full:
            assert sql(path, "SELECT status, count(*) FROM tasks GROUP BY 1") == [("queued", 5), ("running", 1)]
    wait_looks(queue, 3)
    assert len(work.calls) <= most
    elapse(queue)
    assert busy.result(LONG) == BIG
    assert [future.result(LONG) for future in futures] == [{"n": n} for n in range(5)]
    assert sorted(work.calls) == ["busy", *(f"t{n}" for n in range(5))]
    assert {(record.retries, record.crashes) for record in queue.records()} == {(0, 0)}
    assert queue.join(LONG)
    assert nothing_held(queue)


def test_a_pause_is_logged_once(open_queue, pause, caplog):
    """However many changes fail in it; and once more for each try that fails."""
    pause(1000.0)
    queue = open_queue()
    with read_only(queue):
        for _ in range(5):
            with pytest.raises(LedgerError):
                queue.submit(CAT)
        (entry,) = [entry for entry in caplog.records if MESSAGE in entry.getMessage()]
        assert (entry.name, entry.levelname) == ("taskqueue", "ERROR")
        assert "SQLITE_READONLY" in entry.getMessage()
        assert "1000.0 s" in entry.getMessage()
        elapse(queue)
        until(lambda: not queue._ledger.commits.troubled)
        with pytest.raises(LedgerError):
            queue.submit(CAT)
    assert caplog.text.count(MESSAGE) == 2


@all_faults
def test_submits_that_meet_trouble_from_all_sides_lose_nothing(open_queue, pause, path, fault, code):
    """Eight threads submit, workers finish, and the fault comes and goes: what was accepted is done exactly once."""
    work = Work()
    queue = open_queue(work, max_workers=4, queue_size=10)

    def submit(thread):
        accepted = []
        for n in range(30):
            task = Task(f"{thread}-{n}", params={"big": BIG[:5000]})
            while True:
                try:
                    accepted.append(queue.submit(task))
                    break
                except LedgerError as error:
                    assert error.code == code  # noqa: PT017
        return accepted

    with threads(8) as pool:
        submitting = [pool.submit(submit, thread) for thread in range(8)]
        rounds = 0
        while not all(future.done() for future in submitting):
            seen = len(work.calls)
            with fault(queue):
                until(lambda: queue._ledger.commits.troubled or all(future.done() for future in submitting))
            until(lambda seen=seen: len(work.calls) > seen or all(future.done() for future in submitting))
            rounds += 1
        futures = [future for many in submitting for future in many.result(LONG)]
    assert rounds
    assert all(future.result(LONG) for future in futures)
    assert queue.join(LONG)
    assert len(work.calls) == len(set(work.calls)) == 240
    assert {(record.retries, record.crashes) for record in queue.records()} == {(0, 0)}
    assert nothing_held(queue, places=10)
    queue.close()
    assert balance(path, 240)[Status.SUCCESS] == 240


@all_faults
def test_closing_in_trouble_comes_back_in_time(open_queue, pause, path, fault, code):
    """What could not be recorded is running in the file, and the next owner recovers it."""
    work = Work({"cat.jpg": [BIG]}, hold=True)
    queue = open_queue(work)
    future = queue.submit(Task("cat.jpg"))
    work.wait_started()
    with fault(queue):
        work.release()
        until(lambda: queue._ledger.commits.troubled)
        report = queue.close(timeout=0.1)
        assert report.elapsed_s < 1.1
        assert not report.drained
    assert isinstance(future.exception(0), QueueClosedError)
    with open_queue() as again:
        assert again.join(LONG)
        assert again.get(Task("cat.jpg").key).status is Status.SUCCESS
        assert again.get(Task("cat.jpg").key).retries == 0


def test_an_output_that_finds_no_space_is_made_again(open_queue, pause, tmp_path, monkeypatch, path):
    """The file could not be put in its place: nothing is recorded, no attempt is used, and no file is left over."""
    work = Work({"cat.jpg": [output(tmp_path, b"one", "one.jpg"), output(tmp_path, b"two", "two.jpg")]})
    queue = open_queue(work)
    publish, refused = Publication.publish, []

    def no_space(self):
        if not refused:
            refused.append(self)
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(self)

    monkeypatch.setattr(Publication, "publish", no_space)
    queue.submit(Task("cat.jpg")).result(LONG)
    record = queue.get(Task("cat.jpg").key)
    assert (record.status, record.retries, record.attempt) == ("success", 0, 2)
    assert (tmp_path / output_key(record.idempotency_key, ".jpg")).read_bytes() == b"two"
    assert [file.name for file in tmp_path.glob("*.jpg")] == [output_key(record.idempotency_key, ".jpg")]


# Damage


@pytest.fixture(params=["SQLITE_CORRUPT", "SQLITE_NOTADB"])
def damage(request):
    """The next statement finds the file damaged; those after it would work again, if anybody tried."""
    errors = [sqlite_error(request.param, sqlite3.DatabaseError)]

    def fault(statement):
        return errors.pop() if errors else None

    fault.code = request.param
    return fault


def test_a_damaged_file_is_not_written_any_more(open_queue, pause, path, damage):
    """Every submit is told, with the code; nothing is tried again, and nothing is claimed."""
    queue = open_queue()
    queue.submit(Task("before")).result(LONG)
    with failing(queue, damage):
        for _ in range(3):
            with pytest.raises(LedgerError) as caught:
                queue.submit(CAT)
            assert (caught.value.code, caught.value.damaged) == (damage.code, True)
        assert queue._ledger.writer._database.executed == []
        assert queue._ledger.commits.troubled
    with pytest.raises(LedgerError):
        queue.submit(CAT)
    assert queue.get(Task("before").key).status is Status.SUCCESS  # as far as it can be read
    assert queue.close(timeout=5.0).elapsed_s < 5.0
    assert sql(path, "SELECT image_key FROM tasks") == [("before",)]


def test_work_that_finishes_over_a_damaged_file_holds_nobody(open_queue, pause, path, damage):
    """Its outcome cannot be recorded, now or ever: the callers hear of it, and close comes back in time."""
    work = Work({"failed": [PermanentError("no")]}, hold=True)
    queue = open_queue(work, max_workers=2)
    futures = queue.submit_many([Task("good"), Task("failed"), Task("waiting")])
    work.wait_started(2)
    with failing(queue, damage):
        work.release()
        until(lambda: queue._ledger.writer.damage is not None)
        with threads(1) as pool:
            report = pool.submit(queue.close, 0.5).result(LONG)
        assert queue._ledger.writer._database.executed == []
    assert report.elapsed_s < 1.5
    assert not report.drained
    for future in futures:
        assert isinstance(future.exception(0), (LedgerError, QueueClosedError))
    assert sorted(work.calls) == ["failed", "good"]
    assert sql(path, "SELECT image_key, status FROM tasks ORDER BY id") == [
        ("good", "running"),
        ("failed", "running"),
        ("waiting", "queued"),
    ]
