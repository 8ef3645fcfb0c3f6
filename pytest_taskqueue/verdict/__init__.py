"""Pure statistics: from pairs of figures to PASS, FAIL, INCONCLUSIVE or INVALID. Knows no files, no tables, no pytest.

The sample of a gate is one log ratio per pair, log(optimized / baseline): neighbouring slots share the machine's mood,
a ratio cancels it, and the logarithm makes "twice" and "half" equally far from "the same". The rule is group
sequential: it looks at the intervals after LOOKS pairs and stops at the first look that decides, and every look pays
for itself out of one error rate (alpha spending of Lan and DeMets, Biometrika 70, 1983; intervals that hold whenever
one stops: Jennison and Turnbull, JRSS B 51, 1989). PASS needs every gate at the same look, so it keeps its level
without a correction for the number of gates (intersection-union test, Berger, Technometrics 24, 1982).
"""

from pytest_taskqueue.verdict.gates import METRICS, Gate, UnjudgeableError, parse_gate
from pytest_taskqueue.verdict.intervals import ALPHA, LOOKS
from pytest_taskqueue.verdict.noise import Noise, noise, provable
from pytest_taskqueue.verdict.rule import GateResult, Judgement, bounds, figure, judge, judge_same, measured, reason
from pytest_taskqueue.verdict.values import Interval, Pair, Verdict, worst

__all__ = [
    "ALPHA",
    "LOOKS",
    "METRICS",
    "Gate",
    "GateResult",
    "Interval",
    "Judgement",
    "Noise",
    "Pair",
    "UnjudgeableError",
    "Verdict",
    "bounds",
    "figure",
    "judge",
    "judge_same",
    "measured",
    "noise",
    "parse_gate",
    "provable",
    "reason",
    "worst",
]
