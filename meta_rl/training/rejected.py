"""Meta-updates that must not count."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_rl.core.types import MetaBatch, map_tensors
from meta_rl.runs import checkpoint


class Rejected(Exception):  # noqa: N818
    """A meta-update that must not count: something in it is not finite."""

    def __init__(self, reason: str, batch: MetaBatch) -> None:
        super().__init__(reason)
        self.batch = batch

    def save(self, path: Path, agent_state: Mapping[str, Any]) -> None:
        """Write what cannot be learned from, with the agent that it was for, to be repeated."""
        experience = self.batch.experience
        content = {
            "reason": str(self),
            "tasks": vars(self.batch.tasks),
            "experience": [vars(map_tensors(lambda x: x.cpu(), each)) for each in experience],
            "agent": agent_state,
        }
        checkpoint.save(content, path)
