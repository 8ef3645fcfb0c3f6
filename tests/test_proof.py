"""The proofs at the size of every CI run, and that their audit finds what it is there to find."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from helpers import Work, environ, output

from taskqueue_core import PermanentError, Task

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("number", [1, 2, 5, 6, 8])
def test_the_promises_hold(number, tmp_path):
    """Each proof of the table, in a process of its own: the findings are what it prints."""
    report = tmp_path / "report.json"
    command = [sys.executable, "-S", "-W", "error", "-m", "tests.proof", "--only", str(number), "--json", str(report)]
    paths = os.pathsep.join([str(ROOT), environ()["PYTHONPATH"]])
    proofs = subprocess.run(
        command, cwd=tmp_path, env={**environ(), "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert (proofs.returncode, proofs.stderr) == (0, ""), proofs.stdout
    (outcome,) = json.loads(report.read_text())["proofs"]
    assert (outcome["verdict"], outcome["findings"]) == ("held", [])
    assert outcome["rounds"] + len(outcome["skipped"]) >= {1: 50, 2: 124, 5: 200, 6: 25, 8: 50}[number]


def test_a_proof_needs_both_ways_of_a_transaction():
    """One statement, or BEGIN and COMMIT: a proof that met only one of them does not hold."""
    from tests.proof.notes import Case, Notes
    from tests.proof.runner import Outcome

    outcome, notes = Outcome(1, "a proof"), Notes()
    notes.count_ways([["way", "at once"], ["accepted", "a"]])
    outcome.add(Case("a case", 1, lambda *_: None), notes.to_json())
    outcome.demand_both_ways()
    assert outcome.findings == ["the harness itself: no transaction was made in parts"]
    assert outcome.verdict == "broken"


SCRIPT = """
import sqlite3
from tests.proof.trap import Point, Trap

trap = Trap({point}, way=print)
trap.set()
database = sqlite3.connect("tasks.db", isolation_level=None)
database.execute("BEGIN")
database.execute("CREATE TABLE tasks (idempotency_key, status, retries, crashes, version)")
database.execute("INSERT INTO tasks VALUES ('known', 'queued', 0, 0, 1)")
database.execute("COMMIT")
database.execute("CREATE TEMP VIEW both AS SELECT 1")
database.execute(
    "CREATE TEMP TRIGGER two INSTEAD OF INSERT ON both BEGIN "
    "INSERT INTO tasks VALUES ('a', 'queued', 0, 0, 1); INSERT INTO tasks VALUES ('b', 'queued', 0, 0, 1); END"
)
trap.arm()
database.execute("INSERT INTO both VALUES (1)")
database.execute("BEGIN")
database.execute("UPDATE tasks SET version = 2")
database.execute("COMMIT")
for transaction in trap.transactions:
    print(transaction.number, transaction.way, transaction.steps, transaction.beginnings, *transaction.changes, sep="/")
