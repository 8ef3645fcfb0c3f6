"""The state machine: every arrow with its guard, and what is in the file afterwards."""

import hashlib
import os
import sqlite3
import stat
from contextlib import closing

import pytest
from helpers import at_once, draft, output, posted, sql

from taskqueue_core import LedgerError, Status, TaskRecord, output_key
from taskqueue_core.arrows import ERROR_LENGTH, Draft, Row, row_of
from taskqueue_core.ledger import Ledger
from taskqueue_core.publish import Publication

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has other file modes")


class Clock:
    """Seconds since the epoch, as the test says."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def ledger(path, clock):
    with closing(Ledger(path, durability="process", clock=clock)) as ledger:
        yield ledger


def insert(ledger, key="k"):
    """A new task, as the ledger has it."""
    (row,) = ledger.insert([draft(key)])
    record = ledger.get(key)
    assert row == row_of(record)
    return record


def make(ledger, status, key="k"):
    """A task in this state."""
    queued = insert(ledger, key)
    if status is Status.QUEUED:
        return queued
    running = ledger.claim(queued)
    if status is Status.RUNNING:
        return running
    return ledger.succeed(running, "1") if status is Status.SUCCESS else ledger.fail(running, "boom", "permanent")


def everything(path):
    return [sql(path, f"SELECT * FROM {table} ORDER BY 1") for table in ("tasks", "dead_letters", "counters")]


def answer(ledger, key, moved):
    """What stands after a posted change that was made."""
    assert moved in (True, False)
    return ledger.get(key) if moved else None


def post_claim(ledger, row):
    return answer(ledger, "k", *posted(ledger, claims=[row]))


def post_success(ledger, row):
    return answer(ledger, "k", *posted(ledger, successes=[(row, '{"a":1}')]))


ARROWS = {
    "claim": (Status.QUEUED, lambda ledger, record: ledger.claim(record)),
    "succeed": (Status.RUNNING, lambda ledger, record: ledger.succeed(record, '{"a":1}')),
    "retry": (Status.RUNNING, lambda ledger, record: ledger.retry(record, "late", 7.5)),
    "release": (Status.RUNNING, lambda ledger, record: ledger.release(record)),
    "fail": (Status.RUNNING, lambda ledger, record: ledger.fail(record, "boom", "permanent")),
    "cancel": (Status.QUEUED, lambda ledger, record: ledger.cancel(record)),
    "claim, posted": (Status.QUEUED, post_claim),
    "succeed, posted": (Status.RUNNING, post_success),
    "replay": (Status.FAILED, lambda ledger, record: ledger.replay(record)),
}
WRITES = {
    "claim": {"status": Status.RUNNING, "attempt": 1},
    "succeed": {"status": Status.SUCCESS, "value": {"a": 1}, "error": None, "finished_at": 1000.0},
    "retry": {"status": Status.QUEUED, "retries": 1, "run_at": 1007.5, "error": "late"},
    "release": {"status": Status.QUEUED, "retries": 0, "run_at": 1000.0, "attempt": 1},
    "fail": {"status": Status.FAILED, "error": "boom", "retries": 0, "finished_at": 1000.0},
    "cancel": {"status": Status.FAILED, "error": "cancelled", "retries": 0, "attempt": 0, "finished_at": 1000.0},
    "replay": {"status": Status.QUEUED, "retries": 0, "crashes": 0, "run_at": 1000.0, "finished_at": None},
}
WRITES |= {"claim, posted": WRITES["claim"], "succeed, posted": WRITES["succeed"]}
FORMS = {"record": lambda record: record, "row": row_of}


def test_insert_writes_a_queued_row_of_version_1(ledger, path):
    """T1: due at once, nothing known of its work yet."""
    (row,) = ledger.insert([draft("k", '{"n":[1]}')])
    record = ledger.get("k")
    assert row == Row(record.id, 1) == row_of(record)
    assert (record.idempotency_key, record.image_key, record.variant, record.params) == (
        "k", "image of k", "v", {"n": [1]},
    )  # fmt: skip
    assert (record.status, record.version, record.retries, record.attempt, record.crashes) == ("queued", 1, 0, 0, 0)
    assert (record.created_at, record.run_at, record.finished_at) == (1000.0, 1000.0, None)
    assert sql(path, "SELECT idempotency_key, status, version FROM tasks") == [("k", "queued", 1)]


@pytest.mark.parametrize("status", Status)
def test_a_key_is_unique_over_all_states(ledger, path, status):
    """T1 on a known key returns the row as it stands, and the file itself refuses a second row."""
    first = make(ledger, status)
    before = everything(path)
    (again,) = ledger.insert([draft("k", '{"other":1}')])
    assert isinstance(again, TaskRecord)
    assert again == first
    assert everything(path) == before
    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        database.execute(
            "INSERT INTO tasks (idempotency_key, image_key, variant, params, status, created_at, run_at)"
            " VALUES ('k', 'i', 'v', '{}', 'queued', 0, 0)"
        )


def test_a_key_twice_in_one_batch_is_one_row(ledger):
    """The second one finds the first."""
    one, other, two = ledger.insert([draft("a"), draft("b"), draft("a")])
    assert [type(row) for row in (one, other, two)] == [Row, Row, TaskRecord]
    assert row_of(two) == one == row_of(ledger.get("a"))
    assert len(ledger.records()) == 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ARROWS)
def test_arrow_moves_the_row_and_counts_its_version_up(ledger, clock, name, form):
    """What it returns is what the ledger has; all other columns stay, and so do all other rows."""
    start, follow = ARROWS[name]
    others = [make(ledger, status, status.value) for status in Status]
    before = make(ledger, start)
    after = follow(ledger, FORMS[form](before))
    assert [ledger.get(record.idempotency_key) for record in others] == others
    assert after == ledger.get("k")
    changed = {field for field in before.__slots__ if getattr(before, field) != getattr(after, field)}
    assert changed <= {*WRITES[name], "version"}
    assert {field: getattr(after, field) for field in WRITES[name]} == WRITES[name]
    assert after.version == before.version + 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ARROWS)
def test_a_stale_version_is_fenced_and_writes_nothing(ledger, path, name, form):
    """The row has gone round to the same state in the meantime."""
    start, follow = ARROWS[name]
    stale = make(ledger, start)
    move_round(ledger, stale)
    assert ledger.get("k").status is start
    before = everything(path)
    assert follow(ledger, FORMS[form](stale)) is None
    assert everything(path) == before


def move_round(ledger, record):
    if record.status is Status.QUEUED:
        ledger.release(ledger.claim(record))
    elif record.status is Status.RUNNING:
        ledger.claim(ledger.release(record))
    else:
        ledger.fail(ledger.claim(ledger.replay(record)), "again", "permanent")


@pytest.mark.parametrize(
    ("name", "status"), [(name, status) for name in ARROWS for status in Status if status is not ARROWS[name][0]]
)
def test_a_row_in_another_state_is_fenced_and_writes_nothing(ledger, path, name, status):
    """The version alone is right."""
    _, follow = ARROWS[name]
    record = make(ledger, status)
    before = everything(path)
    assert follow(ledger, record) is None
    assert everything(path) == before


def test_versions_never_come_back_after_a_row_is_gone(ledger, path):
    """Ids are not used twice, so (id, version) fences for ever."""
    old = make(ledger, Status.RUNNING, "old")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("DELETE FROM tasks")
    new = make(ledger, Status.RUNNING, "new")
    assert new.id > old.id
    assert ledger.succeed(old, "1") is None


def test_failing_writes_the_dead_letter_in_the_same_transaction(ledger, path):
    """T5: when the dead letter cannot be written, the task has not failed either."""
    record = make(ledger, Status.RUNNING)
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'no'); END")
        database.commit()
    with pytest.raises(LedgerError, match="SQLITE_CONSTRAINT"):
        ledger.fail(record, "boom", "permanent")
    assert ledger.get("k") == record
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TRIGGER no")
        database.commit()
    failed = ledger.fail(record, "boom", "permanent")
    (letter,) = ledger.dead_letters()
    assert (letter.task_id, letter.idempotency_key, letter.reason, letter.error) == (
        failed.id,
        "k",
        "permanent",
        "boom",
    )
    assert (letter.params, letter.attempt, letter.failed_at, letter.replayed_at) == ({}, 1, 1000.0, None)


def test_cancelling_writes_the_dead_letter_in_the_same_transaction(ledger, path):
    """T8: when the dead letter cannot be written, the task is queued still."""
    record = make(ledger, Status.QUEUED)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TRIGGER no BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(LedgerError, match="SQLITE_CONSTRAINT") as caught:
            ledger.cancel(record)
        database.execute("DROP TRIGGER no")
    assert caught.value.code == "SQLITE_CONSTRAINT_TRIGGER"
    assert ledger.get("k") == record
    assert ledger.cancel(record).finished
    (letter,) = ledger.dead_letters()
    assert (letter.task_id, letter.reason, letter.error, letter.attempt) == (record.id, "cancelled", "cancelled", 0)


def test_a_task_that_waits_for_its_retry_can_be_cancelled(ledger):
    """T8: its dead letter tells how far it had come."""
    waiting = ledger.retry(make(ledger, Status.RUNNING), "late", 1000)
    assert ledger.cancel(waiting).status is Status.FAILED
    (letter,) = ledger.dead_letters()
    assert (letter.reason, letter.retries, letter.attempt) == ("cancelled", 1, 1)
    assert ledger.next_run_at(0) is None


def test_the_key_of_a_cancelled_task_is_free(ledger, clock):
    """T9: its row is queued again with what the new draft says, other params too; the dead letter is marked, and the
    history stays.
    """
    cancelled = ledger.cancel(ledger.retry(make(ledger, Status.RUNNING), "late", 1000))
    assert ledger.known(["k"]) == set()
    clock.now = 2000.0
    (row,) = ledger.insert([Draft("k", "other image", "other variant", '{"other":1}')])
    record = ledger.get("k")
    assert row == row_of(record)
    assert (record.id, record.version, record.status) == (cancelled.id, cancelled.version + 1, "queued")
    assert (record.image_key, record.variant, record.params) == ("other image", "other variant", {"other": 1})
    assert (record.retries, record.attempt, record.run_at, record.finished_at) == (0, 1, 2000.0, None)
    assert [letter.replayed_at for letter in ledger.dead_letters()] == [2000.0]
    assert ledger.known(["k"]) == {"k"}
    assert isinstance(ledger.insert([draft("k")])[0], TaskRecord)


def test_the_key_of_a_cancelled_task_is_free_once_in_a_batch(ledger):
    """Its second draft there finds the first one, and the neighbours get rows of their own."""
    ledger.cancel(make(ledger, Status.QUEUED))
    first, other, again = ledger.insert([draft("k", '{"n":1}'), draft("new"), draft("k", '{"n":2}')])
    assert [type(row) for row in (first, other, again)] == [Row, Row, TaskRecord]
    assert ledger.get("k").params == {"n": 1}
    assert row_of(again) == first


@pytest.mark.parametrize("reason", ["permanent", "exhausted", "poison"])
def test_the_key_of_a_task_that_failed_otherwise_is_not_free(ledger, path, reason):
    """T5: it keeps its key until it is replayed or purged; also one that was cancelled before."""
    ledger.cancel(make(ledger, Status.QUEUED))
    (row,) = ledger.insert([draft("k")])
    failed = ledger.fail(ledger.claim(row), "boom", reason)
    before = everything(path)
    assert ledger.insert([draft("k", '{"other":1}')]) == [failed]
    assert everything(path) == before
    assert ledger.known(["k"]) == {"k"}


def test_a_late_worker_of_a_cancelled_task_is_fenced(ledger, path):
    """Its attempt was released, the task cancelled and submitted again, and it runs."""
    late = make(ledger, Status.RUNNING)
    ledger.cancel(ledger.release(late))
    (row,) = ledger.insert([draft("k", '{"other":1}')])
    ledger.claim(row)
    before = everything(path)
    assert ledger.succeed(late, "1") is None
    assert posted(ledger, successes=[(late, "1")]) == [False]
    assert everything(path) == before


def test_replay_keeps_key_and_history(ledger, clock):
    """T9: the same row with a full budget; its dead letter stays and is marked, once."""
    record = ledger.retry(make(ledger, Status.RUNNING), "late", 0)
    failed = ledger.fail(ledger.claim(record), "boom", "exhausted")
    clock.now = 2000.0
    replayed = ledger.replay(failed)
    assert (replayed.id, replayed.idempotency_key, replayed.retries, replayed.attempt) == (failed.id, "k", 0, 2)
    clock.now = 3000.0
    assert ledger.replay(failed) is None
    ledger.fail(ledger.claim(replayed), "again", "permanent")
    first, second = ledger.dead_letters()
    assert (first.error, first.retries, first.replayed_at) == ("boom", 1, 2000.0)
    assert (second.error, second.retries, second.replayed_at) == ("again", 0, None)


def test_recovery_queues_what_was_running_and_leaves_the_rest_alone(ledger, clock):
    """T6: crashes + 1, no retry used."""
    others = [make(ledger, status, status.value) for status in Status if status is not Status.RUNNING]
    orphan = make(ledger, Status.RUNNING)
    clock.now = 2000.0
    (recovered,) = ledger.recover()
    assert recovered == ledger.get("k")
    assert (recovered.status, recovered.crashes, recovered.retries) == ("queued", 1, 0)
    assert (recovered.attempt, recovered.run_at) == (1, 2000.0)
    assert recovered.version == orphan.version + 1
    assert [ledger.get(record.idempotency_key) for record in others] == others
    assert ledger.recover() == []
    assert ledger.succeed(orphan, "1") is None


def test_a_task_running_at_three_crashes_is_poison(ledger):
    """T6: failed, with its dead letter."""
    make(ledger, Status.RUNNING, "neighbour")
    insert(ledger)
    for crash in (1, 2, 3):
        claimed = ledger.claim(ledger.get("k"))
        moved = {record.idempotency_key: record for record in ledger.recover()}
        assert (moved["k"].crashes, moved["k"].version) == (crash, claimed.version + 1)
    assert moved["k"].status is Status.FAILED
    assert moved["k"] == ledger.get("k")
    (letter,) = ledger.dead_letters()
    assert (letter.idempotency_key, letter.reason, letter.crashes) == ("k", "poison", 3)
    assert letter.error == moved["k"].error == "the process died 3 times while this task was running"
    assert ledger.get("neighbour").status is Status.QUEUED
    assert ledger.replay(moved["k"]).crashes == 0


def test_errors_are_cut(ledger):
    """A processor's error may be long; the ledger keeps its beginning."""
    long = "é" * 10_000
    record = ledger.retry(make(ledger, Status.RUNNING), long, 0)
    assert record.error == long[:ERROR_LENGTH]
    ledger.fail(ledger.claim(record), long, "permanent")
    assert ledger.dead_letters()[0].error == long[:ERROR_LENGTH]


