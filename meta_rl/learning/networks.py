"""Plain networks that agents are put together from."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def layers(sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Make layers from each number of units to the next, with a nonlinearity after every one."""
    made: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        made += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*made)


def mlp(inputs: int, hidden_sizes: Sequence[int], outputs: int) -> nn.Sequential:
    """Make an MLP whose last layer is linear."""
    sizes = [inputs, *hidden_sizes]
    return layers(sizes).append(nn.Linear(sizes[-1], outputs))
