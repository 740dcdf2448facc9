"""E-MAML's term, on bandits whose expected return after adaptation is a sum over all that may be.

Episodes of T steps choose one of two arms at each; what they earn is added up. Two tasks differ by
what the arms earn. The policy is two logits, and an inner step ascends the rewards to go.
"""

from dataclasses import replace
from itertools import product
from math import inf

import pytest
import torch
from cases import quick
from derivatives import gradient_of, task_loss
from gymnasium.spaces import Box, Discrete

from agents import maml_ppo, maml_trpo, promp
from meta_rl.core.errors import UserError
from meta_rl.core.types import EnvSpec, MetaBatch, Rollout, Task, Tasks, map_tensors
from meta_rl.learning.exploration import beyond_other_tasks

CPU = torch.device("cpu")
ALPHA = 0.7
EARNED = torch.tensor([[1.0, 0.0], [-0.5, 2.0]], dtype=torch.float64)
"""Of each task's arms."""
TASKS = Tasks.stack([Task("bandit", "two arms", m, (0.0,)) for m in range(2)])
SHAPES = [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
"""Copies N, steps T and inner steps K."""


def bandit(algorithm, steps, adaptation_steps, **settings):
    """The agent, in double precision, with logits that differ."""
    spec = EnvSpec(Box(-1, 1, (1,)), Discrete(2), steps)
    settings |= {"adaptation_steps": adaptation_steps, "inner_lr": ALPHA, "gamma": 1.0}
    config = algorithm.Config(hidden_sizes=(), normalize_advantage=False, **settings)
    agent = algorithm.build(config, spec, CPU, 0)
    agent.theta = {
        "layers.0.weight": torch.zeros(2, 1, dtype=torch.float64),
        "layers.0.bias": torch.tensor([0.2, -0.3], dtype=torch.float64),
    }
    return agent


def to_go(reward):
    """(T, ...), the sum of the rewards from each step on."""
    return reward.flip(0).cumsum(0).flip(0)


def expected_return(logits, earned, copies, steps, inner_steps):
    """J(θ) of one task: over all choices before adaptation, of what follows from them."""
    log_prob = logits.log_softmax(0)
    if inner_steps == 0:
        return steps * (log_prob.exp() * earned).sum()
    total = 0.0
    for chosen in product(range(2), repeat=steps * copies):
        arm = torch.tensor(chosen).view(steps, copies)
        likelihood = log_prob[arm].sum().exp()
        score = torch.eye(2, dtype=torch.float64)[arm] - log_prob.exp()  # of softmax's logits
        ascent = (score * to_go(earned[arm]).unsqueeze(-1)).mean((0, 1))
        after = logits + ALPHA * ascent
        total = total + likelihood * expected_return(after, earned, copies, steps, inner_steps - 1)
    return total


def rollout(arm):
    """What tasks earned by choosing arms (T, M, N); the two tasks take turns along M."""
    steps, no = len(arm), torch.zeros(arm.shape, dtype=torch.bool)
    zero, zeros = torch.zeros(arm.shape).double(), torch.zeros(*arm.shape, 1).double()
    time = torch.arange(steps).view(-1, 1, 1).expand(arm.shape)
    action = torch.nn.functional.one_hot(arm, 2).double()
    reward = EARNED[torch.arange(arm.shape[1]).view(1, -1, 1) % 2, arm]
    nothing, last = torch.zeros_like(action), time == steps - 1
    seen = (zeros, nothing, zero, time == 0, ~no)
    return Rollout(*seen, action, zero, reward, no, last, zeros, metrics={})


def everything(agent, copies, steps):
    """One view of all meta-batches of two tasks that there may be, each as likely as it is."""
    stages = len(agent.phases)
    chosen = torch.tensor(list(product(range(2), repeat=stages * steps * 2 * copies)))
    arms = chosen.view(-1, stages, steps, 2, copies).permute(1, 2, 0, 3, 4).flatten(2, 3)
    rollouts = tuple(map(rollout, arms))
    seen = agent.stages(MetaBatch(TASKS[[0, 1] * len(chosen)], rollouts))
    advantages = [to_go(played.reward).movedim(1, 0).flatten(1) for played in rollouts]
    episodes = [
        replace(samples, advantage=advantage)  # without a baseline, which those few would bias
        for samples, advantage in zip(seen.episodes, advantages, strict=True)
    ]
    policies = replace(seen, episodes=episodes).acting_policies(agent.theta, seen.all)
    log_prob = [policies[k].log_prob(each.action) for k, each in enumerate(episodes)]
    episodes = [
        replace(samples, log_prob=each) for samples, each in zip(episodes, log_prob, strict=True)
    ]
    of_task = sum(each.sum(1) for each in log_prob)
    share = (of_task.view(-1, 2).sum(1).exp() * len(chosen)).repeat_interleave(2)
    episodes[-1] = replace(episodes[-1], weight=episodes[-1].weight * share.unsqueeze(1))
    credits = [
        agent.credit(tuple(map_tensors(lambda x, at=at: x[:, at : at + 2], r) for r in rollouts))
        for at in range(0, 2 * len(chosen), 2)
    ]
    credit = {k: share * torch.cat([each[k] for each in credits]) for k in seen.credit}
    return replace(seen, episodes=episodes, credit=credit)


@pytest.mark.parametrize(
    "algorithm",
    quick([maml_trpo, maml_ppo, promp], [maml_trpo, promp]),
    ids=lambda each: each.__name__,
)
@pytest.mark.parametrize(("copies", "steps", "inner_steps"), SHAPES)
def test_with_the_term_the_meta_gradient_is_that_of_the_whole_expected_return(
    algorithm, copies, steps, inner_steps
):
    agent = bandit(algorithm, steps, inner_steps, exploration_weight=1.0)
    without = bandit(algorithm, steps, inner_steps)
    stages = everything(agent, copies, steps)

    def expected(theta):
        each = [
            expected_return(theta["layers.0.bias"], earned, copies, steps, inner_steps)
            for earned in EARNED
        ]
        return sum(each) / len(each) / steps  # objectives are means over steps

    def estimated(agent, stages):
        loss = task_loss(agent, stages)
        return -gradient_of(lambda theta: loss(theta, None)[0], agent.theta)["layers.0.bias"]

    exact = gradient_of(expected, agent.theta)["layers.0.bias"]
    torch.testing.assert_close(estimated(agent, stages), exact, rtol=1e-5, atol=1e-7)
    unaware = estimated(without, replace(stages, inner=without.inner, credit={}))
    assert (unaware - exact).norm() > 0.02 * exact.norm()  # ProMP comes near by its curvature


def test_normalized_credit_is_on_the_scale_of_advantages_and_counts_later_stages_alone():
    settings = {"adaptation_steps": 2, "multi_step_updates": 4, "before_weight": 0.2}
    agent = maml_ppo.build(
        maml_ppo.Config(exploration_weight=0.3, gamma=1.0, **settings),
        EnvSpec(Box(-1, 1, (1,)), Discrete(2), 3),
        CPU,
        0,
    )
    generator = torch.Generator().manual_seed(0)
    arms = torch.randint(2, (3, 3, 20, 4), generator=generator)
    stages = agent.stages(MetaBatch(TASKS[[0, 1] * 10], tuple(map(rollout, arms))))

    gain = [rollout(each).reward.sum(0).mean(1) for each in arms]
    first, second = ((each - each.mean()) / each.std(correction=0) for each in gain[1:])
    torch.testing.assert_close(stages.credit[1], 0.4 * second)
    torch.testing.assert_close(stages.credit[0], 0.4 * first + 0.4 * second)
    # Weights of 0.2 + 0.3, 0.4 + 0.3 and 0.4: of divergences it is their mean that is limited.
    assert stages.counted == pytest.approx({0: 0.5 / 1.6, 1: 0.7 / 1.6, 2: 0.4 / 1.6})


def test_tasks_that_earn_the_same_are_credited_with_nothing():
    # The mean of ten times 1.1 is not 1.1 in single precision: normalized, that would be -0.9.
    same = torch.full((10,), 1.1)
    assert same.mean() != same[0]
    for normalized in (True, False):
        assert torch.equal(beyond_other_tasks(same, normalized), torch.zeros(10))


def test_without_a_weight_there_is_no_credit():
    for algorithm in (maml_trpo, promp):
        agent = bandit(algorithm, 1, 1)
        arms = torch.tensor([[[0], [1]]])
        stages = agent.stages(MetaBatch(TASKS, (rollout(arms), rollout(arms))))
        assert stages.credit == {} and stages.counted == stages.weights == {1: 1.0}
    with pytest.raises(UserError, match=r"agent\.exploration_weight must be at least 0, got -1"):
        maml_trpo.Config(exploration_weight=-1.0)
    with pytest.raises(UserError, match=r"agent\.exploration_weight must be finite, got inf"):
        maml_trpo.Config(exploration_weight=inf)
