"""From version 1 of the schema to the present one: every row comes along, or the file is as it was."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from helpers import sql

from taskqueue_core import LedgerError, Status
from taskqueue_core import database as database_module
from taskqueue_core.database import SCHEMA_VERSION, LedgerView, connect, migrate
from taskqueue_core.ledger import Ledger

TASKS = [
    # id, key, status, retries, attempt, crashes, created_at, run_at, output_key, size, sha256, value, error, version
    (1, "queued", "queued", 0, 0, 0, 10.0, 11.0, None, None, None, None, None, 1),
    (2, "retrying", "queued", 2, 2, 1, 10.0, 12.0, None, None, None, None, "late", 5),
    (3, "running", "running", 0, 1, 0, 10.0, 13.0, None, None, None, None, None, 2),
    (4, "success", "success", 1, 2, 0, 10.0, 14.0, "out.jpg", 3, "abc", '{"é":[1]}', None, 5),
    (5, "failed", "failed", 0, 1, 0, 10.0, 15.0, None, None, None, None, "boom", 3),
    (9, "last", "success", 0, 1, 0, 10.0, 16.0, None, None, None, "null", None, 3),
]
LETTERS = [
    (1, 5, "failed", "i", "v", "{}", "permanent", "older", 0, 1, 0, 14.5, 14.7),
    (2, 5, "failed", "i", "v", "{}", "permanent", "boom", 0, 1, 0, 15.0, None),
]
OLD_COLUMNS = (
    "id, idempotency_key, status, retries, attempt, crashes, created_at, run_at, output_key, size, sha256, value, "
    "error, version"
)


def statements_of(step):
    return [statement for statement in step.split(";\n") if statement.strip()]


@pytest.fixture
def old(path):
    """A ledger of version 1, as its owner left it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        for statement in statements_of(database_module._VERSION_1):
            database.execute(statement)
        database.executemany(
            f"INSERT INTO tasks ({OLD_COLUMNS}, image_key, variant, params)"
            f" VALUES ({', '.join('?' * 14)}, 'i', 'v', '{{}}')",
            TASKS,
        )
        database.executemany(f"INSERT INTO dead_letters VALUES ({', '.join('?' * 13)})", LETTERS)
        database.execute("DELETE FROM tasks WHERE id = 9")  # its id is not to come back
        database.execute(f"PRAGMA application_id = {database_module._APPLICATION_ID}")
        database.execute("PRAGMA user_version = 1")
    return path


def rows(path):
    return sql(path, f"SELECT {OLD_COLUMNS} FROM tasks ORDER BY id"), sql(path, "SELECT * FROM dead_letters")


def schema(path):
    return sql(path, "SELECT type, name, sql FROM sqlite_master ORDER BY name"), sql(path, "PRAGMA user_version")


def test_migration_keeps_every_row(old):
    """Each column of each task and letter; finished tasks get the time that is known of their end."""
    before = rows(old)
    assert before == (TASKS[:-1], LETTERS)
    Ledger(old, durability="process").close()
    assert rows(old) == before
    assert sql(old, "SELECT idempotency_key, finished_at FROM tasks ORDER BY id") == [
        ("queued", None),
        ("retrying", None),
        ("running", None),
        ("success", 14.0),
        ("failed", 15.0),
    ]
    assert sql(old, "SELECT * FROM counters") == [("purged", 0)]
    assert sql(old, "PRAGMA integrity_check") == [("ok",)]


def test_a_migrated_file_is_like_a_new_one(old, tmp_path):
    """The same tables, indexes and version, but for how SQLite words them."""
    Ledger(old, durability="process").close()
    Ledger(tmp_path / "new.db", durability="process").close()
    for pragma in ("table_info(tasks)", "table_info(dead_letters)", "table_info(counters)", "user_version"):
        assert sql(old, f"PRAGMA {pragma}") == sql(tmp_path / "new.db", f"PRAGMA {pragma}")
    assert schema(old) == schema(tmp_path / "new.db")


