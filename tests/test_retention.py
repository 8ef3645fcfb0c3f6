"""What the ledger forgets: finished tasks, in batches, counted; and how its write-ahead log stays small."""

import sqlite3
from contextlib import closing

import pytest
from helpers import LONG, NEVER, Work, balance, draft, posted, sql, tasks, threads, until

from taskqueue_core import LedgerError, PermanentError, QueueSettings, Status, Task, TaskQueueError, TransientError
from taskqueue_core import commits as commits_module
from taskqueue_core import ledger as ledger_module
from taskqueue_core.arrows import row_of
from taskqueue_core.ledger import Ledger


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


def finish(ledger, key, outcome="success"):
    (row,) = ledger.insert([draft(key)])
    if outcome == "cancelled":
        return ledger.cancel(row)
    running = ledger.claim(row)
    return ledger.succeed(running, "1") if outcome == "success" else ledger.fail(running, "boom", outcome)


def finish_each_second(ledger, clock, count, outcome="success", name="k"):
    for n in range(count):
        clock.now += 1
        finish(ledger, f"{name}{n}", outcome)


def keys(ledger):
    return [record.idempotency_key for record in ledger.records()]


@pytest.mark.parametrize("form", [row_of, lambda record: record], ids=["row", "record"])
@pytest.mark.parametrize("outcome", ["success", "permanent", "exhausted", "poison", "cancelled"])
def test_purge_removes_a_finished_task_with_its_dead_letters(ledger, path, outcome, form):
    """T10: its key is free, the counter has it, and its neighbours keep their letters."""
    finish(ledger, "neighbour", "permanent")
    record = finish(ledger, "k", outcome)
    if record.status is Status.FAILED:  # a replayed letter goes too
        record = ledger.fail(ledger.claim(ledger.replay(record)), "again", "permanent")
    assert ledger.purge(form(record)) is True
    assert keys(ledger) == ["neighbour"]
    assert [letter.idempotency_key for letter in ledger.dead_letters()] == ["neighbour"]
    assert (ledger.purged(), ledger.known(["k"])) == (1, set())
    (new,) = ledger.insert([draft("k", '{"other":1}')])
    assert new.id > record.id
    assert balance(path, 3)[Status.QUEUED] == 1


@pytest.mark.parametrize("state", ["queued", "running", "stale", "gone"])
def test_purge_is_guarded_by_state_and_version(ledger, path, state):
    """What is not finished as the caller thinks stays, and is not counted."""
    if state in ("queued", "running"):
        ledger.insert([draft("k")])
        record = ledger.get("k") if state == "queued" else ledger.claim(ledger.get("k"))
    else:
        record = finish(ledger, "k", "permanent")
        if state == "stale":
            ledger.fail(ledger.claim(ledger.replay(record)), "again", "permanent")
        else:
            ledger.purge(record)
    before = [sql(path, f"SELECT * FROM {table}") for table in ("tasks", "dead_letters", "counters")]
    assert ledger.purge(record) is False
    assert [sql(path, f"SELECT * FROM {table}") for table in ("tasks", "dead_letters", "counters")] == before


@pytest.mark.parametrize("table", ["counters", "dead_letters"])
def test_purge_counts_in_the_same_transaction(ledger, path, table):
    """T10: when the counter or the letters cannot be written, the task stays."""
    record = finish(ledger, "k", "permanent")
    verb = "UPDATE" if table == "counters" else "DELETE"
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"CREATE TRIGGER no BEFORE {verb} ON {table} BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(LedgerError):
            ledger.purge(record)
        database.execute("DROP TRIGGER no")
    assert (ledger.get("k"), ledger.purged(), len(ledger.dead_letters())) == (record, 0, 1)
    assert ledger.purge(record)
    assert (ledger.get("k"), ledger.purged(), len(ledger.dead_letters())) == (None, 1, 0)


def test_expire_without_a_limit_removes_nothing(ledger):
    """Retention is off by default."""
    finish(ledger, "k")
    assert ledger.purge_old(None, None) == 0
    assert keys(ledger) == ["k"]


