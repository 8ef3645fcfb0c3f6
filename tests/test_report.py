"""What people and programs read of a comparison: every number is there, in its place, in its unit."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_taskqueue.export import csv_rows, published, to_dict, write
from pytest_taskqueue.report import failure_text, gate_text, progress_line, table, verdict_line
from pytest_taskqueue.results import ComparisonResult, Figures, SlotResult, Standing
from pytest_taskqueue.verdict import Gate, GateResult, Verdict

BASELINE = Figures(
    tasks=3011, throughput=151.4, mean_s=0.661, p50_s=0.652, p95_s=0.683, p99_s=0.704, max_s=0.715, errors=0, lost=0,
    doubled=0, depth_mean=None, depth_max=None, cpu_s_per_task=0.0062, longest_gap_s=0.012, rss_growth_mb=1.26,
)  # fmt: skip
OPTIMIZED = Figures(
    tasks=12207, throughput=612.3, mean_s=0.163, p50_s=0.152, p95_s=0.191, p99_s=0.224, max_s=0.255, errors=21, lost=32,
    doubled=43, depth_mean=91.2, depth_max=100, cpu_s_per_task=0.0031, longest_gap_s=0.009, rss_growth_mb=-0.4,
)  # fmt: skip
SPEED = GateResult(Gate("throughput", ">=", 2.0), 4.02, 3.81, 4.25, 5, Verdict.PASS)
DELAY = GateResult(Gate("p95", "<=", 0.6), 0.27, 0.25, 0.30, 5, Verdict.PASS)


def slot(arm: str, pair: int, throughput: float, **changes: Any) -> SlotResult:
    figures = replace(BASELINE if arm == "baseline" else OPTIMIZED, throughput=throughput)
    return SlotResult(
        arm=arm, index=2 * pair + (arm == "optimized"), pair=pair, window_s=2.5, figures=figures, **changes
    )


def result(**changes: Any) -> ComparisonResult:
    made = ComparisonResult(
        created="2026-11-22T09:15:02Z", verdict=Verdict.PASS, reason="both gates are reached", clients=100, seed=7,
        command="pytest --tq-compare", machine={"cpus": 8}, settings={"workers": 8}, gates=(SPEED, DELAY),
        arms={"baseline": BASELINE, "optimized": OPTIMIZED}, elapsed_s=31.4,
        slots=(slot("baseline", 0, 999.0), slot("optimized", 0, 9.0), slot("baseline", 1, 90.0),
               slot("optimized", 1, 600.0), slot("optimized", 2, 606.0), slot("baseline", 2, 110.0)),
    )  # fmt: skip
    return replace(made, **changes)


# --- the verdict line


def test_the_verdict_line_is_the_one_the_specification_shows() -> None:
    assert verdict_line(result()) == (
        "verdict: PASS c100 throughput x4.02 [3.81, 4.25] >= 2.00  p95 x0.27 [0.25, 0.30] <= 0.60  (5 pairs)"
    )


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE])
@pytest.mark.parametrize(
    ("scale", "shown"),
    [(0.001, "x0.004 [0.0039, 0.0041]"), (1.0, "x4.00 [3.90, 4.10]"), (1234.5678, "x4,938 [4,815, 5,062]")],
)
def test_the_verdict_line_keeps_its_shape_for_small_and_large_ratios(
    verdict: Verdict, scale: float, shown: str
) -> None:
    """Three digits of what is small, no decimals of what is large."""
    speed = replace(SPEED, value=4.0 * scale, low=3.9 * scale, high=4.1 * scale, pairs=40)
    assert verdict_line(result(verdict=verdict, clients=7, gates=(speed, DELAY))) == (
        f"verdict: {verdict.name} c7 throughput {shown} >= 2.00  p95 x0.27 [0.25, 0.30] <= 0.60  (40 pairs)"
    )


@pytest.mark.parametrize(("verdict", "gates"), [(Verdict.INVALID, (SPEED, DELAY)), (Verdict.INCONCLUSIVE, ())])
def test_invalid_or_without_gates_the_line_gives_the_reason_and_no_speed(verdict: Verdict, gates: Any) -> None:
    line = verdict_line(result(verdict=verdict, gates=gates, reason="optimized lost tasks\n in 2 slots"))
    assert line == f"verdict: {verdict.name} c100 optimized lost tasks in 2 slots"


# --- the progress line


def standing(last: SlotResult, *ratios: GateResult, **changes: Any) -> Standing:
    made = Standing(slot=last, pairs=3, most=40, elapsed_s=21.9, budget_s=300.0, window_s=2.04, ratios=ratios)
    return replace(made, **changes)


def test_the_progress_line_tells_the_last_slot_the_first_gate_so_far_and_how_far_it_is() -> None:
    assert progress_line(standing(slot("optimized", 3, 612.3), SPEED, DELAY)) == (
        "  pair 3/40 optimized 612/s P95 0.19 s | x4.02 so far [3.81, 4.25] | 0:21/5:00"
    )
    first = standing(slot("baseline", 0, 1234.0), most=14, elapsed_s=65.0, budget_s=3600.0)
    assert progress_line(first) == "  warm-up baseline  1,234/s P95 0.68 s | 1:05/60:00"


def test_the_plan_is_a_line_of_its_own_in_place_of_the_slot() -> None:
    told = standing(slot("optimized", 0, 612.3), SPEED, most=48, plan=True)
    assert progress_line(told) == "  window 2 s; the budget of 300 s buys about 48 pairs"


@pytest.mark.parametrize("arm", ["baseline", "optimized"])
def test_the_progress_line_bears_a_slot_in_which_nothing_finished(arm: str) -> None:
    idle = slot(arm, 3, 0.0)
    idle = replace(idle, figures=replace(idle.figures, p95_s=math.nan))
    assert progress_line(standing(idle)) == f"  pair 3/40 {arm:<9} 0/s P95 - | 0:21/5:00"


# --- what is published


def test_what_is_published_of_an_arm_are_its_figures_and_the_verdict_on_both() -> None:
    """Plain JSON values under the names of the result file."""
    made = result(arms={"baseline": replace(BASELINE, mean_s=math.nan), "optimized": OPTIMIZED})
    for arm, figures in made.arms.items():
        found = published(made, arm)
        assert (found["clients"], found["arm"], found["verdict"]) == (100, arm, "PASS")
        assert found["gates"] == to_dict(made)["gates"]
        for field in fields(Figures):
            value = getattr(figures, field.name)
            assert found[field.name] == (None if value is not None and math.isnan(value) else value)
        json.dumps(found, allow_nan=False)


# --- the table


def row(lines: list[str], arm: str) -> list[str]:
    """The cells of one arm: columns are two blanks or more apart."""
    return re.split(r"\s{2,}", next(line for line in lines if line.startswith(arm)))


def test_the_table_shows_every_figure_in_its_column() -> None:
    lines = table(result())
    assert row(lines, "baseline")[1:] == [
        "151 /s", "0.66 s", "0.65 s", "0.68 s", "0.70 s", "0.71 s", "0", "0", "0", "-", "6.2 ms", "12.0 ms", "+1.3 MiB"
    ]  # fmt: skip
    assert row(lines, "optimized")[1:] == [
        "612 /s", "0.16 s", "0.15 s", "0.19 s", "0.22 s", "0.26 s", "21", "32", "43", "91 (100)", "3.1 ms",
        "9.0 ms", "-0.4 MiB",
    ]  # fmt: skip
    heads = [name for line in lines[:2] for name in re.split(r"\s{2,}", line.strip())]
    assert heads == [
        "queue depth", "CPU per", "longest", "memory", "throughput", "mean", "P50", "P95", "P99", "max", "errors",
        "lost", "doubled", "mean (max)", "task", "gap", "growth",
    ]  # fmt: skip


@pytest.mark.parametrize("optimized", [OPTIMIZED, replace(OPTIMIZED, mean_s=0.0123, throughput=51234.5, errors=123456)])
def test_the_columns_are_aligned_at_their_right_edge(optimized: Figures) -> None:
    lines = table(result(arms={"baseline": BASELINE, "optimized": optimized}))
    edges = [[found.end() for found in re.finditer(r"\S+(?: \S+)*(?=\s{2}|$)", line)][1:] for line in lines[2:4]]
    names = [found.end() for found in re.finditer(r"\S+(?: \S+)*(?=\s{2}|$)", lines[1])]
    assert edges[0] == edges[1] == names


def test_the_table_fits_140_columns_when_the_arms_lie_far_apart() -> None:
    slow = replace(BASELINE, throughput=14.0, mean_s=7.12, max_s=59.9, errors=123456, longest_gap_s=9.1)
    fast = replace(
        OPTIMIZED, throughput=51234.5, mean_s=0.0019, p50_s=0.0018, doubled=12345, depth_mean=12345.0, depth_max=100000,
        cpu_s_per_task=0.00002, longest_gap_s=0.0001, rss_growth_mb=-1012.4,
    )  # fmt: skip
    lines = table(result(arms={"baseline": slow, "optimized": fast}, warnings=("clients are the bottleneck " * 20,)))
    assert max(map(len, lines)) <= 140
    assert row(lines, "baseline")[2] == "7.12 s"
    assert row(lines, "optimized")[2:4] == ["1.9 ms", "1.8 ms"]
    assert [row(lines, arm)[-3] for arm in ("baseline", "optimized")] == ["6.2 ms", "0.020 ms"]


def test_durations_below_a_tenth_of_a_second_share_milliseconds() -> None:
    quick = replace(BASELINE, mean_s=0.0105, p50_s=0.0031, p95_s=0.052, p99_s=0.06, max_s=0.07, rss_growth_mb=-0.04)
    cells = row(table(result(arms={"baseline": quick, "optimized": quick})), "baseline")
    assert cells[-1] == "+0.0 MiB"
    assert cells[2:7] == ["10.5 ms", "3.1 ms", "52.0 ms", "60.0 ms", "70.0 ms"]


def test_what_is_unknown_or_not_finite_is_a_dash() -> None:
    unknown = replace(BASELINE, throughput=math.nan, mean_s=math.inf, p50_s=math.nan, cpu_s_per_task=math.nan,
                      rss_growth_mb=None)  # fmt: skip
    cells = row(table(result(arms={"baseline": unknown})), "baseline")
    assert [cells[at] for at in (1, 2, 3, 10, 11, 13)] == ["-"] * 6


def test_a_comparison_that_ended_before_any_figures_has_a_table_too() -> None:
    """Of what is not known nothing is said."""
    lines = table(result(arms={}, slots=(), verdict=Verdict.INVALID))
    assert [line.partition(":")[0] for line in lines] == ["closed loop"]
    assert table(result(arms={}, ceiling=1000.0))[0].endswith("the faster arm reached 0.0 % of it")


def test_the_ceiling_line_tells_what_the_load_generator_could_do() -> None:
    assert table(result(ceiling=12246.0))[4] == (
        "load generator: at most 12,246 tasks/s with these clients over a queue that does nothing; "
        "the faster arm reached 5.0 % of it"
    )


def test_the_table_says_what_a_closed_loop_does_to_latency() -> None:
    text = "\n".join(table(result()))
    assert "mean latency = clients / throughput (Little's law)" in text
    assert "nearest rank" in text


def test_each_warning_is_shown_once_and_a_slots_own_with_its_place() -> None:
    slots = (slot("optimized", 3, 600.0, warnings=("clients idle", "clock stepped")),)
    lines = table(result(slots=slots, warnings=("clients idle",)))
    assert [line for line in lines if line.startswith("warning")] == [
        "warning: clients idle", "warning: optimized, slot 7 (pair 3): clock stepped"
    ]  # fmt: skip


# --- the text of a red test


def test_a_pass_has_no_failure_text() -> None:
    assert failure_text(result()) == ""


def test_a_failing_text_gives_the_reason_and_the_other_gates_as_they_stand() -> None:
    failed = replace(SPEED, value=1.5, low=1.4, high=1.6, verdict=Verdict.FAIL)
    text = failure_text(result(verdict=Verdict.FAIL, gates=(failed, DELAY), reason="throughput x1.50 lies below"))
    head, *rest = text.splitlines()
    assert head.startswith("FAIL: ")
    assert rest == ["  throughput x1.50 lies below", "  p95 x0.27 [0.25, 0.30] <= 0.60  PASS"]


def test_a_queue_against_itself_has_words_of_its_own() -> None:
    one, same = replace(SPEED, gate=Gate("throughput", ">=", 1.0), pairs=12), {"aa": True}
    assert verdict_line(result(gates=(one,), settings=same)) == (
        "verdict: PASS c100 no difference throughput x4.02 [3.81, 4.25]  (12 pairs)"
    )
    failed = result(verdict=Verdict.FAIL, gates=(replace(one, verdict=Verdict.FAIL),), settings=same, reason="oh")
    assert verdict_line(failed).startswith("verdict: FAIL c100 an arm against itself throughput x4.02 [")
    assert failure_text(failed).splitlines() == ["FAIL: the queue differs from itself", "  oh"]


def test_a_limit_is_shown_in_its_unit_and_of_the_worst_slot_without_an_interval() -> None:
    gates = (GateResult(Gate("p99", "<=", 50.0, "ms"), 41.3, 40.1, 42.56, 5, Verdict.PASS),
             GateResult(Gate("errors", "<=", 0.0, ""), 3.0, 3.0, 3.0, 5, Verdict.FAIL))  # fmt: skip
    made = result(verdict=Verdict.FAIL, gates=gates)
    assert verdict_line(made) == "verdict: FAIL c100 p99 41.30ms [40.10, 42.56] <= 50ms  errors 3 <= 0  (5 pairs)"
    assert gate_text(made, "errors") == "FAIL: errors 3 in the worst slot, beyond the gate 0"
    assert [(gate["ratio"], gate["value"], gate["unit"]) for gate in to_dict(made)["gates"]] == [
        (None, 41.3, "ms"), (None, 3.0, "")
    ]  # fmt: skip


def test_an_invalid_text_names_each_problem_with_its_slot_and_no_speed() -> None:
    slots = (
        slot("baseline", 0, 1.0, problems=("thread left",)),
        slot("optimized", 2, 1.0, problems=("3 of 9 lost", "dup")),
    )
    text = failure_text(result(verdict=Verdict.INVALID, reason="optimized lost tasks", slots=slots))
    assert text.splitlines()[:4] == [
        "INVALID: optimized lost tasks",
        "  baseline, slot 0 (warm-up): thread left",
        "  optimized, slot 5 (pair 2): 3 of 9 lost",
        "  optimized, slot 5 (pair 2): dup",
    ]
    assert "no speed verdict" in text
    assert "4.02" not in text


def test_an_invalid_text_stays_readable_with_hundreds_of_problems() -> None:
    slots = (slot("optimized", 1, 1.0, problems=tuple(f"task {number} lost" for number in range(500))),)
    text = failure_text(result(verdict=Verdict.INVALID, slots=slots))
    assert len(text.splitlines()) < 20
    assert "488 more" in text


# --- files


def test_every_figure_and_key_is_defined_in_the_results_folder() -> None:
    text = (Path(__file__).parents[1] / "bench_results" / "README.md").read_text(encoding="utf-8")
    names = {*to_dict(result()), *to_dict(result())["slots"][0]}
    assert {name for name in names if f"`{name}`" not in text} == set()


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=no_constants)


def test_the_files_are_named_after_time_and_clients_and_latest_is_the_last(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "bench_results"
    first, second = write(result(clients=50), folder), write(result(), folder)
    assert [path.name for path in first] == [
        "2026-11-22T09-15-02Z-c50.json",
        "2026-11-22T09-15-02Z-c50.csv",
        "latest.json",
    ]
    assert {path.name for path in folder.iterdir()} == {path.name for path in (*first, *second)}
    assert load(first[0])["clients"] == 50
    assert load(folder / "latest.json") == load(second[0]) == to_dict(result())


def test_a_time_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    for path in write(result(created='../..\\x:*?"<>|y'), tmp_path):
        assert path.parent == tmp_path
        assert not set(path.name) & set('/\\:*?"<>|')


def test_the_json_has_the_keys_of_the_specification(tmp_path: Path) -> None:
    found = load(write(result(), tmp_path)[0])
    assert found.keys() >= {
        "schema", "created", "verdict", "reason", "clients", "seed", "command", "machine", "gates", "arms", "slots"
    }  # fmt: skip
    assert (found["verdict"], found["machine"], found["settings"]) == ("PASS", {"cpus": 8}, {"workers": 8})
    assert found["gates"] == [SPEED.to_dict(), DELAY.to_dict()]
    assert found["gates"][0] == {
        "expr": "throughput>=2x", "ratio": 4.02, "value": 4.02, "unit": "x", "low": 3.81, "high": 4.25, "pairs": 5,
        "verdict": "PASS",
    }  # fmt: skip
    assert found["arms"].keys() == {"baseline", "optimized"}
    optimized = found["arms"]["optimized"]
    assert (optimized["p95_s"], optimized["depth_max"], optimized["rss_growth_mb"]) == (0.191, 100, -0.4)
    assert found["arms"]["baseline"].keys() == {field.name for field in fields(Figures)}
    assert [(each["arm"], each["pair"], each["throughput"]) for each in found["slots"]][2:4] == [
        ("baseline", 1, 90.0), ("optimized", 1, 600.0)
    ]  # fmt: skip


def test_nothing_that_is_not_finite_reaches_the_json(tmp_path: Path) -> None:
    odd = replace(BASELINE, throughput=math.nan, max_s=math.inf, rss_growth_mb=-math.inf)
    slots = (SlotResult(arm="baseline", index=0, pair=1, window_s=math.nan, figures=odd),)
    gates = (replace(SPEED, high=math.inf), DELAY)
    path, table_path, _ = write(result(arms={"baseline": odd}, slots=slots, gates=gates, elapsed_s=math.nan), tmp_path)
    found = load(path)
    assert (found["arms"]["baseline"]["max_s"], found["arms"]["optimized"]) == (None, None)
    assert (found["gates"][0]["high"], found["slots"][0]["window_s"], found["elapsed_s"]) == (None, None, None)
    assert not re.search("nan|inf", table_path.read_text(encoding="utf-8"))


def test_an_invalid_file_holds_the_evidence_and_no_gates() -> None:
    found = to_dict(result(verdict=Verdict.INVALID))
    assert (found["gates"], found["arms"]["optimized"]["lost"]) == ([], 32)


def test_the_csv_has_one_row_per_slot_and_reads_back(tmp_path: Path) -> None:
    slots = (slot("baseline", 1, 90.5), slot("optimized", 1, 600.0, problems=('a, "b"', "naïve.jpg lost")))
    path = write(result(slots=slots), tmp_path)[1]
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["arm", "index", "pair", "window_s", *(field.name for field in fields(Figures)), "problems"]
    assert [(each["arm"], float(each["throughput"]), each["problems"]) for each in rows] == [
        ("baseline", 90.5, ""), ("optimized", 600.0, 'a, "b"; naïve.jpg lost')
    ]  # fmt: skip
    assert (rows[0]["depth_mean"], rows[1]["depth_mean"]) == ("", "91.2")
    assert len(csv_rows(result())) == 1 + 6


def test_the_files_are_utf8_with_the_same_line_ends_everywhere(tmp_path: Path) -> None:
    path, table_path, _ = write(result(command="pytest 'Zoë \udcff'"), tmp_path)
    assert b"\r" not in path.read_bytes() + table_path.read_bytes()
    assert "Zoë".encode() in path.read_bytes()
    assert load(path)["command"] == "pytest 'Zoë \udcff'"


def test_a_write_that_fails_is_heard_and_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: Any) -> None:
    write(result(seed=1), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def disk_full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write(result(seed=2), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_half_written_file_never_bears_the_final_name(tmp_path: Path, monkeypatch: Any) -> None:
    def stops_halfway(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "write_bytes", stops_halfway)
    with pytest.raises(OSError, match="Input/output"):
        write(result(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        write(result(), tmp_path / "file" / "bench_results")
