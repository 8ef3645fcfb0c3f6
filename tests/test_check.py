"""`taskqueue check`: what it finds, what it says, and that it changes nothing."""

import builtins
import io
import os
import re
import sqlite3
from contextlib import closing

import pytest
from helpers import Work, run_python, tasks

from taskqueue_core import PermanentError, Task, TaskQueue
from taskqueue_core import check as check_module
from taskqueue_core.check import check, check_lines, has_wal_reset_bug
from taskqueue_core.cli import main
from taskqueue_core.database import SCHEMA_VERSION, SQLITE_VERSION

CRASH = """
import os, sys, threading
from taskqueue_core import Task, TaskQueue
both = threading.Barrier(2, action=lambda: os._exit(9))
queue = TaskQueue(lambda task: both.wait(), ledger=sys.argv[1], max_workers=2)
queue.submit_many([Task("a"), Task("b")])[0].result()
"""


@pytest.fixture
def crashed(path):
    """A ledger whose owner died while two tasks were running."""
    assert run_python(CRASH, str(path)).returncode == 9
    return path


@pytest.fixture
def ledger(path, monkeypatch):
    """A closed ledger in the working directory: 200 tasks that succeeded, one that failed."""
    monkeypatch.chdir(path.parent)
    work = Work({"bad.jpg": [PermanentError("no")]})
    with TaskQueue(work, ledger=path, durability="process") as queue:
        queue.submit_many([*tasks(200), Task("bad.jpg")], futures=False)
    return path


def write(path, *statements):
    """Change the file behind the queue's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            database.execute(statement)


def run(capsys, *options):
    status = main(["check", "tasks.db", *options])
    shown = capsys.readouterr()
    return status, shown.out.splitlines(), shown.err


def test_a_sound_ledger_exits_with_0(ledger, capsys):
    """File, owner, schema, journal, counts, and what SQLite says."""
    status, lines, errors = run(capsys)
    assert (status, errors) == (0, "")
    assert lines[0].startswith(f"tasks.db   no owner   schema {SCHEMA_VERSION}   journal wal   ")
    assert lines[1].startswith("queued 0 (none waiting)   running 0   success 200   failed 1 (1 dead letter, 0 poison)")
    assert lines[2] == "file        ok (integrity_check)"
    assert lines[3].startswith("rows        ok (one row a key; ")
    assert lines[4].startswith(f"SQLite      {SQLITE_VERSION}")


def test_a_running_owner_is_named_and_not_disturbed(path, open_queue):
    """Its running tasks are no orphans; it goes on writing."""
    work = Work(hold=True)
    queue = open_queue(work, max_workers=1)
    queue.submit_many(tasks(3), futures=False)
    work.wait_started()
    found = check(path)
    assert (found.sound, found.orphans) == (True, 0)
    assert f"owner pid {os.getpid()} (running)" in found.heading
    assert found.contents.startswith("queued 2 (oldest ")
    assert "running 1 " in found.contents
    work.release()
    assert queue.join(20)


def test_tasks_that_ran_when_their_owner_died_are_no_damage(crashed):
    """The next open queues them again, and the checkup says so."""
    found = check(crashed)
    assert (found.sound, found.orphans) == (True, 2)
    assert re.search(r"   no owner \(pid \d+ has died\)   ", found.heading)
    lines = check_lines(crashed, found)
    assert "note        2 tasks running, but no owner: queued again at the next open" in lines


def test_everything_is_read_at_one_moment(path, open_queue, monkeypatch):
    """The owner may write between two questions; the answers are from the same commit."""
    queue = open_queue(Work(hold=True), max_workers=1)
    ask = check_module.contradictions

    def slowly(view):
        found = ask(view)
        queue.submit(Task("meanwhile"))
        return found

    monkeypatch.setattr(check_module, "contradictions", slowly)
    assert check(path).contents.startswith("queued 0 (none waiting)   running 0 ")


def test_the_files_are_left_as_they_are(crashed):
    """A crashed owner's write-ahead log, too: all that it holds is read, and stays there."""
    files = [crashed, crashed.with_name("tasks.db-wal"), crashed.with_name("tasks.db.lock")]
    before = [file.read_bytes() for file in files]
    assert len(before[1]) > 0
    assert check(crashed).sound
    assert [file.read_bytes() for file in files] == before


def test_only_sqlite_opens_the_ledger(ledger, monkeypatch):
    """Closing another descriptor of it would drop the locks of this process's own connections."""
    opened = []

    def watch(call):
        return lambda file, *args, **kwargs: opened.append(str(file)) or call(file, *args, **kwargs)

    for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
        monkeypatch.setattr(module, name, watch(getattr(module, name)))
    found = check(ledger)
    monkeypatch.undo()
    assert found.sound
    assert opened
    assert str(ledger) not in opened


# --- damage


def test_a_damaged_page_exits_with_1_and_says_how_to_save_what_is_left(ledger, capsys):
    """The file is kept as it is."""
    with closing(sqlite3.connect(ledger)) as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tasks'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with ledger.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * 64)
    before = ledger.read_bytes()
    status, lines, errors = run(capsys)
    assert (status, errors) == (1, "")
    text = "\n".join(lines)
    assert "file        DAMAGED: " in text
    for advice in ("keep tasks.db and tasks.db-wal as they are", "restore a backup", ".recover", "never rebuilt"):
        assert advice in text
    assert ledger.read_bytes() == before


