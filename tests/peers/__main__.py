"""What do other queues promise, do they keep it, and how fast are they? One command examines and compares:

    python -m tests.peers                      # all that are installed: some minutes, then bench_results/reference/
    python -m tests.peers --only huey          # those whose names begin like this; --list names all
    python -m tests.peers --parts conformance  # without the comparisons

Each peer goes through the conformance suite, promised or not, and is the baseline of a comparison with the optimized
queue under every workload. Each part runs in a process of its own; one that crashes, hangs or is INVALID is shown as
that, with the reason as a footnote. The peers are optional: `pip install -e ".[peers]"`.

A run of everything writes bench_results/reference/peers.json, from which `python -m tests.readme --write` makes the
README's tables; any other run writes what --json names. Nothing else should run on the machine. The exit status is 1
when a part has no result.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.conditions import conditions, load
from tests.peers.measure import CONFORMANCE, measure_apart
from tests.peers.rows import PEERS, Peer, find_peers, versions
from tests.peers.tables import text
from tests.readme import REFERENCE

WORKLOADS = ("io", "noop")
FILE = REFERENCE / "peers.json"
SETTINGS = {
    "clients": "20",
    "workers": "8",
    "slot": "1",
    "budget": "25",
    "gate": "throughput>=1x,p95<=1x",
    "seed": "7",
}
"""Of every comparison. The gates ask which of the two is the faster one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Examine and compare, print both tables, write the file; the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        peers = find_peers(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{peer.name:<14} {peer.subject:<36} {_version(peer)}" for peer in peers))
        return 0
    settings = {**SETTINGS, **{name: given for name in SETTINGS if (given := getattr(options, name, None)) is not None}}
    result = run(peers, options.parts, settings)
    print(text(result), end="")
    everything = {*options.parts} == {CONFORMANCE, *WORKLOADS} and peers == PEERS and settings == SETTINGS
    if (file := options.json or (FILE if everything else None)) is not None:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(any(failures(result)))


def run(peers: Sequence[Peer], parts: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
    """Everything that was found, with its conditions."""
    found = {**conditions(None), "settings": settings, "peers": []}
    found["versions"] = {"sqlite": sqlite3.sqlite_version, **versions(peers)}
    for peer in peers:
        found["peers"].append(_measured(peer, parts, settings))
    return {**found, "load_at_the_end": load()}


def failures(result: Mapping[str, Any]) -> list[str]:
    """The parts without a result, by peer."""
    return [
        f"{peer['name']} {part}"
        for peer in result["peers"]
        for part, each in {CONFORMANCE: peer.get(CONFORMANCE, {}), **peer.get("comparisons", {})}.items()
        if "problem" in each or each.get("verdict") == "INVALID"
    ]


def _measured(peer: Peer, parts: Sequence[str], settings: Mapping[str, str]) -> dict[str, Any]:
    """One peer: its conformance, and a comparison for each workload but for the one that is compared with."""
    found: dict[str, Any] = {"name": peer.name, "subject": peer.subject, "version": peer.version}
    if peer.version is None:
        return {**found, "problem": "not installed"}
    if CONFORMANCE in parts:
        found[CONFORMANCE] = _told(peer, CONFORMANCE, settings)
    workloads = [part for part in parts if part != CONFORMANCE and peer != PEERS[0]]
    return {**found, "comparisons": {workload: _told(peer, workload, settings) for workload in workloads}}


def _told(peer: Peer, part: str, settings: Mapping[str, str]) -> dict[str, Any]:
    print(f"{peer.name}: {part}", file=sys.stderr, flush=True)
    return measure_apart(peer, part, settings)


def _version(peer: Peer) -> str:
    return "not installed" if peer.version is None else " ".join(filter(None, (peer.distribution, peer.version)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.peers", description=(__doc__ or "").partition("\n")[0])
    parts = (CONFORMANCE, *WORKLOADS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="peers whose names begin like this")
    parser.add_argument("--parts", nargs="+", default=parts, choices=parts, help="default: all")
    for name in ("clients", "slot", "budget", "seed"):
        parser.add_argument(f"--{name}", help=f"of each comparison (default: {SETTINGS[name]})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what was found, for a part of the peers, too")
    parser.add_argument("--list", action="store_true", help="name the peers and measure nothing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
