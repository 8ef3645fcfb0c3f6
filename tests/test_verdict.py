"""The rule: intervals against tables and brute force, gates as text and as bounds, and what the looks decide."""

from __future__ import annotations

import ast
import itertools
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pytest

import pytest_taskqueue.verdict
from pytest_taskqueue.config import DEFAULT_GATES
from pytest_taskqueue.verdict import ALPHA, LOOKS, METRICS, Gate, Interval, Pair, Verdict, judge, parse_gate, worst
from pytest_taskqueue.verdict.intervals import interval, rank_interval, signed_rank_cut, t_cdf, t_quantile, tail_at

GATES = [parse_gate(text) for text in DEFAULT_GATES]
THROUGHPUT, P95 = GATES
TAILS = (0.003125, 0.001875, 0.0025, 0.00375, 0.005625, 0.008125)
QUICK = [4.0, 4.1, 3.9, 4.2, 3.8]
UNSURE = [1.5, 2.9, 2.4, 1.8, 2.2]
LATE = [0.9, 0.91, 0.9, 0.92, 0.9]


def pairs(throughput: Sequence[float], p95: Sequence[float] | None = None) -> list[Pair]:
    """Pairs whose ratios are exactly these; the baseline wanders, as a machine does."""
    bases, delays = (64.0, 128.0, 32.0) * len(throughput), p95 or [0.3] * len(throughput)
    return [
        Pair({"throughput": base, "p95": 1 / base}, {"throughput": base * speed, "p95": delay / base})
        for base, speed, delay in zip(bases, throughput, delays, strict=False)
    ]


def slots(metric: str, *optimized: float, baseline: float = 1.0) -> list[Pair]:
    """Pairs of which the optimized arm measured these figures."""
    return [Pair({metric: baseline}, {metric: value}) for value in optimized]


# --- the error rate and its looks


def test_the_looks_spend_one_error_rate_in_proportion_to_the_pairs() -> None:
    assert LOOKS == (5, 8, 12, 18, 27, 40)
    assert [tail_at(look) for look in LOOKS] == pytest.approx(TAILS)
    assert math.fsum(map(tail_at, LOOKS)) == pytest.approx(ALPHA) == 0.025


@pytest.mark.parametrize(("pairs", "look"), [(2, 5), (4, 5), (6, 8), (9, 12), (19, 27), (39, 40), (41, 40), (90, 40)])
def test_between_two_looks_the_tail_is_that_of_the_next_one(pairs: int, look: int) -> None:
    assert tail_at(pairs) == tail_at(look)


# --- Student's t


@pytest.mark.parametrize(
    ("df", "p", "published"),
    [(1, 0.975, 12.7062), (2, 0.975, 4.302653), (4, 0.975, 2.776445), (7, 0.95, 1.894579), (9, 0.975, 2.262157),
     (4, 0.995, 4.604095), (30, 0.975, 2.042272), (120, 0.975, 1.979930)],
)  # fmt: skip
def test_t_quantiles_are_those_of_the_published_tables(df: int, p: float, published: float) -> None:
    assert t_quantile(p, df) == pytest.approx(published, rel=6e-6)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 11, 40])
def test_quantile_undoes_the_distribution_function(df: int) -> None:
    assert [t_cdf(t_quantile(p, df), df) for p in (0.5, 0.6, 0.9, 0.999)] == pytest.approx([0.5, 0.6, 0.9, 0.999])
    assert t_cdf(-1.3, df) == pytest.approx(1 - t_cdf(1.3, df))


@pytest.mark.parametrize(("n", "factor"), [(5, 2.353), (6, 2.085), (8, 1.506)])
def test_a_few_pairs_give_the_half_widths_that_the_gate_rule_names(n: int, factor: float) -> None:
    ratios = [2.0 + 0.1 * number**2 for number in range(n)]
    logs, (found,) = list(map(math.log, ratios)), judge([THROUGHPUT], pairs(ratios)).gates
    assert found.value == pytest.approx(math.exp(mean(logs)))
    assert [math.log(found.value / found.low), math.log(found.high / found.value)] == pytest.approx(
        [factor * stdev(logs)] * 2, rel=3e-4
    )


# --- signed ranks


