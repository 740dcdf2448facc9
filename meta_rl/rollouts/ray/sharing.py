"""How the tasks of a meta-batch are shared out, and what was played is put together again."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.rollouts.ray.company import separable
from meta_rl.rollouts.ray.job import Played


def shares(count: int, copies: int, workers: int) -> list[slice]:
    """Return which tasks of a meta-batch each worker plays: one block, as even as can be."""
    parts = max(1, min(workers, count)) if separable(count, copies) else 1
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(*bounds) for bounds in pairwise(ends)]


def ended_alike(parts: Sequence[Played]) -> Sequence[Played]:
    """End all parts of a rollout at the first action of any that is not finite, as one would."""
    if not any(part.broken for part in parts):
        return parts
    first = min((part for part in parts if part.broken), key=lambda part: part.steps)
    ended = []
    for part in parts:
        columns = pytree.tree_map(lambda column: column[: first.steps], dict(part.columns))
        steps = int(columns["valid"].sum())
        ended.append(replace(part, columns=columns, env_steps=steps, chance=first.chance))
    return ended


def side_by_side(*parts: np.ndarray) -> Tensor:
    """Join columns (T, M, ...) along the tasks' axis; shorter ones are padded with zeros.

    They come in memory of torch's: loops round by where rows lie, and numpy aligns otherwise.
    """
    tasks = sum(part.shape[1] for part in parts)
    joined = np.zeros((max(map(len, parts)), tasks, *parts[0].shape[2:]), parts[0].dtype)
    first = 0
    for part in parts:
        joined[: len(part), first : first + part.shape[1]] = part
        first += part.shape[1]
    return torch.from_numpy(joined).clone()


def stacked(*parts: Any) -> Any:
    """Join leaves of contexts along the tasks' axis; plain values are the same in all."""
    if isinstance(parts[0], np.ndarray):
        return torch.from_numpy(np.concatenate(parts)).clone()
    return parts[0]
