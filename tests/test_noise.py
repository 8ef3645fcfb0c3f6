"""What the pairs tell about the machine, how far a budget reaches, and an arm against itself."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import count
from statistics import mean, stdev

import pytest
from noise_models import Machine

from pytest_taskqueue.verdict import Gate, Pair, Verdict, judge, judge_same, noise, parse_gate, provable
from pytest_taskqueue.verdict.intervals import MOST_PAIRS, half_width, pairs_needed, t_quantile

THROUGHPUT, P95 = parse_gate("throughput>=2x"), parse_gate("p95<=0.6x")
LAST_TAIL = 0.008125


def blocks(order: str, figures: Sequence[float], metric: str = "throughput") -> list[Pair]:
    """The pairs of slots that ran one after the other: A the baseline, B the optimized arm."""
    arms, found = order.replace(" ", ""), []
    for at in range(0, len(arms), 2):
        slots = dict(zip(arms[at : at + 2], figures[at : at + 2], strict=True))
        found.append(Pair({metric: slots["A"]}, {metric: slots["B"]}, arms[at] == "A"))
    return found


def ratios(values: Sequence[float], firsts: str = "") -> list[Pair]:
    """Pairs of these ratios; `firsts` names the arm that went first, of the last pairs that of the baseline."""
    return [
        Pair({"throughput": 1.0}, {"throughput": value}, first == "A")
        for value, first in zip(values, firsts.ljust(len(values), "A"), strict=True)
    ]


# --- the noise floor


@pytest.mark.parametrize(
    ("order", "figures", "steps"),
    [
        ("ABBA", (7, 2, 3, 50), [1.5]),
        ("BAAB", (7, 2, 3, 50), [1.5]),
        ("ABBA", (7, 3, 2, 50), [1.5]),
        ("ABBA BAAB", (7, 2, 3, 50, 90, 8, 2, 1), [1.5, 4]),
        ("BAAB ABBA", (7, 5, 5, 50, 90, 2, 8, 1), [1, 4]),
        ("ABBA AB", (7, 2, 3, 50, 1000, 1), [1.5]),
    ],
)
def test_the_floor_is_the_root_mean_square_of_same_arm_neighbours_in_the_middle_of_blocks(
    order: str, figures: tuple[float, ...], steps: list[float]
) -> None:
    found = noise(blocks(order, figures), "throughput")
    assert found.floor == pytest.approx(math.sqrt(mean(math.log(step) ** 2 for step in steps)))
    assert found.repeats == len(steps)


def test_the_spread_is_the_standard_deviation_of_log_ratios() -> None:
    values = (2.0, 2.5, 1.9, 4.0, 2.2)
    assert noise(ratios(values), "throughput").spread == pytest.approx(stdev(map(math.log, values)))


# --- drift, order, memory


@pytest.mark.parametrize(
    ("figures", "drift"),
    [
        ((1, 2, 2, 1, 3, 6, 6, 3), 2.0),
        ((3, 6, 6, 3, 1, 2, 2, 1), -2 / 3),
        ((1, 2, 2, 1, 1, 8, 8, 1), 1.0),
        ((1, 2, 2, 1, 99, 7, 6, 3, 3, 6), 2.0),
        ((1, 2, 2, 1, 1, 2, 2, 1), 0.0),
    ],
)
def test_drift_is_how_much_faster_both_arms_were_in_the_second_half(figures: tuple[float, ...], drift: float) -> None:
    """Of both arms, so that one of them counts half; the middle pair of an odd number is left out."""
    order = "ABBA ABBA" if len(figures) == 8 else "ABBA AB BAAB"
    assert noise(blocks(order, figures), "throughput").drift == pytest.approx(drift)


def test_order_is_how_much_larger_the_ratio_came_out_where_the_baseline_went_first() -> None:
    first, second = (3.3, 3.0, 3.6), (2.0, 2.1, 2.2)
    found = noise(ratios([*first, *second], "AAABBB"), "throughput")
    logs = [[math.log(value) for value in values] for values in (first, second)]
    assert found.order == pytest.approx(math.exp(mean(logs[0]) - mean(logs[1])) - 1)
    assert found.order is not None
    assert found.order > 0.5
    assert found.order_error == pytest.approx(math.sqrt(stdev(logs[0]) ** 2 / 3 + stdev(logs[1]) ** 2 / 3))
    turned = noise(ratios([*first, *second], "BBBAAA"), "throughput").order
    assert turned == pytest.approx(1 / (1 + found.order) - 1)


@pytest.mark.parametrize(("effect", "matters"), [(3.01, True), (2.99, False), (-3.01, True), (-2.99, False)])
def test_the_order_matters_past_three_standard_errors_on_either_side(effect: float, matters: bool) -> None:
    error = 0.1 * math.sqrt(2 / 3)
    logs = [effect * error + step for step in (-0.1, 0.0, 0.1)] + [-0.1, 0.0, 0.1]
    assert noise(ratios(list(map(math.exp, logs)), "AAABBB"), "throughput").order_matters is matters


@pytest.mark.parametrize(
    ("logs", "correlation"),
    [((1, 1, 1, 1, -1, -1, -1, -1), 5 / 8), ((1, -1) * 4, -7 / 8), ((4, 2, 1, 0, 0, -1, -2, -4), 20 / 42)],
)
def test_correlation_is_that_of_one_pair_with_the_next_around_their_mean(
    logs: tuple[float, ...], correlation: float
) -> None:
    found = noise(ratios([math.exp(5 + value) for value in logs]), "throughput").correlation
    assert found == pytest.approx(correlation)


def test_equal_ratios_have_neither_correlation_nor_an_order_that_matters() -> None:
    found = noise(ratios([2.0] * 8, "ABBAABBA"), "throughput")
    assert (found.spread, found.order, found.order_error) == (0.0, 0.0, 0.0)
    assert (found.correlation, found.order_matters) == (None, False)


@pytest.mark.parametrize(
    ("pairs", "known"),
    [
        (0, ""), (1, ""), (2, "floor spread"), (3, "floor spread"), (4, "floor spread drift"),
        (6, "floor spread drift order order_error"), (7, "floor spread drift order order_error"),
        (8, "floor spread drift order order_error correlation"),
    ],
)  # fmt: skip
def test_what_too_few_pairs_cannot_tell_is_none(pairs: int, known: str) -> None:
    found = noise(ratios([2.0, 2.2, 2.1, 2.3, 2.0, 1.8, 1.9, 2.0][:pairs], "ABBABAAB"[:pairs]), "throughput")
    names = ("floor", "spread", "drift", "order", "order_error", "correlation")
    assert [name for name in names if getattr(found, name) is not None] == known.split()
    assert found.repeats == pairs // 2
    assert pairs >= 6 or not found.order_matters


@pytest.mark.parametrize("firsts", ["AAAAABB", "BBBBBAA"])
def test_an_order_that_came_twice_only_tells_nothing(firsts: str) -> None:
    found = noise(ratios([2.0, 2.1, 2.2, 2.3, 2.4, 8.0, 9.0], firsts), "throughput")
    assert (found.order, found.order_error, found.order_matters) == (None, None, False)


def test_noise_is_of_the_metric_asked_for_and_refuses_figures_without_a_ratio() -> None:
    seen = [Pair({"throughput": 1.0, "p95": 4.0, "max": 0.0}, {"throughput": 2.0, "p95": 8.0, "max": 1.0})] * 3
    seen.append(Pair({"throughput": 1.0, "p95": 4.0}, {"throughput": 2.0, "p95": 1.0}))
    assert noise(seen, "throughput").spread == 0
    assert noise(seen, "p95").spread == pytest.approx(math.log(8) / 2)
    with pytest.raises(ValueError, match=r"max of the baseline arm is 0\.0"):
        noise(seen, "max")
    with pytest.raises(ValueError, match="rss is given in"):
        noise(seen, "rss")


def test_a_noisy_machine_measures_as_noisy_as_it_is() -> None:
    """Neighbours and pairs are differences of two slots: both spread by the root of 2 times the jitter of a slot."""
    moods = [mood for seed in range(20) for mood in Machine("15 %", 0.15).moods(random.Random(seed))]
    found = noise([mood.pair(3.0) for mood in moods], "throughput")
    assert [found.floor, found.spread] == pytest.approx([0.15 * math.sqrt(2)] * 2, rel=0.1)
    assert found.correlation == pytest.approx(0, abs=0.1)
    assert not found.order_matters


# --- how far a budget reaches


@pytest.mark.parametrize(
    ("pairs", "factor"), [(5, 2.353), (7, 2.353), (8, 1.506), (12, 1.009), (39, 0.525), (40, 0.397), (400, 0.397)]
)
def test_the_provable_ratio_is_off_the_bound_by_half_an_interval_at_the_last_look(pairs: int, factor: float) -> None:
    spread = 0.21
    assert provable(THROUGHPUT, spread, pairs) == pytest.approx(2 * math.exp(factor * spread), rel=2e-3)
    assert provable(P95, spread, pairs) == pytest.approx(0.6 * math.exp(-factor * spread), rel=2e-3)


def test_nothing_is_provable_before_the_first_look_or_of_a_limit() -> None:
    assert provable(THROUGHPUT, 0.1, 4) is None
    assert provable(parse_gate("p99<=50ms"), 0.1, 40) is None


@pytest.mark.parametrize(
    ("pairs", "distance", "needed"),
    [(5, 1.51, 8), (5, 1.50, 12), (5, 1.0, 18), (8, 2.36, 12), (8, 0.4, 40), (12, 5.0, 18), (27, 0.4, 40)],
)
def test_pairs_needed_is_the_next_look_whose_interval_reaches_the_bound(
    pairs: int, distance: float, needed: int
) -> None:
    sample = [number * (-1) ** number for number in range(pairs)]
    edge = distance * stdev(sample)
    assert pairs_needed(sample, mean(sample) + edge) == pairs_needed(sample, mean(sample) - edge) == needed


@pytest.mark.parametrize("distance", [0.39, 0.3, 0.2, 0.1])
def test_past_the_last_look_pairs_needed_is_where_a_t_interval_first_leaves_the_bound(distance: float) -> None:
    sample = [-1.0, 1.0, -1.0, 1.0, 0.0]
    reach = distance / stdev(sample)
    enough = (n for n in count(41) if t_quantile(1 - LAST_TAIL, n - 1) / math.sqrt(n) <= reach)
    assert pairs_needed(sample, distance) == pytest.approx(next(enough), abs=1)


def test_pairs_needed_is_past_the_last_look_once_that_has_come_and_none_where_nobody_runs_so_many() -> None:
    sample = [-1.0, 1.0] * 20
    assert pairs_needed(sample, 5.0) == 41
    assert pairs_needed(sample, 0.0) is None
    furthest = 2.4036 * stdev(sample) / math.sqrt(MOST_PAIRS)
    assert pairs_needed(sample, furthest * 0.999) is None
    assert pairs_needed(sample, furthest * 1.001) == pytest.approx(MOST_PAIRS, rel=0.005)


def test_half_an_interval_is_that_of_t_at_the_tail_of_the_look() -> None:
    assert [half_width(look, 0.5) for look in (5, 8, 40)] == pytest.approx([1.1765, 0.753, 0.1985], rel=1e-3)


def test_a_gate_that_is_decided_needs_no_more_pairs() -> None:
    assert [judge([THROUGHPUT], ratios([speed] * 5)).gates[0].needed for speed in (4.0, 1.0)] == [None, None]


# --- an arm against itself


@pytest.mark.parametrize(("distance", "expected"), [(0.99, "PASS"), (1.01, "FAIL"), (-0.99, "PASS"), (-1.01, "FAIL")])
@pytest.mark.parametrize("pairs", [5, 16])
def test_an_arm_is_the_same_as_itself_while_the_99_percent_interval_holds_1(
    pairs: int, distance: float, expected: str
) -> None:
    around = [0.1 * (-1) ** number for number in range(pairs)]
    half = t_quantile(0.995, pairs - 1) * stdev(around) / math.sqrt(pairs)
    seen = ratios([math.exp(value - mean(around) + distance * half) for value in around])
    found = judge_same([THROUGHPUT], seen)
    (gate,) = found.gates
    assert (found.verdict.name, gate.verdict.name, gate.pairs) == (expected, expected, pairs)
    assert [gate.value, gate.low, gate.high] == pytest.approx([math.exp((distance + end) * half) for end in (0, -1, 1)])
    assert (gate.gate, gate.needed) == (Gate("throughput", ">=", 1.0), None)


def test_one_ratio_that_is_off_1_fails_an_arm_against_itself_and_is_named() -> None:
    seen = [Pair({"throughput": 1.0, "p95": 1.0}, {"throughput": 1.0, "p95": 1.5})] * 5
    same, off = judge_same([THROUGHPUT], seen), judge_same([THROUGHPUT, parse_gate("p95<=50ms")], seen)
    assert same.verdict is Verdict.PASS
    assert same.reason == "no difference: throughput x1.00, 99 % interval [1.00, 1.00] holds 1 after 5 pairs"
    assert [gate.verdict for gate in off.gates] == [Verdict.PASS, Verdict.FAIL]
    assert off.verdict is Verdict.FAIL
    assert off.reason == (
        "a difference where there is none: p95 x1.50, 99 % interval [1.50, 1.50] lies off 1 after 5 pairs"
    )
