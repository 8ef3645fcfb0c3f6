"""The transitions, one line each, and the shortest story in which each happens to the task "a".

A new transition is a story and a line in TRANSITIONS. The rehearsal finds the transaction by what it changes, and by
the way it goes: what one statement can do is told twice, once with something beside it that needs BEGIN and COMMIT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from taskqueue_core import TaskQueue
from tests.proof.process import HANG, Voice
from tests.proof.trap import AT_ONCE, IN_PARTS, State, Transaction, Trap
from tests.proof.work import Work, open_queue, submit, submit_many, task

KEY, KNOWN = "a", "known"
ANY = "queued or running"
"""The state after an insert that may claim as well."""


class Stage:
    """What a story plays on: in the victim, with the trap laid but not armed."""

    def __init__(self, voice: Voice, folder: Path, trap: Trap, durability: str) -> None:
        self.voice = voice
        self.folder = folder
        self.trap = trap
        self.work = Work(voice, folder)
        self._durability = durability

    def open(self) -> TaskQueue:
        """A queue with one worker."""
        return open_queue(self.work, self.folder, durability=self._durability, max_workers=1)

    def open_busy(self, between: int = 0, *, output: bool = True) -> TaskQueue:
        """A queue whose worker is kept by a task, with or without an output, behind which others wait."""
        self.work.held.add("first")
        queue = self.open()
        submit(queue, self.voice, task("first", output=output))
        for n in range(between):
            submit(queue, self.voice, task(f"between {n}"))
        assert self.work.begun.wait(HANG)
        return queue

    def do(self, *, fails: str = "never", output: bool = True) -> None:
        """Open, arm, submit the task, and wait for its end."""
        queue = self.open()
        self.trap.arm()
        submit(queue, self.voice, task(KEY, fails=fails, output=output)).exception(HANG)


def insert(stage: Stage) -> None:
    """All workers are busy, and others wait before it."""
    queue = stage.open_busy(between=8)
    stage.trap.arm()
    submit(queue, stage.voice, task(KEY))


def insert_beside(stage: Stage) -> None:
    """The same, together with a key that is known: one statement does not do."""
    queue = stage.open_busy(between=8)
    stage.trap.arm()
    submit_many(queue, stage.voice, [task(KNOWN), task(KEY)])


def insert_free_beside(stage: Stage) -> None:
    """Together with a known key, and a worker is free."""
    queue = stage.open()
    stage.trap.arm()
    for future in submit_many(queue, stage.voice, [task(KNOWN), task(KEY)]):
        future.result(HANG)


def claim(stage: Stage, *, output: bool = False) -> None:
    """It waits until the only worker comes free, whose last task has no output."""
    queue = stage.open_busy(output=output)
    future = submit(queue, stage.voice, task(KEY))
    stage.trap.arm()
    stage.work.go.set()
    future.result(HANG)


def claim_beside(stage: Stage) -> None:
    """The last task of the worker has an output, which is published in the same transaction."""
    claim(stage, output=True)


def succeed(stage: Stage) -> None:
    """A worker is free, and the result is a value."""
    stage.do(output=False)


def publish(stage: Stage) -> None:
    """A worker is free, and the result is a file."""
    stage.do()


def retry(stage: Stage) -> None:
    """The first attempt fails for a passing reason."""
    stage.do(fails="once")


def fail(stage: Stage) -> None:
    """The first attempt fails for good."""
    stage.do(fails="always")


def recover(stage: Stage) -> None:
    """The last owner died while the task ran."""
    stage.trap.arm()
    stage.open().join(HANG)


def release(stage: Stage) -> None:
    """The attempt is stuck, its file half a result, when the queue closes."""
    stage.work.held.add(KEY)
    queue = stage.open()
    submit(queue, stage.voice, task(KEY))
    assert stage.work.begun.wait(HANG)
    stage.trap.arm()
    queue.close(timeout=0, drain=False)


def replay(stage: Stage) -> None:
    """What failed for good is mended and brought back."""
    stage.work.mended = True
    queue = stage.open()
    stage.trap.arm()
    queue.replay(KEY).result(HANG)


def cancel(stage: Stage) -> None:
    """The only caller cancels a task that waits behind others."""
    queue = stage.open_busy(between=8)
    future = submit(queue, stage.voice, task(KEY))
    stage.trap.arm()
    if future.cancel():
        stage.voice.say("cancelled", KEY)


def know(stage: Stage) -> None:
    """Before a story: another task succeeds, and the queue is closed."""
    queue = stage.open()
    submit(queue, stage.voice, task(KNOWN))
    queue.close()


def crash(stage: Stage) -> None:
    """Before a story: the owner dies while the task runs."""
    stage.work.deadly = KEY
    queue = stage.open()
    submit(queue, stage.voice, task(KEY))
    queue.join(HANG)


def lose(stage: Stage) -> None:
    """Before a story: the task fails for good, and the queue is closed."""
    queue = stage.open()
    submit(queue, stage.voice, task(KEY, fails="always"))
    queue.close()


Story = Callable[[Stage], None]


@dataclass(frozen=True, slots=True)
class Transition:
    """One arrow: the state before and after, the counter that grows, the way of the transaction, the story, and what
    happened before it.
    """

    name: str
    before: str | None
    after: str
    grows: str
    way: str
    story: Story
    past: Sequence[Story] = ()

    @property
    def publishes(self) -> bool:
        """Whether an output is renamed in the transaction."""
        return self.after == "success" and self.way == IN_PARTS

    def find(self, transactions: Sequence[Transaction]) -> Transaction | None:
        """The first transaction that makes the arrow, on its way."""
        for transaction in transactions:
            change = transaction.changes.get(KEY)
            if transaction.way == self.way and change is not None and self.made(*change):
                return transaction
        return None

    def made(self, before: State | None, after: State) -> bool:
        """Whether a change of a row is this arrow."""
        if (before and before[0]) != self.before or after[0] not in self.after.split(" or "):
            return False
        grown = [name for name, place in (("retries", 1), ("crashes", 2)) if before and after[place] > before[place]]
        return grown == ([self.grows] if self.grows else [])


TRANSITIONS = (
    Transition("insert", None, "queued", "", AT_ONCE, insert),
    Transition("insert beside a known key", None, "queued", "", IN_PARTS, insert_beside, [know]),
    Transition("insert for a free worker", None, ANY, "", AT_ONCE, succeed),
    Transition("insert for a free worker beside a known key", None, ANY, "", IN_PARTS, insert_free_beside, [know]),
    Transition("claim", "queued", "running", "", AT_ONCE, claim),
    Transition("claim beside an output", "queued", "running", "", IN_PARTS, claim_beside),
    Transition("succeed", "running", "success", "", AT_ONCE, succeed),
    Transition("succeed with an output", "running", "success", "", IN_PARTS, publish),
    Transition("retry", "running", "queued", "retries", IN_PARTS, retry),
    Transition("fail", "running", "failed", "", IN_PARTS, fail),
    Transition("recover", "running", "queued", "crashes", IN_PARTS, recover, [crash]),
    Transition("poison", "running", "failed", "crashes", IN_PARTS, recover, [crash] * 3),
    Transition("release", "running", "queued", "", IN_PARTS, release),
    Transition("replay", "failed", "queued", "", IN_PARTS, replay, [lose]),
    Transition("cancel", "queued", "failed", "", IN_PARTS, cancel),
)
