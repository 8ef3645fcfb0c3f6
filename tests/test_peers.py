"""Other queues behind the protocol: their adapters work, and what is known about them is found."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_taskqueue.conformance import examine
from pytest_taskqueue.results import SlotResult
from tests import readme
from tests.peers import __main__ as command
from tests.peers import measure, rows, tables
from tests.peers.rows import PEERS, Peer, find_peers

ADAPTED = [peer for peer in PEERS if peer.distribution]
LONGEST = 60
"""Lines that an adapter may have."""

# Whoever keeps nothing loses all, and huey also what runs, from which it deletes the row before the work begins.
ALL, RUNNING = (
    "2 of 2 that were running, 4 of 4 that were waiting",
    "2 of 2 that were running, 0 of 4 that were waiting",
)
ENDLESS = "100 tasks accepted while none was done"
KNOWN = [
    ("huey-sqlite", "durable", "not promised", RUNNING),
    ("huey-sqlite", "bounded", "not promised", ENDLESS),
    ("huey-sqlite", "retries", "kept", ""),
    ("huey-memory", "durable", "not promised", ALL),
    ("huey-memory", "bounded", "not promised", ENDLESS),
    ("huey-memory", "deadline", "kept", ""),
    ("persist-queue", "durable", "kept", "2 running and 4 waiting: all done after it"),
    ("persist-queue", "bounded", "not promised", ENDLESS),
    ("litequeue", "durable", "kept", "2 running and 4 waiting: all done after it"),
    ("litequeue", "bounded", "not promised", ENDLESS),
    ("litequeue", "rejects", "kept", "Max queue length reached"),
    ("tinyjobs", "durable", "kept", "2 running and 4 waiting: all done after it"),
    ("tinyjobs", "bounded", "not promised", ENDLESS),
    ("tinyjobs", "retries", "kept", ""),
    ("tinyjobs", "dead_letters", "kept", ""),
    ("executor", "durable", "not promised", ALL),
    ("executor", "bounded", "not promised", ENDLESS),
    ("executor", "deduplicates", "not promised", "worked on 16 times"),
    ("threads", "durable", "not promised", ALL),
    ("threads", "bounded", "kept", ""),
    ("baseline", "durable", "not promised", ALL),
    ("baseline", "bounded", "not promised", ENDLESS),
    ("baseline", "retries", "not promised", "after 1 attempt"),
]
"""By design of each: the promise, the status, and what its evidence holds."""


def installed(name: str) -> Peer:
    """The peer of that name; the test is skipped where it is not installed."""
    (peer,) = [peer for peer in PEERS if peer.name == name]
    if peer.version is None:
        pytest.skip(f'{peer.distribution} is not installed: pip install -e ".[peers]"')
    return peer


@pytest.mark.parametrize("name", [peer.name for peer in ADAPTED])
def test_an_adapter_does_each_task_once_and_leaves_nothing(name: str, tq_load: Callable[..., SlotResult]) -> None:
    """40 tasks, looked through as any slot of a comparison."""
    result = tq_load(installed(name).subject, clients=8, tasks=40, workload="io")
    assert result.problems == ()
    assert result.figures.tasks == 40


@pytest.mark.parametrize("name", sorted({name for name, *_ in KNOWN}))
def test_what_is_known_of_a_queue_is_found(name: str) -> None:
    """The conformance suite tells what its authors say, or what is known of it."""
    known = {promise: (status, evidence) for peer, promise, status, evidence in KNOWN if peer == name}
    report = examine(installed(name).subject, only=known)
    for promise, (status, evidence) in known.items():
        outcome = report[promise]
        assert (outcome.status, evidence in outcome.evidence) == (status, True), outcome.evidence
        assert not outcome.held


@pytest.mark.parametrize("peer", ADAPTED, ids=lambda peer: peer.name)
def test_an_adapter_is_short(peer: Peer) -> None:
    """So that it shows the peer and not our cleverness."""
    path = readme.ROOT.joinpath(*peer.subject.partition(":")[0].split(".")).with_suffix(".py")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


def test_peers_are_found_by_the_beginning_of_their_names() -> None:
    assert [peer.name for peer in find_peers(["huey", "base"])] == ["huey-sqlite", "huey-memory", "baseline"]
    assert find_peers([]) == PEERS
    with pytest.raises(ValueError, match="unknown peer 'celebrity': there are optimized, "):
        find_peers(["celebrity"])


# --- what cannot be measured


def test_what_crashes_or_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes neither the others nor the command with it."""
    settings = {**command.SETTINGS, "budget": "0.01"}
    crashed = measure.measure_apart(Peer("nobody", "nowhere:Nothing"), "io", settings)
    assert crashed["problem"].startswith("crashed with status 1: ValueError")
    monkeypatch.setattr(measure, "LONGEST", 0.0)
    assert measure.measure_apart(PEERS[-1], "io", settings) == {"problem": "hung: no result after 0.01 s"}


