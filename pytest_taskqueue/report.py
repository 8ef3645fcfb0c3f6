"""One ComparisonResult as people read it: table, verdict line, text of a red test. Files are made by export.py.

Shows what was found and computes nothing that decides. bench_results/README.md defines every figure and key.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from textwrap import wrap

from pytest_taskqueue.results import ARMS, ComparisonResult, Figures, SlotResult, Standing
from pytest_taskqueue.verdict import LOOKS, GateResult, Verdict, bounds, figure, measured, provable, reason
from pytest_taskqueue.wording import count

_LATENCIES = ("mean_s", "p50_s", "p95_s", "p99_s", "max_s")
_MOST_PROBLEMS = 12
_MOST_WARNINGS = 3
_WIDTH = 140
_LOOP_LINE = (
    "closed loop: mean latency = clients / throughput (Little's law), so the p95 gate judges the tail's shape; "
    "percentiles: nearest rank"
)


def verdict_line(result: ComparisonResult) -> str:
    """The verdict on one line, the same in every place. INVALID shows no ratio: wrong work has no speed."""
    head = f"verdict: {result.verdict.name} c{result.clients}"
    gates = _judged(result)
    if not gates:
        return f"{head} {' '.join(result.reason.split())}"
    if _aa(result):
        head += " no difference" if result.verdict is Verdict.PASS else " an arm against itself"
    texts = "  ".join(_ratio_text(gate) if _aa(result) else _gate_text(gate) for gate in gates)
    return f"{head} {texts}  ({gates[0].pairs} pairs)"


def table(result: ComparisonResult) -> list[str]:
    """The figures of both arms side by side, then noise, how to read it, and warnings; at most 140 columns."""
    arms = {arm: result.arms[arm] for arm in ARMS if arm in result.arms}
    lines = _aligned(_columns(arms)) if arms else []
    return [
        *lines,
        *_noise_lines(result),
        *_ceiling_lines(result),
        _LOOP_LINE,
        *_open_lines(result),
        *_warning_lines(result),
    ]


def progress_line(standing: Standing) -> str:
    """One line on the slot that has just ended, the first gate as it stands, and how far it is."""
    if standing.plan:
        bought = f"the budget of {standing.budget_s:g} s buys about {count(standing.most, 'pair')}"
        return f"  window {standing.window_s:.2g} s; {bought}"
    last, at = standing.slot, f"{_clock(standing.elapsed_s)}/{_clock(standing.budget_s)}"
    place = f"pair {last.pair}/{standing.most}" if last.pair else "warm-up"
    parts = [f"{place} {last.arm:<9} {last.figures.throughput:,.0f}/s P95 {_duration(last.figures.p95_s)}"]
    told = [gate for gate in standing.ratios if not gate.gate.of_each_slot][:1]
    names = ["" if gate.metric == "throughput" else f"{gate.metric} " for gate in told]
    parts += [f"{name}{measured(gate)} so far {bounds(gate)}" for name, gate in zip(names, told, strict=True)]
    return "  " + " | ".join([*parts, at])


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def failure_text(result: ComparisonResult) -> str:
    """What the whole comparison has to say where it is no PASS: what was not shown, by how much, what would help."""
    match result.verdict:
        case Verdict.PASS:
            return ""
        case Verdict.INVALID:
            return _invalid_text(result)
        case Verdict.FAIL:
            title = "the queue differs from itself" if _aa(result) else "the optimized queue misses a gate"
            lines = [f"FAIL: {title}", *result.reason.split("; ")]
        case Verdict.INCONCLUSIVE:
            lines = ["INCONCLUSIVE: not shown", *result.reason.split("; "), *_advice(result)]
    others = [f"{_gate_text(gate)}  {gate.verdict.name}" for gate in result.gates if gate.verdict != result.verdict]
    return "\n  ".join([*lines, *others])


def gate_text(result: ComparisonResult, metric: str) -> str:
    """The same for one gate, by which its test is red."""
    gate = next((gate for gate in result.gates if gate.metric == metric), None)
    if result.verdict is Verdict.INVALID:
        return _invalid_text(result)
    if gate is None:  # the budget ended before there was anything to judge
        return "\n  ".join(["INCONCLUSIVE: not shown", *result.reason.split("; "), *_advice(result)])
    head, *rest = [reason(gate)] if gate.verdict is not Verdict.INCONCLUSIVE else ["not shown", reason(gate)]
    if gate.verdict is Verdict.INCONCLUSIVE and result.verdict is Verdict.FAIL:
        failed = ", ".join(other.metric for other in result.gates if other.verdict is Verdict.FAIL)
        rest.append(f"measuring ended here because {failed} failed")
    elif gate.verdict is Verdict.INCONCLUSIVE:
        ended = [part for part in result.reason.split("; ")[:1] if part.startswith("the budget")]
        rest += [*ended, *_advice(result)]
    return "\n  ".join([f"{gate.verdict.name}: {head}", *rest])


def _invalid_text(result: ComparisonResult) -> str:
    advice = "no speed verdict is given for work that is not right or for time that does not add up"
    return "\n  ".join([f"INVALID: {result.reason}", *_problem_lines(result.slots), *_stack_lines(result), advice])


def _advice(result: ComparisonResult) -> list[str]:
    """What would decide it. More pairs than the last look has cannot be had, but longer slots are quieter ones."""
    lines = []
    needed = [gate.needed for gate in result.gates if gate.verdict is Verdict.INCONCLUSIVE]
    known = [count for count in needed if count is not None]
    if len(known) < len(needed):
        lines.append("the ratio is too near to its gate: no number of pairs that anybody runs would decide it")
    elif known and result.pair_s:
        pairs, window = max(known), float(result.settings["window_s"])
        if pairs > LOOKS[-1]:  # the noise of a slot falls with the root of its length
            longer = window * pairs / LOOKS[-1]
            budget = result.pair_s * pairs * 1.2
            lines.append(
                f"about {_two_digits(pairs):,} pairs would decide it, and {LOOKS[-1]} are the most: "
                f"--tq-slot {_two_digits(math.ceil(longer))} --tq-budget {_two_digits(math.ceil(budget))} is as much"
            )
        else:
            budget = max(result.pair_s * pairs * 1.2, float(result.settings["budget_s"]) + result.pair_s)
            lines.append(f"about {pairs} pairs would decide it: --tq-budget {_two_digits(math.ceil(budget))}")
    elif result.pair_s:
        budget = _two_digits(math.ceil(result.pair_s * (LOOKS[0] + 2) * 1.2))
        lines.append(f"the first look comes after {LOOKS[0]} pairs: --tq-budget {budget}, or shorter slots (--tq-slot)")
    return [*lines, "a quieter machine helps; rerunning until it turns green proves nothing"]


def _two_digits(number: int) -> int:
    """Rounded up: more digits would promise what an estimate from a few pairs cannot hold."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step


