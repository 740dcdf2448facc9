from dataclasses import replace

import pytest
import torch

from envs.t_maze import BACK, DOWN, FORTH, UP, Config, build, expert, goal_side
from meta_rl.core.errors import UserError

CPU = torch.device("cpu")
CORRIDOR = 4
TASKS, COPIES = 6, 2


def play(moves):
    """Play whole episodes of some mazes; `moves(t, obs, tasks)` gives the moves of all worlds."""
    family = build(Config(horizon=CORRIDOR + 1))
    tasks = family.sample(TASKS, "train", torch.Generator().manual_seed(0))
    env = family.make_env(CPU, 1)
    obs, rewards = [env.start(tasks, COPIES, seed=0)], []
    for t in range(family.spec.horizon):
        move = moves(t, obs[-1], tasks)
        action = move if move.dim() == 3 else torch.nn.functional.one_hot(move, 4).float()
        step = env.step(action)
        rewards.append(step.reward)
        assert torch.equal(step.metrics["success"], (step.reward == 1).float())
        assert step.truncated.all() == (t == CORRIDOR) and not step.terminated.any()
        obs.append(step.next_obs)
    sides = goal_side(tasks.params)
    assert len(sides.unique()) == 2
    return torch.stack(obs), torch.stack(rewards), sides, env


def always(*moves):
    return lambda t, obs, tasks: torch.full(obs.shape[:2], moves[min(t, len(moves) - 1)])


def test_the_sign_shows_the_goal_at_the_first_step_alone():
    obs, _, sides, env = play(always(FORTH))

    assert torch.equal(obs[0, :, :, 1], sides.float().unsqueeze(1).expand(-1, COPIES))
    assert not obs[1:, :, :, 1].any()  # nor at the junction
    assert not obs[:CORRIDOR, ..., 0].any() and obs[CORRIDOR:, ..., 0].all()
    assert torch.equal(env.reset_ended(), obs[0])


def test_the_guide_earns_one_and_who_guesses_earns_it_in_half_of_the_mazes():
    guide = expert()
    _, led, *_ = play(lambda t, obs, tasks: guide.act(guide.knowledge(tasks), obs))
    _, guessed, sides, _ = play(always(*[FORTH] * CORRIDOR, UP))

    assert (led.sum(0) == 1).all()
    assert torch.equal(guessed.sum(0) == 1, (sides == 1).unsqueeze(1).expand(-1, COPIES))
    assert (guessed.sum(0)[sides == -1] == 0).all()


def test_there_are_two_mazes_whatever_the_split_and_others_are_refused():
    family = build(Config(horizon=CORRIDOR + 1))
    for split in ("train", "validation", "test"):
        assert goal_side(family.tasks(split).params).tolist() == [1, -1]
    drawn = family.sample(5, "train", torch.Generator().manual_seed(0))
    assert abs(int(goal_side(drawn.params).sum())) == 1
    env = family.make_env(CPU, 1)
    with pytest.raises(UserError, match=r"a maze must be given by 1 .* or -1 .*, got \[\[0.4\]\]"):
        env.start(replace(drawn[[0]], params=torch.tensor([[0.4]], dtype=torch.float64)), 1, 0)


def test_who_falls_behind_pays_until_the_last_step():
    _, rewards, *_ = play(always(FORTH, BACK, FORTH))

    # One step forth and one back: from the second step on it is behind, -1/4 each of 3 steps.
    assert (rewards.sum(0) == -3 / CORRIDOR).all()
    assert (rewards[1:CORRIDOR] == -1 / CORRIDOR).all() and not rewards[CORRIDOR].any()


def test_there_are_walls_along_the_corridor_and_beside_the_goals():
    obs, rewards, *_ = play(always(UP, DOWN, BACK, UP))

    assert torch.equal(obs[1:], torch.zeros_like(obs[1:]))
    assert (rewards.sum(0) == -1).all()  # behind at each of 4 steps
