"""Both tables, made of what was measured: as text and as Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Result = Mapping[str, Any]
Rows = list[list[str]]

LEGEND = (
    "kept: promised and kept; BROKEN: promised and not kept; -: neither promised nor kept; (kept): not promised, "
    "and kept all the same"
)
RATIOS = "throughput and P95 of the optimized queue, divided by those of the peer, with 95 % intervals"

LOADED = "other programs"
"""How a warning begins that is no footnote: the load is told once for all."""


@dataclass(slots=True)
class Notes:
    """Footnotes, numbered as they come; equal ones share a number."""

    texts: list[str] = field(default_factory=list)

    def mark(self, text: str) -> str:
        """The mark that stands in the table."""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self, begin: str) -> list[str]:
        """All of them."""
        return [f"{begin}[{number}] {text}" for number, text in enumerate(self.texts, start=1)]


def promises(result: Result, notes: Notes) -> Rows:
    """A row for each promise, a column for each queue."""
    peers = [peer for peer in result["peers"] if "conformance" in peer]
    names = dict.fromkeys(row["name"] for peer in peers for row in peer["conformance"].get("promises", ()))
    header = ["promise", *(peer["name"] for peer in peers)]
    return [header, *([name, *(_kept(peer, name, notes) for peer in peers)] for name in names)]


def speed(result: Result, notes: Notes) -> Rows:
    """A row for each peer: two ratios for each workload, and whether it lost nothing when it was killed."""
    peers = [peer for peer in result["peers"] if peer.get("comparisons")]
    workloads = list(dict.fromkeys(name for peer in peers for name in peer["comparisons"]))
    header = ["peer", *(f"{name}: {metric}" for name in workloads for metric in ("throughput", "P95")), "durable"]
    return [header, *(_speed_row(peer, workloads, notes) for peer in peers)]


def text(result: Result) -> str:
    """Both tables for a terminal."""
    return _page(result, _aligned, "")


def markdown(result: Result) -> str:
    """Both tables for the README."""
    return _page(result, _piped, "- ")


def _page(result: Result, shown: Callable[[Rows], list[str]], begin: str) -> str:
    notes, lines = Notes(), []
    for make, legend in ((promises, LEGEND), (speed, f"{RATIOS}; {_load(result)}")):
        if len(rows := make(result, notes)) > 1:
            lines += [*shown(rows), "", f"({legend})", ""]
    footnotes = [*notes.lines(begin), ""] if notes.texts else []
    return "\n".join([*lines, *footnotes, f"({where(result)})", ""])


def where(result: Result) -> str:
    """Date, machine and versions."""
    machine = result["machine"]
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    load = (
        "" if result["load"] is None else f"load {result['load'][0]:.2f}, {result['load_at_the_end'][0]:.2f} at the end"
    )
    absent = [f"{peer['name']} is {peer['problem']}" for peer in result["peers"] if "problem" in peer]
    facts = [result["created"][:10], f"{machine['cores']} cores", machine["python"], *versions, load, *absent]
    return ", ".join(fact for fact in facts if fact)


def _load(result: Result) -> str:
    settings = result["settings"]
    return (
        f"{settings['clients']} clients, {settings['workers']} workers, windows of {settings['slot']} s, "
        f"seed {settings['seed']}"
    )


def _kept(peer: Result, name: str, notes: Notes) -> str:
    found = peer["conformance"]
    if "problem" in found:
        return f"? {notes.mark(peer['name'] + ': ' + found['problem'])}"
    row = next((row for row in found["promises"] if row["name"] == name), None)
    status = "not looked at" if row is None else row["status"]
    if row is None or status == "not tried":
        return f"? {notes.mark(peer['name'] + ', ' + name + ': ' + (row['evidence'] if row else status))}"
    if status == "broken":
        return f"BROKEN {notes.mark(peer['name'] + ', ' + name + ': ' + row['evidence'])}"
    if status == "kept":
        return "kept"
    return "(kept)" if row["held"] else "-"


def _speed_row(peer: Result, workloads: Sequence[str], notes: Notes) -> list[str]:
    cells = [cell for name in workloads for cell in _ratios(peer, name, notes)]
    return [peer["name"], *cells, _durable(peer, notes) if "conformance" in peer else "?"]


def _durable(peer: Result, notes: Notes) -> str:
    """The same as in the table of promises, and what was lost."""
    cell = _kept(peer, "durable", notes)
    if cell != "-":
        return cell
    (row,) = [row for row in peer["conformance"]["promises"] if row["name"] == "durable"]
    return f"- {notes.mark('durable: ' + row['evidence'])}"


def _ratios(peer: Result, workload: str, notes: Notes) -> list[str]:
    """Throughput and P95; where there are none, the reason is a footnote."""
    found = peer["comparisons"].get(workload, {"problem": "not measured"})
    gates = {gate["expr"].partition(">")[0].partition("<")[0]: gate for gate in found.get("gates", ())}
    if {"throughput", "p95"} <= gates.keys():
        told = [text for text in found.get("warnings", ()) if not text.startswith(LOADED)]
        marks = "".join(f" {notes.mark(peer['name'] + ', ' + workload + ': ' + text)}" for text in told)
        return [_ratio(gates["throughput"]) + marks, _ratio(gates["p95"])]
    word, reason = found.get("verdict", "failed"), found.get("problem") or found["reason"]
    return [f"{word} {notes.mark(peer['name'] + ', ' + workload + ': ' + reason)}"] * 2


def _ratio(gate: Result) -> str:
    return f"x{gate['ratio']:.3g} [{gate['low']:.3g}, {gate['high']:.3g}]"


def _piped(rows: Rows) -> list[str]:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return [head, "|---" * len(rows[0]) + "|", *body]


def _aligned(rows: Rows) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
