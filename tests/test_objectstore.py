"""A folder as an object store: no key leaves it, nothing half-written is seen, memory does not grow."""

import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest

from taskqueue_core import InvalidKeyError, ObjectStore

CHUNK = 65536
WATCHED = {"open", "os.mkdir", "os.rename", "os.remove", "os.listdir", "os.scandir"}
BAD_KEYS = [
    *("", ".", "..", "../x", "../../etc/passwd", "a/../../x", "a/../b", "a/./b", "a/.."),
    *("/etc/passwd", "/", "//server/share/x", "a//b", "a/", "C:/x", "C:x", "C:\\x", "\\\\server\\x", "..\\x", "a\\b"),
    *("a\0b", "\0", "a\nb", "a\x7f", "a*", "a?", 'a"', "a<", "a>", "a|", "a:stream"),
    *("nul", "NUL", "Con.txt", "con .txt", "con .", "aux.tar.gz", "a/prn/b", "COM1", "lpt9.log", "COM¹", "conin$"),
    *(".hidden", "a/.hidden/b", ".tq-x", "a.", "a ", "a. ", "a /b", "a./b"),
    *("x" * 201, "é" * 101, "/".join(["x" * 150] * 7), "\ud800", "a\udc80"),
    *(None, 3, b"a", ["a"], Path("a")),
]
GOOD_KEYS = [
    *("a", "a/b/c.jpg", "a b", " a", "a..b", "ünï/日本.png", "x" * 200, "/".join(["x" * 100] * 10)),
    *("console", "com10", "nullable.txt", "con-fusion", "a/nul-b", "%2e%2e", "~", "$HOME"),
]

watched = threading.local()  # the file operations of this thread, while a list is there to hold them


def _audit(event, arguments):
    if event in WATCHED and (seen := getattr(watched, "seen", None)) is not None:
        seen.append(event)


sys.addaudithook(_audit)


@pytest.fixture
def touched():
    """Each time that the test opens, makes, moves, removes or lists something from here on."""
    watched.seen = []
    yield watched.seen
    watched.seen = None


@pytest.fixture
def store(tmp_path):
    return ObjectStore(tmp_path / "store")


def read(store, key):
    return b"".join(store.open_read(key))


def files(store):
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())


def refused_everywhere(store, key):
    """Every method refuses the key when called, before any chunk is asked for."""
    chunks = map(pytest.fail, ["a chunk was asked for"])
    for call in (store.open_read, store.exists, store.stat, store.delete, lambda key: store.write(key, chunks)):
        with pytest.raises(InvalidKeyError):
            call(key)


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:30])
def test_bad_key_touches_no_file(store, touched, key):
    """Nothing is opened, made, moved or removed for a key that could mean something outside."""
    refused_everywhere(store, key)
    assert touched == []


@pytest.mark.parametrize("key", GOOD_KEYS, ids=lambda key: ascii(key)[:30])
def test_good_key_round_trip(store, touched, key):
    """What was written is read, listed, measured and deleted under its key; watching would have shown it."""
    assert store.write(key, [b"one", b"", b"two"]) == 6
    assert (read(store, key), store.exists(key), [*store.keys()]) == (b"onetwo", True, [key])
    assert (store.stat(key).size, store.stat(key).modified_at) == (6, store.path(key).stat().st_mtime)
    assert [store.delete(key), store.delete(key), store.exists(key), files(store)] == [True, False, False, []]
    assert {*touched} >= {"open", "os.mkdir", "os.rename", "os.remove"}


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system makes no symbolic links here")


@pytest.mark.parametrize("target", ["outside", "outside/secret", "outside/missing", "..", "storefront"])
def test_symlink_that_leaves_the_folder_is_refused(store, tmp_path, touched, target):
    """Through a link to a file, a folder, nothing, or a folder whose name begins like the store's."""
    for folder in (store.root, tmp_path / "outside", tmp_path / "storefront"):
        folder.mkdir()
        (folder / "secret").write_bytes(b"secret")
    link(store.root / "link", tmp_path / target)
    link(store.root / "inside", store.root / "secret")
    assert read(store, "inside") == b"secret"
    touched.clear()
    for key in ("link", "link/secret", "link/new/secret"):
        refused_everywhere(store, key)
    assert touched == []


@pytest.mark.parametrize("key", ["circle", "circle/below"])
def test_symlink_that_leads_to_itself_is_refused(store, touched, key):
    """There is nothing at its end."""
    store.root.mkdir()
    link(store.root / "circle", store.root / "circle")
    touched.clear()
    refused_everywhere(store, key)
    assert touched == []