def test_success_publishes_its_output(ledger, tmp_path):
    """T3: the file has the name, size and SHA-256 of the record, and the temporary one is gone."""
    publication = Publication.prepare(output(tmp_path, b"new"), "k", durable=True)
    done = ledger.succeed(make(ledger, Status.RUNNING), "null", publication)
    assert (done.output_key, done.size) == (output_key("k", ".jpg"), 3)
    assert done.sha256 == hashlib.sha256(b"new").hexdigest()
    assert (tmp_path / done.output_key).read_bytes() == b"new"
    assert not publication.temp_path.exists()


def test_a_fenced_success_does_not_touch_a_good_output(ledger, tmp_path):
    """G4: the rename happens only when the guard matched."""
    late = make(ledger, Status.RUNNING)
    again = ledger.claim(ledger.release(late))
    good = Publication.prepare(output(tmp_path, b"good", "good.jpg"), "k", durable=False)
    done = ledger.succeed(again, "null", good)
    stale = Publication.prepare(output(tmp_path, b"stale", "stale.jpg"), "k", durable=False)
    assert ledger.succeed(late, "null", stale) is None
    assert (tmp_path / done.output_key).read_bytes() == b"good"


def test_an_output_that_cannot_be_renamed_records_no_success(ledger, tmp_path):
    """T3: the OSError comes through, and the task is still running."""
    record = make(ledger, Status.RUNNING)
    publication = Publication.prepare(output(tmp_path), "k", durable=False)
    publication.temp_path.unlink()
    with pytest.raises(FileNotFoundError):
        ledger.succeed(record, "null", publication)
    assert ledger.get("k") == record
    assert ledger.succeed(record, "null") is not None


