"""Meta-updates that must not count."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_rl.core.ranks import gathered, world
from meta_rl.core.types import MetaBatch
from meta_rl.runs import checkpoint


class Rejected(Exception):  # noqa: N818
    """A meta-update that must not count: something in it is not finite."""

    def __init__(self, reason: str, batch: MetaBatch) -> None:
        super().__init__(reason)
        self.batch = batch

    def save(self, path: Path, agent_state: Mapping[str, Any]) -> None:
        """Write what cannot be learned from, with the agent that it was for, to be repeated.

        All ranks must call it: the file, which rank 0 writes, has the tasks of all.
        """
        batch = MetaBatch.join(gathered(self.batch.cpu()))
        content = {
            "reason": str(self),
            "tasks": vars(batch.tasks),
            "experience": [vars(each) for each in batch.experience],
            "agent": agent_state,
        }
        if world().is_first:
            checkpoint.save(content, path)
