import numpy as np
import pytest
import torch

from envs.bandits import Config, build, expert
from meta_rl.core.errors import UserError
from meta_rl.core.types import Tasks

CPU = torch.device("cpu")


def bandits_of(*probabilities, first_index=0):
    params = torch.tensor(probabilities, dtype=torch.float64)
    index = torch.arange(len(params)) + first_index
    return Tasks("bandits", ("bandit",) * len(params), index, params)


def pulls(arm, shape, arms):
    return torch.nn.functional.one_hot(torch.full(shape, arm), arms).float()


def play(tasks, copies, seed, choose, horizon):
    """Return (T, M, N) rewards of an env whose arm at step t is `choose(t)`."""
    arms = tasks.params.shape[1]
    env = build(Config(arms=arms, horizon=horizon)).make_env(CPU, 1)
    env.start(tasks, copies, seed)
    shape = len(tasks), copies
    return torch.stack([env.step(pulls(choose(t), shape, arms)).reward for t in range(horizon)])


def test_an_arm_pays_one_or_nothing_as_often_as_its_probability_says():
    rewards = play(bandits_of((0.2, 0.9), (0.5, 0.0)), 500, 0, lambda t: t % 2, horizon=40)

    assert set(rewards.unique().tolist()) == {0.0, 1.0}
    paid = torch.stack([rewards[0::2].mean((0, 2)), rewards[1::2].mean((0, 2))], dim=1)
    # 20 pulls × 500 copies: the standard error is at most sqrt(0.25 / 10000) = 0.005
    torch.testing.assert_close(paid, torch.tensor([[0.2, 0.9], [0.5, 0.0]]), atol=0.02, rtol=0)


def test_pulls_and_copies_are_independent():
    rewards = play(bandits_of((0.5, 0.5)), 2000, 0, lambda t: 0, horizon=20)[:, 0].double()

    along_time = torch.corrcoef(rewards)
    # of 2000 copies: the standard error is 1 / sqrt(2000) = 0.022, and there are 190 pairs
    assert (along_time - torch.eye(20)).abs().max() < 0.1
    neighbours = torch.corrcoef(torch.stack([rewards[:, :-1].flatten(), rewards[:, 1:].flatten()]))
    assert neighbours[0, 1].abs() < 0.02


def test_a_bandit_pays_alike_in_any_company_and_otherwise_with_another_seed_or_index():
    alone = play(bandits_of((0.5, 0.5)), 50, 7, lambda t: 0, horizon=10)
    beside = play(bandits_of((0.5, 0.5), (0.1, 0.2)), 50, 7, lambda t: 0, horizon=10)
    reseeded = play(bandits_of((0.5, 0.5)), 50, 8, lambda t: 0, horizon=10)
    renamed = play(bandits_of((0.5, 0.5), first_index=1), 50, 7, lambda t: 0, horizon=10)

    assert torch.equal(alone[:, 0], beside[:, 0])
    assert not torch.equal(alone, reseeded) and not torch.equal(alone, renamed)
    fewer = play(bandits_of((0.5, 0.5)), 3, 7, lambda t: 0, horizon=10)
    assert torch.equal(alone[:, :, :3], fewer)


def test_a_bandit_that_is_there_twice_pays_otherwise_each_time():
    bandit = bandits_of((0.5, 0.5))
    twice = play(bandit[[0, 0]], 50, 7, lambda t: 0, horizon=10)
    assert torch.equal(twice[:, :1], play(bandit, 50, 7, lambda t: 0, horizon=10))
    streams = twice.transpose(0, 2).flatten(0, 1)  # of 50 copies of each
    assert len(streams.unique(dim=0)) > 90


def test_numbers_that_are_no_probabilities_are_refused():
    with pytest.raises(UserError, match="probabilities of its arms"):
        play(bandits_of((0.5, 1.5)), 1, 0, lambda t: 0, horizon=10)


def test_every_episode_has_all_its_pulls_and_metrics_tell_the_regret():
    env = build(Config(arms=2, horizon=2)).make_env(CPU, 1)
    env.start(bandits_of((0.25, 0.75)), 1, 0)

    worse, better = env.step(pulls(0, (1, 1), 2)), env.step(pulls(1, (1, 1), 2))

    assert (worse.truncated.item(), better.truncated.item()) == (False, True)
    assert not worse.terminated.any() and not better.terminated.any()
    assert (worse.metrics["regret"].item(), better.metrics["regret"].item()) == (0.5, 0.0)
    assert (worse.metrics["best_arm"].item(), better.metrics["best_arm"].item()) == (0.0, 1.0)


def test_probabilities_are_uniform_and_the_observation_says_nothing():
    family = build(Config(arms=3))
    tasks = family.sample(5000, "train", torch.Generator().manual_seed(0))

    for arm in tasks.params.T:
        share = torch.histc(arm, bins=5, min=0, max=1) / len(tasks)
        # the standard error of a fifth's share is sqrt(0.2 * 0.8 / 5000) = 0.006
        torch.testing.assert_close(share, torch.full_like(share, 0.2), atol=0.025, rtol=0)
    assert (family.make_env(CPU, 1).start(tasks, 2, 0) == 1).all()


def test_the_expert_pulls_the_best_arm():
    tasks = bandits_of((0.2, 0.9, 0.3), (0.5, 0.0, 0.1))
    player = expert()

    action = player.act(player.knowledge(tasks), torch.ones(2, 4, 1))

    assert action.argmax(-1).tolist() == [[1] * 4, [0] * 4]


def test_a_picture_has_a_bar_for_each_arm_and_the_last_pulled_one_is_blue():
    env = build(Config(arms=2)).make_env(CPU, 1)
    env.start(bandits_of((0.25, 0.75)), 1, 0)
    env.step(pulls(1, (1, 1), 2))

    picture = env.draw()

    blue = (picture == (65, 105, 225)).all(-1)
    rows, columns = np.nonzero(blue)
    assert columns.min() >= 200 and rows.min() == 100  # the right half; three quarters high


@pytest.mark.parametrize(("name", "least"), [("arms", 2), ("horizon", 1), ("test_tasks", 1)])
def test_a_bad_number_is_a_user_error_that_names_it(name, least):
    with pytest.raises(UserError, match=f"envs.{name} must be at least {least}, got 0"):
        Config(**{name: 0})


def test_more_held_out_bandits_than_there_are_is_a_user_error():
    with pytest.raises(UserError, match=r"5 tasks are more than the 4 test tasks of bandits"):
        build(Config(test_tasks=4)).sample(5, "test", torch.Generator())
