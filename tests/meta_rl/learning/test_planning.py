import pytest
import torch

from meta_rl.core.errors import UserError
from meta_rl.learning.planning import (
    Planner,
    PlannerConfig,
    imagined_return,
    moved_on,
    smoothed,
)

CPU = torch.device("cpu")


def linear(state, action):
    """s' = s + a, r = -|s'|²: the best plan goes to 0 with its first step and stays."""
    following = state + action
    return following, -following.pow(2).sum(-1)


def planner(**settings):
    config = PlannerConfig(**{"candidates": 200, "planning_horizon": 3} | settings)
    return Planner(config, 2, torch.Generator().manual_seed(0), CPU), config


@pytest.mark.parametrize(
    "settings",
    [
        {"planner": "mppi", "planning_iterations": 4, "plan_temperature": 0.05},
        {"planner": "cem", "planning_iterations": 8, "elites": 20},
    ],
)
def test_a_plan_in_a_known_linear_model_comes_to_the_best_one(settings):
    tries, config = planner(**settings, plan_smoothness=0.0)
    # The first start is left by one step; the second takes two full ones in its first number.
    obs = torch.tensor([[-0.4, 0.3], [-1.5, 0.0]])
    best = torch.zeros(2, 3, 2)
    best[0, 0] = torch.tensor([0.4, -0.3])
    best[1, :2, 0] = torch.tensor([1.0, 0.5])

    def imagined(actions):
        return imagined_return(linear, obs, actions, config.gamma)

    plan = torch.zeros(2, 3, 2)
    begun = imagined(plan.unsqueeze(1))
    for _ in range(3):  # each step of acting goes on with the plan before it
        plan = tries.improve(plan, imagined)
    reached, optimum = imagined(plan.unsqueeze(1)), imagined(best.unsqueeze(1))
    assert ((optimum - reached) < 0.03 * (optimum - begun)).all()
    assert (plan[:, 0] - best[:, 0]).abs().max() < 0.15


def test_mppi_weighs_candidates_by_their_returns_in_deviations_of_all():
    # Returns 0 and 2 deviate by 1 from their mean; with λ = 2 their weights are 1 : e.
    tries, _ = planner(candidates=2, plan_temperature=2.0)
    shares = tries.shares(torch.tensor([[0.0, 2.0], [0.0, 200.0], [3.0, 3.0]]))
    e = torch.tensor(1.0).exp()
    torch.testing.assert_close(shares[0], torch.stack([1 / (1 + e), e / (1 + e)]))
    torch.testing.assert_close(shares[1], shares[0])  # whatever the unit of rewards
    torch.testing.assert_close(shares[2], torch.tensor([0.5, 0.5]))


def test_worlds_are_planned_for_as_each_would_be_alone():
    tries, _ = planner(planning_iterations=2)
    obs = torch.tensor([[-0.4, 0.3], [1.0, 0.0], [0.2, 0.2]])
    plans = torch.rand(3, 3, 2, generator=torch.Generator().manual_seed(1)) - 0.5

    def improved(rows):
        return tries.improve(plans[rows], lambda a: imagined_return(linear, obs[rows], a, 1.0))

    together = improved([0, 1, 2])
    for row in range(3):
        torch.testing.assert_close(together[row], improved([row])[0])
    assert together.abs().max() <= 1


def test_an_imagined_return_discounts_the_rewards_of_the_states_that_are_reached():
    actions = torch.tensor([[[[1.0], [2.0], [0.0]]]])  # states 1, 3, 3 from 0
    found = imagined_return(linear, torch.zeros(1, 1), actions, gamma=0.5)
    assert found.tolist() == [[-(1 + 0.5 * 9 + 0.25 * 9)]]


def test_smooth_deviations_keep_their_variance_and_correlate_from_step_to_step():
    noise = torch.randn(20_000, 4, 1, generator=torch.Generator().manual_seed(0))
    deviations = smoothed(noise, 0.8).squeeze(-1)
    correlations = torch.corrcoef(deviations.T)
    expected = 0.8 ** (torch.arange(4).unsqueeze(1) - torch.arange(4)).abs()
    torch.testing.assert_close(correlations, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(deviations.std(0), torch.ones(4), atol=0.03, rtol=0)
    assert torch.equal(smoothed(noise, 0.0), noise)


def test_the_plan_before_is_a_candidate_and_moves_on_by_a_step():
    tries, _ = planner()
    assert not tries.deviations[0].any() and tries.deviations[1:].any(-1).all()
    plan = torch.arange(6.0).view(1, 3, 2)
    assert moved_on(plan).tolist() == [[[2, 3], [4, 5], [4, 5]]]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": 1}, "candidates must be at least 2"),
        ({"plan_smoothness": 1.5}, r"plan_smoothness must be in \[0, 1\]"),
        ({"planner": "cem", "candidates": 10, "elites": 11}, "elites must be at most"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PlannerConfig(**settings)