@pytest.mark.parametrize(("n", "cut"), [(12, 6), (18, 26), (27, 86), (40, 233)])
def test_the_cuts_at_the_looks_are_those_that_the_gate_rule_names(n: int, cut: int) -> None:
    assert signed_rank_cut(n, tail_at(n)) == cut


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_the_cut_is_exact_over_all_sign_patterns(n: int) -> None:
    """For each tail, between two steps of the distribution of the signed-rank statistic as well as on one."""
    signs = itertools.product((0, 1), repeat=n)
    sums = sorted(sum(rank for rank, sign in enumerate(pattern, 1) if sign) for pattern in signs)
    for steps in range(2 ** (n - 1)):
        for tail in (steps / 2**n, (steps + 0.5) / 2**n):
            allowed = (c for c in range(n * n) if sum(w <= c - 1 for w in sums[: steps + 1]) <= tail * 2**n)
            assert signed_rank_cut(n, tail) == max(allowed)


def test_an_end_at_twelve_pairs_lies_beyond_the_middle_as_rarely_as_its_tail_allows() -> None:
    """Of all sign patterns of twelve values around 0, at most the tail has its lower end above 0; one cut further in
    it would be more.
    """
    sizes, tail, off, further = [math.sqrt(number) for number in range(2, 14)], tail_at(12), 0, 0
    for pattern in itertools.product((1, -1), repeat=12):
        sample = [sign * size for sign, size in zip(pattern, sizes, strict=True)]
        off += rank_interval(sample, tail).low > 0
        further += rank_interval(sample, 14.5 / 4096).low > 0
    assert off <= tail * 4096 < further
    assert (off, further) == (10, 14)


def test_from_twelve_pairs_on_the_interval_is_of_walsh_averages_and_before_of_t() -> None:
    sample = [1.1**number for number in range(12)]
    walsh = sorted((sample[i] + sample[j]) / 2 for i in range(12) for j in range(i, 12))
    assert interval(sample, TAILS[2]) == Interval((walsh[38] + walsh[39]) / 2, walsh[5], walsh[72])
    few = interval(sample[:11], TAILS[2])
    assert few.middle == pytest.approx(mean(sample[:11]))
    assert few.high - few.middle == pytest.approx(t_quantile(1 - TAILS[2], 10) * stdev(sample[:11]) / math.sqrt(11))


def test_the_estimate_is_the_median_of_walsh_averages_and_too_few_values_bound_nothing() -> None:
    assert rank_interval([1.0, 2.0, 4.0], 0.01) == Interval(2.25, -math.inf, math.inf)
    assert rank_interval([1.0, 2.0], 0.25) == Interval(1.5, 1.0, 2.0)


# --- verdicts, metrics, gates


def test_verdicts_rank_and_end_a_script_as_the_specification_says() -> None:
    ranked = sorted(Verdict, key=lambda verdict: verdict.rank)
    assert [verdict.name for verdict in ranked] == ["PASS", "INCONCLUSIVE", "FAIL", "INVALID"]
    assert [verdict.exit_status for verdict in ranked] == [0, 3, 1, 4]


