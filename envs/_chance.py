"""The chance in tensor simulators: each world's numbers are hashes, so no world needs a generator.

A generator for each of a thousand tasks would take longer than the simulation.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from meta_rl.core.types import Tasks

GOLDEN = 0x9E3779B97F4A7C15 - 2**64
"""SplitMix64's increment, as a signed number."""


class Chance:
    """A stream of random numbers for each of M × N worlds.

    A number depends on the seed, the task's index, the copy, how often the task came before in the
    meta-batch, and how many were drawn before it: not on the other tasks, nor on the device. The
    streams are those of SplitMix64 (Steele et al. 2014).
    """

    def __init__(self, tasks: Tasks, copies: int, seed: int, device: torch.device) -> None:
        index = tasks.index.to(device).unsqueeze(1)
        before = torch.tensor(tasks.counted(), device=device).unsqueeze(1)
        copy = torch.arange(copies, device=device) + copies * before
        self.drawn = 0
        """How many numbers each world has drawn."""
        self._key = _mixed(_mixed(_mixed(torch.tensor(seed, device=device)) ^ index) ^ copy)

    def uniform(self) -> Float64[Tensor, "M N"]:
        """Draw a number for every world, uniform in [0, 1)."""
        self.drawn += 1
        bits = _mixed(self._key + _signed(self.drawn * GOLDEN))
        return _shifted(bits, 11).double() * 2.0**-53

    def normal(self) -> Float[Tensor, "M N"]:
        """Draw a standard normal number for every world."""
        normal: Tensor = torch.special.ndtri(self.uniform() + 2.0**-54)
        return normal.float()


def _mixed(bits: Int64[Tensor, "*B"]) -> Int64[Tensor, "*B"]:
    """Return 64 bits that each depend on all of the given ones (SplitMix64's finalizer)."""
    bits = (bits ^ _shifted(bits, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    bits = (bits ^ _shifted(bits, 27)) * (0x94D049BB133111EB - 2**64)
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Int64[Tensor, "*B"], places: int) -> Int64[Tensor, "*B"]:
    """Shift to the right and fill with zeros: torch's own shift repeats the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _signed(number: int) -> int:
    """Wrap a whole number to the range of int64, as its arithmetic does."""
    return (number + 2**63) % 2**64 - 2**63