def test_a_migrated_ledger_goes_on(old):
    """Recovery, claims, retention, and ids above those that were ever used."""
    with closing(Ledger(old, durability="process", clock=lambda: 100.0)) as ledger:
        assert [record.idempotency_key for record in ledger.recover()] == ["running"]
        assert ledger.retry_waiting() == [2]
        (row,) = ledger.insert([("new", "i", "v", "{}")])
        assert row.id == 10
        assert ledger.succeed(ledger.claim(ledger.get("queued")), "1").finished_at == 100.0
        assert ledger.replay(ledger.get("failed")).finished_at is None
        assert ledger.purge_old(None, 50.0) == 1
        assert ledger.get("success") is None
        assert ledger.counts()[Status.SUCCESS] == 1


def test_inspection_of_an_older_version_changes_nothing_and_says_what_to_do(old):
    """Only an owner migrates."""
    before = old.read_bytes()
    with pytest.raises(LedgerError, match=r"tasks\.db.* is of an older version: open it as a queue once"):  # noqa: SIM117
        with LedgerView.inspect(old):
            pass
    assert old.read_bytes() == before
    Ledger(old, durability="process").close()
    with LedgerView.inspect(old) as view:
        assert len(view.records()) == 5


class Stopping:
    """A connection on which the nth statement, from BEGIN on, is where the process meets its end, or an error."""

    def __init__(self, connection, nth, end):
        self.connection = connection
        self.nth = nth
        self.end = end
        self.began = False

    @property
    def in_transaction(self):
        return self.connection.in_transaction

    def execute(self, statement, *values):
        self.began = self.began or statement.startswith("BEGIN")
        if self.began and statement != "ROLLBACK":
            self.nth -= 1
            if self.nth < 0:
                self.end()
        return self.connection.execute(statement, *values)


STEPS = 6 + len(statements_of(database_module._VERSION_1)) + len(statements_of(database_module._VERSION_2))


def migrate_until(path, nth, end):
    """Whether the migration came to its end."""
    with closing(connect(str(path))) as connection:
        try:
            migrate(Stopping(connection, nth, end))
        except sqlite3.OperationalError:
            assert not connection.in_transaction
            return False
    return True


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("nth", range(STEPS))
def test_an_error_at_any_statement_leaves_the_old_schema(path, request, nth, version):
    """Of a new file and of an old one; the next opening does it all."""
    if version:
        request.getfixturevalue("old")
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = WAL")
    before = schema(path)

    def fail():
        raise sqlite3.OperationalError("database or disk is full")

    done = migrate_until(path, nth, fail)
    assert schema(path) == before or (done and schema(path)[1] == [(SCHEMA_VERSION,)])
    if version:
        assert rows(path) == (TASKS[:-1], LETTERS)
    with closing(Ledger(path, durability="process")) as ledger:
        assert len(ledger.records()) == (5 if version else 0)
    assert schema(path)[1] == [(SCHEMA_VERSION,)]


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("nth", range(STEPS))
def test_a_kill_at_any_statement_leaves_the_old_schema(path, request, tmp_path, nth, version):
    """A copy of the files, as they are at that moment, is what a killed process leaves."""
    if version:
        request.getfixturevalue("old")
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA journal_mode = WAL")
    left = tmp_path / "left"

    def copy_once():
        if not left.exists():
            left.mkdir()
            for file in path.parent.glob("tasks.db*"):
                shutil.copy(file, left / file.name)

    assert migrate_until(path, nth, copy_once)
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    if not left.exists():  # it was done before the kill
        return
    killed = left / "tasks.db"
    assert sql(killed, "PRAGMA user_version") == [(version,)]
    if version:
        assert rows(killed) == (TASKS[:-1], LETTERS)
        assert "finished_at" not in {column[1] for column in sql(killed, "PRAGMA table_info(tasks)")}
    Ledger(killed, durability="process").close()
    assert schema(killed) == schema(path)


def test_every_statement_of_the_migration_was_reached(old):
    """The range above is not too short: past its end the migration is done."""
    assert migrate_until(old, STEPS, lambda: pytest.fail("the range is too short"))