"""


def play(folder, point):
    """Play SCRIPT in a process with a trap at this point: what it printed, how it ended, the keys that stand then."""
    folder.mkdir()
    paths = os.pathsep.join([str(ROOT), environ()["PYTHONPATH"]])
    command = [sys.executable, "-S", "-W", "error", "-c", SCRIPT.format(point=point)]
    ended = subprocess.run(
        command, cwd=folder, env={**environ(), "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True, check=False
    )
    with closing(sqlite3.connect(folder / "tasks.db")) as database:
        keys = [key for (key,) in database.execute("SELECT idempotency_key FROM tasks ORDER BY 1")]
    return ended.stdout.splitlines(), ended.returncode, keys


def test_a_rehearsal_sees_into_a_statement_that_is_its_own_transaction(tmp_path):
    """Its steps, the statements that begin in it, the rows that it changes; and the ways, each once."""
    (first, second, at_once, in_parts), status, _ = play(tmp_path / "rehearsal", None)
    assert (first, second, status) == ("at once", "in parts", 0)
    number, way, steps, beginnings, *changed = at_once.split("/")
    assert (number, way, changed) == ("1", "at once", ["a", "b"])
    assert int(steps) > 0
    assert int(beginnings) >= 3
    assert in_parts == "2/in parts/0/0/known/a/b"


@pytest.mark.parametrize("share", [0, 0.3, 0.6, 1, 10])
@pytest.mark.parametrize(
    ("moment", "stands"),
    [("before BEGIN", []), ("within the statement", []), ("before COMMIT", []), ("after COMMIT", ["a", "b"])],
)
def test_the_trap_kills_in_a_statement_that_is_its_own_transaction(tmp_path, moment, stands, share):
    """Whatever the step: nothing of it stands until it has ended, then all does. A step too many is no escape."""
    (_, _, at_once, _), _, _ = play(tmp_path / "rehearsal", None)
    _, _, steps, beginnings, *_ = at_once.split("/")
    point = f"Point({moment!r}, 1, {max(int(int(steps) * share), 1)}, {beginnings})"
    _, status, keys = play(tmp_path / "killed", point)
    assert (status, keys) == (-signal.SIGKILL, [*stands, "known"])


@pytest.fixture
def audited(tmp_path, open_queue):
    """A closed ledger with a success, a success with an output and a failure; the audit of it as a function."""
    from tests.proof import audit
    from tests.proof.journal import Journal
    from tests.proof.work import content

    work = Work(
        {
            "bad": [PermanentError("boom")],
            "good": [TOKEN],
            "file": [output(tmp_path, content(TOKEN), ".part-file", TOKEN)],
        }
    )
    with open_queue(work) as queue:
        for name in ("good", "bad", "file"):
            queue.submit(Task(name, params={"output": name == "file"}, idempotency_key=name))

    def find(*events, before=None):
        with Journal(tmp_path / "journal") as journal:
            journal.keep(list(event) for event in events)
            return "\n".join(audit.look_at_the_end(tmp_path, journal, before or {}))

    find.rows = audit.read(tmp_path)
    return find


def test_a_sound_ledger_has_no_findings(audited):
    """Accepted, told and finished as recorded."""
    assert audited(["accepted", "good"], ["result", "good", TOKEN], ["accepted", "bad"], ["failure", "bad"]) == ""


@pytest.mark.parametrize(
    ("event", "finding"),
    [
        (["accepted", "lost"], "an acknowledged task is lost: 'lost'"),
        (["result", "good", "another"], "a caller has the result another of task 'good'"),
        (["result", "bad", TOKEN], "a caller has the result"),
        (["failure", "good"], "there is no dead letter of it"),
        (["cancelled", "good"], "a caller was told the cancellation of task 'good'"),
        (["logged", "a bug"], "logged: a bug"),
    ],
)
def test_what_was_told_must_be_on_the_disk(audited, event, finding):
    """The journal of the outside decides."""
    assert finding in audited(event)


def test_two_results_of_one_task_are_a_double_success(audited):
    """Even when the ledger has one of them."""
    assert "was told two results" in audited(["result", "good", TOKEN], ["result", "good", "another"])


@pytest.mark.parametrize("status", ["running", "queued"])
def test_nothing_may_be_left_unfinished(audited, path, status):
    """After a restart that drained."""
    change(path, f"UPDATE tasks SET status = '{status}' WHERE idempotency_key = 'good'")
    assert f"task 'good' is still {status}" in audited()


def test_a_success_may_not_change(audited):
    """Between one kill and the next its row stays as it is; and no row goes away."""
    older = {**audited.rows["good"], "version": 2}
    found = audited(before={"good": older, "gone": older})
    assert "the success of task 'good' was overwritten" in found
    assert "task 'gone' has gone" in found


def test_every_claim_has_one_end_and_every_failure_one_dead_letter(audited, path):
    """Else something was counted or written twice."""
    change(path, "UPDATE tasks SET version = version + 1 WHERE idempotency_key = 'good'")
    change(path, "DELETE FROM dead_letters")
    found = audited()
    assert "task 'good' has version 4 after 1 claims" in found
    assert "task 'bad' is failed and has the dead letters []" in found


def test_an_output_must_be_the_recorded_one(audited, tmp_path):
    """And no unfinished file may be left over."""
    published = tmp_path / audited.rows["file"]["output_key"]
    (tmp_path / ".part-file-1").touch()
    published.write_bytes(b"half")
    found = audited()
    assert "the output of 'file' is not the recorded one" in found
    assert "an unfinished file is left over: .part-file-1" in found
    published.unlink()
    assert "the output of 'file' is missing" in audited()


def test_the_audit_reads_a_file_whose_owner_was_killed_while_making_it(tmp_path):
    """SQLite must roll back what stands half made, which a reader may not do with the file itself."""
    from tests.proof import audit
    from tests.proof.work import LEDGER

    script = f"""
import os, signal, sqlite3
database = sqlite3.connect({str(tmp_path / LEDGER)!r}, isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("CREATE TABLE other (text)")
database.execute("BEGIN")
database.execute("CREATE TABLE tasks (idempotency_key, text)")
database.executemany("INSERT INTO tasks VALUES ('a', ?)", [("x" * 4000,)] * 100)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-S", "-c", script], check=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 2, "there is no journal to roll back"
    assert audit.read(tmp_path) == {}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def change(path, statement):
    """Break the ledger by hand."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
