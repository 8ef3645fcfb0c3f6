"""The statistics behind the verdict, against published tables, constructed samples and one small simulation."""

from __future__ import annotations

import ast
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pytest

import pytest_taskqueue.verdict
from pytest_taskqueue.config import DEFAULT_GATES
from pytest_taskqueue.verdict import TAIL, Gate, Pair, Verdict, interval, judge, noise, pairs_needed

from pytest_taskqueue.verdict import parse_gate, t_cdf, t_quantile, worst  # isort: skip

GATES = [parse_gate(text) for text in DEFAULT_GATES]
THROUGHPUT, P95 = GATES
QUICK = [4.0, 4.1, 3.9, 4.2, 3.8]
UNSURE = [1.5, 2.9, 2.4, 1.8, 2.2]
LATE = [0.9, 0.91, 0.9, 0.92, 0.9]


def pairs(throughput: Sequence[float], p95: Sequence[float] | None = None) -> list[Pair]:
    """Pairs whose ratios are exactly these; the baseline wanders, as a machine does."""
    bases, delays = (64.0, 128.0, 32.0) * len(throughput), p95 or [0.3] * len(throughput)
    return [
        ({"throughput": base, "p95": 1 / base}, {"throughput": base * speed, "p95": delay / base})
        for base, speed, delay in zip(bases, throughput, delays, strict=False)
    ]


# --- Student's t


@pytest.mark.parametrize(
    ("df", "p", "published"),
    [(1, 0.975, 12.7062), (2, 0.975, 4.302653), (4, 0.975, 2.776445), (7, 0.95, 1.894579), (9, 0.975, 2.262157),
     (4, 0.995, 4.604095), (30, 0.975, 2.042272), (120, 0.975, 1.979930)],
)  # fmt: skip
def test_t_quantiles_are_those_of_the_published_tables(df: int, p: float, published: float) -> None:
    assert t_quantile(p, df) == pytest.approx(published, rel=6e-6)


@pytest.mark.parametrize(("n", "tail", "factor"), [(5, 0.025, 1.242), (5, 0.003125, 2.353), (8, 0.001875, 1.506)])
def test_half_width_factors_are_those_the_gate_rule_names(n: int, tail: float, factor: float) -> None:
    sample = [0.1 * number**2 for number in range(n)]
    found = interval(sample, tail)
    assert found.middle == pytest.approx(mean(sample))
    assert (found.high - found.middle) / stdev(sample) == pytest.approx(factor, abs=5e-4)
    assert found.high - found.middle == pytest.approx(found.middle - found.low)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 11, 40])
def test_quantile_undoes_the_distribution_function(df: int) -> None:
    assert [t_cdf(t_quantile(p, df), df) for p in (0.5, 0.6, 0.9, 0.999)] == pytest.approx([0.5, 0.6, 0.9, 0.999])
    assert t_cdf(-1.3, df) == pytest.approx(1 - t_cdf(1.3, df))


def test_noise_is_the_spread_of_log_ratios_in_percent() -> None:
    assert noise([-0.1, 0.1]) == pytest.approx(100 * math.sqrt(0.02))


# --- verdicts and gates


def test_verdicts_rank_and_end_a_script_as_the_specification_says() -> None:
    ranked = sorted(Verdict, key=lambda verdict: verdict.rank)
    assert [verdict.name for verdict in ranked] == ["PASS", "INCONCLUSIVE", "FAIL", "INVALID"]
    assert [verdict.exit_status for verdict in ranked] == [0, 3, 1, 4]


def test_worst_takes_the_highest_rank_and_never_turns_nothing_into_a_pass() -> None:
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]) is Verdict.FAIL
    assert worst(iter([Verdict.INVALID, Verdict.FAIL])) is Verdict.INVALID
    assert worst([Verdict.PASS]) is Verdict.PASS
    with pytest.raises(ValueError, match="empty"):
        worst([])


