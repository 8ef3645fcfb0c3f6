"""Task files are used as a whole or not at all, and errors tell where and what was expected."""

import json

import pytest

from taskqueue_core import Task, TaskFileError, TaskQueueError, read_tasks


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tasks.json"


def test_good_file_is_read_in_order(path):
    """All fields, with and without a byte order mark."""
    entries = [{"image_key": "é"}, {"image_key": "b", "variant": "1x1", "params": {"q": 1}, "idempotency_key": "k"}]
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_text(json.dumps(entries, ensure_ascii=False), encoding=encoding)
        assert read_tasks(str(path)) == [Task("é"), Task("b", "1x1", {"q": 1}, "k")]
    path.write_text("[]", encoding="utf-8")
    assert read_tasks(path) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "expected a JSON file"),
        (b'[{"image_key": "\xff"}]', "no UTF-8 text at byte 16.*expected a JSON file"),
        (b"", "no JSON.*expected a list of tasks"),
        (b"[{'image_key'}]", "no JSON.*line 1.*expected a list of tasks"),
        (b"[" * 200_000, "no JSON.*expected a list of tasks"),
        (b"[" + b"1" * 5000 + b"]", "no JSON.*digits.*expected a list of tasks"),
        (b'{"image_key": "a"}', "expected a JSON list of tasks.*found an object"),
        *((bad, "expected a JSON list.*found") for bad in (b"null", b"true", b'"a"', b"1.5")),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_file_that_holds_no_list(path, content, expected):
    """Missing, another encoding, no JSON, no list: the error names the file and what was expected."""
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TaskFileError, match=f"tasks.json: .*{expected}"):
        read_tasks(path)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("[]", "expected an object.*found a list"),
        ("null", "expected an object.*found null"),
        ('"a"', "expected an object.*found a text"),
        ("{}", 'no "image_key".*nothing.*image_key'),
        ('{"image": "a"}', 'no "image_key".*"image".*each task needs'),
        ('{"image_key": "a", "varient": "1x1"}', 'unknown "varient".*a task has image_key, variant'),
        ('{"image_key": ""}', "image_key must not be empty"),
        ('{"image_key": 1}', "image_key must be a string"),
        ('{"image_key": "a\\u0000"}', "NUL"),
        ('{"image_key": "\\ud800"}', "image_key is no valid Unicode"),
        ('{"image_key": "a", "variant": null}', "variant must be a string"),
        ('{"image_key": "a", "params": [1]}', "params must be a JSON object"),
        ('{"image_key": "a", "params": {"q": NaN}}', "not JSON compliant"),
        ('{"image_key": "a", "params": {"q": 1e999}}', "not JSON compliant"),
        ('{"image_key": "a", "params": {"q": "\\ud800"}}', "surrogates"),
    ],
)
def test_bad_task_is_named_by_its_position(path, entry, expected):
    """Counted from 1; a task that the queue could not take later on is refused here."""
    path.write_text(f'[{{"image_key": "fine"}}, {entry}, {{"image_key": "fine"}}]', encoding="utf-8")
    with pytest.raises(TaskFileError, match=f"tasks.json, task 2: .*{expected}") as caught:
        read_tasks(path)
    assert isinstance(caught.value, TaskQueueError)
    assert isinstance(caught.value, ValueError)
