"""A finished file becomes the output of its task."""

import hashlib
import os

import pytest

from taskqueue_core import ObjectStore, Output, PermanentError, output_key
from taskqueue_core.publish import Publication, remove, sync_folder


@pytest.fixture
def finished(tmp_path):
    path = tmp_path / "unfinished.jpg"
    path.write_bytes(b"pixels" * 50_000)
    return path


@pytest.fixture
def target(finished):
    return finished.with_name(output_key("key", ".jpg"))


def test_publication_measures_the_file(finished):
    """Size and SHA-256 are those of the bytes, the name comes from the key and keeps the suffix."""
    publication = Publication.prepare(Output(finished, {"w": 1}), "key", durable=False)
    assert (publication.size, publication.sha256) == (300_000, hashlib.sha256(finished.read_bytes()).hexdigest())
    assert publication.output_key == hashlib.sha256(b"key").hexdigest() + ".jpg"


@pytest.mark.parametrize("durable", [True, False])
def test_publishing_replaces_an_older_output(finished, target, durable):
    """The file is renamed within its folder, once: to repeat it, as a transaction may, changes nothing."""
    target.write_bytes(b"older")
    publication = Publication.prepare(Output(str(finished)), "key", durable=durable)
    assert target.read_bytes() == b"older"
    publication.publish()
    publication.publish()
    assert [*finished.parent.iterdir()] == [target]
    assert target.read_bytes() == b"pixels" * 50_000


def test_a_suffix_that_no_name_can_hold_is_a_permanent_error(tmp_path):
    """It would make the output key too long for a file name."""
    path = tmp_path / ("x." + "y" * 100)
    path.write_bytes(b"1")
    with pytest.raises(PermanentError, match="suffix"):
        Publication.prepare(Output(path), "key", durable=False)


def test_only_a_durable_output_is_brought_to_the_disk(finished, monkeypatch):
    """The file is synced before the transaction begins; a folder is synced by its own."""
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(os.fstat(file).st_ino), fsync(file)))
    Publication.prepare(Output(finished), "key", durable=False)
    assert synced == []
    Publication.prepare(Output(finished), "key", durable=True)
    sync_folder(finished.parent)
    folders = [] if os.name == "nt" else [finished.parent.stat().st_ino]
    assert synced == [finished.stat().st_ino, *folders]


@pytest.mark.parametrize("name", ["missing", "folder"])
def test_output_without_a_file_is_permanent(tmp_path, name):
    """The message names the path."""
    (tmp_path / "folder").mkdir()
    with pytest.raises((PermanentError, PermissionError), match=name):  # Windows says that a folder is not allowed
        Publication.prepare(Output(tmp_path / name), "key", durable=True)


def test_discard_removes_the_file_and_may_be_repeated(finished, target):
    """The file of an attempt that was not recorded goes, and nothing else."""
    target.write_bytes(b"of another attempt")
    publication = Publication.prepare(Output(finished), "key", durable=False)
    publication.discard()
    publication.discard()
    assert [*finished.parent.iterdir()] == [target]


@pytest.mark.parametrize("result", [None, "text", Output(None), Output("missing/file"), Output("a\0b")], ids=repr)
def test_remove_takes_whatever_a_processor_returned(finished, result):
    """What names no file is passed over without an error."""
    remove(result)
    assert finished.exists()
    remove(Output(finished))
    assert not finished.exists()


def test_output_key_is_a_key_of_the_store(tmp_path):
    """Whatever the idempotency key holds, the output can be read back through the store."""
    store, key = ObjectStore(tmp_path), output_key("../../C:\\nul\n" * 100, ".bin")
    store.write(key, [b"1"])
    assert [*store.keys()] == [key]


@pytest.mark.skipif(os.name == "nt", reason="needs named pipes")
def test_an_output_that_is_no_regular_file_is_refused_and_left_alone(tmp_path):
    """A pipe, a device: whatever a processor names by mistake is neither renamed nor removed."""
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(PermanentError, match="no regular file"):
        Publication.prepare(Output(pipe), "k", durable=True)
    remove(Output(pipe))
    assert pipe.exists()
