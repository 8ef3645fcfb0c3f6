"""The idempotency key, and what a task refuses."""

import json
from types import MappingProxyType

import pytest

from taskqueue_core import InvalidKeyError, Task, output_key
from taskqueue_core.task import to_json

PAIRS = [
    *((("a#b", "c"), ("a", "b#c")), (("a/b", "c"), ("a", "b/c")), (("a", "bc"), ("ab", "c"))),
    *((('a","b', "c"), ("a", 'b","c')), (("a\\", "b"), ("a", "\\b")), (("a", ""), ("a", " "))),
    (("Cat.jpg", "x"), ("cat.jpg", "x")),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_keys_of_different_pairs_never_meet(one, other):
    """Neither the idempotency keys nor the output keys collide, not even on a disk that ignores case."""
    keys = Task(*one).key, Task(*other).key
    assert keys[0] != keys[1]
    assert len({output_key(key, ".jpg").lower() for key in keys}) == 2


def test_key_is_of_the_pair_or_the_given_one():
    """Params do not enter it."""
    assert Task("a", "b").key == Task("a", "b", {"quality": 1}).key
    assert Task("a", "b", idempotency_key="mine").key == "mine"


@pytest.mark.parametrize("field", ["image_key", "variant", "idempotency_key"])
@pytest.mark.parametrize("bad", ["a\0b", "\ud800", "a\udc80", 7, b"a", ["a"], ""], ids=ascii)
def test_bad_text_is_refused(field, bad):
    """NUL bytes, lone surrogates, what is no text and what is empty; only a variant may be empty."""
    if (field, bad) == ("variant", ""):
        assert Task("a", bad).variant == ""
        return
    with pytest.raises(InvalidKeyError, match=field):
        Task(**{"image_key": "a", field: bad})


@pytest.mark.parametrize("params", [None, [], "text", 3])
def test_params_must_be_an_object(params):
    """Params are a mapping, of any kind."""
    with pytest.raises(TypeError, match="params"):
        Task("a", params=params)
    assert Task("a", params=MappingProxyType({"q": 1})).params["q"] == 1


@pytest.mark.parametrize(("deep", "brackets"), [(100, 0), (1, 500)])
def test_nesting_has_a_limit(deep, brackets):
    """Lists and objects may be a hundred deep; brackets in a text are no nesting."""
    for wrap in (lambda inner: [inner], lambda inner: {"a": inner}):
        value = "[{" * brackets
        for _ in range(deep):
            value = wrap(value)
        assert json.loads(to_json(value)) == value
        for _ in range(101 - deep):
            value = wrap(value)
        with pytest.raises(ValueError, match="100 deep"):
            to_json(value)


def test_canonical_json():
    """Equal values have one text, and what other JSON readers would not take is refused."""
    assert to_json({"b": [1, None], "a": "é"}) == to_json({"a": "é", "b": [1, None]}) == '{"a":"é","b":[1,null]}'
    for bad in (float("nan"), float("inf"), {"a": object()}):
        with pytest.raises((ValueError, TypeError), match="JSON"):
            to_json(bad)