def test_a_success_whose_commit_failed_can_be_tried_again(ledger, path, tmp_path):
    """The output was renamed already; the second try finds that and records it."""
    record = make(ledger, Status.RUNNING)
    publication = Publication.prepare(output(tmp_path, b"new"), "k", durable=False)
    ledger._writer.execute("PRAGMA foreign_keys = ON")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
        database.execute("CREATE TABLE child (id REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)")
        database.execute("CREATE TRIGGER late AFTER UPDATE ON tasks BEGIN INSERT INTO child VALUES (1); END")
        with pytest.raises(LedgerError, match="FOREIGN KEY"):  # checked by COMMIT, as the key is deferred
            ledger.succeed(record, "null", publication)
        assert ledger.get("k") == record
        database.execute("INSERT INTO parent VALUES (1)")
    done = ledger.succeed(record, "null", publication)
    assert done.status is Status.SUCCESS
    assert (tmp_path / done.output_key).read_bytes() == b"new"


def test_a_bad_row_does_not_drop_its_neighbours(ledger):
    """Sixteen threads insert at once, four of them what the schema refuses."""

    def write(n):
        try:
            return isinstance(ledger.insert([draft(f"k{n}", "{}" if n % 4 else None)])[0], Row)
        except LedgerError as error:
            return "NOT NULL" in str(error)

    assert all(at_once(write, 16))
    assert {record.idempotency_key for record in ledger.records()} == {f"k{n}" for n in range(16) if n % 4}


