"""The README's result, made from the committed reference run: `python -m tests.readme --write` renews it.

Without --write it says whether the README is up to date (exit status 1 when it is not).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
REFERENCE = ROOT / "bench_results" / "reference"
BEGIN = "<!-- reference: python -m tests.readme --write -->\n"
END = "<!-- end of reference -->\n"


def block() -> str:
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


def current(readme: str) -> str:
    """What the README shows now."""
    return readme.partition(BEGIN)[2].partition(END)[0]


def main() -> int:
    """Check or renew the README."""
    readme = README.read_text(encoding="utf-8")
    if current(readme) == block():
        return 0
    if "--write" not in sys.argv:
        return 1
    head, tail = readme.partition(BEGIN)[0], readme.partition(END)[2]
    README.write_text(head + BEGIN + block() + END + tail, encoding="utf-8")
    return 0


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
