"""The `taskqueue run` command with a processor of ours: started by the proof of the shutdown, which ends it.

    python -m tests.proof.command DESCRIPTOR FOLDER STUCK

Events go to the file descriptor; the task named STUCK never ends.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from taskqueue_core import Task, TaskQueue, cli
from tests.proof.process import Voice
from tests.proof.shutdown import CLOSE_TIMEOUT
from tests.proof.work import LEDGER, Work, watch


def main() -> int:
    """Put the processor in, have submits told, and run the command itself."""
    voice, folder = Voice(int(sys.argv[1])), Path(sys.argv[2])
    watch(voice)
    work = Work(voice, folder)
    work.pace = 0.003
    work.held = {sys.argv[3]}
    cli.Processor = lambda *_, **__: work  # type: ignore[assignment, misc]
    submit_many = TaskQueue.submit_many

    def told(self: TaskQueue, tasks: list[Task], **options: Any) -> Any:
        accepted = submit_many(self, tasks, **options)
        for task in tasks:
            voice.say("accepted", task.key)
        return accepted

    TaskQueue.submit_many = told  # type: ignore[assignment, method-assign]
    options = {"--ledger": folder / LEDGER, "--store": folder, "--close-timeout": CLOSE_TIMEOUT}
    words = [str(word) for option in options.items() for word in option]
    return cli.main(["run", str(folder / "tasks.json"), "--durability", "process", *words])


if __name__ == "__main__":
    sys.exit(main())
