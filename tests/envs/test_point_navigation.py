import pytest
import torch

from envs.point_navigation import Config, PointNavigation, build
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import TaskDistribution, TaskEnv
from meta_rl.core.types import Tasks

CPU = torch.device("cpu")


def goals(*positions):
    params = torch.tensor(positions, dtype=torch.float64)
    index = torch.arange(len(positions))
    return Tasks("point_navigation", ("point",) * len(positions), index, params)


def start(tasks, copies=1, **settings):
    env = build(Config(**settings)).make_env(CPU, 1)
    return env, env.start(tasks, copies, seed=0)


def act(*action):
    """One action for one copy of one task."""
    return torch.tensor(action).view(1, 1, 2)


def test_the_family_and_its_simulator_keep_the_protocols():
    assert isinstance(build(Config()), TaskDistribution)
    assert isinstance(build(Config()).make_env(CPU, 1), TaskEnv)


def test_the_reward_is_minus_the_distance_to_the_goal_after_the_move():
    env, obs = start(goals((0.3, 0.4), (0.0, -0.5)))
    assert (obs == 0).all()

    step = env.step(torch.tensor([[[0.0, 0.0]], [[0.0, 1.0]]]))

    torch.testing.assert_close(step.reward, torch.tensor([[-0.5], [-0.6]]))  # 0.1 off the wrong way
    assert not step.terminated.any() and not step.truncated.any()


def test_the_squared_option_rewards_minus_the_squared_distance():
    env, _ = start(goals((0.3, 0.4)), reward="squared")

    assert env.step(act(0.0, 0.0)).reward.item() == pytest.approx(-0.25)


def test_the_sparse_option_rewards_what_is_near_the_goal_and_goes_on_there():
    env, _ = start(goals((0.3, 0.0)), reward="sparse", horizon=4)

    steps = [env.step(act(1.0, 0.0)) for _ in range(4)]

    near = torch.tensor([0.0, 0.9, 1.0, 0.9])  # 0.2 m off, 0.1, none, and beyond it
    torch.testing.assert_close(torch.stack([step.reward for step in steps]).view(4), near)
    assert [step.metrics["success"].item() for step in steps] == [0.0, 1.0, 1.0, 1.0]
    assert not any(step.terminated.any() for step in steps) and steps[-1].truncated.all()


def test_actions_are_clipped_and_scaled_to_a_tenth_of_a_metre():
    env, _ = start(goals((0.5, 0.5)))

    step = env.step(act(0.5, -7.0))
    torch.testing.assert_close(step.next_obs, act(0.05, -0.1))
    torch.testing.assert_close(env.reset_ended(), act(0.05, -0.1))
    torch.testing.assert_close(env.step(act(1.5, 0.0)).next_obs, act(0.15, -0.1))


def test_copies_of_one_task_share_its_goal_and_move_on_their_own():
    env, obs = start(goals((0.5, 0.0), (0.0, 0.5)), copies=3)
    assert obs.shape == (2, 3, 2)

    step = env.step(torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]]).expand(2, 3, 2))

    torch.testing.assert_close(step.reward[0], torch.tensor([-0.4, -0.5, -0.6]))


def test_an_episode_ends_only_within_a_centimetre_in_both_coordinates():
    for offset, reached in {
        (0.009, 0.009): True,  # farther than 0.01 m, yet near in both coordinates
        (-0.009, 0.0): True,
        (0.011, 0.0): False,
        (0.0, -0.011): False,
    }.items():
        env, _ = start(goals((0.1 + offset[0], offset[1])))

        step = env.step(act(1.0, 0.0))

        assert step.terminated.item() is reached
        assert step.metrics["success"].item() == reached
        assert not step.truncated.item()


def test_the_horizon_truncates_and_an_ended_episode_alone_begins_anew():
    env, _ = start(goals((0.1, 0.0), (0.5, 0.5)), horizon=2)
    right = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])

    step = env.step(right)  # the first task's goal
    assert step.terminated.tolist() == [[True], [False]] and not step.truncated.any()
    torch.testing.assert_close(step.next_obs[:, 0, 0], torch.tensor([0.1, 0.1]))
    torch.testing.assert_close(env.reset_ended()[:, 0, 0], torch.tensor([0.0, 0.1]))

    step = env.step(-right)  # the first task's second episode is one step old, and off the goal
    assert step.truncated.tolist() == [[False], [True]] and not step.terminated.any()
    torch.testing.assert_close(env.reset_ended()[:, 0, 0], torch.tensor([-0.1, 0.0]))
    assert env.step(-right).truncated.tolist() == [[True], [False]]