@pytest.mark.parametrize(
    ("text", "gate", "canonical", "limit"),
    [
        ("throughput>=2x", Gate("throughput", ">=", 2.0), "throughput>=2x", "2.00"),
        ("p95<=0.6x", Gate("p95", "<=", 0.6), "p95<=0.6x", "0.60"),
        ("  mean <= .70 X ", Gate("mean", "<=", 0.7), "mean<=0.7x", "0.70"),
        ("p50<=1.125X", Gate("p50", "<=", 1.125), "p50<=1.125x", "1.125"),
        ("throughput>=1e-07x", Gate("throughput", ">=", 1e-07), "throughput>=1e-07x", "1e-07"),
    ],
)
def test_a_gate_reads_back_the_same_and_shows_its_limit(text: str, gate: Gate, canonical: str, limit: str) -> None:
    assert parse_gate(text) == gate == parse_gate(canonical)
    assert (str(gate), gate.limit) == (canonical, limit)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "not understood") for text in ("", "throughput>=2", "throughput>2x", "throughput==2x", "p95<=-2x")),
        *((text, "not understood") for text in ("p95<=nanx", "throughput>=2x p95<=0.6x", "p95<=\u0662x")),
        *((text, "finite and above 0") for text in ("throughput>=0x", "throughput>=1e999x")),
        ("throughput>=1.2.3x", r"1\.2\.3"),
        ("latency<=0.6x", "no metric 'latency'"),
        ("throughput<=2x", "throughput is better when it is higher, so its gate takes >=, not <="),
        ("p95>=0.6x", "p95 is better when it is lower, so its gate takes <=, not >="),
    ],
)  # fmt: skip
def test_a_bad_gate_is_refused_with_what_was_given_and_what_is_allowed(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_gate(text)
    message = str(refused.value)
    assert repr(text) in message
    assert all(word in message for word in ("throughput>=", "mean", "p50", "p95", "p99", "<=", "p95<=0.6x"))


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_gate_made_in_code_obeys_the_same_rules(bound: float) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        Gate("throughput", ">=", bound)


# --- judging


@pytest.mark.parametrize(
    ("throughput", "p95", "each", "whole"),
    [
        (QUICK, None, "PASS PASS", "PASS"),
        ([1.5, 1.6, 1.4, 1.5, 1.5], None, "FAIL PASS", "FAIL"),
        (UNSURE, None, "INCONCLUSIVE PASS", "INCONCLUSIVE"),
        (QUICK, LATE, "PASS FAIL", "FAIL"),
        (UNSURE, LATE, "INCONCLUSIVE FAIL", "FAIL"),
        (QUICK, [0.5, 0.8, 0.4, 0.7, 0.5], "PASS INCONCLUSIVE", "INCONCLUSIVE"),
    ],
)
def test_one_failing_gate_fails_and_only_all_passing_pass(
    throughput: list[float], p95: list[float] | None, each: str, whole: str
) -> None:
    found = judge(GATES, pairs(throughput, p95))
    assert [gate.verdict.name for gate in found.gates] == each.split()
    assert found.verdict.name == whole


@pytest.mark.parametrize(
    ("end", "shift", "expected"),
    [("worse", 1e-9, "PASS"), ("worse", -1e-9, "INCONCLUSIVE"),
     ("better", 1e-9, "INCONCLUSIVE"), ("better", -1e-9, "FAIL")],
)  # fmt: skip
@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_verdict_turns_exactly_where_an_end_crosses_the_bound(
    gate: Gate, end: str, shift: float, expected: str
) -> None:
    """One end of the interval lies `shift` to the good side of the bound: PASS needs the worse end there."""
    around, good = [-0.1, 0.05, 0.0, 0.1, -0.05], 1 if gate.op == ">=" else -1
    half = 2.776445105 / math.sqrt(5) * stdev(around)
    centre = math.log(gate.bound) + good * (shift + (half if end == "worse" else -half))
    ratios = [math.exp(centre + value) for value in around]
    assert judge([gate], pairs(ratios, ratios)).verdict.name == expected


@pytest.mark.parametrize(("speed", "expected"), [(2.0, "PASS"), (1.999, "FAIL"), (2.001, "PASS")])
def test_zero_spread_is_decided_and_the_bound_itself_passes(speed: float, expected: str) -> None:
    found = judge([THROUGHPUT], pairs([speed] * 5))
    assert found.verdict.name == expected
    assert found.gates[0].low == found.gates[0].high == pytest.approx(speed)
    assert judge([P95], [({"p95": 10.0}, {"p95": 6.0})] * 7).verdict is Verdict.PASS


def test_a_gate_result_holds_the_geometric_mean_and_its_interval() -> None:
    (found,) = judge([THROUGHPUT], pairs([2.0, 8.0, 4.0])).gates
    half = 4.302653 / math.sqrt(3) * math.log(2)
    assert [found.ratio, found.low, found.high] == pytest.approx([4, 4 / math.exp(half), 4 * math.exp(half)])
    numbers = {"ratio": found.ratio, "low": found.low, "high": found.high, "pairs": 3}
    assert found.to_dict() == {"expr": "throughput>=2x", **numbers, "verdict": "INCONCLUSIVE"}


def test_noise_beyond_all_reason_is_still_a_finite_number() -> None:
    (found,) = judge([THROUGHPUT], [({"throughput": 1e-150}, {"throughput": 1e150}), *pairs([1.0])]).gates
    assert found.verdict is Verdict.INCONCLUSIVE
    assert math.isfinite(found.high)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("arm", ["baseline", "optimized"])
def test_a_figure_that_no_ratio_can_be_taken_of_is_refused_by_name(arm: str, value: float) -> None:
    seen = pairs(QUICK)
    baseline, optimized = seen[2]
    seen[2] = ({**baseline, "p95": value}, optimized) if arm == "baseline" else (baseline, {**optimized, "p95": value})
    with pytest.raises(ValueError, match=f"pair 3, {arm}: p95 is {value}"):
        judge(GATES, seen)


@pytest.mark.parametrize(
    ("gates", "count", "says"),
    [(GATES, 0, "2 pairs or more"), (GATES, 1, "2 pairs or more"), ([], 5, "needs 1 gate"),
     ([Gate("mean", "<=", 0.6)], 5, "pair 1, baseline: mean is nan")],
)  # fmt: skip
def test_too_little_to_judge_is_an_error_and_no_verdict(gates: list[Gate], count: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        judge(gates, pairs([4.0] * count))


# --- reasons


def test_an_inconclusive_reason_tells_interval_noise_and_what_would_decide() -> None:
    found, logs = judge(GATES, pairs(UNSURE)), [math.log(ratio) for ratio in UNSURE]
    gate = found.gates[0]
    assert found.reason == (
        f"throughput x{gate.ratio:.2f}, 95 % interval [{gate.low:.2f}, {gate.high:.2f}] holds the gate 2.00 "
        f"after 5 pairs (noise {100 * stdev(logs):.0f} %); about {pairs_needed(logs, 2.0, TAIL)} pairs would decide it"
    )


@pytest.mark.parametrize(("ratios", "says"), [([2.0, 2.5, 1.7], "about 360"), ([1.0, 4.0, 2.0], "more than 10,000")])
def test_a_number_of_pairs_is_rounded_up_and_not_promised_on_the_gate_itself(ratios: list[float], says: str) -> None:
    assert f"; {says} pairs would " in judge([THROUGHPUT], pairs(ratios)).reason


@pytest.mark.parametrize(
    ("speed", "p95", "parts"),
    [
        (1.5, 0.3, ["throughput x1.50, 95 % interval [1.50, 1.50] lies below the gate 2.00"]),
        (4.0, 0.9, ["p95 x0.90, 95 % interval [0.90, 0.90] lies above the gate 0.60"]),
        (4.0, 0.3, ["throughput x4.00, 95 % interval [4.00, 4.00] reaches the gate 2.00",
                    "p95 x0.30, 95 % interval [0.30, 0.30] reaches the gate 0.60"]),
    ],
)  # fmt: skip
def test_a_decided_reason_names_the_deciding_gates_and_their_side(speed: float, p95: float, parts: list[str]) -> None:
    found = judge(GATES, pairs([speed] * 5, [p95] * 5))
    assert found.reason == "; ".join(f"{part} after 5 pairs (noise 0.0 %)" for part in parts)


@pytest.mark.parametrize(("middle", "spread"), [(0.1, 0.3), (-0.05, 0.2), (0.2, 0.25), (0.03, 0.1)])
def test_pairs_needed_is_where_the_interval_first_leaves_the_bound(middle: float, spread: float) -> None:
    sample = [math.log(2.0) + middle + sign * spread for sign in (-1, 1, -1, 1)]
    enough = (n for n in range(5, 2000) if t_quantile(1 - TAIL, n - 1) * stdev(sample) / math.sqrt(n) <= abs(middle))
    assert pairs_needed(sample, 2.0, TAIL) == pytest.approx(next(enough), abs=1)


# --- the error rate it is built for


@pytest.mark.parametrize("sigma", [0.05, 0.30])
def test_a_queue_exactly_on_the_gate_passes_and_fails_by_luck_as_rarely_as_promised(sigma: float) -> None:
    """True ratio 2.0, five pairs: each of PASS and FAIL by chance in 2.5 % of comparisons, give or take 3 errors."""
    draw, trials = random.Random(2026), 4000
    tally = dict.fromkeys(Verdict, 0)
    for _ in range(trials):
        ratios = [2.0 * math.exp(draw.gauss(0.0, sigma) - draw.gauss(0.0, sigma)) for _ in range(5)]
        tally[judge([THROUGHPUT], pairs(ratios)).verdict] += 1
    error = 3 * math.sqrt(TAIL * (1 - TAIL) / trials)
    assert TAIL - error <= tally[Verdict.PASS] / trials <= TAIL + error
    assert TAIL - error <= tally[Verdict.FAIL] / trials <= TAIL + error


def test_the_statistics_know_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(pytest_taskqueue.verdict.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names
