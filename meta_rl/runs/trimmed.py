"""Checkpoints trimmed to what adaptation needs, small enough to be handed out."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

TRAINING_ONLY = ("optimizer", "generator")
"""What an agent's state has for training alone; agents load one without it."""


def trim(state: Mapping[str, Any], half: bool = False) -> dict[str, Any]:
    """Return a checkpoint without what only training needs.

    Args:
        half: Keep weights in half precision; reading widens them again.
    """
    agent = {name: value for name, value in state["agent"].items() if name not in TRAINING_ONLY}
    if half:
        agent = pytree.tree_map(_halved, agent)
    kept = {name: state[name] for name in ("config", "protocol", "env_steps", "meta_iterations")}
    return {**kept, "agent": agent, "trimmed": True}


def widened(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Return an agent's state with numbers of half precision in single precision."""
    wide: dict[str, Any] = pytree.tree_map(
        lambda x: x.float() if isinstance(x, Tensor) and x.dtype == torch.half else x, dict(agent)
    )
    return wide


def _halved(x: Any) -> Any:
    # Matrices alone: they take the room, and running moments may not fit into half precision.
    is_matrix = isinstance(x, Tensor) and x.dtype == torch.float32 and x.dim() > 1
    return x.half() if is_matrix else x
