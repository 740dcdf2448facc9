import torch
from torch.func import functional_call

from meta_rl.core.seeding import SharedNoise
from meta_rl.core.types import EnvSpec
from meta_rl.learning.discounts import DiscountedActorCritic, DiscountedCritic
from meta_rl.learning.sac import ActorCriticConfig

SPEC = EnvSpec.box(1, [-2.0, -1.0], [2.0, 1.0], horizon=1)
GAMMAS = (0.5, 0.9, 0.99)
EVERYWHERE = torch.ones(6, dtype=torch.bool)


def made(**settings):
    torch.manual_seed(0)
    config = ActorCriticConfig(**{"hidden_sizes": (16, 16)} | settings)
    return DiscountedActorCritic(config, 3, GAMMAS, SPEC)


def noise(seed=0):
    return SharedNoise(torch.Generator().manual_seed(seed))


def test_a_discounts_own_action_is_valued_by_its_own_head():
    critic, state = DiscountedCritic(3, 2, (8, 8), 3), torch.randn(5, 3)
    action = torch.randn(5, 3, 2)
    each = torch.stack([critic(state, action[:, g])[:, g] for g in range(3)], dim=-1)
    torch.testing.assert_close(critic.of_each(state, action), each)


def test_targets_discount_what_follows_unless_nothing_does():
    ac, reward = made(), torch.randn(6)
    ac.rescale(torch.tensor([[1.0, 10.0, 100.0], [3.0, 30.0, 300.0]]), EVERYWHERE[:2])
    for critic in ac.targets:  # what follows is a constant: 2 deviations above the mean
        torch.nn.init.zeros_(critic.head.weight)
        torch.nn.init.constant_(critic.head.bias, 2.0)
    ended = torch.tensor([False, True] * 3)
    target = ac.target(reward, ended, torch.randn(6, 3), noise())
    value = torch.tensor([2.0 + 2 * 1, 20.0 + 2 * 10, 200.0 + 2 * 100])
    expected = reward.unsqueeze(-1) + torch.tensor(GAMMAS) * value * ~ended.unsqueeze(-1)
    torch.testing.assert_close(target, expected)


def test_values_stay_what_they_are_while_their_moments_move():
    ac, state, action = made(), torch.randn(6, 3), torch.randn(6, 2)

    def values():
        scaled = torch.stack([each(state, action) for each in (*ac.critics, *ac.targets)])
        return (ac.mean + ac.moments.std * scaled).detach()

    ac.rescale(10 * torch.randn(6, 3) - 5, EVERYWHERE)
    before, moments = values(), ac.moments.mean.clone()
    ac.rescale(torch.randn(6, 3) * torch.tensor([1.0, 30.0, 900.0]), EVERYWHERE)
    assert not torch.allclose(ac.moments.mean, moments)
    torch.testing.assert_close(values(), before, rtol=1e-4, atol=1e-3)


def test_discounts_count_alike_whatever_their_values_are():
    ac, state, action = made(), torch.randn(6, 3), torch.randn(6, 2)
    target, weight = torch.randn(6, 1) * torch.tensor([1.0, 10.0, 100.0]) + 7, torch.ones(6) / 6
    ac.rescale(target, EVERYWHERE)
    for critic in ac.critics:  # predicts the mean
        torch.nn.init.zeros_(critic.head.weight)
        torch.nn.init.zeros_(critic.head.bias)
    # Each of two critics misses by the variance of its targets, which is 1 if scaled.
    torch.testing.assert_close(ac.critic_loss(state, action, target, weight), torch.tensor(2.0))


def test_the_actor_climbs_its_critics_and_they_do_not_come_to_meet_it():
    ac, weight = made(temperature=0.3), torch.rand(6)
    state = torch.randn(6, 3, requires_grad=True)
    loss, entropy = ac.actor_loss(state, weight, noise())
    parameters = list(ac.actor.parameters())
    found = torch.autograd.grad(loss, [*parameters, state], retain_graph=True)
    critics = torch.autograd.grad(loss, list(ac.critics.parameters()), allow_unused=True)
    assert all(each is None for each in critics)

    # Once more without the shortcut: E[α log π - min Q], with the state of the critics held fixed.
    action, log_prob = ac.policies(state).sample_with_log_prob(noise())
    values = [
        functional_call(each, {n: p.detach() for n, p in each.named_parameters()}, (seen, act))
        for each in ac.critics
        for seen, act in [(state.detach().unsqueeze(1).expand(-1, 3, -1), action)]
    ]
    least = torch.minimum(*(each.diagonal(dim1=1, dim2=2) for each in values))
    direct = (weight * (0.3 * log_prob - least).mean(-1)).sum()
    for ours, theirs in zip(found, torch.autograd.grad(direct, [*parameters, state]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(entropy, -(weight * log_prob[:, -1]).sum().detach())


def test_temperatures_rise_where_a_policy_is_too_sure():
    for wanted, rises in ((1.38, True), (-9.0, False)):
        ac = made(learn_temperature=True, target_entropy=wanted)
        loss, _ = ac.actor_loss(torch.randn(2000, 3), torch.ones(2000) / 2000, noise())
        (slope,) = torch.autograd.grad(loss, ac.log_temperature)
        assert ((slope < 0) == rises).all()


def test_the_last_discounts_policy_acts():
    ac, state = made(), torch.randn(4, 3)
    torch.testing.assert_close(ac.policy(state).mean, ac.policies(state).mean[:, -1])
