"""Looks at the ledger's file from outside, with plain SQL, and tells which promises it breaks."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.proof.journal import Journal
from tests.proof.work import LEDGER, PART, content

Row = dict[str, Any]
FINISHED = ("success", "failed")


def read(folder: Path) -> dict[str, Row]:
    """The tasks by their key; none when the file was not made yet."""
    return {row["idempotency_key"]: row for row in _select(folder, "SELECT * FROM tasks ORDER BY id")}


def look(folder: Path, journal: Journal, before: dict[str, Row]) -> tuple[dict[str, Row], list[str]]:
    """What the ledger holds after a kill, and what is wrong with it; `before` is what it held at the kill before."""
    rows = read(folder)
    found = [f"an acknowledged task is lost: {key!r}" for key in journal.accepted - set(rows)]
    integrity = _select(folder, "PRAGMA integrity_check")
    found += [f"integrity_check: {row}" for row in integrity if row["integrity_check"] != "ok"]
    found += [f"task {key!r} has gone" for key in before.keys() - rows.keys()]
    found += [text for key, row in before.items() if key in rows for text in _went_back(row, rows[key])]
    letters = _select(folder, "SELECT idempotency_key FROM dead_letters")
    found += _told(journal, rows, {letter["idempotency_key"] for letter in letters})
    return rows, found


def look_at_the_end(folder: Path, journal: Journal, before: dict[str, Row]) -> list[str]:
    """Once everything was recovered and drained: also that nothing is left, and every output is there."""
    rows, found = look(folder, journal, before)
    letters = _select(folder, "SELECT * FROM dead_letters")
    unfinished = [(key, row["status"]) for key, row in rows.items() if row["status"] not in FINISHED]
    found += [f"task {key!r} is still {status} after a restart that drained" for key, status in unfinished]
    for row in rows.values():
        found += _output(folder, row)
        found += _history(row, [letter for letter in letters if letter["task_id"] == row["id"]])
    found += [f"an unfinished file is left over: {path.name}" for path in folder.glob(f"{PART}*")]
    return found + journal.findings


def tally(rows: dict[str, Row]) -> Counter[str]:
    """How many tasks are in each state."""
    return Counter(row["status"] for row in rows.values())


def _went_back(old: Row, new: Row) -> Iterator[str]:
    """A version only grows, and what is finished stays as it is."""
    key = old["idempotency_key"]
    if new["version"] < old["version"] or (new["version"] == old["version"] and new != old):
        yield f"task {key!r} went back: {old} became {new}"
    elif old["status"] == "success" and new != old:
        yield f"the success of task {key!r} was overwritten: {old} became {new}"


def _told(journal: Journal, rows: dict[str, Row], letters: set[str]) -> Iterator[str]:
    """Whoever was told an outcome was told what is on the disk."""
    for key, token in journal.results.items():
        row = rows.get(key)
        if row is None or row["status"] != "success" or json.loads(row["value"]) != token:
            yield f"a caller has the result {token} of task {key!r}, the ledger has {row}"
    for key in journal.failures - letters:
        yield f"a caller was told the failure of task {key!r}, there is no dead letter of it"
    for key in journal.cancelled:
        if key not in rows or rows[key]["status"] != "failed":
            yield f"a caller was told the cancellation of task {key!r}, the ledger has {rows.get(key)}"


def _output(folder: Path, row: Row) -> Iterator[str]:
    """Success means that the output is there, complete, as recorded, and of the run that is recorded."""
    if row["status"] == "success" and json.loads(row["params"])["output"]:
        yield from look_at_output(folder, row, content(json.loads(row["value"])))


def look_at_output(folder: Path, row: Row, expected: bytes) -> Iterator[str]:
    """What is wrong with the output of a success, which should be this."""
    path = folder / (row["output_key"] or "")
    if not path.is_file():
        yield f"the output of {row['idempotency_key']!r} is missing"
        return
    data = path.read_bytes()
    recorded = (row["size"], row["sha256"], expected)
    if recorded != (len(data), hashlib.sha256(data).hexdigest(), data):
        yield f"the output of {row['idempotency_key']!r} is not the recorded one: {row}"


def _history(row: Row, letters: list[Row]) -> Iterator[str]:
    """Each arrow is a version: an insert, claims with an end each, replays, cancels. Each failure is a dead letter."""
    key = row["idempotency_key"]
    replayed = sum(letter["replayed_at"] is not None for letter in letters)
    cancelled = sum(letter["reason"] == "cancelled" for letter in letters)
    if row["version"] != 1 + 2 * row["attempt"] + replayed + cancelled:
        yield f"task {key!r} has version {row['version']} after {row['attempt']} claims and the dead letters {letters}"
    if len(letters) - replayed != (row["status"] == "failed"):
        yield f"task {key!r} is {row['status']} and has the dead letters {letters}"


def _select(folder: Path, statement: str) -> list[Row]:
    """Ask the file itself, read-only. A file without our tables holds nothing."""
    path = folder / LEDGER
    if not path.exists():
        return []
    try:
        return _ask(f"{path.resolve().as_uri()}?mode=ro", statement)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
    return _select_from_copy(folder, statement)


def _select_from_copy(folder: Path, statement: str) -> list[Row]:
    """The owner was killed while it made the file, before there was a write-ahead log: SQLite has to roll that back
    before it reads, and may do so with a copy.
    """
    with tempfile.TemporaryDirectory(prefix="proof-") as place:
        for path in folder.glob(f"{LEDGER}*"):
            shutil.copy(path, place)
        return _ask(str(Path(place, LEDGER)), statement)


def _ask(target: str, statement: str) -> list[Row]:
    with closing(sqlite3.connect(target, uri=target.startswith("file:"))) as database:
        database.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in database.execute(statement)]
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return []
            raise
