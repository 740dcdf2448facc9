"""Reptile on quadratic losses, whose adapted parameters are known."""

import pytest
import torch
from derivatives import ParameterInnerLoop
from playing import Player

from agents import maml_ppo, reptile
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import MetaBatch

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=5, test_goals=5))
CURVATURE, CENTRES = 3.0, torch.tensor([1.0, -2.0, 0.4])


def quadratic_loss(phi, samples):
    """L(φ) = ½ a |φ - c|² with another c for each of three tasks."""
    distances = [
        (value - CENTRES.view(-1, *[1] * (value.dim() - 1))).square().sum()
        for value in phi.values()
    ]
    return 0.5 * CURVATURE * torch.stack(distances).sum()


def make_agent(**settings):
    config = reptile.Config(**{"hidden_sizes": (4,), "initial_std": 0.5} | settings)
    return reptile.build(config, FAMILY.spec, CPU, 0)


def make_quadratic(**settings):
    """Reptile with another loss for its inner loop."""
    agent = make_agent(**settings)
    agent.inner = ParameterInnerLoop.like(agent.inner, quadratic_loss)
    return agent


def play(agent, seed=0):
    worker = Player(FAMILY, CPU, Streams(seed, CPU))
    tasks = FAMILY.sample(3, "train", worker.streams.tasks)
    context, rollouts = agent.begin(tasks, 2, True), []
    for k, phase in enumerate(agent.phases):
        if k > 0:
            context = agent.adapt(context, rollouts[-1])
        rollout, context = worker.collect(agent, context, tasks, 2, phase)
        rollouts.append(rollout)
    return MetaBatch(tasks, tuple(rollouts)), context


@pytest.mark.parametrize(
    ("settings", "contraction"),
    [
        # (1 - α a) for each inner step: one more than adaptations, so many times the epochs.
        ({}, 0.7**2),
        ({"adaptation_steps": 3}, 0.7**4),
        ({"inner_epochs": 2}, 0.7**4),
        ({"adaptation_steps": 2, "later_inner_lr": 0.05}, 0.7 * 0.85**2),
    ],
)
def test_the_update_goes_a_part_of_the_way_to_the_mean_of_the_adapted(settings, contraction):
    agent = make_quadratic(inner_lr=0.1, outer_lr=0.25, **settings)
    theta = {name: value.clone() for name, value in agent.theta.items()}

    metrics = agent.meta_update(play(agent)[0])

    # φ = c + k (θ - c), so θ moves by ε (1 - k) (mean c - θ).
    for name, value in theta.items():
        moved = value + 0.25 * (1 - contraction) * (CENTRES.mean() - value)
        torch.testing.assert_close(agent.theta[name], moved)
    assert metrics["outer/step_size"] == 0.25


def test_updates_of_a_quadratic_converge_to_the_mean_of_the_centres():
    agent = make_quadratic(outer_lr=1.0)
    for seed in range(12):
        agent.meta_update(play(agent, seed)[0])
    for value in agent.theta.values():
        torch.testing.assert_close(
            value, CENTRES.mean().expand_as(value), atol=1e-3, rtol=0
        )  # 0.49¹² of the way is left


def test_each_optimizer_has_a_step_size_of_its_own():
    for optimizer, expected in (("sgd", 0.5), ("adam", 1e-3)):
        assert reptile.Config(outer_optimizer=optimizer).epsilon == expected
        assert reptile.Config(outer_optimizer=optimizer, outer_lr=0.1).epsilon == 0.1


def test_adam_takes_the_way_back_for_a_gradient():
    agent = make_quadratic(outer_lr=0.01, outer_optimizer="adam")
    theta = {name: value.clone() for name, value in agent.theta.items()}

    agent.meta_update(play(agent)[0])

    for name, value in theta.items():  # Adam's first step has its full length
        towards = (CENTRES.mean() - value).sign()
        torch.testing.assert_close(agent.theta[name], value + 0.01 * towards)


def test_the_step_size_anneals_linearly_to_zero():
    agent = make_quadratic(outer_lr=0.8, annealing_updates=4)
    sizes = [agent.meta_update(play(agent, seed)[0])["outer/step_size"] for seed in range(6)]
    assert torch.stack(sizes).tolist() == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_one_epoch_is_maml_s_adaptation_and_more_go_further():
    agent, further = make_agent(), make_agent(inner_epochs=3)
    maml = maml_ppo.build(maml_ppo.Config(hidden_sizes=(4,), initial_std=0.5), FAMILY.spec, CPU, 0)
    batch, context = play(agent)

    expected = maml.adapt(maml.begin(batch.tasks, 2, True), batch.rollouts[0])
    torch.testing.assert_close(context["policy"], expected["policy"], atol=1e-5, rtol=1e-4)
    begin = agent.begin(batch.tasks, 2, True)
    more = further.adapt(begin, batch.rollouts[0])
    name = "layers.0.weight"
    distances = [(each["policy"][name] - begin["policy"][name]).norm() for each in (context, more)]
    assert distances[1] > 2 * distances[0]
    assert more["steps"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("inner_epochs", 0), ("annealing_updates", -1), ("outer_lr", 0.0), ("clip", -0.1)],
)
def test_a_bad_setting_is_a_user_error_that_names_it(name, value):
    with pytest.raises(UserError, match=rf"agent\.{name} must be .*, got {value}"):
        reptile.Config(**{name: value})