def test_worst_takes_the_highest_rank_and_never_turns_nothing_into_a_pass() -> None:
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE]) is Verdict.FAIL
    assert worst(iter([Verdict.INVALID, Verdict.FAIL])) is Verdict.INVALID
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
        ("stall<=1x", Gate("stall", "<=", 1.0), "stall<=1x", "1.00"),
        ("p99<=50ms", Gate("p99", "<=", 50.0, "ms"), "p99<=50ms", "50ms"),
        ("throughput >= 500 /s", Gate("throughput", ">=", 500.0, "/s"), "throughput>=500/s", "500/s"),
        ("cpu<=5ms", Gate("cpu", "<=", 5.0, "ms"), "cpu<=5ms", "5ms"),
        ("stall<=0.5s", Gate("stall", "<=", 0.5, "s"), "stall<=0.5s", "0.5s"),
        ("max<=1234567us", Gate("max", "<=", 1234567.0, "us"), "max<=1234567us", "1234567.0us"),
        ("rss<=20MB", Gate("rss", "<=", 20.0, "MB"), "rss<=20MB", "20MB"),
        ("rss<=0MiB", Gate("rss", "<=", 0.0, "MiB"), "rss<=0MiB", "0MiB"),
        ("errors<=0", Gate("errors", "<=", 0.0, ""), "errors<=0", "0"),
    ],
)
def test_a_gate_reads_back_the_same_and_shows_its_limit(text: str, gate: Gate, canonical: str, limit: str) -> None:
    assert parse_gate(text) == gate == parse_gate(canonical)
    assert (str(gate), gate.limit) == (canonical, limit)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, "not understood") for text in ("", "throughput>2x", "throughput==2x", "p95<=-2x", "p95<=0.6x!")),
        *((text, "not understood") for text in ("p95<=nanx", "throughput>=2x p95<=0.6x", "p95<=\u0662x")),
        *((text, "finite and above 0") for text in ("throughput>=0x", "throughput>=1e999x", "p99<=0ms", "stall<=0x")),
        ("throughput>=1.2.3x", r"1\.2\.3"),
        ("latency<=0.6x", "no metric 'latency'"),
        ("throughput<=2x", "throughput is better when it is higher, so its gate takes >=, not <="),
        ("p95>=0.6x", "p95 is better when it is lower, so its gate takes <=, not >="),
        ("rss>=20MB", "rss is better when it is lower"),
        ("throughput>=2", "throughput is given in 'x' or '/s', not in ''"),
        ("p99<=50MB", "p99 is given in 'x' or 's' or 'ms' or 'us', not in 'MB'"),
        ("rss<=0.5x", "rss is given in 'MB' or 'MiB', not in 'x'"),
        ("errors<=1x", "errors is given in '', not in 'x'"),
    ],
)  # fmt: skip
def test_a_bad_gate_is_refused_with_what_was_given_and_what_is_allowed(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        parse_gate(text)
    message = str(refused.value)
    assert repr(text) in message
    assert all(example in message for example in ("throughput>=2x", "p95<=0.6x", "p99<=50ms", "rss<=20MB", *METRICS))


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


def test_gates_that_pass_at_different_looks_do_not_pass_together() -> None:
    seen = pairs([*QUICK, 1.0, 1.2, 0.9], [0.3, 0.6, 0.3, 0.4, 0.3, 0.3, 0.3, 0.3])
    first, second = judge(GATES, seen[:5]), judge(GATES, seen)
    assert [gate.verdict.name for gate in first.gates] == ["PASS", "INCONCLUSIVE"]
    assert [gate.verdict.name for gate in second.gates] == ["INCONCLUSIVE", "PASS"]
    assert first.verdict is second.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("end", "shift", "expected"),
    [("worse", 1e-9, "PASS"), ("worse", -1e-9, "INCONCLUSIVE"),
     ("better", 1e-9, "INCONCLUSIVE"), ("better", -1e-9, "FAIL")],
)  # fmt: skip
@pytest.mark.parametrize("gate", [*GATES, parse_gate("throughput>=500/s"), parse_gate("p95<=50ms")], ids=str)
@pytest.mark.parametrize("look", LOOKS)
def test_a_verdict_turns_exactly_where_an_end_crosses_the_bound(
    look: int, gate: Gate, end: str, shift: float, expected: str
) -> None:
    """One end of the interval lies `shift` to the good side of the bound: PASS needs the worse end there."""
    around, good = [0.1 * math.sin(number) for number in range(look)], 1 if gate.op == ">=" else -1
    found = interval(around, TAILS[LOOKS.index(look)])
    ends = {"worse": found.low, "better": found.high} if good > 0 else {"worse": found.high, "better": found.low}
    unit = METRICS[gate.metric].units.get(gate.unit, 1.0)
    figures = [math.exp(math.log(gate.bound) + good * shift - ends[end] + value) * unit for value in around]
    assert judge([gate], slots(gate.metric, *figures)).verdict.name == expected


@pytest.mark.parametrize(("speed", "expected"), [(2.0, "PASS"), (1.999, "FAIL"), (2.001, "PASS")])
def test_zero_spread_is_decided_and_the_bound_itself_passes(speed: float, expected: str) -> None:
    found = judge([THROUGHPUT], pairs([speed] * 5))
    assert found.verdict.name == expected
    assert found.gates[0].low == found.gates[0].high == pytest.approx(speed)
    assert judge([P95], slots("p95", *[6.0] * 7, baseline=10.0)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("text", "metric", "figures", "expected", "value"),
    [
        ("errors<=0", "errors", (0, 0, 0, 0, 0), "PASS", 0),
        ("errors<=0", "errors", (0, 0, 1, 0, 0), "FAIL", 1),
        ("stall<=0.5s", "stall", (0.1, 0.5, 0.2, 0.1, 0.1), "PASS", 0.5),
        ("stall<=500ms", "stall", (0.1, 0.1, 0.1, 0.1, 0.501), "FAIL", 501),
        ("max<=90ms", "max", (0.01, 0.0, 0.09, 0.02, 0.01), "PASS", 90),
        ("rss<=20MB", "rss", (1.0, -0.5, 19.0, 0.0, 2.0), "PASS", 19.0 * 1.048576),
        ("rss<=20MB", "rss", (1.0, -0.5, 19.1, 0.0, 2.0), "FAIL", 19.1 * 1.048576),
        ("rss<=20MiB", "rss", (1.0, -0.5, 19.1, 0.0, 2.0), "PASS", 19.1),
    ],
)
def test_a_limit_for_each_slot_is_held_by_the_worst_slot_alone(
    text: str, metric: str, figures: tuple[float, ...], expected: str, value: float
) -> None:
    found = judge([parse_gate(text)], slots(metric, *figures))
    (gate,) = found.gates
    assert (gate.verdict.name, gate.noise, gate.needed) == (expected, None, None)
    assert [gate.value, gate.low, gate.high] == pytest.approx([value] * 3)
    assert found.verdict is gate.verdict


