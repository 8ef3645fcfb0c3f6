"""The README's tables, made from the committed reference runs: `python -m tests.readme --write` renews them.

Without --write it says whether the README is up to date (exit status 1 when it is not).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from tests.peers import tables

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
REFERENCE = ROOT / "bench_results" / "reference"
END = "<!-- end of reference -->\n"


def blocks() -> dict[str, str]:
    """Each table by the line of the README above it."""
    return {
        "<!-- reference: python -m tests.readme --write -->\n": comparison(),
        "<!-- speed: python -m tests.benchmarks, python -m tests.readme --write -->\n": speed(),
        "<!-- peers: python -m tests.peers, python -m tests.readme --write -->\n": peers(),
    }


def speed() -> str:
    """The speed table as Markdown: each goal with its ratio, what was wanted, and whether that was reached."""
    result = json.loads((REFERENCE / "speed.json").read_text(encoding="utf-8"))
    rows = ["| work | of | found | wanted | |", "|---|---|---:|---:|---|"]
    rows += [_goal(row, goal) for row in result["rows"] for goal in row["goals"]]
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = f"{result['created'][:10]}, {machine['cores']} cores, {machine['python']}, {versions}"
    return "\n".join([*rows, "", f"({where}; `bench_results/reference/speed.json`)", ""])


def peers() -> str:
    """The tables of other queues as Markdown: what they promise and keep, and how fast they are."""
    result = json.loads((REFERENCE / "peers.json").read_text(encoding="utf-8"))
    return tables.markdown(result).removesuffix(")\n") + "; `bench_results/reference/peers.json`)\n"


def comparison() -> str:
    """The reference run as Markdown: a table of both arms, the verdict, the machine."""
    (path,) = REFERENCE.glob("*-c100.json")
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        "| | throughput | mean | P50 | P95 | P99 | errors | lost | doubled |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(arm, figures) for arm, figures in result["arms"].items()),
    ]
    machine, settings = result["machine"], result["settings"]
    where = f"{result['created'][:10]}, {machine['cores']} cores, {machine['python']}, {settings['workers']} workers"
    return "\n".join([*rows, "", "```", _verdict(result), "```", "", f"({where}; `{path.relative_to(ROOT)}`)", ""])


def renewed(readme: str) -> str:
    """The README with its tables as the reference runs say."""
    for begin, block in blocks().items():
        head, _, tail = readme.partition(begin)
        readme = head + begin + block + END + tail.partition(END)[2]
    return readme


def main() -> int:
    """Check or renew the README."""
    readme = README.read_text(encoding="utf-8")
    if renewed(readme) == readme:
        return 0
    if "--write" not in sys.argv:
        return 1
    README.write_text(renewed(readme), encoding="utf-8")
    return 0


def _goal(row: dict[str, Any], goal: dict[str, Any]) -> str:
    found, sign = goal["found"], "<=" if goal["at_most"] else ">="
    floor = "" if goal["floor"] is None else f" ({goal['floor']:g})"
    ratio, unit = ("x", f" of {goal['reference']}") if goal["reference"] else ("", "")
    span = f" [{found['low']:.3g}, {found['high']:.3g}]" if found["low"] < found["high"] else ""
    figure = f"{ratio}{found['median']:.3g}{span}"
    name = goal["figure"].replace("_", " ")
    return f"| {row['text']} | {name}{unit} | {figure} | {sign} {goal['wanted']:g}{floor} | {goal['judgement']} |"


def _row(arm: str, figures: dict[str, Any]) -> str:
    latencies = " | ".join(f"{figures[name]:.2f} s" for name in ("mean_s", "p50_s", "p95_s", "p99_s"))
    counts = " | ".join(str(figures[name]) for name in ("errors", "lost", "doubled"))
    return f"| {arm} | {figures['throughput']:.0f} /s | {latencies} | {counts} |"


def _verdict(result: dict[str, Any]) -> str:
    gates = "  ".join(map(_gate, result["gates"]))
    return f"verdict: {result['verdict']} c{result['clients']} {gates}  ({result['gates'][0]['pairs']} pairs)"


def _gate(gate: dict[str, Any]) -> str:
    metric, sign, bound = re.fullmatch(r"(\w+)([<>]=)([\d.]+)x", gate["expr"]).groups()  # type: ignore[union-attr]
    return f"{metric} x{gate['ratio']:.2f} [{gate['low']:.2f}, {gate['high']:.2f}] {sign} {float(bound):.2f}"


if __name__ == "__main__":
    sys.exit(main())
