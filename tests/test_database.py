"""The ledger's file: what is refused and left as it is, what is made, and how it is read from outside."""

import hashlib
import os
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest
from helpers import draft, environ, posted, run_python, sql

from taskqueue_core import LedgerError, LedgerInUseError, Status, Task, TaskQueue
from taskqueue_core.arrows import Row
from taskqueue_core.database import SCHEMA_VERSION, LedgerView, translated
from taskqueue_core.ledger import Ledger

COLUMNS = (
    "id idempotency_key image_key variant params status retries attempt crashes created_at run_at output_key size"
    " sha256 value error version finished_at"
)


def database(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def other_program(path):
    database(path, "CREATE TABLE songs (title)", "INSERT INTO songs VALUES ('x')")


def other_program_that_was_killed(path):
    """Its changes stand in the WAL alone; whoever opens it for writing would bring them into the file."""
    run_python(
        "import os, signal, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('CREATE TABLE songs (title)'); c.execute('PRAGMA journal_mode = WAL')\n"
        "c.execute('INSERT INTO songs VALUES (1)'); os.kill(os.getpid(), signal.SIGTERM)",
        str(path),
    )
    assert path.with_name(f"{path.name}-wal").stat().st_size > 0


def other_program_without_tables(path):
    database(path, "PRAGMA user_version = 1")


def other_application(path):
    database(path, "PRAGMA application_id = 7")


def newer_version(path):
    Ledger(path, durability="process").close()
    database(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def no_sqlite(path):
    path.write_bytes(b"this is a diary, not a database\n" * 1000)


def short_text(path):
    path.write_text("a note")


REFUSED = {
    other_program: "another program",
    other_program_that_was_killed: "another program",
    other_program_without_tables: "another program",
    other_application: "another program",
    newer_version: f"version {SCHEMA_VERSION + 1}, this program knows up to {SCHEMA_VERSION}",
    no_sqlite: "is no SQLite file",
    short_text: "is no SQLite file",
}


def contents(folder):
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir() if file.suffix != ".lock"
    }


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_a_file_that_is_no_ledger_is_refused_and_left_as_it_is(path, make):
    """Byte for byte, and so are the files beside it; inspection refuses it too."""
    make(path)
    before = contents(path.parent)
    for _ in range(2):  # the refusal gives the owner lock back
        with pytest.raises(LedgerError, match=REFUSED[make]) as caught:
            TaskQueue(print, ledger=path)
        assert type(caught.value) is LedgerError
    assert contents(path.parent) == before
    with pytest.raises(LedgerError), LedgerView.inspect(path):
        pass
    assert contents(path.parent)[path.name] == before[path.name]


def test_a_folder_is_no_ledger(tmp_path):
    """It is said which."""
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(LedgerError, match=r"folder\.db"):
        TaskQueue(print, ledger=tmp_path / "folder.db")
    assert [*(tmp_path / "folder.db").iterdir()] == []


def test_a_name_that_cannot_be_made_is_a_ledger_error(tmp_path):
    """A file where a folder should be, or a name too long."""
    (tmp_path / "file").touch()
    for name in ("file/tasks.db", "x" * 300 + ".db"):
        with pytest.raises(LedgerError, match="cannot open ledger"):
            TaskQueue(print, ledger=tmp_path / name)


@pytest.mark.parametrize("name", ["tasks.db", "a/b/tasks.db", "odd ?#%25 é.db", "empty.db"])
def test_a_missing_ledger_is_made(tmp_path, name):
    """With the folders above it; an empty file will do as well."""
    (tmp_path / "empty.db").touch()
    with TaskQueue(lambda task: 1, ledger=str(tmp_path / name), durability="process") as queue:
        assert queue.submit(Task("k")).result(10) == 1
    with LedgerView.inspect(tmp_path / name) as view:
        assert view.counts()[Status.SUCCESS] == 1


def test_a_dangling_link_is_a_missing_ledger(tmp_path, path):
    """The file is made where the link points."""
    path.symlink_to(tmp_path / "target.db")
    Ledger(path).close()
    assert (tmp_path / "target.db").is_file()
    assert (tmp_path / "target.db.lock").is_file()


def test_tables_have_the_promised_columns(path):
    """Others read them; the version tells which schema it is."""
    Ledger(path).close()
    assert " ".join(name for _, name, *_ in sql(path, "PRAGMA table_info(tasks)")) == COLUMNS
    letters = {name for _, name, *_ in sql(path, "PRAGMA table_info(dead_letters)")}
    assert letters == {
        *("id", "task_id", "idempotency_key", "image_key", "variant", "params", "reason", "error", "retries"),
        *("attempt", "crashes", "failed_at", "replayed_at"),
    }
    assert sql(path, "SELECT * FROM counters") == [("purged", 0)]
    assert sql(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_an_interrupted_first_opening_is_made_up_for(path):
    """The file exists, its tables do not."""
    database(path, "PRAGMA journal_mode = WAL")
    with closing(Ledger(path)) as ledger:
        assert isinstance(ledger.insert([draft()])[0], Row)


def test_inspection_works_beside_a_running_owner(path, open_queue):
    """In another process; it sees what was committed, and the owner goes on."""
    queue = open_queue()
    queue.submit(Task("cat.jpg", params={"n": 1})).result(10)
    code = (
        "import sys; from taskqueue_core.database import LedgerView\n"
        "with LedgerView.inspect(sys.argv[1]) as view:\n"
        "    print(view.records()[0].value, [f'{s}={n}' for s, n in view.counts().items()])"
    )
    seen = run_python(code, str(path))
    assert (seen.stdout, seen.stderr) == ("{'n': 1} ['queued=0', 'running=0', 'success=1', 'failed=0']\n", "")
    with LedgerView.inspect(path) as view:
        queue.submit(Task("dog.jpg")).result(10)
        assert len(view.records(Status.SUCCESS)) == 2


def test_inspection_of_a_closed_ledger_changes_no_byte(path, open_queue):
    """And keeps nobody from opening it."""
    with open_queue() as queue:
        queue.submit(Task("cat.jpg")).result(10)
    before = hashlib.sha256(path.read_bytes()).digest()
    with LedgerView.inspect(str(path)) as view:
        assert view.get(Task("cat.jpg").key).status is Status.SUCCESS
        assert view.get("unknown") is None
        assert (view.dead_letters(), view.unfinished(), view.oldest_queued()) == ([], False, None)
        with open_queue() as again:
            assert again.submit(Task("cat.jpg")).result(10) == {}
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_inspection_cannot_write(path):
    """Neither by mistake."""
    Ledger(path).close()
    with LedgerView.inspect(path) as view, pytest.raises(sqlite3.OperationalError, match="readonly"):
        view._reader.execute("DELETE FROM tasks")


def test_inspection_of_nothing_is_refused(tmp_path):
    """A file that does not exist is not made; an empty one is no ledger."""
    with pytest.raises(LedgerError, match="there is no ledger"), LedgerView.inspect(tmp_path / "missing.db"):
        pass
    (tmp_path / "empty.db").touch()
    with pytest.raises(LedgerError, match="no ledger"), LedgerView.inspect(tmp_path / "empty.db"):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["empty.db"]


def test_queued_rows_come_in_the_order_in_which_they_are_due(path):
    """In pages, the earliest first; a later one is announced."""
    now = [0.0]
    with closing(Ledger(path, clock=lambda: now[0])) as ledger:
        for at in (30, 10, 20, 10):
            now[0] = at
            ledger.insert([draft(f"{at}-{len(ledger.records())}")])
        assert ledger.next_run_at(5) == 10
        first = ledger.due(25, (-1.0, 0), 2)
        assert [record.idempotency_key for record in first] == ["10-1", "10-3"]
        rest = ledger.due(25, (first[-1].run_at, first[-1].id), 2)
        assert [record.idempotency_key for record in rest] == ["20-2"]
        assert ledger.next_run_at(25) == 30
        assert ledger.next_run_at(30) is None
        assert ledger.oldest_queued() == 10


def test_a_locked_file_is_told_by_sqlites_own_code(path):
    """Another program holds the write lock; the submit fails, and can be tried again."""
    with closing(Ledger(path, durability="process")) as ledger:
        ledger._writer.execute("PRAGMA busy_timeout = 0")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(LedgerError, match=r"tasks\.db.*SQLITE_BUSY") as caught:
                ledger.insert([draft()])
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            assert (caught.value.code, caught.value.damaged) == ("SQLITE_BUSY", False)
        assert isinstance(ledger.insert([draft()])[0], Row)


def test_a_full_file_keeps_what_it_has(path):
    """SQLITE_FULL is a LedgerError; nothing of the transaction stays."""
    with closing(Ledger(path, durability="process")) as ledger:
        pages = ledger._writer.execute("PRAGMA page_count").fetchone()[0]
        ledger._writer.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(LedgerError, match="SQLITE_FULL") as caught:
            ledger.insert([draft(f"k{n}", '{"x":"' + "y" * 500 + '"}') for n in range(100)])
        assert (caught.value.code, caught.value.damaged) == ("SQLITE_FULL", False)
        assert ledger.records() == []
        ledger._writer.execute("PRAGMA max_page_count = 1000000")
        assert isinstance(ledger.insert([draft()])[0], Row)
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture
def damaged(path):
    """A ledger whose index of keys is overwritten."""
    with closing(Ledger(path, durability="process")) as ledger:
        ledger.insert([draft(f"k{n}") for n in range(500)])
    ((page,),) = sql(path, "SELECT rootpage FROM sqlite_master WHERE name = 'sqlite_autoindex_tasks_1'")
    ((size,),) = sql(path, "PRAGMA page_size")
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    return path


def test_a_damaged_file_is_not_written_any_more_and_the_remedy_is_told(damaged):
    """Neither by the arrow that has found out nor by the next one, which would not have touched the damage."""
    with closing(Ledger(damaged, durability="process")) as ledger:
        record = ledger.records()[0]
        with pytest.raises(LedgerError, match=r"tasks\.db.* is damaged.*restore a backup.*\.recover") as caught:
            ledger.insert([draft("new")])
        assert (caught.value.code.startswith("SQLITE_CORRUPT"), caught.value.damaged) == (True, True)
        before = contents(damaged.parent)
        for call in (lambda: ledger.claim(record), lambda: ledger.cancel(record), lambda: ledger.insert([draft("x")])):
            with pytest.raises(LedgerError, match="nothing more is written to it") as caught:
                call()
            assert caught.value.damaged
        assert contents(damaged.parent) == before
        assert ledger.commits.troubled
        assert len(ledger.records()) == 500  # what can be read is read on


def test_a_posted_change_of_a_damaged_file_is_told_and_not_kept(damaged):
    """Nobody waits for a file that does not mend itself."""
    with closing(Ledger(damaged, durability="process")) as ledger:
        row = ledger.claim(ledger.records()[0])
        with pytest.raises(LedgerError):
            ledger.insert([draft("new")])
        (error,) = posted(ledger, successes=[(row, "1")])
        assert error.damaged
        assert ledger.records(Status.SUCCESS) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_is_refused_before_it_touches_sqlite(path):
    """It may even leave the with block; the parent's ledger, lock and pid stay as they are."""
    code = """
import os, sys, warnings
from pathlib import Path
from taskqueue_core import LedgerError, LedgerInUseError, Task, TaskQueue
from taskqueue_core.ownership import read_owner
warnings.simplefilter("ignore", DeprecationWarning)  # fork with threads
with TaskQueue(lambda task: 1, ledger=sys.argv[1]) as queue:
    queue.submit(Task("before")).result(10)
    if not (child := os.fork()):
        refused = 0
        for call in (queue.records, lambda: queue.submit(Task("child")), lambda: queue.export("x.db"), queue.close):
            try:
                call()
            except LedgerError as error:
                refused += "after a fork" in str(error)
        queue._ledger.close()
        queue._ledger._writer.total_changes, queue._ledger._reader.total_changes  # raises where SQLite was called
        os._exit(refused)
    assert os.waitpid(child, 0)[1] >> 8 == 4, "a call was not refused"
    assert read_owner(Path(sys.argv[1])) == os.getpid()
    assert queue.submit(Task("after")).result(10) == 1
    try:
        TaskQueue(print, ledger=sys.argv[1])
    except LedgerInUseError:
        print("still the owner")
"""
    program = run_python(code, str(path), cwd=path.parent)
    assert (program.stdout, program.stderr) == ("still the owner\n", "")
    with LedgerView.inspect(path) as view:
        assert [record.image_key for record in view.records()] == ["before", "after"]


def test_a_second_opener_is_told_the_owners_pid(path, open_queue):
    """In the same process and in another one; the ledger's owner is not disturbed."""
    queue = open_queue()
    with pytest.raises(LedgerInUseError, match=rf"tasks\.db.* pid {os.getpid()}:"):
        TaskQueue(print, ledger=path)
    code = "import sys; from taskqueue_core import TaskQueue; TaskQueue(print, ledger=sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True, env=environ()
    ) as other:
        _, errors = other.communicate(timeout=20)
    assert f"LedgerInUseError: ledger '{path}' is in use by the process with pid {os.getpid()}" in errors
    assert queue.submit(Task("k")).result(10) == {}


@pytest.mark.parametrize("name", ["SQLITE_READONLY_ROLLBACK", "SQLITE_READONLY_RECOVERY"])
def test_a_ledger_left_amid_a_change_says_what_to_do(tmp_path, name):
    """Its owner was killed so early that a reader would have to roll back, which only an owner may."""
    error = sqlite3.OperationalError("attempt to write a readonly database")
    error.sqlite_errorname = name
    with pytest.raises(LedgerError, match="amid a change: open it as a queue once"), translated(tmp_path / "left.db"):
        raise error
