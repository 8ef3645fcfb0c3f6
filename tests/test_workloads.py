"""The work of a comparison: the same for both arms, and known beforehand."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_taskqueue.arms import BUILT_IN
from pytest_taskqueue.catalogue import Catalogue
from pytest_taskqueue.subjects import Setup
from pytest_taskqueue.thumbnails import Thumbnails
from pytest_taskqueue.workloads import WORKLOADS, Burn, Computed, Mixed
from taskqueue_core import Task

CLIENTS, EACH = 20, 70


@pytest.fixture(scope="module")
def thumbnails(tmp_path_factory: pytest.TempPathFactory) -> Thumbnails:
    made = Thumbnails(7)
    made.prepare(tmp_path_factory.mktemp("thumbnails"))
    return made


@pytest.fixture(params=WORKLOADS)
def workload(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "thumbnail":
        return request.getfixturevalue("thumbnails")
    return Catalogue().workload(request.param, 7)


def setup(workload: Any, folder: Path) -> Setup:
    folder.mkdir()
    return Setup(work=workload.work(folder), workers=4, queue_size=10, directory=folder, images=workload.images(folder))


def output(workload: Any, folder: Path, task: Task) -> Path | None:
    images = workload.images(folder)
    return None if images is None else images.output(task)


# --- tasks


def test_a_task_is_the_same_whenever_it_is_asked_for(workload: Any) -> None:
    """Both arms get theirs from one workload; every key occurs once in a slot."""
    places = list(itertools.product(range(CLIENTS), range(EACH)))
    made = [workload.task(*place) for place in places]
    assert made == [workload.task(*place) for place in reversed(places)][::-1]
    assert len({task.key for task in made}) == len(places)


def test_the_seed_decides_what_the_tasks_are() -> None:
    """The same seed on another day gives the same work, another seed other work."""
    made = [Catalogue().workload("cpu", seed) for seed in (7, 7, 8)]
    first, again, other = ([one.task(0, k) for k in range(5)] for one in made)
    assert first == again
    assert all(a.params != b.params for a, b in zip(first, other, strict=True))


def test_thumbnails_go_round_64_contents(thumbnails: Thumbnails) -> None:
    """Each client does all of them, beginning elsewhere."""
    rounds = [[(t.image_key, t.variant) for t in (thumbnails.task(c, k) for k in range(64))] for c in range(CLIENTS)]
    assert len(set(rounds[0])) == 64
    assert all(set(one) == set(rounds[0]) for one in rounds)
    assert len({one[0] for one in rounds}) == CLIENTS


# --- results


def test_the_work_gives_what_is_expected(workload: Any, tmp_path: Path) -> None:
    work = workload.work(tmp_path)
    for k in range(3):
        task = workload.task(1, k)
        value = work(task)
        assert workload.problem(task, value, output(workload, tmp_path, task)) is None


@pytest.mark.parametrize("name", ["io", "cpu", "noop", "mixed"])
def test_another_number_is_wrong(name: str, tmp_path: Path) -> None:
    workload = Catalogue().workload(name, 7)
    task = workload.task(3, 4)
    right = workload.work(tmp_path)(task)
    assert workload.problem(task, right + 1, None) == f"its result is {right + 1}, expected {right}"
    assert workload.problem(task, None, None) == f"its result is None, expected {right}"


def test_a_missing_or_changed_output_is_wrong(thumbnails: Thumbnails, tmp_path: Path) -> None:
    """Another thumbnail in its place is changed, too."""
    one, other = thumbnails.task(0, 0), thumbnails.task(0, 1)
    path = tmp_path / "out"
    assert thumbnails.problem(one, None, path) == "no output (No such file or directory)"
    for task in (one, other):
        thumbnails.work(tmp_path)(task)
    made = [thumbnails.images(tmp_path).output(task).read_bytes() for task in (one, other)]
    for content, wrong in ((made[0], False), (made[1], True), (made[0][:-1], True), (b"", True)):
        path.write_bytes(content)
        assert thumbnails.problem(one, None, path) == ("its output has wrong bytes" if wrong else None)


@pytest.mark.parametrize("rounds", [1, 2, 7, 1000, 10_000])
def test_the_closed_form_of_the_arithmetic_is_the_loop(rounds: int) -> None:
    """So that checking a result costs nothing and cannot share a mistake with the work."""
    burn = Burn(7)
    burn.rounds = rounds
    for n in (0, 1, 4711, 2**31, 2**32 - 1):
        task = Task("t", params={"n": n})
        assert burn.expected(task) == burn.work(task)


def test_both_arms_make_the_same_bytes(thumbnails: Thumbnails, tmp_path: Path) -> None:
    """Each in its own place, and each those that were made beforehand."""
    tasks = [thumbnails.task(0, k) for k in range(8)]
    made: dict[str, list[bytes]] = {}
    for arm, factory in BUILT_IN.items():
        prepared = setup(thumbnails, tmp_path / arm)
        subject = factory(prepared)
        for future in [subject.submit(task) for task in tasks]:
            future.result(20)
        subject.close(20)
        place = getattr(subject, "output", prepared.images.output)
        assert [thumbnails.problem(task, None, place(task)) for task in tasks] == [None] * len(tasks)
        made[arm] = [place(task).read_bytes() for task in tasks]
        own = arm in ("baseline", "optimized")  # they bring their own work, and tell of it
        assert prepared.tally.total() == dict.fromkeys((task.key for task in tasks if own), 1)
    assert all(bytes_of == made["baseline"] for bytes_of in made.values())


def test_an_unknown_workload_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="unknown workload 'sleep': use thumbnail, io, cpu, noop, mixed, package"):
        Catalogue().workload("sleep", 7)


class Anything(dict[str, int]):
    """Equal to whatever it is compared with."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "expected", "right"),
    [
        ([1, "ü"], (1, "ü"), True),
        ({"a": 1, "b": None}, {"b": None, "a": 1}, True),
        (1.0, 1, False),
        (True, 1, False),
        (Anything(), {"a": 1}, False),
        ({1, 2}, {2, 1}, True),
        (Path("a"), "a", False),
    ],
)
def test_a_value_is_compared_as_json_has_it(value: object, expected: object, right: bool) -> None:
    """So that a queue which stores values may be measured against one that hands them over."""
    own = SimpleNamespace(task=None, work=None, expected=lambda task: expected)
    problem = Computed(own, "own").problem(Task("t"), value, None)
    assert problem == (None if right else f"its result is {value!r}, expected {expected!r}")


def test_mixed_sizes_have_a_heavy_tail() -> None:
    """A hundredth of the tasks is a hundred times as long as the shortest."""
    workload = Mixed(7)
    sizes = sorted(workload.task(client, k).params["size"] for client in range(50) for k in range(100))
    assert (sizes[0], sizes[-1]) == (1.0, 300)
    assert 1.8 < sizes[len(sizes) // 2] < 2.2
    assert 80 < sizes[-len(sizes) // 100] < 125
    assert sum(size for size in sizes if size >= 100) > 0.2 * sum(sizes)