def test_an_index_that_does_not_fit_its_table_is_damage(ledger, capsys):
    """integrity_check compares them, quick_check does not and says so."""
    write(
        ledger, "UPDATE sqlite_master SET sql = replace(sql, '''running''', '''success''') WHERE name='tasks_running'"
    )
    status, lines, _ = run(capsys)
    assert status == 1
    assert any("missing from index tasks_running" in line for line in lines)
    assert len(lines) < 25
    status, lines, _ = run(capsys, "--quick")
    assert (status, lines[2]) == (0, "file        ok (quick_check: indexes were not compared)")


def test_a_table_that_is_missing_is_damage(ledger, capsys):
    """The file is sound for SQLite, but it is no whole ledger."""
    write(ledger, "DROP TABLE dead_letters")
    status, lines, _ = run(capsys)
    assert status == 1
    assert "DAMAGED: no such table: dead_letters" in lines[1]


def test_a_ledger_that_is_no_sqlite_file_any_more_is_damaged(ledger, capsys):
    """Its lock file tells that it was one; without it there is no ledger."""
    ledger.write_bytes(b"\0" * 8192)
    status, lines, _ = run(capsys)
    assert status == 1
    assert "DAMAGED: file is not a database" in lines[1]
    ledger.with_name("tasks.db.lock").unlink()
    assert run(capsys) == (2, [], "taskqueue: 'tasks.db' is no SQLite file; it was left as it is\n")


@pytest.mark.parametrize(
    ("statement", "wrong"),
    [
        ("DELETE FROM dead_letters", "1 x task in state failed without a dead letter"),
        ("UPDATE dead_letters SET replayed_at = 1.0", "1 x task in state failed without a dead letter"),
        ("UPDATE tasks SET value = NULL WHERE id IN (2, 3)", "2 x task in state success without a value"),
        ("UPDATE tasks SET output_key = 'k' WHERE id = 2", "1 x output without its size or SHA-256"),
    ],
)
def test_rows_that_no_transition_writes_are_wrong(ledger, capsys, statement, wrong):
    """Although SQLite finds the file sound; .recover would be the wrong advice."""
    write(ledger, statement)
    status, lines, _ = run(capsys)
    assert status == 1
    assert lines[2:4] == ["file        ok (integrity_check)", f"rows        WRONG: {wrong}"]
    assert not any(".recover" in line for line in lines)


def test_two_rows_of_one_key_are_wrong(ledger, capsys):
    """Only a file whose UNIQUE is gone can have them, such as one put together by hand."""
    write(
        ledger,
        "CREATE TABLE copies AS SELECT * FROM tasks",
        "DROP TABLE tasks",
        "ALTER TABLE copies RENAME TO tasks",
        "INSERT INTO tasks SELECT * FROM tasks WHERE id = 1",
    )
    status, lines, _ = run(capsys)
    assert (status, lines[3]) == (1, "rows        WRONG: 1 x idempotency key with more than one row")


# --- no ledger


def test_a_newer_ledger_is_refused_in_words(ledger, capsys):
    """Nothing is wrong with it; this program is too old."""
    write(ledger, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    status, lines, errors = run(capsys)
    assert (status, lines) == (2, [])
    known = f"has version {SCHEMA_VERSION + 1}, this program knows up to {SCHEMA_VERSION}: use the newer taskqueue_core"
    assert known in errors


@pytest.mark.parametrize("content", [None, b"", b"some text, longer than the header of a SQLite file, " * 9])
def test_what_is_no_ledger_exits_with_2(path, monkeypatch, capsys, content):
    """A file that is absent, empty or another one; none is made."""
    monkeypatch.chdir(path.parent)
    if content is not None:
        path.write_bytes(content)
    status, lines, errors = run(capsys)
    assert (status, lines, errors.count("\n")) == (2, [], 1)
    assert errors.startswith("taskqueue: ")
    assert [file.name for file in path.parent.iterdir()] == ([] if content is None else ["tasks.db"])


def test_another_programs_file_exits_with_2(path, monkeypatch, capsys):
    """It is not ours to judge."""
    monkeypatch.chdir(path.parent)
    write(path, "CREATE TABLE theirs (id)")
    status, lines, errors = run(capsys)
    assert (status, lines) == (2, [])
    assert "is a SQLite file of another program" in errors


# --- the WAL-reset bug


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.6.23", False),
        ("3.7.0", True),
        ("3.40.1", True),
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.0", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.0", True),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.52.0", False),
        ("4.0.0", False),
    ],
)
def test_which_versions_of_sqlite_have_the_wal_reset_bug(ledger, monkeypatch, version, affected):
    """3.7.0 to 3.51.2 without two backports; the checkup says what it means here."""
    assert has_wal_reset_bug(version) is affected
    monkeypatch.setattr(check_module, "SQLITE_VERSION", version)
    text = "\n".join(check_lines(ledger, check(ledger)))
    assert ("through one connection, which reduces the risk" in text) is affected
    assert (f"{version}, without the WAL-reset bug" in text) is not affected
