"""Export: a copy of the ledger as a SQLite file of its own."""

import os
from contextlib import closing

import pytest
from helpers import draft, sql

from taskqueue_core import LedgerError
from taskqueue_core.database import LedgerView
from taskqueue_core.ledger import Ledger


def names(folder):
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("tasks.db"))


@pytest.mark.parametrize("memory", [True, False])
def test_export_is_a_complete_ledger(path, tmp_path, memory):
    """Of a file and of :memory:; it can be read, and opened again."""
    copy = tmp_path / "copy.db"
    with closing(Ledger(":memory:" if memory else path, durability="process")) as ledger:
        ledger.insert([draft(f"k{n}") for n in range(100)])
        ledger.fail(ledger.claim(ledger.get("k7")), "boom", "permanent")
        ledger.export(copy)
        with LedgerView.inspect(copy) as view:
            assert view.records() == ledger.records()
            assert view.dead_letters() == ledger.dead_letters()
    with closing(Ledger(copy, durability="process")) as again:
        assert again.get("k7").error == "boom"


def test_export_leaves_one_file(path, tmp_path):
    """No journal and no temporary file beside it."""
    with closing(Ledger(path)) as ledger:
        ledger.insert([draft()])
        ledger.export(tmp_path / "copy.db")
        assert names(tmp_path) == ["copy.db"]
        assert sql(tmp_path / "copy.db", "PRAGMA integrity_check") == [("ok",)]


def test_export_replaces_an_older_file(path, tmp_path):
    """Whatever that was."""
    copy = tmp_path / "copy.db"
    copy.write_text("an older report")
    with closing(Ledger(path)) as ledger:
        ledger.insert([draft()])
        ledger.export(str(copy))
        ledger.insert([draft("later")])
        assert sql(copy, "SELECT idempotency_key FROM tasks") == [("k",)]
        ledger.export(copy)
        assert sql(copy, "SELECT count(*) FROM tasks") == [(2,)]


@pytest.mark.parametrize("way", ["the path", "after a chdir", "a symbolic link", "a hard link"])
def test_export_onto_itself_is_refused(path, tmp_path, monkeypatch, way):
    """By whatever name: its connections would go on writing into a file without a name."""
    monkeypatch.chdir(path.parent)
    target = tmp_path / "link.db"
    with closing(Ledger(path.name)) as ledger:
        ledger.insert([draft()])
        if way == "a symbolic link":
            target.symlink_to(path)
        elif way == "a hard link":
            os.link(path, target)
        else:
            target = path
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere" if way == "after a chdir" else tmp_path)
        with pytest.raises(LedgerError, match="onto itself"):
            ledger.export(target)
        ledger.insert([draft("later")])
    assert sql(path, "SELECT count(*) FROM tasks") == [(2,)]


def test_export_onto_an_open_ledger_is_refused(path, tmp_path):
    """The other one's unfinished WAL would be mixed into the copy."""
    with closing(Ledger(path)) as ledger, closing(Ledger(tmp_path / "other.db")) as other:
        other.insert([draft("theirs")])
        with pytest.raises(LedgerError, match="open, or was not closed"):
            ledger.export(tmp_path / "other.db")
        assert other.get("theirs") is not None
    assert names(tmp_path) == ["other.db", "other.db.lock"]


@pytest.mark.parametrize("target", ["missing/copy.db", "folder"])
def test_export_that_cannot_be_written_says_where(path, tmp_path, target):
    """Nothing is left of it."""
    (tmp_path / "folder").mkdir()
    with closing(Ledger(path)) as ledger:
        with pytest.raises(LedgerError, match=target):
            ledger.export(tmp_path / target)
        assert len(ledger.insert([draft()])) == 1
    assert names(tmp_path) == ["folder"]
