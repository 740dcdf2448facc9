"""Trials as memories learn from them: without gaps, and cut into pieces that are played together.

One long trial after another keeps no processor busy, so T steps of B trials become C pieces of L
steps each, (L, C, B). A piece goes on from what is remembered of the piece before it.
"""

from math import ceil

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_rl.core.ranks import gathered
from meta_rl.core.types import Rollout, map_tensors
from meta_rl.learning.memory import State


def packed(rollout: Rollout) -> Rollout:
    """Close the gaps between episodes: each world's steps in order, and all padding at the end."""
    order = (~rollout.valid).to(torch.uint8).argsort(dim=0, stable=True)
    longest = max(gathered(int(rollout.valid.sum(0).max())))
    order = order[:longest]  # padding at the end no memory can see

    def pack(column: Tensor) -> Tensor:
        extra = column.dim() - order.dim()
        index = order.view(*order.shape, *[1] * extra).expand(*order.shape, *column.shape[3:])
        return column.gather(0, index)

    return map_tensors(pack, rollout)


def last_of_trial(valid: Bool[Tensor, "T M N"]) -> Bool[Tensor, "T M N"]:
    """Return the last step of each world; all after it is padding."""
    return valid & (valid.sum(0) == valid.cumsum(0))


def clock(valid: Bool[Tensor, "T M N"]) -> Int[Tensor, "T M N"]:
    """Return how many steps of the trial come before each."""
    steps = torch.arange(len(valid), device=valid.device)
    return steps.view(-1, 1, 1).expand(valid.shape)


def cut(column: Shaped[Tensor, "T *B"], longest: int) -> Shaped[Tensor, "L C *B"]:
    """Cut time into as few pieces of one length as have at most so many steps.

    Zeros at the end fill the last piece.
    """
    count = ceil(len(column) / longest)
    length = ceil(len(column) / count)
    padding = column.new_zeros(count * length - len(column), *column.shape[1:])
    padded = torch.cat([column, padding])
    return padded.view(count, length, *column.shape[1:]).transpose(0, 1)


def in_order(pieces: Shaped[Tensor, "L C *B"], steps: int) -> Shaped[Tensor, "T *B"]:
    """Put pieces one after the other again, without what filled the last one."""
    return pieces.transpose(0, 1).flatten(0, 1)[:steps]


def handed_on(memory: State, last: State) -> State:
    """Return what pieces begin with the next time: what the piece before ended with now.

    No gradient flows through it: truncated backpropagation through time.

    Args:
        memory: What each piece began with, (C, B, ...).
        last: What each ended with, (C, B, ...).
    """
    return tree_map(lambda begun, ended: torch.cat([begun[:1], ended[:-1]]), memory, last)
