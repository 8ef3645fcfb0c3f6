"""One ComparisonResult as people and programs read it: table, verdict line, text of a red test, JSON, CSV.

Shows what was found and computes nothing that decides. bench_results/README.md defines every figure and key.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import geometric_mean, mean, stdev
from textwrap import wrap
from typing import Any

from pytest_taskqueue.results import ARMS, SCHEMA, ComparisonResult, Figures, SlotResult
from pytest_taskqueue.verdict import GateResult, Verdict, parse_gate

_LATENCIES = ("mean_s", "p50_s", "p95_s", "p99_s", "max_s")
_FIGURES = tuple(field.name for field in fields(Figures))
_MOST_PROBLEMS = 12
_WIDTH = 140
_LOOP_LINE = (
    "closed loop: mean latency = clients / throughput (Little's law), so the p95 gate judges the tail's shape; "
    "percentiles: nearest rank"
)


# ------------------------------------------------------------------------------------------------ for people


def verdict_line(result: ComparisonResult) -> str:
    """The verdict on one line, the same in every place. INVALID shows no ratio: wrong work has no speed."""
    head = f"verdict: {result.verdict.name} c{result.clients}"
    gates = _judged(result)
    if not gates:
        return f"{head} {' '.join(result.reason.split())}"
    return f"{head} {'  '.join(map(_gate_text, gates))}  ({gates[0].pairs} pairs)"


def table(result: ComparisonResult) -> list[str]:
    """The figures of both arms side by side, then noise, how to read it, and warnings; at most 140 columns."""
    arms = {arm: result.arms[arm] for arm in ARMS if arm in result.arms}
    lines = _aligned(_columns(arms)) if arms else []
    return [*lines, _noise_line(result.slots), _LOOP_LINE, *_warning_lines(result)]


def progress_line(slots: Sequence[SlotResult]) -> str:
    """One line on the slot that has just ended, and the ratios so far."""
    last = slots[-1]
    place = f"pair {last.pair}" if last.pair else "warm-up"
    line = f"  {place}  {last.arm:<9}  {last.figures.throughput:,.0f}/s  P95 {_duration(last.figures.p95_s)}"
    arms = {arm: [s.figures.throughput for s in slots if s.arm == arm and s.pair > 0] for arm in ARMS}
    if all(rates and min(rates) > 0 for rates in arms.values()):
        ratio = geometric_mean(arms["optimized"]) / geometric_mean(arms["baseline"])
        line += f"  |  throughput x{ratio:.2f} so far"
    return line


def published(result: ComparisonResult, arm: str) -> dict[str, Any]:
    """What goes into pytest-benchmark's extra_info of one arm: its figures, and the verdict on both."""
    gates = [_plain(gate.to_dict()) for gate in result.gates]
    figures = _plain(asdict(result.arms[arm]))
    return {"clients": result.clients, "arm": arm, **figures, "verdict": result.verdict.value, "gates": gates}


def failure_text(result: ComparisonResult) -> str:
    """What a red test prints: what was not shown, by how much, and what would help. Empty for PASS."""
    others = [f"{_gate_text(gate)}  {gate.verdict.name}" for gate in _judged(result) if gate.verdict != result.verdict]
    match result.verdict:
        case Verdict.PASS:
            return ""
        case Verdict.FAIL:
            lines = ["FAIL: the optimized queue misses a gate", *result.reason.split("; "), *others]
        case Verdict.INCONCLUSIVE:
            advice = (
                "a quieter machine or longer slots (--tq-slot) can decide it; "
                "rerunning until it turns green proves nothing"
            )
            lines = ["INCONCLUSIVE: not shown", *result.reason.split("; "), *others, advice]
        case Verdict.INVALID:
            advice = "no speed verdict is given for work that is not right or for time that does not add up"
            lines = [f"INVALID: {result.reason}", *_problem_lines(result.slots), advice]
    return "\n  ".join(lines)


def _judged(result: ComparisonResult) -> tuple[GateResult, ...]:
    return () if result.verdict is Verdict.INVALID else result.gates


def _gate_text(gate: GateResult) -> str:
    asked = parse_gate(gate.expr)
    return f"{gate.metric} x{gate.ratio:.2f} [{gate.low:.2f}, {gate.high:.2f}] {asked.op} {asked.limit}"


def _problem_lines(slots: Iterable[SlotResult]) -> list[str]:
    lines = [f"{_place(slot)}: {problem}" for slot in slots for problem in slot.problems]
    more = len(lines) - _MOST_PROBLEMS
    return lines if more <= 0 else [*lines[:_MOST_PROBLEMS], f"... and {more:,} more, all of them in the JSON report"]


def _warning_lines(result: ComparisonResult) -> list[str]:
    """Warnings of the whole first; a slot's own only where the whole does not already say it."""
    own = [f"{_place(slot)}: {text}" for slot in result.slots for text in slot.warnings if text not in result.warnings]
    lines = [f"warning: {text}" for text in [*result.warnings, *own]]
    return [part for line in lines for part in wrap(line, _WIDTH, subsequent_indent=" " * len("warning: "))]


def _place(slot: SlotResult) -> str:
    return f"{slot.arm}, slot {slot.index} ({f'pair {slot.pair}' if slot.pair else 'warm-up'})"


def _noise_line(slots: Iterable[SlotResult]) -> str:
    """How far the slots of one arm lie apart: the same queue, the same load, so all of it is noise."""
    measured = [slot for slot in slots if slot.pair]
    parts = []
    for arm in ARMS:
        rates = [slot.figures.throughput for slot in measured if slot.arm == arm]
        known = len(rates) > 1 and all(math.isfinite(rate) and rate > 0 for rate in rates)
        spread = f"{100 * stdev(rates) / mean(rates):.1f} %" if known else "-"
        parts.append(f"{arm} {spread} ({len(rates)} slots)")
    return f"noise: relative standard deviation of throughput among the slots of one arm: {', '.join(parts)}"


