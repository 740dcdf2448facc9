import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from meta_rl.core.errors import UserError
from meta_rl.core.seeding import SharedNoise
from meta_rl.core.types import EnvSpec
from meta_rl.learning.sac import SACConfig, SACOptimizer, SoftActorCritic

SPEC = EnvSpec.box(1, [-2.0], [2.0], horizon=1)


def made(**settings):
    torch.manual_seed(0)
    return SoftActorCritic(SACConfig(**{"hidden_sizes": (16,)} | settings), 1, SPEC)


def noise(seed=0):
    return SharedNoise(torch.Generator().manual_seed(seed))


def test_a_failure_ends_the_return_and_nothing_else_does():
    sac = made(reward_scale=2.0, gamma=0.9, temperature=0.5)
    states, action = torch.randn(4, 1), torch.rand(4, 1)
    reward, terminated = torch.randn(4), torch.tensor([True, False, False, True])
    next_action, log_prob = sac.policy(states + 1).sample_with_log_prob(noise())
    pair = torch.cat([states + 1, next_action], dim=-1)
    log_prob = log_prob + torch.tensor(2.0).log()  # of actions in [-1, 1]: here they reach 2
    value = torch.minimum(*(critic(pair).squeeze(-1) for critic in sac.targets)) - 0.5 * log_prob
    target = 2.0 * reward + torch.where(terminated, 0.0, 0.9 * value)
    now = [critic(torch.cat([states, action], dim=-1)).squeeze(-1) for critic in sac.critics]
    expected = sum(((each - target) ** 2).mean() for each in now)

    found = sac.critic_loss(states, action, reward, terminated, states + 1, noise())

    torch.testing.assert_close(found, expected)


def test_values_do_not_depend_on_the_unit_of_actions():
    losses = []
    for reach in (1.0, 0.1):
        torch.manual_seed(0)
        spec = EnvSpec.box(1, [-reach], [reach], horizon=1)
        sac = SoftActorCritic(SACConfig(hidden_sizes=(16,)), 1, spec)
        with torch.no_grad():  # the critics look at nothing but the state
            for critic in (*sac.critics, *sac.targets):
                critic[0].weight[:, 1].zero_()
        state, action = torch.zeros(4, 1), torch.zeros(4, 1)
        goes_on = torch.zeros(4, dtype=torch.bool)
        losses.append(sac.critic_loss(state, action, torch.zeros(4), goes_on, state, noise()))
    torch.testing.assert_close(losses[0], losses[1])


def test_features_learn_from_the_critics_alone_and_targets_follow():
    sac, features = made(polyak=0.25), nn.Linear(3, 1)
    optimizer, seen = SACOptimizer(sac, features), torch.randn(8, 3)
    critics, targets = (
        [each.clone() for each in part.parameters()] for part in (sac.critics, sac.targets)
    )
    state = features(seen)
    ended = torch.ones(8, dtype=torch.bool)
    loss = sac.critic_loss(state, torch.rand(8, 1), torch.randn(8), ended, state, noise())
    (expected,) = torch.autograd.grad(loss, [features.weight], retain_graph=True)

    optimizer.step(loss, state, noise())

    torch.testing.assert_close(features.weight.grad, expected)
    assert all(
        torch.allclose(after, before + 0.25 * (now - before))
        for after, before, now in zip(
            sac.targets.parameters(), targets, sac.critics.parameters(), strict=True
        )
    )
    moved = zip(sac.critics.parameters(), critics, strict=True)
    assert not any(torch.equal(now, before) for now, before in moved)


def test_a_temperature_falls_while_there_is_more_entropy_than_wanted():
    sac = made(learn_temperature=True)
    # Uniform actions in [-1, 1] have log 2 nats, so -1 nat there is -1 + log 2 in [-2, 2].
    assert sac.target_entropy == pytest.approx(-1 + torch.tensor(2.0).log())
    for entropy, sign in ((0.5, 1), (-2.0, -1)):
        loss = sac.temperature_loss(torch.tensor(-entropy))
        (slope,) = torch.autograd.grad(loss, [sac.log_temperature])
        assert slope.sign() == sign


def test_only_a_learned_temperature_is_taken_from_another_policy():
    other = made(temperature=1.0).state_dict()
    for learned, expected in ((False, 0.2), (True, 1.0)):
        sac = made(temperature=0.2, learn_temperature=learned)
        sac.load_state_dict(other)
        assert float(sac.temperature) == pytest.approx(expected)


def test_the_policy_of_one_quadratic_reward_is_its_boltzmann_distribution():
    # r = -4 (a - 0.7)² and α = 0.5: π ∝ exp(r / α) is normal with mean 0.7 and variance 1/16.
    sac = made(reward_scale=1.0, temperature=0.5, outer_lr=1e-2, hidden_sizes=(32, 32))
    optimizer, draws = SACOptimizer(sac, nn.Identity()), torch.Generator().manual_seed(1)
    state, ended, chance = torch.zeros(64, 1), torch.ones(64, dtype=torch.bool), noise()
    for _ in range(300):
        action = 4 * torch.rand(64, 1, generator=draws) - 2
        reward = -4 * (action.squeeze(-1) - 0.7) ** 2
        optimizer.step(sac.critic_loss(state, action, reward, ended, state, chance), state, chance)
    with torch.no_grad():
        actions = sac.policy(torch.zeros(4000, 1)).sample(chance)
    assert float(actions.mean()) == pytest.approx(0.7, abs=0.15)
    assert float(actions.std()) == pytest.approx(0.25, abs=0.08)


def test_more_entropy_than_uniform_actions_have_is_refused():
    with pytest.raises(UserError, match=r"at most 0.69, that of uniform .* got 0.7"):
        made(learn_temperature=True, target_entropy=0.7)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3),
        spaces.Box(-torch.inf, torch.inf, (2,)),
        spaces.Box(-3.4e38, 3.4e38, (2,)),  # too far apart for their difference
        spaces.Box(np.float32([-1, 0]), np.float32([1, 0])),
    ],
)
def test_actions_without_bounds_that_lie_apart_are_refused(space):
    spec = EnvSpec(SPEC.observation_space, space, horizon=1, family="toy")
    with pytest.raises(UserError, match="within finite bounds that lie apart, but toy takes"):
        SoftActorCritic(SACConfig(), 1, spec)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"polyak": 1.5}, "polyak must be in"),
        ({"gamma": 1.0}, r"gamma must be in \[0, 1\)"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"hidden_sizes": (8, 0)}, "hidden_sizes must all be"),
        ({"target_entropy": -2.0}, "learn_temperature"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        SACConfig(**settings)