def test_retention_by_number_keeps_the_last_successes(ledger, clock, path):
    """As many as said, the latest; fewer than that are all kept."""
    finish_each_second(ledger, clock, 5)
    assert ledger.purge_old(6, None) == ledger.purge_old(5, None) == 0
    assert ledger.purge_old(2, None) == 3
    assert keys(ledger) == ["k3", "k4"]
    assert ledger.purge_old(2, None) == 0
    assert ledger.purge_old(1, None) == 1
    assert keys(ledger) == ["k4"]
    assert balance(path, 5)[Status.SUCCESS] == 1


def test_retention_counts_from_the_end_of_a_task_not_from_its_submit(ledger, clock):
    """The one submitted first was done last."""
    (slow,) = ledger.insert([draft("slow")])
    finish_each_second(ledger, clock, 3)
    clock.now += 1
    ledger.succeed(ledger.claim(slow), "1")
    assert ledger.purge_old(1, None) == 3
    assert keys(ledger) == ["slow"]


def test_retention_by_age_keeps_what_is_young(ledger, clock):
    """To the second: what is exactly so old stays."""
    finish_each_second(ledger, clock, 5)
    assert ledger.purge_old(None, 4.0) == 0
    assert ledger.purge_old(None, 2.0) == 2
    assert keys(ledger) == ["k2", "k3", "k4"]
    clock.now += 100
    assert ledger.purge_old(None, 2.0) == 3


@pytest.mark.parametrize(("count", "seconds", "left"), [(3, 1.0, 2), (2, 10.0, 2), (9, 1.0, 2), (1, 0.5, 1)])
def test_retention_by_number_and_age_keeps_what_meets_both(ledger, clock, count, seconds, left):
    """The stricter one decides."""
    finish_each_second(ledger, clock, 5)
    assert ledger.purge_old(count, seconds) == 5 - left
    assert keys(ledger) == [f"k{n}" for n in range(5 - left, 5)]


@pytest.mark.parametrize("count", [None, 1])
def test_retention_leaves_what_is_unfinished_or_failed(ledger, clock, count):
    """Dead letters keep their tasks and keys until they are purged; a cancelled task has nothing to keep."""
    for outcome in ("permanent", "exhausted", "poison", "cancelled", "success"):
        finish(ledger, outcome, outcome)
    ledger.insert([draft("queued"), draft("running")])
    ledger.claim(ledger.get("running"))
    again = ledger.replay(finish(ledger, "replayed", "permanent"))
    clock.now += 100
    finish(ledger, "new")
    assert ledger.purge_old(count, None if count else 50.0) == 2
    assert keys(ledger) == ["permanent", "exhausted", "poison", "queued", "running", "replayed", "new"]
    assert len(ledger.dead_letters()) == 4
    assert ledger.claim(again) is not None


def test_a_cancelled_key_that_was_submitted_again_is_not_forgotten(ledger, clock):
    """Its old letter does not make it old; nor when it fails for good then."""
    finish(ledger, "k", "cancelled")
    finish(ledger, "failed", "cancelled")
    rows = ledger.insert([draft("k"), draft("failed")])
    ledger.fail(ledger.claim(rows[1]), "boom", "permanent")
    clock.now += 100
    assert ledger.purge_old(None, 50.0) == 0
    assert keys(ledger) == ["k", "failed"]


def test_retention_works_in_batches(ledger, clock, monkeypatch, path):
    """No more in a transaction than said; called until nothing is left to remove."""
    monkeypatch.setattr(ledger_module, "PURGED_AT_ONCE", 3)
    finish_each_second(ledger, clock, 8)
    assert [ledger.purge_old(1, None) for _ in range(4)] == [3, 3, 1, 0]
    assert (ledger.purged(), keys(ledger)) == (7, ["k7"])
    assert balance(path, 8)[Status.SUCCESS] == 1


