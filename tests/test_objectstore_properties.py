"""Properties of keys and chunks, on inputs that Hypothesis makes up."""

import itertools

import pytest

from taskqueue_core import InvalidKeyError, ObjectStore, Task, output_key

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies

quick = hypothesis.settings(max_examples=150, deadline=None, database=None)
nasty = st.text(alphabet=st.sampled_from([*"ab./\\: ~*NULcon1é\0\n\ud800\udc80"]), max_size=12)
names = st.text(max_size=6)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Make an empty store for each example."""
    folder, numbers = tmp_path_factory.mktemp("properties"), itertools.count()
    return lambda **options: ObjectStore(folder / str(next(numbers)), **options)


@quick
@hypothesis.given(key=nasty | st.text(max_size=12))
def test_a_key_is_refused_or_names_one_file_inside(fresh, key):
    """There is no third way: InvalidKeyError, or an object that is listed under exactly this key."""
    store = fresh()
    try:
        path = store.path(key)
    except InvalidKeyError:
        return
    assert path.resolve().is_relative_to(store.root)
    store.write(key, [b"1"])
    assert ([*store.keys()], path.read_bytes()) == ([key], b"1")


@quick
@hypothesis.given(chunks=st.lists(st.binary(max_size=20)), chunk_size=st.integers(1, 30))
def test_bytes_survive_any_chunking(fresh, chunks, chunk_size):
    """However they are cut for writing and for reading."""
    store = fresh(chunk_size=chunk_size)
    assert store.write("a", chunks) == sum(map(len, chunks))
    assert b"".join(store.open_read("a")) == b"".join(chunks)


@quick
@hypothesis.given(one=st.tuples(names, names), other=st.tuples(names, names))
def test_keys_are_unambiguous(one, other):
    """Two pairs have the same key, and the same output key, only if they are the same pair."""
    hypothesis.assume(one[0] and other[0] and "\0" not in "".join(one + other))
    keys = Task(*one).key, Task(*other).key
    assert (keys[0] == keys[1]) is (output_key(keys[0]) == output_key(keys[1])) is (one == other)
