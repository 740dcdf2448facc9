import numpy as np
import pytest
import torch

from meta_rl.learning import baseline
from meta_rl.learning.baseline import (
    baseline_advantage,
    features,
    fit,
    normalize_by_task,
    predict,
    returns_vary,
)
from meta_rl.learning.returns import discounted_return

CLOCK = torch.arange(30).repeat(2, 2)  # two episodes of 30 steps for each of two tasks
RIDGE_ERROR = 2e-3
"""Within 30 steps the cubic of time is nearly a sum of its lower powers, which the ridge blurs."""


def random_steps(seed=0):
    """Features of 60 steps of two tasks, and for each task its own weights."""
    generator = torch.Generator().manual_seed(seed)
    phi = features(torch.randn(2, 60, 3, generator=generator), CLOCK)
    return phi, torch.randn(2, phi.shape[-1], generator=generator, dtype=torch.float64)


def all_true(*shape):
    return torch.ones(*shape, dtype=torch.bool)


def single_steps(reward, terminated):
    """One task whose copies play episodes of one step, all from the origin to (1,)."""
    shape = (1, 1, len(reward))
    terminated = torch.tensor(terminated).view(shape)
    return {
        "obs": torch.zeros(*shape, 1),
        "next_obs": torch.ones(*shape, 1),
        "step": torch.zeros(shape, dtype=torch.long),
        "reward": torch.tensor(reward).view(shape),
        "terminated": terminated,
        "truncated": ~terminated,
        "valid": all_true(*shape),
        "gamma": 0.9,
        "lambda_": 1.0,
    }


def test_features_are_the_state_its_square_and_a_cubic_in_time():
    phi = features(torch.tensor([[[3.0, -20.0]]]), torch.tensor([[50]]))

    assert phi.tolist() == [[[3.0, -10.0, 9.0, 100.0, 0.5, 0.25, 0.125, 1.0]]]


def test_returns_that_are_linear_in_the_features_are_recovered_for_each_task():
    phi, weights = random_steps()
    target = (phi @ weights.unsqueeze(-1)).squeeze(-1).float()

    fitted = predict(phi, fit(phi, target, all_true(2, 60)))

    assert target.std() > 1
    torch.testing.assert_close(fitted, target, atol=RIDGE_ERROR, rtol=0)


def test_the_fit_of_one_task_does_not_depend_on_the_others():
    phi, weights = random_steps()
    target = (phi @ weights.unsqueeze(-1)).squeeze(-1).float()
    other = target.clone()
    other[1] += 100

    one, both = fit(phi, other, all_true(2, 60)), fit(phi, target, all_true(2, 60))

    assert torch.equal(one[0], both[0])
    assert not torch.allclose(one[1], both[1])


def test_padding_has_no_influence_on_the_fit():
    phi, weights = random_steps()
    target = (phi @ weights.unsqueeze(-1)).squeeze(-1).float()
    valid = all_true(2, 60)
    valid[:, 50:] = False
    rubbish = target.clone()
    rubbish[:, 50:] = 1e6

    padded = fit(phi, rubbish, valid)

    torch.testing.assert_close(padded, fit(phi[:, :50], target[:, :50], valid[:, :50]))


def test_rewards_that_are_not_finite_do_not_raise_and_stay_within_their_task():
    phi, weights = random_steps()
    target = (phi @ weights.unsqueeze(-1)).squeeze(-1).float()
    for rubbish in (torch.nan, torch.inf):
        broken = target.clone()
        broken[1, 7] = rubbish

        fitted = predict(phi, fit(phi, broken, all_true(2, 60)))

        assert not torch.isfinite(fitted[1]).any()
        torch.testing.assert_close(fitted[0], target[0], atol=RIDGE_ERROR, rtol=0)


def test_observations_that_are_not_finite_do_not_raise():
    phi = features(torch.full((2, 60, 3), torch.nan), CLOCK)

    weights = fit(phi, torch.ones(2, 60), all_true(2, 60))

    assert torch.isnan(weights).all()


@pytest.mark.parametrize("bootstrap", [False, True])
def test_a_whole_advantage_with_rewards_that_are_not_finite_does_not_raise(bootstrap):
    steps = single_steps([1.0, torch.nan], [True, False])

    advantage = baseline_advantage(**steps, bootstrap_at_horizon=bootstrap)

    assert not torch.isfinite(advantage).all()