def test_only_one_of_many_claims_wins(ledger):
    """T2: two workers that hold the same row."""
    for n in range(10):
        queued = insert(ledger, f"k{n}")
        claimed = at_once(lambda _, queued=queued: ledger.claim(queued), 8)
        assert sum(record is not None for record in claimed) == 1


def test_known_tells_which_keys_have_a_row(ledger):
    """Whatever the key looks like."""
    odd = [
        '["a\\"b","c"]',
        "'; DROP TABLE tasks; --",
        "\u2028é\\",
        " ",
        "\x01\x1f\x7f",
        "\U0001f600\ud7ff",
        "\\u0041/",
        "1",
    ]
    ledger.insert([draft(key) for key in odd])
    assert ledger.known([*odd, "unknown"]) == set(odd)
    assert [record.idempotency_key for record in ledger.records()] == odd
    assert [record.image_key for record in ledger.records()] == [f"image of {key}" for key in odd]
    assert ledger.known([]) == set()


@pytest.mark.parametrize(("durability", "level"), [("power", 2), ("process", 1)])
def test_durability_is_sqlites_synchronous_level(path, durability, level):
    """FULL for "power" (3 would be EXTRA), NORMAL for "process", whatever was written before."""
    with closing(Ledger(path, durability=durability)) as ledger:
        ledger.claim(insert(ledger, "other"))
        assert ledger._writer.execute("PRAGMA synchronous").fetchone()[0] == 1
        insert(ledger)
        assert ledger._writer.execute("PRAGMA synchronous").fetchone()[0] == level
        assert ledger._writer.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_a_memory_ledger_follows_the_same_arrows(clock):
    """Reads and writes share its one connection."""
    with closing(Ledger(":memory:", clock=clock)) as ledger:
        done = ledger.succeed(make(ledger, Status.RUNNING), '"x"')
        assert ledger.get("k") == done
        assert ledger.counts()[Status.SUCCESS] == 1


def test_close_may_be_called_twice_and_ends_every_use(path):
    """Each later call is a LedgerError."""
    ledger = Ledger(path, durability="process")
    record = insert(ledger)
    ledger.close()
    ledger.close()
    for call in (lambda: insert(ledger), lambda: ledger.claim(record), lambda: ledger.get("k"), ledger.counts):
        with pytest.raises(LedgerError, match="closed"):
            call()
    with pytest.raises(LedgerError, match="closed"):
        ledger.export(path.with_name("copy.db"))
    assert sorted(file.name for file in path.parent.iterdir()) == ["tasks.db", "tasks.db.lock"]


@POSIX
def test_files_are_for_their_owner_alone(tmp_path):
    """0600 for every file, 0700 for a folder that was made."""
    path = tmp_path / "made" / "tasks.db"
    umask = os.umask(0o022)
    try:
        with closing(Ledger(path)) as ledger:
            insert(ledger)
            ledger.export(path.with_name("copy.db"))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(umask)
    names = ["copy.db", "tasks.db", "tasks.db-shm", "tasks.db-wal", "tasks.db.lock"]
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