# -------------------------------------------------------------------------------------------------- the table


def _columns(arms: Mapping[str, Figures]) -> list[tuple[str, ...]]:
    """One tuple per column: two header cells, then a cell per arm. Values to be compared share unit and decimals."""
    rows = list(arms.values())
    latency = _seconds(getattr(row, name) for row in rows for name in _LATENCIES)
    cpu, gap = _seconds(row.cpu_s_per_task for row in rows), _seconds(row.longest_gap_s for row in rows)
    rate = _decimals((row.throughput for row in rows), digits=3)
    return [
        ("", "", *arms),
        ("", "throughput", *(_number(row.throughput, rate, " /s") for row in rows)),
        *(
            ("", name.removesuffix("_s").replace("p", "P"), *(latency(getattr(row, name)) for row in rows))
            for name in _LATENCIES
        ),
        *(("", name, *(f"{getattr(row, name):,}" for row in rows)) for name in ("errors", "lost", "doubled")),
        ("queue depth", "mean (max)", *(_depth(row) for row in rows)),
        ("CPU per", "task", *(cpu(row.cpu_s_per_task) for row in rows)),
        ("longest", "gap", *(gap(row.longest_gap_s) for row in rows)),
        ("memory", "growth", *(_number(row.rss_growth_mb, 1, " MiB", "+") for row in rows)),
    ]


def _aligned(columns: Sequence[tuple[str, ...]]) -> list[str]:
    """Names to the left, everything else to the right, as wide as its widest cell."""
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, *cells in zip(*columns, strict=True):
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
    return lines


def _seconds(values: Iterable[float]) -> Callable[[float], str]:
    """A writer of durations: all in s, or all in ms, or each in its own where they lie too far apart for one unit."""
    known = [value for value in values if math.isfinite(value) and value > 0]
    least, most = min(known, default=1.0), max(known, default=1.0)
    if least < 0.1 and most < min(1.0, 200 * least):
        places = _decimals([1000 * least], digits=2)
        return lambda value: _number(1000 * value, places, " ms")
    return _duration


def _duration(value: float) -> str:
    if value >= 0.1:
        return _number(value, 2, " s")
    return _number(1000 * value, _decimals([1000 * value], digits=2), " ms")


def _decimals(values: Iterable[float], digits: int) -> int:
    """The decimals that show so many digits of the least value: 0 to 3."""
    least = min((value for value in values if math.isfinite(value) and value > 0), default=1.0)
    return min(3, max(0, digits - 1 - math.floor(math.log10(least))))


def _number(value: float | None, places: int, unit: str, sign: str = "") -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:{sign}z,.{places}f}{unit}"


def _depth(figures: Figures) -> str:
    if figures.depth_mean is None or figures.depth_max is None:
        return "-"
    return f"{_number(figures.depth_mean, 0 if figures.depth_mean >= 10 else 1, '')} ({figures.depth_max:,})"


# ---------------------------------------------------------------------------------------------- for programs


def to_dict(result: ComparisonResult) -> dict[str, Any]:
    """The result as JSON holds it: plain values, None for what is unknown or not finite."""
    return {
        "schema": SCHEMA,
        "created": result.created,
        "verdict": result.verdict.name,
        "reason": result.reason,
        "clients": result.clients,
        "seed": result.seed,
        "command": result.command,
        "machine": _plain(result.machine),
        "settings": _plain(result.settings),
        "gates": [_plain(gate.to_dict()) for gate in _judged(result)],
        "arms": {arm: _plain(asdict(result.arms[arm])) if arm in result.arms else None for arm in ARMS},
        "slots": [_slot(slot) for slot in result.slots],
        "elapsed_s": _finite(result.elapsed_s),
        "warnings": list(result.warnings),
    }


def csv_rows(result: ComparisonResult) -> list[list[Any]]:
    """The header, then one row per slot; an empty cell for what is unknown."""
    header = ["arm", "index", "pair", "window_s", *_FIGURES, "problems"]
    slots = [_slot(slot) | {"problems": "; ".join(slot.problems)} for slot in result.slots]
    return [header, *([slot[name] for name in header] for slot in slots)]


def write(result: ComparisonResult, directory: str | os.PathLike[str]) -> list[Path]:
    """Write <created>-c<clients>.json, the same as .csv, and latest.json; gives their paths. OSError goes through."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{re.sub(r'[^0-9A-Za-z.+-]', '-', result.created)}-c{result.clients}"
    as_json = json.dumps(to_dict(result), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    texts = {f"{stem}.json": as_json, f"{stem}.csv": _csv_text(result), "latest.json": as_json}
    return [_replace(folder / name, text) for name, text in texts.items()]


def _slot(slot: SlotResult) -> dict[str, Any]:
    place = {"arm": slot.arm, "index": slot.index, "pair": slot.pair, "window_s": _finite(slot.window_s)}
    return place | _plain(asdict(slot.figures)) | {"problems": list(slot.problems), "warnings": list(slot.warnings)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _csv_text(result: ComparisonResult) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(csv_rows(result))
    return text.getvalue()


def _replace(path: Path, text: str) -> Path:
    """Whole or not at all: a reader of latest.json never meets half a file. Bytes, so that Windows adds no \\r.

    A command line may hold bytes that are no UTF-8 (lone surrogates here); they are written as \\udcXX.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
