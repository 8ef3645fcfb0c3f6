"""One owner: the lock beside the ledger."""

import os
import signal
import subprocess
import sys

import pytest
from helpers import LONG, environ

from taskqueue_core import LedgerInUseError
from taskqueue_core.ownership import OwnerLock, lock_path, owner_alive, read_owner

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")

OWNER = """
import sys
from pathlib import Path
from taskqueue_core.ownership import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
print("owned", flush=True)
sys.stdin.read()
"""
PARENT = """
import os, signal, sys
from pathlib import Path
from taskqueue_core.ownership import OwnerLock
lock = OwnerLock(Path(sys.argv[1]))
if os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
print("the child lives", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def run():
    """Start a program that ends with its stdin; wait for its first line."""
    started = []

    def start(code, *args):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environ(),
        )
        started.append(process)
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        with process:
            process.communicate(timeout=LONG)


def test_lock_is_held_until_it_is_closed(path):
    """It stays where it is: to unlink it would let two owners meet."""
    lock = OwnerLock(path)
    assert (read_owner(path), owner_alive(path)) == (os.getpid(), True)
    with pytest.raises(LedgerInUseError, match=str(os.getpid())):
        OwnerLock(path)
    lock.close()
    lock.close()
    assert lock_path(path).is_file()
    assert (read_owner(path), owner_alive(path)) == (None, False)
    OwnerLock(path).close()


def test_nobody_owns_what_was_never_opened(path):
    """And asking makes no file."""
    assert (read_owner(path), owner_alive(path)) == (None, False)
    assert [*path.parent.iterdir()] == []


def test_names_of_one_file_share_one_lock(path, tmp_path, monkeypatch):
    """A relative path, a detour, a symbolic link."""
    path.touch()
    (tmp_path / "link.db").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    lock = OwnerLock(path)
    for name in ("tasks.db", "../" + tmp_path.name + "/tasks.db", "link.db"):
        with pytest.raises(LedgerInUseError):
            OwnerLock(type(path)(name))
    lock.close()


@POSIX
def test_a_killed_owner_frees_its_lock_at_once(path, run):
    """Its pid is still to be read, but nobody is alive behind it."""
    process = run(OWNER, path)
    assert (read_owner(path), owner_alive(path)) == (process.pid, True)
    with pytest.raises(LedgerInUseError, match=str(process.pid)):
        OwnerLock(path)
    process.send_signal(signal.SIGKILL)
    process.wait(LONG)
    assert (read_owner(path), owner_alive(path)) == (process.pid, False)
    OwnerLock(path).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_keep_the_lock_of_a_dead_owner(path, run):
    """It has closed its copy; the lock itself it left alone."""
    process = run(PARENT, path)
    assert process.wait(LONG) == -signal.SIGKILL
    OwnerLock(path).close()


def test_a_lock_that_cannot_be_written_is_not_held(path, monkeypatch):
    """The next one may try."""

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            OwnerLock(path)
    OwnerLock(path).close()
