"""Does the comparison judge right where the truth is known? One command compares and counts:

    python -m tests.benchmarks.controls                               # all controls once, some minutes
    python -m tests.benchmarks.controls --only unfair-2.5 --runs 20   # --list names all
    python -m tests.benchmarks.controls --slot 0.1 --clients 10 --budget 2    # does it run? The verdicts mean nothing

A control is one comparison with real slots and the wanted verdict. Run k has the seed --seed + k. Every run prints a
line when it is done (each slot one to stderr), then a table counts how often the verdict was the wanted one. The exit
status is 1 when one was not. Nothing else should run on the machine. An honest harness still sees a difference in one
or two of 100 runs of aa-harness: its intervals are 99 % ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_taskqueue import export, report
from pytest_taskqueue.comparison import Comparison
from pytest_taskqueue.config import CompareConfig, resolve
from pytest_taskqueue.results import ComparisonResult, Standing
from pytest_taskqueue.verdict import Verdict
from tests.benchmarks.conditions import conditions

ARMS = Path(__file__).with_name("arms.py")
PASSED_ON = ("clients", "slot", "budget")
"""Options that the comparison gets as they were given."""


@dataclass(frozen=True, slots=True)
class Control:
    """A comparison by its options, and the wanted verdict; `alone` is the one gate that must fail, the others not."""

    name: str
    text: str
    wanted: Verdict
    options: Mapping[str, str]
    alone: str | None = None

    def met(self, result: ComparisonResult) -> bool:
        """Whether the verdict is the wanted one, for the wanted reason."""
        failed = {gate.metric for gate in result.gates if gate.verdict is Verdict.FAIL}
        return result.verdict is self.wanted and (self.alone is None or failed == {self.alone})

    @property
    def wish(self) -> str:
        """The wanted verdict as the table shows it."""
        return f"{self.wanted.name} on {self.alone} alone" if self.alone else self.wanted.name


@dataclass(frozen=True, slots=True)
class Run:
    """One comparison of a control."""

    control: Control
    result: ComparisonResult

    @property
    def met(self) -> bool:
        """Whether it gave what was wanted."""
        return self.control.met(self.result)


def _against_plain(arm: str) -> Mapping[str, str]:
    return {"baseline": f"{ARMS}:Plain", "optimized": f"{ARMS}:{arm}", "workload": "noop"}


CONTROLS = (
    Control("aa", "the baseline as both arms, ordinary gates", Verdict.FAIL, {"optimized": "baseline"}),
    Control("aa-harness", "the baseline against itself (--tq-aa): no difference", Verdict.PASS, {"aa": "yes"}),
    Control("true-1.5", "1.5 x the throughput, P95 : 1.5", Verdict.FAIL, _against_plain("HalfAsFastAgain")),
    Control("true-3", "3 x the throughput, P95 : 3", Verdict.PASS, _against_plain("ThriceAsFast")),
    Control("unfair-2.5", "2.5 x the throughput, P95 no better", Verdict.FAIL, _against_plain("Unfair"), alone="p95"),
    Control("own", "baseline against optimized, thumbnails", Verdict.PASS, {}),
    Control("io", "the same on 2 ms of waiting; to be judged within 30 s", Verdict.PASS, {"workload": "io"}),
)


def find_controls(names: Sequence[str]) -> tuple[Control, ...]:
    """The controls of these names in the order of the table; all for no names. Raises ValueError."""
    unknown = set(names) - {control.name for control in CONTROLS}
    if unknown:
        raise ValueError(f"unknown control {min(unknown)!r}: there are {', '.join(each.name for each in CONTROLS)}")
    return tuple(control for control in CONTROLS if not names or control.name in names)


def compare(control: Control, seed: int, given: Mapping[str, str]) -> Run:
    """One run of a control, with the options of the command line."""
    config = _config(control, seed, given)
    return Run(control, Comparison(config, config.clients[0], progress=_tell).run())


def line(run: Run) -> str:
    """What is printed when a run is done."""
    result, sign = run.result, "as wanted" if run.met else f"WANTED {run.control.wish}"
    pairs = max((slot.pair for slot in result.slots), default=0)
    told = report.verdict_line(result)
    return f"{run.control.name}  seed {result.seed}  {told}  pairs {pairs}  {result.elapsed_s:.1f} s  {sign}"


def table(runs: Sequence[Run]) -> Iterator[str]:
    """How often each control gave what was wanted, and the longest it took."""
    form = "{:<12} {:<18} {:<10} {:>9}"
    yield form.format("control", "wanted", "got", "longest")
    for control in CONTROLS:
        if own := [run for run in runs if run.control is control]:
            got = f"{sum(run.met for run in own)} of {len(own)}"
            yield form.format(control.name, control.wish, got, f"{max(run.result.elapsed_s for run in own):.1f} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the controls asked for; 0 when every verdict was the wanted one."""
    parser = _parser()
    options = parser.parse_args(argv)
    given = {name: text for name in PASSED_ON if (text := getattr(options, name)) is not None}
    try:
        controls = find_controls(options.only)
        for control in controls:
            _config(control, options.seed, given)  # so that a bad option is told before anything is measured
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{control.name:<12} {control.wish:<18} {control.text}" for control in controls))
        return 0
    head, runs = conditions(None), []
    for control in controls:
        for k in range(options.runs):
            runs.append(compare(control, options.seed + k, given))
            print(line(runs[-1]), flush=True)
            if options.json is not None:
                text = json.dumps({**head, "runs": list(map(_to_dict, runs))}, indent=1)
                options.json.write_text(text + "\n", encoding="utf-8")
    print("", *table(runs), sep="\n")
    return int(not all(run.met for run in runs))


def _config(control: Control, seed: int, given: Mapping[str, str]) -> CompareConfig:
    return resolve({**given, **control.options, "seed": str(seed)}, {}, {}.get, prefix="--")


def _tell(standing: Standing) -> None:
    print(report.progress_line(standing), file=sys.stderr, flush=True)


def _to_dict(run: Run) -> dict[str, Any]:
    """The run with all its evidence, for JSON."""
    return {"control": run.control.name, "wanted": run.control.wish, "met": run.met, **export.to_dict(run.result)}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.controls", description=(__doc__ or "").partition("\n")[0]
    )
    names = ", ".join(control.name for control in CONTROLS)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help=f"these controls: {names}")
    parser.add_argument("--runs", type=_positive_int, default=1, metavar="N", help="how often each (default: 1)")
    parser.add_argument("--seed", type=int, default=7, metavar="N", help="run k has the seed N + k (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run with all its slots")
    parser.add_argument("--list", action="store_true", help="name the controls and run nothing")
    for name in PASSED_ON:
        parser.add_argument(f"--{name}", metavar="N", help=f"as --tq-{name}; a trial, the verdicts mean nothing then")
    return parser


def _positive_int(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