def test_one_row_that_moves_under_retention_does_not_keep_the_others(ledger, clock, monkeypatch):
    """Purged by somebody else between the look and the transaction; only what went is counted."""
    finish_each_second(ledger, clock, 4)
    gone = ledger.get("k1")
    write = ledger.commits.write

    def meanwhile(apply, items, **knobs):
        monkeypatch.undo()
        assert ledger.purge(gone)
        return write(apply, items, **knobs)

    monkeypatch.setattr(ledger.commits, "write", meanwhile)
    assert ledger.purge_old(1, None) == 2
    assert (ledger.purged(), keys(ledger)) == (3, ["k3"])


def test_counters_survive_a_restart(path, clock):
    """Submitted = queued + running + success + failed + purged, in whichever process one asks."""
    for round_ in range(3):
        with closing(Ledger(path, durability="process", clock=clock)) as ledger:
            finish_each_second(ledger, clock, 4, name=f"{round_}-")
            ledger.purge_old(1, None)
            assert ledger.purged() == 3 + 4 * round_
            balance(path, 4 * (round_ + 1))


def test_outputs_stay_when_their_task_is_forgotten(ledger, path, clock):
    """T10: removing them is the caller's business; here it is enough that no file of the folder goes."""
    (path.parent / "out.jpg").write_bytes(b"pixels")
    finish(ledger, "k")
    clock.now += 100
    assert ledger.purge_old(None, 1.0) == 1
    assert (path.parent / "out.jpg").read_bytes() == b"pixels"


# The queue


def test_a_queue_forgets_by_itself(open_queue, monkeypatch, path):
    """The last three stay, and so does the dead letter; a forgotten key runs again."""
    monkeypatch.setattr(commits_module, "TIDY", 0.01)
    work = Work({"bad": [PermanentError("no")]})
    settings = QueueSettings(durability="process", retain=3)
    with open_queue(work, settings=settings) as queue:
        assert queue.submit(Task("bad")).exception(LONG)
        for task in tasks(10):
            queue.submit(task).result(LONG)
        until(lambda: len(queue.records()) == 4)
        assert sorted(record.image_key for record in queue.records()) == ["bad", "t7", "t8", "t9"]
        queue.submit(Task("t0", params={"n": 0})).result(LONG)
        assert work.calls.count("t0") == 2
    balance(path, 12)


def test_a_queue_purges_a_key_on_request(open_queue, path):
    """A finished one; what is unfinished is refused, an unknown one is no error."""
    work = Work({"bad": [PermanentError("no")]}, hold=True)
    with open_queue(work, max_workers=1) as queue:
        bad, held = queue.submit(Task("bad")), queue.submit(Task("held"))
        for key in (Task("bad").key, Task("held").key):
            with pytest.raises(TaskQueueError, match="not finished"):
                queue.purge(key)
        work.release()
        assert bad.exception(LONG)
        held.result(LONG)
        assert [queue.purge(key) for key in (Task("bad").key, Task("held").key, "unknown")] == [True, True, False]
        assert queue.purge(Task("bad").key) is False
        assert (queue.records(), queue.dead_letters()) == ([], [])
        assert queue.submit(Task("bad")).result(LONG) == {}
    balance(path, 3)


def aged(queue, seconds):
    """Let all that stands in the ledger grow older by so much."""
    clock = queue._ledger._clock
    queue._ledger._clock = lambda: clock() + seconds


def settled(open_queue, **limits):
    """A queue with these limits that never tidies up by itself; a success each second, oldest first, five in all."""
    work = Work({"bad": [PermanentError("no")] * 3})
    queue = open_queue(work, settings=QueueSettings(durability="process", max_workers=1, **limits))
    for task in tasks(5):
        queue.submit(task).result(LONG)
        aged(queue, 1.0)
    return queue, work


def kept(queue):
    return [record.image_key for record in queue.records()]


