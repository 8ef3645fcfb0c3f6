"""Where a promise is played: open queues in folders of their own; in the end all are closed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from pytest_taskqueue.conformance.player import OVERTIME, Player
from pytest_taskqueue.subjects import Promise, Setup, SubjectFactory, opened_and_heard

WORKERS, PLACES = 2, 4
"""Of the queues on stage: small, so that their limits are reached soon."""

PATIENCE = 10.0
"""Seconds without an answer after which a queue counts as hanging. Whoever keeps a promise answers long before."""

LAST_CLOSE = 1.5
"""The timeout of the close that clears the stage; twice as long it is waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Casting:
    """Who is on stage: the factory and the name of a subject, what it promises, and how long it is waited for."""

    name: str
    factory: SubjectFactory
    promised: frozenset[Promise] = frozenset()
    patience: float = PATIENCE
    hopeless: bool = False  # it has hung before: its last close is hardly waited for


@dataclass(slots=True)
class Stage:
    """Opens queues for one check, each in a folder of its own."""

    cast: Casting
    folder: Path
    players: list[Player] = field(default_factory=list)

    @property
    def patience(self) -> float:
        """Seconds for an answer."""
        return self.cast.patience

    def open(self, *, workers: int = WORKERS, places: int = PLACES, overflow: str = "block") -> Player:
        """A fresh queue. Raises Broken when it cannot be opened."""
        folder = Path(tempfile.mkdtemp(prefix="queue-", dir=self.folder))
        player = Player(self.patience, folder)
        self.players.append(player)
        setup = Setup(work=player.work, workers=workers, queue_size=places, directory=folder, overflow=overflow)
        heard = player.ask("opening it", lambda: opened_and_heard(self.cast.factory, setup))
        player.subject, player.promises = heard
        return player

    def clear(self) -> bool:
        """Let the work go on and close what is open; whether all calls have come back."""
        for player in self.players:
            player.leave(OVERTIME if self.cast.hopeless else LAST_CLOSE)
        return not any(player.hung for player in self.players)