def test_the_goal_reached_at_the_horizon_is_a_termination():
    env, _ = start(goals((0.1, 0.0)), horizon=1)

    step = env.step(act(1.0, 0.0))

    assert step.terminated.item() and not step.truncated.item()


def test_the_simulator_starts_anew_whatever_it_did_before():
    env, _ = start(goals((0.5, 0.5)), horizon=3)
    for _ in range(2):
        env.step(act(1.0, 1.0))

    assert (env.start(goals((0.2, 0.2)), 2, seed=1) == 0).all()
    for truncated in (False, False, True):
        assert (env.step(torch.zeros(1, 2, 2)).truncated == truncated).all()


def test_held_out_goals_are_fixed_by_goal_seed_and_not_by_the_run():
    family = build(Config(test_goals=10))
    torch.manual_seed(1)
    held_out = family.tasks("test")

    torch.manual_seed(2)
    assert torch.equal(build(Config(test_goals=10)).tasks("test").params, held_out.params)
    other = build(Config(test_goals=10, goal_seed=1)).tasks("test")
    assert not torch.equal(other.params, held_out.params)
    for seed in (0, 1):
        drawn = family.sample(4, "test", torch.Generator().manual_seed(seed))
        assert len(set(drawn.index.tolist())) == 4
        assert torch.equal(drawn.params, held_out.params[drawn.index])


def test_a_goal_keeps_its_index_and_other_goals_have_others():
    family = build(Config(test_goals=3, validation_goals=2))
    generator = torch.Generator().manual_seed(0)
    draws = [family.sample(500, "train", generator) for _ in range(4)]

    indices = [index for tasks in draws for index in tasks.index.tolist()]
    assert len(set(indices)) == 2000  # over all draws of a run, not only within one
    assert min(indices) >= 8 and max(indices) < 2**53  # above the splits, exact in JSON
    again = family.sample(500, "train", torch.Generator().manual_seed(0))
    assert torch.equal(again.index, draws[0].index)
    fixed = [family.tasks(split).index.tolist() for split in ("test", "train", "validation")]
    assert fixed == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_train_goals_are_uniform_in_the_square():
    tasks = build(Config()).sample(20_000, "train", torch.Generator().manual_seed(0))

    assert tasks.params.abs().max() <= 0.5
    for coordinate in tasks.params.T:
        share = torch.histc(coordinate, bins=10, min=-0.5, max=0.5) / len(tasks)
        # The standard error of a tenth's share is sqrt(0.1 * 0.9 / 20000) = 0.002.
        torch.testing.assert_close(share, torch.full_like(share, 0.1), atol=0.01, rtol=0)
    assert torch.corrcoef(tasks.params.T)[0, 1].abs() < 0.03


def test_train_goals_differ_between_draws_and_follow_the_generator():
    family = build(Config())
    generator = torch.Generator().manual_seed(0)

    first, second = (family.sample(5, "train", generator).params for _ in range(2))

    again = family.sample(5, "train", torch.Generator().manual_seed(0)).params
    assert torch.equal(first, again)
    assert not set(map(tuple, first.tolist())) & set(map(tuple, second.tolist()))


def test_the_spec_and_the_protocol_say_what_the_config_says():
    family = PointNavigation(Config(horizon=7, goal_seed=3))

    assert (family.spec.observation_size, family.spec.action_size) == (2, 2)
    assert family.spec.horizon == family.protocol()["horizon"] == 7
    assert family.protocol()["goal_seed"] == 3


@pytest.mark.parametrize("name", ["horizon", "test_goals"])
def test_a_bad_number_is_a_user_error_that_names_it(name):
    with pytest.raises(UserError, match=f"envs.{name} must be at least 1, got 0"):
        Config(**{name: 0})


def test_an_unknown_reward_is_a_user_error_that_names_the_known_ones():
    config = Config()
    object.__setattr__(config, "reward", "cubed")  # the tests' shape checks let no one give it

    with pytest.raises(UserError, match="must be distance, squared or sparse, got 'cubed'"):
        config.__post_init__()


def test_more_held_out_goals_than_there_are_is_a_user_error():
    with pytest.raises(UserError, match="5 tasks are more than the 4 test goals"):
        build(Config(test_goals=4)).sample(5, "test", torch.Generator())
    with pytest.raises(UserError, match=r"ask for fewer or raise envs\.validation_goals"):
        build(Config(validation_goals=4)).sample(5, "validation", torch.Generator())
