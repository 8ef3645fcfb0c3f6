"""Who is examined and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, slots=True)
class Peer:
    """A queue, where its adapter is, and the distribution that must be installed for it."""

    name: str
    subject: str
    distribution: str | None = None

    @property
    def version(self) -> str | None:
        """Of its distribution; None when that is not installed, "" when it needs none."""
        if self.distribution is None:
            return ""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


PEERS = (
    Peer("optimized", "optimized"),
    Peer("huey-sqlite", "tests.peers.huey_sqlite:Queue", "huey"),
    Peer("huey-memory", "tests.peers.huey_memory:Queue", "huey"),
    Peer("persist-queue", "tests.peers.persist_queue:Queue", "persist-queue"),
    Peer("litequeue", "tests.peers.litequeue_queue:Queue", "litequeue"),
    Peer("tinyjobs", "tests.peers.tinyjobs_queue:Queue", "tinyjobs"),
    Peer("executor", "executor"),
    Peer("threads", "threads"),
    Peer("baseline", "baseline"),
)
"""In the order of the tables. The first is what the others are compared with."""


def find_peers(names: Sequence[str]) -> tuple[Peer, ...]:
    """The peers whose names begin with one of these; all for no names. Raises ValueError."""
    for name in names:
        if not any(peer.name.startswith(name) for peer in PEERS):
            raise ValueError(f"unknown peer {name!r}: there are {', '.join(peer.name for peer in PEERS)}")
    return tuple(peer for peer in PEERS if not names or peer.name.startswith(tuple(names)))


def versions(peers: Sequence[Peer]) -> dict[str, str]:
    """The installed ones of their distributions."""
    return {peer.distribution: peer.version for peer in peers if peer.distribution and peer.version}
