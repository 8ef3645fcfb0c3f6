"""One part of one peer, in a process of its own: whatever a queue leaves behind or breaks, the others do not see it.

A part is "conformance" or the name of a workload, under which the optimized queue is compared with the peer.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from pytest_taskqueue.comparison import Comparison
from pytest_taskqueue.config import resolve
from pytest_taskqueue.results import ComparisonResult
from pytest_taskqueue.verdict import Verdict
from tests.benchmarks.rounds import ROOT
from tests.peers.rows import PEERS, Peer

CONFORMANCE = "conformance"
LONGEST = 150.0
"""Seconds beyond the budget of a comparison, or for the whole conformance, after which a process is given up."""

Settings = Mapping[str, str]
"""Options of a comparison, without their dashes."""


def measure_apart(peer: Peer, part: str, settings: Settings) -> dict[str, Any]:
    """What `measure` found in another process, or {"problem": why there is nothing}."""
    command = [sys.executable, "-m", "tests.peers.measure", peer.name, part, json.dumps(dict(settings))]
    limit = LONGEST + float(settings["budget"])
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    except subprocess.TimeoutExpired:
        return {"problem": f"hung: no result after {limit:g} s"}
    except (ValueError, IndexError):
        return {"problem": "ended without a result"}
    last = (done.stderr.strip().splitlines() or [""])[-1]
    return found or {"problem": f"crashed with status {done.returncode}: {last[:200]}"}


def measure(peer: Peer, part: str, settings: Settings) -> dict[str, Any]:
    """What was found, as JSON has it."""
    return conformance(peer) if part == CONFORMANCE else comparison(peer, part, settings)


def conformance(peer: Peer) -> dict[str, Any]:
    """Every promise there is: whether the peer makes it, and whether it holds, also where it is not made."""
    from pytest_taskqueue.conformance import examine

    return {
        "promises": [
            {
                "name": outcome.name,
                "text": outcome.text,
                "status": str(outcome.status),
                "held": outcome.status == "kept" or outcome.held,
                "evidence": outcome.evidence,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in examine(peer.subject).outcomes
        ]
    }


def comparison(peer: Peer, workload: str, settings: Settings) -> dict[str, Any]:
    """The optimized queue against the peer: verdict, ratios, and the throughput and P95 of both."""
    config = resolve({**settings, "baseline": peer.subject, "workload": workload}, {}, {}.get)
    result = Comparison(config, config.clients[0]).run()
    return {
        "verdict": result.verdict.name,
        "reason": " ".join(result.reason.split()),
        "gates": [gate.to_dict() for gate in result.gates if result.verdict is not Verdict.INVALID],
        "arms": _arms(result),
        "elapsed_s": round(result.elapsed_s, 3),
        "warnings": list(result.warnings),
    }


def _arms(result: ComparisonResult) -> dict[str, dict[str, float]]:
    if result.verdict is Verdict.INVALID:
        return {}
    return {arm: {"throughput": each.throughput, "p95_s": each.p95_s} for arm, each in result.arms.items()}


def main() -> None:
    """Of the peer, the part and the settings on the command line; JSON is the last line of what is printed."""
    name, part, settings = sys.argv[1:]
    logging.disable()  # some libraries log each task that fails, and here tasks fail on purpose
    (peer,) = [peer for peer in PEERS if peer.name == name]
    print(json.dumps(measure(peer, part, json.loads(settings))), flush=True)


if __name__ == "__main__":
    main()