def _judged(result: ComparisonResult) -> tuple[GateResult, ...]:
    return () if result.verdict is Verdict.INVALID else result.gates


def _aa(result: ComparisonResult) -> bool:
    return bool(result.settings.get("aa"))


def _gate_text(result: GateResult) -> str:
    return f"{_ratio_text(result)} {result.gate.op} {result.gate.limit}"


def _ratio_text(result: GateResult) -> str:
    interval = "" if result.gate.of_each_slot else f" {bounds(result)}"
    return f"{result.metric} {measured(result)}{interval}"


def _problem_lines(slots: Iterable[SlotResult]) -> list[str]:
    lines = [f"{_place(slot)}: {problem}" for slot in slots for problem in slot.problems]
    more = len(lines) - _MOST_PROBLEMS
    return lines if more <= 0 else [*lines[:_MOST_PROBLEMS], f"... and {more:,} more, all of them in the JSON report"]


def _stack_lines(result: ComparisonResult) -> list[str]:
    return [line for stack in result.stacks for line in stack.splitlines()]


def _warning_lines(result: ComparisonResult) -> list[str]:
    """Warnings of the whole first; a slot's own only where the whole does not already say it."""
    own = [f"{_place(slot)}: {text}" for slot in result.slots for text in slot.warnings if text not in result.warnings]
    if len(own) > _MOST_WARNINGS:
        own = [*own[:_MOST_WARNINGS], f"... and {len(own) - _MOST_WARNINGS} more slots, all of them in the JSON report"]
    lines = [f"warning: {text}" for text in [*result.warnings, *own]]
    return [part for line in lines for part in wrap(line, _WIDTH, subsequent_indent=" " * len("warning: "))]


def _place(slot: SlotResult) -> str:
    return f"{slot.arm}, slot {slot.index} ({f'pair {slot.pair}' if slot.pair else 'warm-up'})"


def _noise_lines(result: ComparisonResult) -> list[str]:
    """How far one arm lies from itself, and what that leaves to be proved; then how the machine behaved."""
    noise = result.noise
    if noise is None or noise.floor is None or noise.spread is None:
        return []
    pairs = min(result.most_pairs, LOOKS[-1])
    ratios = [(gate.gate, provable(gate.gate, noise.spread, pairs)) for gate in result.gates if not _aa(result)]
    proofs = [f"{gate.metric} x{figure(ratio)}" for gate, ratio in ratios if ratio is not None]
    floor = f"the same arm against itself +-{_percent(noise.floor)} ({count(noise.repeats, 'block')})"
    lines = [f"noise floor: {floor}, ratios of pairs +-{_percent(noise.spread)}"]
    if proofs:
        lines.append(f"this budget could prove {', '.join(proofs)}")
    machine = []
    if noise.drift is not None:
        faster = "faster" if noise.drift >= 0 else "slower"
        machine.append(f"both arms {_percent(abs(noise.drift))} {faster} in the second half")
    if noise.order is not None:
        machine.append(f"ratio {100 * noise.order:+.1f} % where the baseline went first")
    if noise.correlation is not None:
        machine.append(f"correlation of neighbouring pairs {noise.correlation:+.2f}")
    return lines + [f"drift: {', '.join(machine)}"] * bool(machine)


def _ceiling_lines(result: ComparisonResult) -> list[str]:
    if not result.ceiling:
        return []
    fastest = max((figures.throughput for figures in result.arms.values()), default=0.0)
    share = _percent(fastest / result.ceiling)
    most = f"at most {result.ceiling:,.0f} tasks/s with these clients over a queue that does nothing"
    return [f"load generator: {most}; the faster arm reached {share} of it"]


def _open_lines(result: ComparisonResult) -> list[str]:
    """The open-loop companion."""
    found = result.open_loop
    if found is None:
        return ["open loop: the budget had no room for it"] * bool(result.settings.get("rate"))
    arms = [
        f"{arm} P50 {_duration(figures.p50_s)} P95 {_duration(figures.p95_s)} P99 {_duration(figures.p99_s)}"
        for arm, figures in found.arms.items()
    ]
    sent = f"{found.rate:,.0f} tasks/s at planned moments ({found.share:g} of the baseline's throughput)"
    return [f"open loop, no gate: {sent}; latency from then: {', '.join(arms)}"]


def _percent(share: float) -> str:
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


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
