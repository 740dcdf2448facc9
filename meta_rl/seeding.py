"""Randomness: one named generator a purpose, all from one seed."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def derive_seed(seed: int, purpose: str) -> int:
    """Return a seed for one purpose; purposes draw from streams that do not overlap."""
    entropy = [seed, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def make_generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a seeded generator on a device."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, purpose))
    return generator


class Streams:
    """The generators that a loop of rollouts draws from.

    `tasks` draws the meta-batches, `acting` the noise of actions (on the policy's device) and
    `env` one seed a rollout for the simulator.
    """

    def __init__(self, seed: int, device: torch.device, purpose: str = "train") -> None:
        self.tasks = make_generator(seed, f"{purpose}/tasks")
        self.acting = make_generator(seed, f"{purpose}/acting", device)
        self.env = make_generator(seed, f"{purpose}/env")

    def env_seed(self) -> int:
        """Draw the simulator's seed for the next rollout."""
        return int(torch.randint(2**62, (), generator=self.env))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the generators' states."""
        return {name: generator.get_state() for name, generator in vars(self).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the states that `state_dict` returned."""
        for name, generator in vars(self).items():
            generator.set_state(state[name])
