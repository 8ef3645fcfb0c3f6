"""The conformance suite as one runs it: `pytest --pyargs pytest_taskqueue.suite.conformance --tq-subject NAME`."""

from __future__ import annotations

import json
import re

import nonconforming
import pytest
from plugin_runs import installed, junit, out, run, together

from pytest_taskqueue.conformance import Outcome, Status, table
from pytest_taskqueue.conformance.checks import CHECKS

SUITE = ("--pyargs", "pytest_taskqueue.suite.conformance")
ITEM = "pytest_taskqueue/suite/conformance.py::test_promise"
FEW = ("-k", "once or results or bounded or joins")

CONFTEST = """
from taskqueue_core import TaskQueue

class Mine:
    promises = {"durable"}

    def __init__(self, setup):
        self.queue = TaskQueue(setup.work, ledger=setup.directory / "mine.db", durability="process")
        self.submit, self.close = self.queue.submit, self.queue.close

def pytest_taskqueue_subjects():
    return {"mine": Mine}
"""


def toy(name: str) -> str:
    return f"--tq-subject={nonconforming.__file__}:{name}"


def test_a_kept_promise_is_green_a_broken_one_red_the_others_are_skipped(pytester: pytest.Pytester) -> None:
    """The table has all of them, with what was seen, in the order of the promises, on 100 columns at most."""
    result = run(pytester, *SUITE, toy("Unbounded"), "--tq-promises=bounded", "-rsf", *FEW, "--junitxml=junit.xml")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1, skipped=1, deselected=len(CHECKS) - 4)
    shown = out(result)
    assert "warning" not in shown
    rows = shown.partition("- taskqueue conformance: ")[2].partition("\nconformance: ")[0].splitlines()[1:]
    assert [line.split("  ")[0] for line in rows if line[:1].isalpha()] == [
        *("promise", "once", "results", "bounded", "joins")
    ]
    assert max(map(len, rows)) <= table.WIDTH
    assert re.search(r"^bounded +broken +100 tasks accepted while none was done, with 4 places", shown, re.MULTILINE)
    assert re.search(r"^joins +not promised +held here: False after 0.2 s while", shown, re.MULTILINE)
    assert "\nconformance: 2 kept, 1 broken, 1 not promised\n" in shown
    assert "broken: 100 tasks accepted while none was done, with 4 places, 2 workers" in shown
    assert f"\nFAILED {ITEM}[bounded] - broken:" in shown
    assert "not promised: held here" in shown
    assert set(junit(pytester.path / "junit.xml")) == {
        f"test_promise[{name}]" for name in ("once", "results", "bounded", "joins")
    }


def test_quiet_runs_show_one_line_and_the_file_has_everything(pytester: pytest.Pytester) -> None:
    file = "found/conformance.json"
    quick, harsh = together(
        pytester,
        (*SUITE, "-q", toy("Kept"), f"--tq-conformance-json={file}", *FEW),
        (*SUITE, "-q", "--tq-subject=executor", "--tq-promises=all", "-k", "bounded", "-p", "no:benchmark"),
    )
    assert "conformance: 4 kept\n" in quick
    assert "taskqueue conformance" not in quick
    assert "exit 0" in quick
    assert "conformance: 1 broken\n" in harsh
    assert "exit 1" in harsh
    found = json.loads((pytester.path / file).read_text(encoding="utf-8"))
    assert set(found) == {"schema", "created", "subject", "versions", "machine", "promises"}
    assert found["subject"].endswith(":Kept")
    assert [promise["name"] for promise in found["promises"]] == ["once", "results", "bounded", "joins"]
    assert set(found["promises"][0]) == {"name", "text", "status", "evidence", "seconds", "stacks", "held"}
    assert {promise["status"] for promise in found["promises"]} == {"kept"}


