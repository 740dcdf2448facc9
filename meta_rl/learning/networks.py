"""Plain networks that agents are put together from."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn


def mlp(
    inputs: int, hidden_sizes: Sequence[int], outputs: int, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Make an MLP whose last layer is linear."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise([inputs, *hidden_sizes]):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers, nn.Linear([inputs, *hidden_sizes][-1], outputs))