@pytest.mark.parametrize(
    ("text", "middle", "expected"),
    [("p99<=50ms", 0.04, "PASS"), ("p99<=50ms", 0.05, "INCONCLUSIVE"), ("p99<=50ms", 0.06, "FAIL"),
     ("cpu<=5ms", 0.004, "PASS"), ("cpu<=5000us", 0.004, "PASS"), ("cpu<=5ms", 0.006, "FAIL"),
     ("throughput>=500/s", 600.0, "PASS"), ("throughput>=500/s", 500.0, "INCONCLUSIVE"),
     ("throughput>=500/s", 400.0, "FAIL"), ("stall<=1x", 0.8, "PASS"), ("max<=1x", 1.2, "FAIL")],
)  # fmt: skip
def test_any_other_limit_needs_the_interval_of_all_slots_on_its_side(text: str, middle: float, expected: str) -> None:
    """It is in the gate's unit; one slot beyond it is not enough."""
    gate, around = parse_gate(text), (0.97, 1.01, 1.0, 0.99, 1.03)
    found = judge([gate], slots(gate.metric, *[middle * part for part in around]))
    unit = METRICS[gate.metric].units.get(gate.unit, 1.0)
    assert found.verdict.name == expected
    assert found.gates[0].value == pytest.approx(middle / unit, rel=1e-3)
    assert found.gates[0].low < found.gates[0].value < found.gates[0].high


def test_a_gate_result_holds_the_geometric_mean_with_its_interval_and_noise() -> None:
    (found,) = judge([THROUGHPUT], pairs([2.0, 8.0, 4.0])).gates
    half = t_quantile(1 - TAILS[0], 2) / math.sqrt(3) * math.log(2)
    assert [found.value, found.low, found.high] == pytest.approx([4, 4 / math.exp(half), 4 * math.exp(half)])
    assert (found.gate, found.metric, found.expr) == (THROUGHPUT, "throughput", "throughput>=2x")
    assert found.noise == pytest.approx(100 * math.log(2))
    assert found.needed == 18
    numbers = {"ratio": found.value, "value": found.value, "unit": "x", "low": found.low, "high": found.high}
    assert found.to_dict() == {"expr": "throughput>=2x", **numbers, "pairs": 3, "verdict": "INCONCLUSIVE"}


def test_the_record_of_a_limit_has_a_value_and_no_ratio() -> None:
    (found,) = judge([parse_gate("stall<=0.5s")], slots("stall", 0.25, 0.125)).gates
    numbers = {"ratio": None, "value": 0.25, "unit": "s", "low": 0.25, "high": 0.25}
    assert found.to_dict() == {"expr": "stall<=0.5s", **numbers, "pairs": 2, "verdict": "PASS"}


def test_noise_beyond_all_reason_is_still_a_finite_number() -> None:
    (found,) = judge([THROUGHPUT], [*slots("throughput", 1e150, baseline=1e-150), *pairs([1.0])]).gates
    assert found.verdict is Verdict.INCONCLUSIVE
    assert math.isfinite(found.high)


@pytest.mark.parametrize(
    ("value", "says"),
    [*((value, f"{value!r} in a slot") for value in (0.0, -1.0)),
     *((value, f"not known here ({value!r})") for value in (math.nan, math.inf, None))],
)  # fmt: skip
@pytest.mark.parametrize("arm", ["baseline", "optimized"])
def test_a_figure_that_no_ratio_can_be_taken_of_is_refused_by_name(arm: str, value: float | None, says: str) -> None:
    figures: dict[str, float | None] = {"throughput": 1.0, "p95": value}
    good: dict[str, float | None] = {"throughput": 1.0, "p95": 0.3}
    odd = Pair(figures, good) if arm == "baseline" else Pair(good, figures)
    with pytest.raises(ValueError, match=re.escape(f"gate p95<=0.6x: p95 of the {arm} arm is {says}")):
        judge(GATES, [*pairs(QUICK), odd])
    with pytest.raises(ValueError, match=r"throughput of the optimized arm is 0\.0 in a slot: a longer window"):
        judge(GATES, slots("throughput", 1.0, 0.0))


