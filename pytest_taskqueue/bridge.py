"""All contact with pytest-benchmark: measure once, publish many.

The comparison measures by itself. Here its recorded values go to pytest-benchmark through the public `benchmark`
fixture, one value a round, from a timer that repeats them, so that its files, tables, comparisons and limits work with
no further code. Where the values are seconds per task, its `ops` is tasks per second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from time import perf_counter
from typing import Any

import pytest

SCHEMA = 1
"""Version of what is put under `taskqueue` into pytest-benchmark's files."""


class ReplayClock:
    """A timer that repeats a recorded duration: armed, it reads 0.0 and then the duration.

    From 0.0 the difference is the very float that was recorded. Unarmed, or read more often than that, it is
    `time.perf_counter`: `benchmark(function)` calibrates such a timer and has to see time go by.
    """

    def __init__(self) -> None:
        self._readings: list[float] = []

    def __call__(self) -> float:
        return self._readings.pop() if self._readings else perf_counter()

    def __repr__(self) -> str:
        return "ReplayClock()"  # stands in the JSON file, where an address would change with every run

    def arm(self, seconds: float) -> None:
        """Repeat `seconds` next."""
        self._readings = [seconds, 0.0]

    def disarm(self) -> None:
        """Tell real time again."""
        self._readings = []

    @property
    def untouched(self) -> bool:
        """Armed, and not read since."""
        return len(self._readings) == 2


def available(config: pytest.Config) -> bool:
    """Whether pytest-benchmark is at work; ask once plugins are configured, at collection or later.

    False with `-p no:benchmark`, and under `--codspeed`, where pytest-codspeed blocks it.
    """
    return config.pluginmanager.hasplugin("pytest-benchmark")


@pytest.fixture(name="benchmark")
def benchmark_or_skip(request: pytest.FixtureRequest) -> Any:
    """pytest-benchmark's own `benchmark` fixture; a skip where there is none.

    For a test module, as `benchmark = bridge.benchmark_or_skip`. Its tests keep `benchmark` among their arguments, by
    which --benchmark-only, --benchmark-skip and pytest-codspeed know them; `request.getfixturevalue` would hide it.
    """
    if not available(request.config):
        pytest.skip("nothing to publish to: pytest-benchmark is switched off (-p no:benchmark or --codspeed)")
    return request.getfixturevalue("benchmark")


def marker(clock: ReplayClock, *, group: str) -> pytest.MarkDecorator:
    """The mark of a test that publishes. Only where `available`: --strict-markers refuses it elsewhere.

    pytest-benchmark looks at the closest `benchmark` mark alone, so a test can carry no second one.
    """
    return pytest.mark.benchmark(timer=clock, group=group, cprofile=False)  # a profile of nothing tells nothing


def publish(benchmark: Any, clock: ReplayClock, values: Sequence[float], extra: Mapping[str, object]) -> None:
    """Hand `values`, in seconds and one a round, to pytest-benchmark; `extra` goes to `extra_info["taskqueue"]`.

    Does nothing with another plugin's `benchmark` (pytest-codspeed would time the empty target), and records nothing
    while benchmarks are disabled. Raises ValueError for values no statistics can hold, and RuntimeError if `clock` is
    not the test's timer: what would be published then is the time of the empty target.
    """
    if not hasattr(benchmark, "enabled"):
        return
    if not values or not all(0 < value < inf for value in values):
        raise ValueError(f"cannot publish {values!r}: at least one value is needed, each finite and above 0")
    waiting = iter(values)

    def rewind() -> None:
        value = next(waiting, None)  # None: a profiler runs the target once more than there are values
        if value is not None:
            clock.arm(value)

    def replay() -> None:
        if benchmark.enabled and clock.untouched:
            raise RuntimeError(
                f"{clock!r} does not time this test: marker(clock, ...) has to be its closest benchmark mark"
            )

    benchmark.extra_info["taskqueue"] = {"schema": SCHEMA, **extra}
    try:
        benchmark.pedantic(replay, setup=rewind, rounds=len(values), iterations=1)
    finally:
        clock.disarm()


def update_json(output_json: dict[str, object], comparisons: Sequence[Mapping[str, object]]) -> None:
    """Add the comparisons, as plain JSON values, to a file of pytest-benchmark; no comparison, no block.

    For the hook `pytest_benchmark_update_json`, which runs once per file: twice with --benchmark-json and
    --benchmark-save. Doing it again changes nothing.
    """
    if comparisons:
        output_json["taskqueue"] = {"schema": SCHEMA, "comparisons": [dict(one) for one in comparisons]}