def test_a_file_that_cannot_be_written_is_told_and_the_run_is_not_green(pytester: pytest.Pytester) -> None:
    pytester.path.joinpath("folder").mkdir()
    result = run(pytester, *SUITE, toy("Kept"), "--tq-conformance-json=folder", "-k", "results", "-q")
    assert result.ret == 1
    assert "--tq-conformance-json folder: " in out(result)


def test_a_subject_of_a_conftest_is_examined_also_in_other_processes(pytester: pytest.Pytester) -> None:
    """By the hook; and in an ordinary run of that folder nothing of the suite is collected."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_own="def test_own(): pass")
    suite, own = together(pytester, (*SUITE, "--tq-subject=mine", "-k", "durable or closes"), ("-q",))
    assert "conformance: 2 kept\n" in suite
    assert "kept  9 acknowledged, kill -9 with 2 running and 4 waiting: all done after it" in suite
    assert "1 passed" in own
    assert "conformance" not in own


def test_options_come_from_the_environment_and_the_ini_file_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]\ntq_subject = executor\ntq_promises = all\n")
    monkeypatch.setenv("PYTEST_TQ_PROMISES", "own")
    assert "taskqueue: conformance of executor, promises: own\n" in out(run(pytester, *SUITE, "-k", "bounded"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tq-subject=nobody"], "ERROR: conformance: unknown subject 'nobody': use baseline, optimized"),
        (["--tq-promises=speed"], "ERROR: conformance: unknown promise 'speed': there are once, results"),
    ],
    ids=["subject", "promise"],
)
def test_misuse_is_one_line(pytester: pytest.Pytester, options: list[str], message: str) -> None:
    result = run(pytester, *SUITE, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


@pytest.mark.parametrize("option", ["--tq-subject=executor", "--tq-promises=all", "--tq-conformance-json=found.json"])
def test_its_options_without_the_suite_are_misuse(pytester: pytest.Pytester, option: str) -> None:
    """Nothing would be examined, and a green run would say that all is well."""
    pytester.makepyfile(test_own="def test_own(): pass")
    result = run(pytester, option)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    flag = option.partition("=")[0]
    assert f"ERROR: {flag} is for the conformance suite: --pyargs {SUITE[1]}" in result.stderr.str()


def test_the_environment_and_the_ini_file_may_name_a_subject_for_later(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    pytester.makeini("[pytest]\ntq_promises = all\n")
    monkeypatch.setenv("PYTEST_TQ_SUBJECT", "executor")
    run(pytester).assert_outcomes(passed=1)


def test_what_is_no_queue_is_one_error_and_blames_no_promise(pytester: pytest.Pytester) -> None:
    """Nothing is tried; the one line of a quiet run, and the file, say why."""
    file, subject = "found.json", toy("NoSubmit").partition("=")[2]
    whole, few = together(
        pytester,
        (*SUITE, toy("NoSubmit"), f"--tq-conformance-json={file}"),
        (*SUITE, "-q", toy("NoSubmit"), *FEW[:1], "bounded"),
    )
    reason = f"{subject}: NoSubmit has no method submit: write def submit(self, task), which returns a Future"
    assert f"{len(CHECKS) - 1} skipped, 1 error" in whole
    assert f"\nERROR {ITEM}[once] - no queue th" in whole
    assert "During handling" not in whole
    assert f"\nno queue that can be examined: {reason}\n" in whole
    assert re.search(r"^bounded +not tried +as above$", whole, re.MULTILINE)
    for shown in (whole, few):
        assert f"\nconformance: nothing examined: {reason}\n" in shown
        assert "exit 1" in shown
        assert "promised: " not in shown.replace("not promised", "").replace(", promises: ", "")
        assert "broken" not in shown
    found = json.loads((pytester.path / file).read_text(encoding="utf-8"))["promises"]
    assert {(each["status"], each["evidence"]) for each in found} == {
        ("not tried", f"no queue that can be examined: {reason}")
    }


def test_a_queue_that_cannot_be_opened_shows_where(pytester: pytest.Pytester) -> None:
    result = run(pytester, *SUITE, toy("CannotOpen"), "-k", "bounded")
    result.assert_outcomes(errors=1, deselected=len(CHECKS) - 1)
    assert "CannotOpen: opening it raised RuntimeError: no such driver\n  raised in:\n" in out(result)
    assert re.search(r'nonconforming.py", line \d+, in __init__\n +raise RuntimeError', out(result))


def test_a_red_promise_is_run_again_alone(pytester: pytest.Pytester) -> None:
    """By --lf, by the name that the summary shows; and -x ends with the first."""
    subject = toy("Unbounded")
    first, again, named, early = together(
        pytester,
        (*SUITE, subject, *FEW),
        (*SUITE, subject, "--lf"),
        (f"{ITEM}[bounded]", subject),
        (*SUITE, subject, "-x", "-k", "bounded or joins"),
    )
    assert "1 failed, 3 passed" in first
    assert "1 failed, 14 deselected" in again
    assert "collected 1 item\n" in named
    assert "conformance: 1 broken\n" in named
    assert "stopping after 1 failures" in early


def test_it_is_no_part_of_a_comparison(pytester: pytest.Pytester) -> None:
    result = run(pytester, *SUITE, "--tq-compare", "--tq-clients=2", "--collect-only", "-q")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "ERROR: --tq-compare and the conformance suite: one at a time" in result.stderr.str()


@pytest.mark.skipif(not installed("xdist"), reason="needs pytest-xdist")
def test_under_xdist_the_table_is_put_together(pytester: pytest.Pytester) -> None:
    result = run(pytester, *SUITE, toy("Kept"), "-n", "2", *FEW, "--tq-conformance-json=found.json")
    assert result.ret == 0
    assert "\nconformance: 4 kept\n" in out(result)
    found = json.loads((pytester.path / "found.json").read_text(encoding="utf-8"))
    assert [promise["name"] for promise in found["promises"]] == ["once", "results", "bounded", "joins"]


def test_a_run_ends_though_a_queue_hangs_for_good(pytester: pytest.Pytester) -> None:
    """In a thread of an executor, for which Python would wait."""
    pytester.makepyfile(
        stuck="""
        import threading
        from concurrent.futures import ThreadPoolExecutor

        class Stuck:
            def __init__(self, setup):
                self.executor = ThreadPoolExecutor(2)
                self.executor.submit(threading.Event().wait)
                self.work = setup.work
            def submit(self, task):
                return self.executor.submit(self.work, task)
            def close(self, timeout):
                return None
        """
    )
    result = run(pytester, *SUITE, "--tq-subject=stuck.py:Stuck", "-k", "results")
    assert result.ret == 0
    assert "conformance: 1 kept" in out(result)
    assert "still at work, not waited for" in result.stderr.str()


# --- the table


def test_evidence_is_wrapped_in_its_column_and_printable() -> None:
    outcomes = [
        Outcome("once", "", Status.KEPT, "fine", 0.0),
        Outcome("leaves_nothing", "", Status.NOT_PROMISED, "a\nb \x1b[31m " + "word " * 40, 0.0),
    ]
    head, once, *rest = table.lines(outcomes)
    assert head == "promise                       evidence"
    assert once == "once            kept          fine"
    assert rest[0].startswith("leaves_nothing  not promised  a b \\x1b[31m word ")
    assert {line[:30] for line in rest[1:]} == {" " * 30}
    assert max(map(len, rest)) <= table.WIDTH
    assert table.summary(outcomes) == "conformance: 1 kept, 1 not promised"


def test_an_outcome_comes_back_from_json_as_it_was() -> None:
    outcome = Outcome("once", "text", Status.BROKEN, "lost", 1.5, ("stack",))
    assert table.outcome_of(json.loads(json.dumps(table.plain(outcome)))) == outcome
    assert table.failure_text(outcome) == "broken: lost\n  promised: text\n  stack"
