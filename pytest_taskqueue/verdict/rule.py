"""The rule: look at the intervals of all gates, and say what they decide and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_taskqueue.verdict.gates import Gate
from pytest_taskqueue.verdict.intervals import ALPHA, deviation, pairs_needed, t_interval, tail_at
from pytest_taskqueue.verdict.values import Interval, Pair, Verdict, worst

SAME_TAIL = 0.005
"""One-sided error of the interval that tells an arm from itself: 99 % hold 1."""


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate: the value it judged with its interval (ratios, or the optimized arm's figure in the gate's unit), and
    what that decided. `noise` is the standard deviation of the sample, in percent, and `needed` how many pairs would
    decide the gate, if ratio and noise stay as they are; None where that cannot be told.
    """

    gate: Gate
    value: float
    low: float
    high: float
    pairs: int
    verdict: Verdict
    noise: float | None = None
    needed: int | None = None

    @property
    def expr(self) -> str:
        """The gate as text."""
        return str(self.gate)

    @property
    def metric(self) -> str:
        """What it is about."""
        return self.gate.metric

    def to_dict(self) -> dict[str, str | float | int | None]:
        """The gate as the result file holds it; a limit has no ratio."""
        ratio = self.value if self.gate.relative else None
        numbers = {"ratio": ratio, "value": self.value, "unit": self.gate.unit, "low": self.low, "high": self.high}
        return {"expr": self.expr, **numbers, "pairs": self.pairs, "verdict": self.verdict.value}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict over all gates, why in one sentence, and each gate as it stands."""

    verdict: Verdict
    reason: str
    gates: tuple[GateResult, ...]


def judge(gates: Sequence[Gate], pairs: Sequence[Pair]) -> Judgement:
    """Look at the pairs. At one of the LOOKS, PASS and FAIL are final; INCONCLUSIVE means to go on, until the last.

    Raises ValueError for figures that no gate can be judged by.
    """
    _need(gates, pairs)
    results = tuple(_result(gate, gate.sample(pairs)) for gate in gates)
    verdict = worst(result.verdict for result in results)
    return Judgement(verdict, "; ".join(reason(result) for result in results if result.verdict is verdict), results)


def judge_same(gates: Sequence[Gate], pairs: Sequence[Pair]) -> Judgement:
    """For an arm against itself: PASS when the 99 % interval of every ratio holds 1, else FAIL. One look, at the end.

    A harness that sees a difference where there is none cannot be trusted to judge one. The gates are of metrics that
    have a ratio; their bounds do not matter.
    """
    _need(gates, pairs)
    same = [Gate(gate.metric, gate.op, 1.0) for gate in gates]
    results = tuple(_held(gate, gate.sample(pairs)) for gate in same)
    verdict = worst(result.verdict for result in results)
    found = "a difference where there is none" if verdict is Verdict.FAIL else "no difference"
    texts = [
        f"{result.metric} {measured(result)}, 99 % interval {bounds(result)} "
        f"{'holds' if verdict is Verdict.PASS else 'lies off'} 1 after {result.pairs} pairs"
        for result in results
        if result.verdict is verdict
    ]
    return Judgement(verdict, f"{found}: {'; '.join(texts)}", results)


def _need(gates: Sequence[Gate], pairs: Sequence[Pair]) -> None:
    if not gates or len(pairs) < 2:
        raise ValueError(f"{len(gates)} gates and {len(pairs)} pairs given: a look needs 1 gate and 2 pairs or more")


def _held(gate: Gate, sample: Sequence[float]) -> GateResult:
    found = t_interval(sample, SAME_TAIL)
    return _gate_result(gate, sample, found, Verdict.PASS if found.low <= 0 <= found.high else Verdict.FAIL)


def _result(gate: Gate, sample: Sequence[float]) -> GateResult:
    found = gate.estimate(sample, tail_at(len(sample)))
    return _gate_result(gate, sample, found, gate.decide(found))


def _gate_result(gate: Gate, sample: Sequence[float], found: Interval, verdict: Verdict) -> GateResult:
    return GateResult(
        gate=gate,
        value=gate.shown(found.middle),
        low=gate.shown(found.low),
        high=gate.shown(found.high),
        pairs=len(sample),
        verdict=verdict,
        noise=None if gate.of_each_slot else 100 * deviation(sample),
        needed=pairs_needed(sample, gate.edge) if verdict is Verdict.INCONCLUSIVE else None,
    )


def reason(result: GateResult) -> str:
    """The interval that decided, or what it would take to decide."""
    gate = result.gate
    if gate.of_each_slot:
        side = "within" if result.verdict is Verdict.PASS else "beyond"
        return f"{gate.metric} {measured(result)} in the worst slot, {side} the gate {gate.limit}"
    spread = result.noise or 0.0
    return (
        f"{gate.metric} {measured(result)}, {100 - 200 * ALPHA:g} % interval {bounds(result)} "
        f"{_stands(result)} the gate {gate.limit} "
        f"after {result.pairs} pairs (noise {spread:.{0 if spread >= 10 else 1}f} %)"
    )


def measured(result: GateResult) -> str:
    """The judged value as people read it: x2.14, or 41.30ms, or 3 (errors)."""
    if not result.gate.unit:
        return f"{result.value:,.0f}"
    return f"x{figure(result.value)}" if result.gate.relative else f"{figure(result.value)}{result.gate.unit}"


def bounds(result: GateResult) -> str:
    """Its interval: [1.86, 2.47]."""
    return f"[{figure(result.low)}, {figure(result.high)}]"


def figure(value: float) -> str:
    """Two decimals, but three digits of what is small, and no endless row of them for what is huge."""
    size = abs(value)
    if 0 < size < 0.1 or size >= 1e9:
        return f"{value:.3g}"
    return f"{value:.2f}" if size < 100 else f"{value:,.0f}"


def _stands(result: GateResult) -> str:
    """Where the interval lies."""
    gate = result.gate
    at_least = gate.op == ">="
    if result.low < gate.bound < result.high:
        return "holds"
    if (result.low >= gate.bound) == at_least:
        return "reaches"
    return "lies below" if at_least else "lies above"