def test_an_absent_peer_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of it is tried."""
    monkeypatch.setattr(rows.Peer, "version", property(lambda peer: None))
    result = command.run(find_peers(["tiny"]), ["conformance", "io"], command.SETTINGS)
    assert result["peers"][0]["problem"] == "not installed"
    assert "tinyjobs is not installed" in tables.text(result)
    assert not command.failures(result)


# --- the tables


def promise(status: str, evidence: str = "seen", *, held: bool = False) -> dict[str, Any]:
    """A promise as it was found."""
    return {"name": "durable", "status": status, "held": held, "evidence": evidence}


def found(*peers: dict[str, Any]) -> dict[str, Any]:
    """A made-up run."""
    return {
        "created": "2026-01-02T03:04:05",
        "machine": {"cores": 2, "python": "CPython 3.11"},
        "versions": {"sqlite": "3"},
        "load": [0.5, 0, 0],
        "load_at_the_end": [1.5, 0, 0],
        "settings": command.SETTINGS,
        "peers": [{"name": name, **peer} for name, peer in zip("abcdef", peers, strict=False)],
    }


def cells(lines: str, name: str) -> list[str]:
    """The cells of a row of Markdown."""
    (row,) = [line for line in lines.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in row.split("|")[2:-1]]


def test_the_table_of_promises_tells_what_is_promised_from_what_is_not() -> None:
    """Broken is only what was promised; each has its evidence, and so has what could not be tried."""
    given = [promise("kept"), promise("broken", "lost 2"), promise("not promised"), promise("not promised", held=True)]
    peers = [{"conformance": {"promises": [each]}} for each in [*given, promise("not tried", "no fork")]]
    lines = tables.markdown(found(*peers, {"conformance": {"problem": "hung"}}))
    assert cells(lines, "durable") == ["kept", "BROKEN [1]", "-", "(kept)", "? [2]", "? [3]"]
    assert [line for line in lines.splitlines() if line.startswith("- [")] == [
        "- [1] b, durable: lost 2",
        "- [2] e, durable: no fork",
        "- [3] f: hung",
    ]


def test_a_comparison_without_ratios_is_shown_with_its_reason() -> None:
    """INVALID, crashed and out of budget: none is dropped."""
    gate = {"ratio": 2.5, "low": 2.0, "high": 3.125}
    gates = [{"expr": "throughput>=1x", **gate}, {"expr": "p95<=1x", **gate}]
    good = {"verdict": "PASS", "reason": "", "gates": gates, "warnings": ["other programs were at work", "near"]}
    invalid = {"verdict": "INVALID", "reason": "baseline: 1 task lost", "gates": []}
    peers = [{"comparisons": {"io": each}} for each in (good, invalid, {"problem": "crashed with status -9"})]
    peers[0]["conformance"] = {"promises": [promise("not promised", "2 of 9 lost")]}
    lines = tables.markdown(found(*peers))
    assert cells(lines, "a") == ["x2.5 [2, 3.12] [1]", "x2.5 [2, 3.12]", "- [2]"]
    assert cells(lines, "b") == ["INVALID [3]", "INVALID [3]", "?"]
    assert cells(lines, "c") == ["failed [4]", "failed [4]", "?"]
    assert [line for line in lines.splitlines() if line.startswith("- [")] == [
        "- [1] a, io: near",
        "- [2] durable: 2 of 9 lost",
        "- [3] b, io: baseline: 1 task lost",
        "- [4] c, io: crashed with status -9",
    ]
    assert "load 0.50, 1.50 at the end" in lines
    assert command.failures(found(*peers)) == ["b io", "c io"]


def test_the_reference_run_is_of_all_peers() -> None:
    """Nothing in the README's tables was left out."""
    result = json.loads((readme.REFERENCE / "peers.json").read_text(encoding="utf-8"))
    assert [peer["name"] for peer in result["peers"]] == [peer.name for peer in PEERS]
    assert not [peer["name"] for peer in result["peers"] if "problem" in peer]
    assert result["settings"] == command.SETTINGS


def test_a_part_runs_from_the_command_to_the_file(tmp_path: Path) -> None:
    """As short as it gets: the ratio means nothing."""
    file = tmp_path / "peers.json"
    run = [sys.executable, "-m", "tests.peers", "--only", "threads", "--parts", "io", "--json", str(file)]
    run += ["--slot", "0.1", "--clients", "4", "--budget", "0.5"]
    done = subprocess.run(run, cwd=readme.ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    (peer,) = json.loads(file.read_text(encoding="utf-8"))["peers"]
    assert peer["comparisons"]["io"]["verdict"] in ("PASS", "FAIL", "INCONCLUSIVE")
    assert "io: throughput" in done.stdout
