"""What a processor may return: JSON of at most 64 KiB, or a finished file."""

import hashlib

import pytest
from helpers import LONG, Work, failure, nested, output

from taskqueue_core import Output, PermanentError, Task, TaskFailedError, output_key
from taskqueue_core.attempts import VALUE_LIMIT

CAT = Task("cat.jpg", "v")
NEXT = Task("next")
DEEP = [nested(101), nested(900), nested(100_000)]

VALUES = [None, True, 0, -1.5, 1e300, "", "é\u2028\0", [], {}, [1, [2, {"a": [None]}]], {"b": 1, "a": {"c": []}}]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_any_json_value_comes_back(open_queue, value):
    """As it was; to the first caller, to duplicates, and after a restart."""
    with open_queue(Work({"cat.jpg": [value]})) as queue:
        assert queue.submit(CAT).result(LONG) == queue.submit(CAT).result(LONG) == value
        assert type(queue.submit(CAT).result(LONG)) is type(value)
    with open_queue() as queue:
        assert queue.submit(CAT).result(LONG) == queue.get(CAT.key).value == value


def test_a_value_may_have_64_kib_of_json(open_queue):
    """Counted in bytes; one more is a permanent error that names what it was."""
    fits, large = "é" * (VALUE_LIMIT // 2 - 1), "é" * (VALUE_LIMIT // 2 - 1) + "x"
    with open_queue(Work({"fits": [fits], "large": [large]})) as queue:
        assert queue.submit(Task("fits")).result(LONG) == fits
        error = failure(queue, Task("large"))
        assert isinstance(error.__cause__, PermanentError)
        assert "returned a str of 65,537 bytes of JSON, more than 65,536" in str(error)


@pytest.mark.parametrize(
    "value",
    [object(), b"bytes", {1, 2}, float("nan"), [float("inf")], "\ud800", {"x": print}, 10**5000, *DEEP],
    ids=["object", "bytes", "set", "nan", "inf", "surrogate", "function", "huge int", "deep", "deeper", "very deep"],
)
def test_what_is_no_json_is_a_permanent_error(open_queue, value):
    """It names the type; the worker and the duplicates of other tasks do not suffer."""
    with open_queue(Work({"cat.jpg": [value]}), max_workers=1) as queue:
        first, second = queue.submit_many([CAT, CAT])
        for future in (first, second):
            assert isinstance(future.exception(LONG), TaskFailedError)
        error = first.exception(LONG)
        assert f"the processor returned a {type(value).__name__}, which is no JSON value" in str(error)
        assert error.record.attempt == 1
        assert queue.submit(NEXT).result(LONG) == {}


def test_a_value_as_deep_as_allowed_reaches_every_caller(open_queue):
    """Each has a copy of his own."""
    work = Work({"cat.jpg": [nested(100)]}, hold=True)
    with open_queue(work) as queue:
        futures = [queue.submit(CAT) for _ in range(3)]
        work.release()
        assert [future.result(LONG) for future in futures] == [nested(100)] * 3


@pytest.mark.parametrize("durability", ["power", "process"])
def test_an_output_is_published(open_queue, tmp_path, durability):
    """Its name, size and SHA-256 are in the record; the value goes to the future; the temporary file is gone."""
    work = Work({"cat.jpg": [output(tmp_path, b"pixels" * 30_000, value={"w": 5})]})
    with open_queue(work, durability=durability) as queue:
        assert queue.submit(CAT).result(LONG) == {"w": 5}
        record = queue.get(CAT.key)
    content = (tmp_path / record.output_key).read_bytes()
    assert record.output_key == output_key(CAT.key, ".jpg")
    assert (record.size, record.sha256) == (180_000, hashlib.sha256(content).hexdigest())
    assert not (tmp_path / "unfinished.jpg").exists()


@pytest.mark.parametrize("path_of", ["missing.jpg", ".", "a\0b", "x" * 300], ids=["missing", "folder", "nul", "long"])
def test_an_output_without_a_file_is_a_dead_letter(open_queue, tmp_path, path_of):
    """A permanent error that names the path; the worker lives on."""
    with open_queue(Work({"cat.jpg": [Output(f"{tmp_path}/{path_of}")] * 3}), max_workers=1) as queue:
        error = failure(queue, CAT)
        assert error.record.output_key is None
        assert queue.dead_letters()[0].idempotency_key == CAT.key
        assert queue.submit(NEXT).result(LONG) == {}


def test_an_output_with_no_path_is_a_dead_letter(open_queue):
    """None is a mistake of the processor."""
    with open_queue(Work({"cat.jpg": [Output(None)]})) as queue:
        assert isinstance(failure(queue, CAT).__cause__, TypeError)


@pytest.mark.parametrize("value", [object(), "x" * VALUE_LIMIT])
def test_the_file_of_an_output_with_a_bad_value_is_removed(open_queue, tmp_path, value):
    """Nobody would find it again."""
    with open_queue(Work({"cat.jpg": [output(tmp_path, value=value)]})) as queue:
        failure(queue, CAT)
    assert not (tmp_path / "unfinished.jpg").exists()
    assert not (tmp_path / output_key(CAT.key, ".jpg")).exists()


def test_an_output_that_cannot_be_renamed_is_tried_again(open_queue, tmp_path):
    """A folder stands in its way, and goes; the task needs its second attempt."""
    obstacle = tmp_path / output_key(CAT.key, ".jpg")
    obstacle.mkdir()

    def work(task):
        if len(calls) == 1:
            obstacle.rmdir()
        calls.append(task)
        return output(tmp_path, b"new")

    calls = []
    with open_queue(work) as queue:
        assert queue.submit(CAT).result(LONG) is None
        assert queue.get(CAT.key).retries == 1
    assert obstacle.read_bytes() == b"new"
    assert not (tmp_path / "unfinished.jpg").exists()