def test_a_limit_refuses_a_figure_that_is_not_known_and_reads_no_baseline() -> None:
    gate = parse_gate("rss<=20MB")
    assert judge([gate], [Pair({}, {"rss": 1.0})] * 2).verdict is Verdict.PASS
    with pytest.raises(ValueError, match=r"rss of the optimized arm is not known here \(None\): leave"):
        judge([gate], [Pair({"rss": 1.0}, {"rss": None})] * 2)


@pytest.mark.parametrize(
    ("gates", "count", "says"),
    [(GATES, 0, "2 pairs or more"), (GATES, 1, "2 pairs or more"), ([], 5, "needs 1 gate"),
     ([Gate("mean", "<=", 0.6)], 5, "mean of the optimized arm is not known here")],
)  # fmt: skip
def test_too_little_to_judge_is_an_error_and_no_verdict(gates: list[Gate], count: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        judge(gates, pairs([4.0] * count))


# --- reasons


def test_an_inconclusive_reason_tells_the_interval_that_holds_the_bound_and_the_noise() -> None:
    found, logs = judge(GATES, pairs(UNSURE)), [math.log(ratio) for ratio in UNSURE]
    gate = found.gates[0]
    assert found.reason == (
        f"throughput x{gate.value:.2f}, 95 % interval [{gate.low:.2f}, {gate.high:.2f}] holds the gate 2.00 "
        f"after 5 pairs (noise {100 * stdev(logs):.0f} %)"
    )


@pytest.mark.parametrize(
    ("speed", "p95", "parts"),
    [
        (1.5, 0.3, ["throughput x1.50, 95 % interval [1.50, 1.50] lies below the gate 2.00"]),
        (4.0, 0.9, ["p95 x0.90, 95 % interval [0.90, 0.90] lies above the gate 0.60"]),
        (1.5, 0.9, ["throughput x1.50, 95 % interval [1.50, 1.50] lies below the gate 2.00",
                    "p95 x0.90, 95 % interval [0.90, 0.90] lies above the gate 0.60"]),
        (4.0, 0.3, ["throughput x4.00, 95 % interval [4.00, 4.00] reaches the gate 2.00",
                    "p95 x0.30, 95 % interval [0.30, 0.30] reaches the gate 0.60"]),
    ],
)  # fmt: skip
def test_a_decided_reason_names_the_deciding_gates_and_their_side(speed: float, p95: float, parts: list[str]) -> None:
    found = judge(GATES, pairs([speed] * 5, [p95] * 5))
    assert found.reason == "; ".join(f"{part} after 5 pairs (noise 0.0 %)" for part in parts)


def test_the_reason_of_a_limit_is_in_its_unit_and_names_the_worst_slot() -> None:
    seen = [Pair({}, {"stall": stall, "p99": 0.0413, "throughput": 1200.0, "errors": 3}) for stall in (0.25, 0.625)]
    slow, late, fast = (judge([parse_gate(text)], seen) for text in ("stall<=0.5s", "p99<=50ms", "throughput>=500/s"))
    assert slow.reason == "stall 0.62s in the worst slot, beyond the gate 0.5s"
    assert judge([parse_gate("errors<=3")], seen).reason == "errors 3 in the worst slot, within the gate 3"
    assert late.reason.startswith("p99 41.30ms, 95 % interval [41.30, 41.30] reaches the gate 50ms after 2 pairs")
    assert fast.reason.startswith("throughput 1,200/s, 95 % interval [1,200, 1,200] reaches the gate 500/s")


def test_the_statistics_know_nothing_but_the_standard_library_and_themselves() -> None:
    names: set[str] = set()
    for file in Path(pytest_taskqueue.verdict.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names |= {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            names |= {f"{'.' * node.level}{node.module}"} if isinstance(node, ast.ImportFrom) else set()
    others = {name for name in names if name.partition(".")[0] not in sys.stdlib_module_names}
    package = "pytest_taskqueue.verdict"
    assert others
    assert all(name == package or name.startswith(f"{package}.") for name in others)
