import pytest
import torch

from envs.two_step import Config, better_state, build, stays
from meta_rl.core.errors import UserError
from meta_rl.core.types import Rollout

CPU = torch.device("cpu")


def act(choice):
    """Choices of all worlds, (M, N), as one-hots."""
    return torch.nn.functional.one_hot(choice, 2).float()


def play(policy, copies=50, tasks=20, **settings):
    """Play one episode of some schedules; `policy(t, state, last)` chooses in the first state.

    `last` is the choice, the second state and the reward of the trial before.
    """
    family = build(Config(**settings))
    drawn = family.sample(tasks, "train", torch.Generator().manual_seed(0))
    env = family.make_env(CPU, 1)
    obs = env.start(drawn, copies, seed=0)
    none = torch.zeros(tasks, copies, dtype=torch.long)
    choice, columns, first = none, [], torch.ones(tasks, copies, dtype=torch.bool)
    second, reward = none, none.float()
    for t in range(family.spec.horizon):
        if t % 2 == 0:
            choice = policy(t // 2, choice, second, reward)
        action = act(choice)
        step = env.step(action)
        columns.append((obs, action, step.reward, first, step))
        if t % 2 == 0:
            second = step.next_obs.argmax(-1) - 1
        else:
            reward = step.reward
        first = step.terminated | step.truncated
        obs = env.reset_ended()
    return rollout_of(columns)


def rollout_of(columns):
    obs, action, reward, first, steps = zip(*columns, strict=True)
    no_one = torch.zeros_like(torch.stack(first))
    return Rollout(
        obs=torch.stack(obs),
        prev_action=torch.stack(action),
        prev_reward=torch.stack(reward),
        first=torch.stack(first),
        valid=~no_one,
        action=torch.stack(action),
        log_prob=torch.stack(reward),
        reward=torch.stack(reward),
        terminated=no_one,
        truncated=torch.stack([step.truncated for step in steps]),
        next_obs=torch.stack([step.next_obs for step in steps]),
        metrics={"good_choice": torch.stack([step.metrics["good_choice"] for step in steps])},
    )


def always(choice):
    return lambda t, last, second, reward: torch.full_like(last, choice)


def repeat_if_rewarded(t, last, second, reward):
    return torch.where(reward > 0, last, 1 - last)


def plan(t, last, second, reward):
    """Go where the last reward was, or away from where there was none."""
    return torch.where(reward > 0, second, 1 - second)


def test_a_choice_commonly_leads_to_its_own_state_and_only_the_second_states_pay():
    rollout = play(always(1), horizon=100)

    state = rollout.obs.argmax(-1)
    assert (state[0::2] == 0).all() and (state[1::2] > 0).all()
    assert (rollout.reward[0::2] == 0).all()
    # 50 trials × 1000 worlds: the standard error is sqrt(0.8 * 0.2 / 50000) = 0.002
    assert abs((state[1::2] == 2).float().mean() - 0.8) < 0.01


def test_the_better_state_pays_with_the_probability_high_and_the_other_with_the_rest():
    rollout = play(always(0), horizon=100, swap=0.0, high=0.7)

    second = rollout.obs[1::2].argmax(-1) - 1
    good = rollout.metrics["good_choice"][0::2] > 0  # choice 0 is good: the better state is 0
    in_better = torch.where(good, second == 0, second == 1)
    assert abs(rollout.reward[1::2][in_better].mean() - 0.7) < 0.02
    assert abs(rollout.reward[1::2][~in_better].mean() - 0.3) < 0.02


def test_swaps_come_as_often_as_their_probability_says():
    schedule = torch.rand(500, 100, generator=torch.Generator().manual_seed(0)).double()

    better = better_state(schedule, swap=0.025)

    swapped = (better[:, 1:] != better[:, :-1]).float()
    assert abs(swapped.mean() - 0.025) < 0.003  # the standard error is 0.0007
    assert abs(better[:, 0].float().mean() - 0.5) < 0.07
    assert better_state(torch.tensor([[0.1, 0.9, 0.01, 0.5]]).double(), 0.025).tolist() == [
        [1, 1, 0, 0]
    ]


def test_planning_has_a_model_based_index_and_repeating_what_was_rewarded_has_none():
    planned = stays(play(plan))
    repeated = stays(play(repeat_if_rewarded))

    # The planner stays after a common reward or a rare loss, and only then: 1 - 0 - (0 - 1).
    torch.testing.assert_close(planned.probability, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert planned.model_based_index == 2 and planned.model_free_index == 0
    torch.testing.assert_close(repeated.probability, torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    assert repeated.model_based_index == 0 and repeated.model_free_index == 1


def test_stays_are_not_counted_across_episodes():
    rollout = play(always(0), copies=1, tasks=2, horizon=6)
    again = Rollout.concatenate([rollout, rollout])

    assert stays(rollout).trials.sum() == 2 * 2
    assert stays(again).trials.sum() == 2 * stays(rollout).trials.sum()


def test_planning_earns_more_than_any_fixed_choice():
    earned = {
        name: play(policy).reward.sum(0).mean().item()
        for name, policy in {"plan": plan, "fixed": always(0)}.items()
    }

    # Over all schedules a fixed choice earns half; 0.9 * 0.8 + 0.1 * 0.2 = 0.74 is the most.
    assert 45 < earned["fixed"] < 55 and 60 < earned["plan"] < 74


@pytest.mark.parametrize("horizon", [0, 3])
def test_an_odd_horizon_is_a_user_error(horizon):
    with pytest.raises(UserError, match=f"must be even and at least 2, got {horizon}"):
        Config(horizon=horizon)


def test_a_probability_beyond_one_is_a_user_error():
    with pytest.raises(UserError, match=r"envs\.common must be in \[0, 1\], got 1\.5"):
        Config(common=1.5)
    with pytest.raises(UserError, match=r"envs\.high must be in \[0\.5, 1\], got 0\.2"):
        Config(high=0.2)  # the better state would be the worse
