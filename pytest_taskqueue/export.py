"""One ComparisonResult as programs read it: JSON, CSV, and what goes into pytest-benchmark's files.

bench_results/README.md defines every figure and key.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import chain, count
from pathlib import Path
from typing import Any

from pytest_taskqueue.results import ARMS, SCHEMA, ComparisonResult, Figures, SlotResult
from pytest_taskqueue.verdict import Verdict

_FIGURES = tuple(field.name for field in fields(Figures))


def published(result: ComparisonResult, arm: str) -> dict[str, Any]:
    """What goes into pytest-benchmark's extra_info of one arm: its figures, and the verdict on both."""
    gates = [_plain(gate.to_dict()) for gate in result.gates]
    figures = _plain(asdict(result.arms[arm]))
    shown = {"clients": result.clients, "arm": arm, **figures, "histogram": _histogram(result, arm)}
    return {**shown, "verdict": result.verdict.value, "gates": gates}


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
        "gates": [_plain(gate.to_dict()) for gate in result.gates if result.verdict is not Verdict.INVALID],
        "arms": {arm: _plain(asdict(result.arms[arm])) if arm in result.arms else None for arm in ARMS},
        "slots": [_slot(slot) for slot in result.slots],
        "looks": [[_plain(gate.to_dict()) for gate in look] for look in result.looks],
        "noise": None if result.noise is None else _plain(asdict(result.noise)),
        "most_pairs": result.most_pairs,
        "pair_s": result.pair_s,
        "ceiling": result.ceiling,
        "histograms": {arm: _histogram(result, arm) for arm in ARMS},
        "open_loop": _open(result),
        "stacks": list(result.stacks),
        "elapsed_s": _finite(result.elapsed_s),
        "warnings": list(result.warnings),
    }


def _histogram(result: ComparisonResult, arm: str) -> dict[str, int]:
    """Middle of the bucket in seconds -> how many latencies."""
    return {f"{middle:.4g}": count for middle, count in result.histograms.get(arm, {}).items()}


def _open(result: ComparisonResult) -> dict[str, Any] | None:
    found = result.open_loop
    if found is None:
        return None
    arms = {arm: _plain(asdict(figures)) for arm, figures in found.arms.items()}
    return {"rate": found.rate, "share": found.share, "seconds": found.seconds, "arms": arms}


def csv_rows(result: ComparisonResult) -> list[list[Any]]:
    """The header, then one row per slot; an empty cell for what is unknown."""
    header = ["arm", "index", "pair", "window_s", *_FIGURES, "problems"]
    slots = [_slot(slot) | {"problems": "; ".join(slot.problems)} for slot in result.slots]
    return [header, *([slot[name] for name in header] for slot in slots)]


def write(result: ComparisonResult, directory: str | os.PathLike[str]) -> list[Path]:
    """Write <created>-c<clients>.json, the same as .csv, and latest.json; gives their paths. OSError goes through.

    Of several in one second, the later ones get a number behind their names.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    first = f"{re.sub(r'[^0-9A-Za-z.+-]', '-', result.created)}-c{result.clients}"
    stems = chain([first], (f"{first}-{number}" for number in count(2)))
    stem = next(stem for stem in stems if not (folder / f"{stem}.json").exists())
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