@pytest.fixture
def by_hand(monkeypatch):
    """Nothing is tidied up before the test says so."""
    monkeypatch.setattr(commits_module, "TIDY", 1000.0)


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({}, ["t0", "t1", "t2", "t3", "t4"]),
        ({"retain": 2}, ["t3", "t4"]),
        ({"retain_for": 3.5}, ["t2", "t3", "t4"]),
        ({"retain": 2, "retain_for": 3.5}, ["t3", "t4"]),
        ({"retain": 4, "retain_for": 2.5}, ["t3", "t4"]),
        ({"retain": 9, "retain_for": 1000.0}, ["t0", "t1", "t2", "t3", "t4"]),
    ],
    ids=str,
)
def test_a_queue_keeps_what_its_settings_say(open_queue, by_hand, path, limits, left):
    """By number, by age, by both, or everything; and the count of what is gone stays."""
    queue, _ = settled(open_queue, **limits)
    queue._tidy()
    assert kept(queue) == left
    queue._tidy()
    assert kept(queue) == left
    queue.close()
    assert balance(path, 5)[Status.SUCCESS] == len(left)
    assert sql(path, "SELECT n FROM counters WHERE name = 'purged'") == [(5 - len(left),)]


def test_a_queue_tidies_up_in_as_many_transactions_as_it_takes(open_queue, by_hand, monkeypatch, path):
    """More than go into one."""
    monkeypatch.setattr(ledger_module, "PURGED_AT_ONCE", 2)
    queue, _ = settled(open_queue, retain=1)
    queue._tidy()
    assert kept(queue) == ["t4"]
    queue.close()
    balance(path, 5)


def test_a_queue_forgets_cancelled_tasks_and_keeps_dead_letters_until_they_are_purged(open_queue, by_hand, path):
    """However old: who is to look at them has not done so yet."""
    work = Work({"bad": [PermanentError("no")]}, hold=True)
    queue = open_queue(work, settings=QueueSettings(durability="process", max_workers=1, retain_for=10.0))
    queue.submit(Task("first"))
    work.wait_started()
    assert queue.submit(Task("cancelled")).cancel()
    bad = queue.submit(Task("bad"))
    work.release()
    assert bad.exception(LONG)
    assert queue.join(LONG)
    queue._tidy()
    assert kept(queue) == ["first", "cancelled", "bad"]
    aged(queue, 100.0)
    queue._tidy()
    assert kept(queue) == ["bad"]
    assert [letter.reason for letter in queue.dead_letters()] == ["permanent"]
    assert queue.submit(Task("bad")).exception(LONG)
    assert queue.purge(Task("bad").key)
    assert (kept(queue), queue.dead_letters()) == ([], [])
    queue.close()
    assert balance(path, 3) == dict.fromkeys(Status, 0)


def test_what_waits_or_runs_is_never_forgotten(open_queue, by_hand, path):
    """However long it has been there."""
    work = Work({"retry": [TransientError("later")]}, hold=True)
    settings = QueueSettings(durability="process", max_workers=1, retain=1, retain_for=1.0, retry=NEVER)
    queue = open_queue(work, settings=settings)
    futures = queue.submit_many([Task("running"), Task("waiting"), Task("retry")])
    work.wait_started()
    aged(queue, 1000.0)
    queue._tidy()
    assert kept(queue) == ["running", "waiting", "retry"]
    work.release()
    assert [future.result(LONG) for future in futures[:2]] == [{}, {}]
    until(queue._inflight.retrying)
    aged(queue, 1.5)
    queue._tidy()
    assert kept(queue) == ["retry"]
    queue.close(drain=False)
    balance(path, 3)


@pytest.mark.parametrize("params", [{"n": 0}, {"n": "other"}], ids=["same", "other"])
def test_a_forgotten_key_is_a_new_task(open_queue, by_hand, path, params):
    """G2 ends with retention: for the same work and for other work."""
    queue, work = settled(open_queue, retain=1)
    queue._tidy()
    assert queue.get(Task("t0").key) is None
    assert queue.submit(Task("t0", params=params)).result(LONG) == params
    assert work.calls.count("t0") == 2
    assert queue.submit(Task("t4", params={"n": 4})).result(0) == {"n": 4}
    assert work.calls.count("t4") == 1
    queue.close()
    assert balance(path, 6)[Status.SUCCESS] == 1  # closing forgets what retention does not keep