def test_the_time_limit_ends_the_return_unless_it_is_bootstrapped():
    # From one state at one time, only the constant feature differs from 0: the baseline is the
    # mean return, 2, everywhere. The ridge moves it by a factor 2 / (2 + 1e-5).
    steps = single_steps([1.0, 3.0], [False, True])

    ended = baseline_advantage(**steps, bootstrap_at_horizon=False)
    bootstrapped = baseline_advantage(**steps, bootstrap_at_horizon=True)

    expected = torch.tensor([[[1 - 2, 3 - 2.0]]])
    torch.testing.assert_close(ended, expected, atol=5e-5, rtol=0)
    expected = torch.tensor([[[1 + 0.9 * 2 - 2, 3 - 2]]])
    torch.testing.assert_close(bootstrapped, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_advantages_equal_a_ridge_regression_and_gae_written_out(bootstrap):
    T, N, gamma, lambda_ = 6, 3, 0.9, 0.7
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(T + 1, 1, N, 2, generator=generator)
    reward = torch.randn(T, 1, N, generator=generator)
    step = torch.arange(T).view(T, 1, 1).expand(T, 1, N)
    truncated = step == T - 1
    terminated = torch.zeros_like(truncated)
    terminated[2, 0, 0], truncated[T - 1, 0, 0] = True, False  # copy 0 fails; the rest is padding
    valid = all_true(T, 1, N)
    valid[3:, 0, 0] = False

    advantage = baseline_advantage(
        path[:-1],
        path[1:],
        step,
        reward,
        terminated,
        truncated,
        valid,
        gamma,
        lambda_,
        bootstrap_at_horizon=bootstrap,
    )

    def row(obs, time):
        t = time / 100
        return np.concatenate([obs, obs**2, [t, t**2, t**3, 1]])

    states, r = path[:, 0].double().numpy(), reward[:, 0].double().numpy()
    length = [3, T, T]
    played = [(t, n) for n in range(N) for t in range(length[n])]
    x = np.stack([row(states[t, n], t) for t, n in played])
    y = [sum(gamma ** (s - t) * r[s, n] for s in range(t, length[n])) for t, n in played]
    weights = np.linalg.solve(x.T @ x + 1e-5 * np.eye(8), x.T @ y)
    for n in range(N):
        value = np.array([row(states[t, n], t) @ weights for t in range(length[n] + 1)])
        if n == 0 or not bootstrap:
            value[-1] = 0
        delta = r[: length[n], n] + gamma * value[1:] - value[:-1]
        for t in range(length[n]):
            expected = sum((gamma * lambda_) ** k * d for k, d in enumerate(delta[t:]))
            assert advantage[t, 0, n].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_advantages_do_not_depend_on_how_many_tasks_are_fitted_at_once(bootstrap, monkeypatch):
    T, M, N = 20, 3, 2
    generator = torch.Generator().manual_seed(0)
    path, reward = (torch.randn(T + 1, M, N, size, generator=generator) for size in (2, 1))
    step = torch.arange(T).view(T, 1, 1).expand(T, M, N)
    columns = (path[:-1], path[1:], step, reward[:-1, ..., 0], step < 0, step == T - 1)

    def advantage():
        return baseline_advantage(*columns, all_true(T, M, N), 0.9, 0.8, bootstrap)

    together = advantage()
    monkeypatch.setattr(baseline, "AT_ONCE", 1)
    torch.testing.assert_close(advantage(), together)


def test_normalized_advantages_have_mean_0_and_deviation_1_over_each_task_s_valid_steps():
    advantage = torch.randn(20, 2, 3, generator=torch.Generator().manual_seed(0)) * 5 + 3
    advantage[:, 1] *= 100
    valid = all_true(20, 2, 3)
    valid[10:, 0, 1] = False
    rubbish = torch.where(valid, advantage, 1e4)

    normalized = normalize_by_task(rubbish, valid)

    assert torch.equal(normalized, normalize_by_task(advantage, valid))
    assert (normalized[~valid] == 0).all()
    for m in range(2):
        kept = normalized[:, m][valid[:, m]]
        torch.testing.assert_close(kept.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(kept.std(unbiased=False), torch.tensor(1.0))


def test_equal_advantages_normalize_to_zero():
    assert (normalize_by_task(torch.full((4, 1, 2), 3.0), all_true(4, 1, 2)) == 0).all()


def test_a_task_of_no_more_steps_than_features_has_its_mean_return_for_a_baseline():
    phi, _ = random_steps()
    few = all_true(2, 60)
    few[0, phi.shape[-1] :] = False  # as many steps as features would be interpolated
    target = torch.randn(2, 60, generator=torch.Generator().manual_seed(1))

    fitted = predict(phi, fit(phi, target, few))

    mean = target[0, : phi.shape[-1]].mean()
    torch.testing.assert_close(fitted[0], mean.expand(60), atol=1e-5, rtol=0)
    assert fitted[1].std() > 0.01


def played(reward, valid=None):
    """Three copies that play 40 steps of each of two tasks, with the given rewards (T, M, N)."""
    generator = torch.Generator().manual_seed(0)
    obs = torch.randn(40, 2, 3, 1, generator=generator)
    valid = all_true(40, 2, 3) if valid is None else valid
    last = torch.zeros(40, 2, 3, dtype=torch.bool)
    last[-1] = True
    return {
        "obs": obs,
        "next_obs": obs.roll(-1, 0),
        "step": torch.arange(40).view(40, 1, 1).expand(40, 2, 3),
        "reward": reward,
        "terminated": torch.zeros_like(last),
        "truncated": last,
        "valid": valid,
        "gamma": 0.99,
        "lambda_": 1.0,
        "bootstrap_at_horizon": False,
    }


def test_where_returns_do_not_vary_no_action_has_an_advantage():
    reward = torch.full((40, 2, 3), -0.1)
    reward[5, 1, 1] = -0.2  # the second task tells something
    advantage = baseline_advantage(**played(reward))
    assert (advantage[:, 0] == 0).all() and advantage[:, 1].std() > 1e-3
    assert (normalize_by_task(advantage, all_true(40, 2, 3))[:, 0] == 0).all()


def test_rounding_of_rewards_is_no_variation():
    reward = torch.full((40, 2, 3), 0.3) * (1 + 1e-8 * torch.arange(3).float())
    reward[:, :, 1] = torch.nextafter(reward[:, :, 1], torch.tensor(1.0))
    assert (baseline_advantage(**played(reward)) == 0).all()


def test_a_reward_of_the_time_alone_tells_nothing_of_actions():
    reward = torch.linspace(-1, 1, 40).view(40, 1, 1).expand(40, 2, 3).clone()
    assert (baseline_advantage(**played(reward)) == 0).all()


def test_ends_at_different_times_are_a_difference():
    reward = torch.full((40, 1, 2), -1.0)
    valid, last = all_true(40, 1, 2), torch.zeros(40, 1, 2, dtype=torch.bool)
    last[-1, 0, 0] = last[9, 0, 1] = True
    valid[10:, 0, 1] = False
    step = torch.arange(40).view(40, 1, 1).expand(40, 1, 2)
    to_go = discounted_return(reward, last, 0.99)
    assert returns_vary(to_go, reward, step, valid).item()


def test_a_single_episode_is_judged_by_its_rewards():
    step, valid = torch.arange(40).view(40, 1, 1), all_true(40, 1, 1)
    last = step == 39
    for reward, varies in ((torch.ones(40, 1, 1), False), (torch.rand(40, 1, 1), True)):
        to_go = discounted_return(reward, last, 0.99)
        assert returns_vary(to_go, reward, step, valid).item() is varies


@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_padding_holds_reaches_neither_advantages_nor_gradients(junk):
    generator = torch.Generator().manual_seed(3)
    reward = torch.randn(40, 2, 3, generator=generator)
    valid = all_true(40, 2, 3)
    valid[30:, 0, 1] = False
    clean = played(torch.where(valid, reward, 0.0), valid)
    clean["truncated"] = clean["truncated"].clone()
    clean["truncated"][29, 0, 1] = True
    dirty = dict(clean)
    dirty["reward"] = torch.where(valid, reward, junk)
    for name in ("obs", "next_obs"):
        dirty[name] = torch.where(valid.unsqueeze(-1), clean[name], junk)
    found = []
    for given in (clean, dirty):
        gamma = torch.tensor(0.99, requires_grad=True)
        advantage = normalize_by_task(baseline_advantage(**(given | {"gamma": gamma})), valid)
        (slope,) = torch.autograd.grad((advantage**3).sum(), gamma)
        found.append((advantage.detach()[valid], slope))
        assert (advantage[~valid] == 0).all()
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