@pytest.mark.parametrize("key", ["missing", "folder", "file/below", "folder/missing"])
def test_what_is_no_object_is_missing(store, key):
    """A folder, or a path through an object, is as missing as a name that was never used."""
    store.write("file", [b"1"])
    store.write("folder/file", [b"1"])
    chunks = store.open_read(key)
    for call in (lambda: next(chunks), lambda: store.stat(key)):
        with pytest.raises(FileNotFoundError):
            call()
    assert (store.exists(key), store.delete(key), files(store)) == (False, False, ["file", "folder/file"])


@pytest.mark.parametrize(("size", "chunk_size"), [(0, 4), (1, 4), (4, 4), (9, 4), (9, 1), (9, 100)])
def test_reading_yields_chunks_of_chunk_size(tmp_path, size, chunk_size):
    """All chunks are full but the last, and none is empty."""
    store, data = ObjectStore(tmp_path, chunk_size=chunk_size), bytes(range(size))
    store.write("a", [data])
    assert [*store.open_read("a")] == [data[at : at + chunk_size] for at in range(0, size, chunk_size)]


def test_memory_does_not_grow_with_the_object(tmp_path):
    """64 MiB go in and out one chunk at a time, in less than four chunks of memory."""
    store, asked = ObjectStore(tmp_path, chunk_size=CHUNK), []
    chunks = (asked.append(number) or bytes([number % 256]) * CHUNK for number in range(1024))
    tracemalloc.start()
    try:
        sizes = [store.write("big", chunks), store.write("copy", store.open_read("big"))]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sizes == [1024 * CHUNK] * 2
    assert asked == [*range(1024)]
    assert peak < 4 * CHUNK


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [[], [b"old"]])
def test_error_between_chunks_leaves_nothing(store, error, old):
    """A write that fails half-way leaves the old object, or none, and no unfinished file."""

    def chunks():
        yield b"half"
        raise error

    for chunk in old:
        store.write("a/b", [chunk])
    with pytest.raises(error):
        store.write("a/b", chunks())
    assert [read(store, name) for name in files(store)] == old


def test_error_at_the_last_step_leaves_nothing(store):
    """An object that cannot take its name, here that of a folder, leaves no unfinished file behind."""
    store.write("folder/file", [b"1"])
    with pytest.raises(OSError, match="folder"):
        store.write("folder", [b"2"])
    assert files(store) == ["folder/file"]


def test_write_becomes_visible_in_one_step(store):
    """While chunks are being written readers and keys() see the old object alone, afterwards the new one."""
    store.write("a", [b"old"])

    def chunks():
        for chunk in (b"new ", b"object"):
            yield chunk
            assert (read(store, "a"), [*store.keys()], len(files(store))) == (b"old", ["a"], 2)

    store.write("a", chunks())
    assert (read(store, "a"), files(store)) == (b"new object", ["a"])


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is being read")
def test_reader_keeps_the_object_it_began(tmp_path):
    """A write in the middle of a read does not mix two objects."""
    store = ObjectStore(tmp_path, chunk_size=2)
    store.write("a", [b"oldold"])
    reader = store.open_read("a")
    first = next(reader)
    store.write("a", [b"NEWNEW"])
    assert first + b"".join(reader) == b"oldold"


def test_staged_file_is_complete_and_hidden(store):
    """It lies in the store's folder with the suffix asked for, is listed nowhere, and no key names it."""
    staged = store.stage("owner", [b"1", b"2"], suffix=".jpg")
    assert (staged.parent, staged.suffix, staged.read_bytes(), [*store.keys()]) == (store.root, ".jpg", b"12", [])
    refused_everywhere(store, staged.name)


def test_sweep_removes_the_files_of_the_named_owners_alone(store):
    """Files of other owners, similar names included, and finished objects stay."""
    assert store.sweep(["a"]) == 0
    store.write("a", [b"1"])
    kept = {store.stage(owner, [b"1"]).name for owner in ("ab", "A", "a/b", "")}
    for owner in ("a", "a", "ä"):
        store.stage(owner, [b"1"])
    assert [store.sweep([]), store.sweep(["a", "ä", "never seen"]), store.sweep(["a"])] == [0, 3, 0]
    assert {*files(store)} == {"a"} | kept


def test_keys_are_sorted_as_texts(store):
    """As object stores list them: "a-b" before "a/b"; looking at an empty store makes no folder."""
    assert ([*store.keys()], store.exists("a"), store.root.exists()) == ([], False, False)
    for key in ("b", "a/c", "a-b", "a/b"):
        store.write(key, [b""])
    assert [*store.keys()] == ["a-b", "a/b", "a/c", "b"]


@pytest.mark.parametrize(
    ("option", "bad"), [("chunk_size", 0), *(("round_trip", bad) for bad in (-1, float("nan"), float("inf")))]
)
def test_bad_option_is_refused(tmp_path, option, bad):
    """The message names the option."""
    with pytest.raises(ValueError, match=option):
        ObjectStore(tmp_path, **{option: bad})