def test_a_duplicate_beside_retention_is_answered_or_done_again(open_queue, by_hand, path):
    """Its key is forgotten while many submit it: each gets the value, and every run is counted."""
    queue, work = settled(open_queue, retain=1)
    with threads(4) as pool:

        def submit():
            return [queue.submit(Task(f"t{n % 5}", params={"n": n % 5})).result(LONG)["n"] for n in range(100)]

        submitting = [pool.submit(submit) for _ in range(3)]
        while not all(future.done() for future in submitting):
            queue._tidy()
        assert [future.result(LONG) for future in submitting] == [[n % 5 for n in range(100)]] * 3
    assert queue.join(LONG)
    queue.close()
    balance(path, len(work.calls))


def test_retention_that_the_ledger_does_not_take_waits(open_queue, monkeypatch, path, caplog):
    """It is logged, and made up for the next time; work goes on meanwhile."""
    monkeypatch.setattr(commits_module, "TIDY", 0.01)
    monkeypatch.setattr(commits_module, "PAUSE", 0.01)
    queue = open_queue(settings=QueueSettings(durability="process", retain=1))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("CREATE TRIGGER no BEFORE DELETE ON tasks BEGIN SELECT RAISE(ABORT, 'not now'); END")
        for task in tasks(5):
            queue.submit(task).result(LONG)
        until(lambda: "not now" in caplog.text)
        assert len(queue.records()) == 5
        database.execute("DROP TRIGGER no")
    queue.submit(Task("next")).result(LONG)
    until(lambda: kept(queue) == ["next"])
    queue.close()
    assert balance(path, 6)[Status.SUCCESS] == 1


# The write-ahead log


def wal(path):
    return path.with_name(path.name + "-wal").stat().st_size


def test_tidy_empties_a_write_ahead_log_that_has_grown(ledger, path, monkeypatch):
    """Past WAL_LIMIT and not before; nothing of what stood in it is lost."""
    ledger.insert([draft(f"k{n}", '{"x":"' + "y" * 500 + '"}') for n in range(200)])
    size = wal(path)
    assert size > 100_000
    monkeypatch.setattr(ledger_module, "WAL_LIMIT", size)
    ledger.tidy()
    assert wal(path) == size
    monkeypatch.setattr(ledger_module, "WAL_LIMIT", size - 1)
    ledger.tidy()
    assert wal(path) == 0
    assert len(ledger.records()) == 200
    ledger.insert([draft("after")])
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_tidy_of_a_ledger_in_memory_is_nothing():
    """It has no file."""
    with closing(Ledger(":memory:")) as ledger:
        ledger.tidy()


def test_tidy_beside_a_reader_takes_nothing_from_it(ledger, path, monkeypatch):
    """A snapshot that is being read stays whole; what cannot be emptied now is emptied later."""
    ledger.insert([draft(f"k{n}") for n in range(100)])
    monkeypatch.setattr(ledger_module, "WAL_LIMIT", 0)
    ledger._writer.execute("PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM tasks").fetchone() == (100,)
        ledger.insert([draft("later")])
        ledger.tidy()
        assert reader.execute("SELECT count(*) FROM tasks").fetchone() == (100,)
        reader.execute("COMMIT")
    ledger.tidy()
    assert wal(path) == 0


def test_results_of_one_transaction_are_forgotten_one_by_one(ledger):
    """They finished at the same moment: the last ids stay."""
    rows = [ledger.claim(row) for row in ledger.insert([draft(f"k{n}") for n in range(6)])]
    assert posted(ledger, successes=[(row, "1") for row in rows]) == [True] * 6
    assert ledger.purge_old(2, None) == 4
    assert [record.idempotency_key for record in ledger.records()] == ["k4", "k5"]
