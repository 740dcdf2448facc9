import numpy as np
import torch
from gymnasium.spaces import Box
from stable_baselines3.common.buffers import RolloutBuffer

from meta_rl.core.episodes import episode_step, episode_sums
from meta_rl.core.types import Rollout
from meta_rl.learning.returns import discounted_return, gae

GAMMA, LAMBDA = 0.9, 0.8


def column(*values):
    """One world's steps along time."""
    return torch.tensor(values).unsqueeze(1)


def sb3_advantage(reward, value, last_value, done):
    """The advantages of stable-baselines3, which knows one kind of episode end."""
    steps, worlds = reward.shape
    space = Box(-1, 1, (1,))
    buffer = RolloutBuffer(steps, space, space, "cpu", LAMBDA, GAMMA, n_envs=worlds)
    buffer.rewards, buffer.values = reward.numpy(), value.numpy()
    # An episode starts where the step before was done.
    buffer.episode_starts[1:] = done[:-1].float().numpy()
    buffer.compute_returns_and_advantage(last_value, done[-1].numpy().astype(np.float64))
    return torch.from_numpy(buffer.advantages)


def worlds_with_ends(seed, steps=12, worlds=5):
    """Random rewards, values and successors' values, with an episode end at one step of four."""
    generator = torch.Generator().manual_seed(seed)
    reward, value = torch.randn(2, steps, worlds, generator=generator)
    last_value = torch.randn(worlds, generator=generator)
    end = torch.rand(steps, worlds, generator=generator) < 0.25
    next_value = torch.cat([value[1:], last_value.unsqueeze(0)])
    return reward, value, last_value, next_value, end


def test_a_time_limit_keeps_the_bootstrap_and_a_failure_drops_it():
    reward, value = torch.tensor([[1.0, 1.0]]), torch.zeros(1, 2)
    next_value = torch.tensor([[10.0, 10.0]])
    failed, timed_out = torch.tensor([[True, False]]), torch.tensor([[False, True]])

    advantage = gae(reward, value, next_value, failed, timed_out, GAMMA, LAMBDA)

    torch.testing.assert_close(advantage, torch.tensor([[1.0, 10.0]]))  # 1, and 1 + 0.9 * 10


def test_an_advantage_is_the_discounted_sum_of_later_residuals_within_its_episode():
    reward, value = column(1.0, 2.0, 3.0), column(0.5, 1.0, 2.0)
    next_value = column(1.0, 4.0, 5.0)  # 4: the true successor, which the reset left behind
    truncated = column(False, True, False)

    advantage = gae(reward, value, next_value, truncated & False, truncated, GAMMA, LAMBDA)

    # δ = 1 + 0.9·1 - 0.5, 2 + 0.9·4 - 1, 3 + 0.9·5 - 2; the first episode has the first two.
    expected = column(1.4 + 0.72 * 4.6, 4.6, 5.5)
    torch.testing.assert_close(advantage, expected)


def test_advantages_equal_those_of_stable_baselines3():
    reward, value, last_value, next_value, terminated = worlds_with_ends(seed=0)

    advantage = gae(reward, value, next_value, terminated, terminated & False, GAMMA, LAMBDA)

    assert terminated.any() and not terminated.all()
    torch.testing.assert_close(advantage, sb3_advantage(reward, value, last_value, terminated))


def test_a_truncation_equals_an_end_whose_reward_includes_the_discounted_next_value():
    # So does stable-baselines3 treat `TimeLimit.truncated` when it collects.
    reward, value, last_value, next_value, end = worlds_with_ends(seed=1)
    truncated = end & (torch.arange(5) % 2 == 0)
    terminated = end & ~truncated

    advantage = gae(reward, value, next_value, terminated, truncated, GAMMA, LAMBDA)

    assert truncated.any() and terminated.any()
    with_future = reward + GAMMA * next_value * truncated
    torch.testing.assert_close(advantage, sb3_advantage(with_future, value, last_value, end))


def test_with_lambda_one_advantage_plus_value_is_the_discounted_return():
    reward, value, _, next_value, end = worlds_with_ends(seed=2)
    end[-1] = True

    advantage = gae(reward, value, next_value, end, end & False, GAMMA, lambda_=1.0)

    torch.testing.assert_close(advantage + value, discounted_return(reward, end, GAMMA))


def test_a_discounted_return_stops_at_the_end_of_its_episode():
    reward, last = column(1.0, 2.0, 3.0, 4.0), column(False, True, False, True)

    returns = discounted_return(reward, last, gamma=0.5)

    torch.testing.assert_close(returns, column(1 + 0.5 * 2, 2.0, 3 + 0.5 * 4, 4.0))


def test_the_episode_step_counts_from_the_first_step_of_each_world_s_episode():
    first = torch.tensor([[True, True], [False, False], [True, False], [False, False]])

    step = episode_step(first)

    assert step.tolist() == [[0, 0], [1, 1], [0, 2], [1, 3]]
    assert episode_step(first.view(4, 2, 1)).squeeze(-1).tolist() == step.tolist()


def test_episode_sums_add_each_episode_and_leave_padding_out():
    first = column(True, False, True, False, True).unsqueeze(-1)  # the fifth step is padding
    first = torch.cat([first, torch.tensor([1, 0, 0, 1, 0]).view(5, 1, 1).bool()], dim=2)
    valid = torch.ones(5, 1, 2, dtype=torch.bool)
    valid[4, 0, 0] = False
    reward = torch.tensor([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [8.0, 80.0], [16.0, 160.0]])
    reward = reward.view(5, 1, 2)
    obs, action = torch.zeros(5, 1, 2, 3), torch.zeros(5, 1, 2, 1)
    rollout = Rollout(
        obs=obs,
        prev_action=action,
        prev_reward=reward,
        first=first,
        valid=valid,
        action=action,
        log_prob=reward,
        reward=reward,
        terminated=valid & False,
        truncated=valid & False,
        next_obs=obs,
        metrics={},
    )

    sums = episode_sums(rollout, reward, episodes=2)

    assert sums.tolist() == [[[3.0, 70.0]], [[12.0, 240.0]]]  # 1 + 2, 10 + 20 + 40; 4 + 8, ...
