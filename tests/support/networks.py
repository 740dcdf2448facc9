"""Small policies whose tasks all differ, and what they may have played, in double precision."""

import pytest
import torch

from meta_rl.learning import mlp
from meta_rl.learning.policy import MLPPolicy
from meta_rl.learning.samples import Samples

TASKS, STEPS, OBSERVATION = 3, 7, 4

POLICIES = pytest.mark.parametrize(
    "kind",
    [
        pytest.param((activation, hidden, choices), id=f"{activation}-{len(hidden)}-{name}")
        for activation in ("tanh", "relu")
        for hidden in ((), (6,), (5, 6, 3))
        for choices, name in (((), "gaussian"), ((3,), "categorical"))
    ],
)
"""What `make_policy` makes policies of all depths of."""

ROWS = pytest.mark.parametrize("rows", [3, 2 * STEPS + 1, 10**6])
"""Steps a piece may have: not a task's, those of two of the three tasks, or more than there are."""


def make_policy(activation="tanh", hidden_sizes=(6,), choices=()):
    """A policy of one choice of the given options, or of two continuous actions."""
    actions = sum(choices) or 2
    return MLPPolicy(OBSERVATION, actions, hidden_sizes, activation, 0.5, 0.1, choices).double()


def shared_parameters(policy, seed=0):
    """θ with biases that are not zero."""
    generator = torch.Generator().manual_seed(seed)
    shared = policy.initial_parameters(generator, torch.device("cpu"))
    return {name: value + 0.3 * normal(value.shape, generator) for name, value in shared.items()}


def task_parameters(policy, seed=0):
    """φ; the first task's first deviation is below its floor."""
    generator = torch.Generator().manual_seed(seed)
    phi = {
        name: value + 0.3 * normal((TASKS, *value.shape), generator)
        for name, value in shared_parameters(policy, seed).items()
    }
    if "log_std" in phi:
        phi["log_std"][0, 0] = -9.0
    return phi


def like(params, seed=0):
    """Some random direction in the space of parameters."""
    generator = torch.Generator().manual_seed(100 + seed)
    return {name: normal(value.shape, generator) for name, value in params.items()}


def played(policy, seed=0):
    """Episodes that a policy near `task_parameters` played; the last step is padding."""
    generator = torch.Generator().manual_seed(200 + seed)
    obs = normal((TASKS, STEPS, OBSERVATION), generator)
    phi = task_parameters(policy)
    near = {name: value + 0.05 * normal(value.shape, generator) for name, value in phi.items()}
    acting = policy.batched(near, obs)
    size = policy.layers[-1].out_features
    if policy.choices:
        option = torch.randint(size, (TASKS, STEPS), generator=generator)
        action = torch.nn.functional.one_hot(option, size).double()
    else:
        action = acting.mean + acting.log_std.exp() * normal((TASKS, STEPS, size), generator)
    weight = torch.rand(TASKS, STEPS, generator=generator, dtype=torch.float64)
    weight[:, -1] = 0.0
    return Samples(
        obs,
        action,
        acting.log_prob(action),
        normal((TASKS, STEPS), generator),
        weight / weight.sum(1, keepdim=True),
        copies=1,
    )


def cut(monkeypatch, policy, rows):
    """Let a piece have so many steps."""
    widest = max(OBSERVATION, *(layer.out_features for layer in policy.layers))
    monkeypatch.setattr(mlp, "AT_ONCE", rows * widest)


def normal(shape, generator):
    return torch.randn(shape, generator=generator, dtype=torch.float64)
