from dataclasses import replace
from functools import cache
from typing import get_args

import pytest
import torch
from playing import Player

from agents.varibad import Config, build
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointEnv, PointNavigation
from meta_rl.core.distributions import Gaussian
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, Rollout
from meta_rl.learning.memory import Kind
from meta_rl.learning.trials import History, packed
from meta_rl.rollouts.adaptation import Adaptation

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=12, test_goals=5))
TASKS, COPIES = 4, 3


@pytest.fixture
def early_ends(monkeypatch):
    """Goals that most points soon run into, so that episodes end at different steps."""
    monkeypatch.setattr(PointEnv, "REACHED", 0.25)


def make_agent(**settings):
    small = {"encoder_sizes": (16,), "memory_size": 8, "epochs": 2, "encoder_updates": 2}
    return build(Config(**small | settings), FAMILY.spec, CPU, seed=0)


def played(agent, seed=0):
    worker = Player(FAMILY, CPU, Streams(seed, CPU))
    tasks = FAMILY.sample(TASKS, "train", torch.Generator().manual_seed(seed))
    adaptation = Adaptation(agent, worker.collector, tasks, COPIES, worker.streams, training=True)
    return adaptation.complete()


def history_of(batch):
    return History.played(packed(Rollout.concatenate(batch.rollouts)).masked())


# A task is a number m ~ N(0, 1), and each of T steps earns m + N(0, σ²), whatever is done. The
# rewards' covariance is C = 1 1ᵀ + σ² I, so the evidence is log N(r; 0, C).
STEPS, STD = 4, 0.7
COVARIANCE = torch.ones(STEPS, STEPS).double() + STD**2 * torch.eye(STEPS).double()


def toy_history(count, generator):
    m = torch.randn(count, generator=generator)
    reward = m + STD * torch.randn(STEPS, count, generator=generator)
    nothing = torch.zeros(STEPS, count, 1)
    true = torch.ones(STEPS, count, dtype=torch.bool)
    first = torch.zeros_like(true)
    first[0] = True
    return History(nothing, nothing, reward, nothing, first, true)


def toy_agent(kl_to, **settings):
    """An agent whose decoder is the truth."""
    spec = EnvSpec.box(1, (-1.0,), (1.0,), STEPS)
    config = Config(
        task_size=1,
        decoder_sizes=(),
        reward_std=STD,
        kl_to=kl_to,
        normalize_inputs=False,
        encoder_sizes=(32,),
        memory_size=32,
        encoder_lr=1e-2,
        elbo_beliefs=None,
        elbo_steps=None,
        episodes_per_trial=1,
        **settings,
    )
    agent = build(config, spec, CPU, seed=0)
    with torch.no_grad():
        for parameter in agent.inference["reward"].parameters():
            parameter.zero_().requires_grad_(False)
        agent.inference["reward"].of_task.weight.fill_(1.0)
    return agent


@cache
def best(kl_to):
    """The ELBO of each belief in expectation, their w and v, where the mean ELBO is largest.

    Belief t has mean w_tᵀ r, where w_t sees the first t rewards alone, and variance v_t; then
    E[log p(r_i | m)] and E[KL] are quadratic in w.
    """
    visible = torch.tril(torch.ones(STEPS + 1, STEPS), diagonal=-1).double()
    weights = torch.zeros(STEPS + 1, STEPS).double().requires_grad_()
    log_var = torch.zeros(STEPS + 1).double().requires_grad_()

    def elbos():
        w, v = weights * visible, log_var.exp()
        missed = COVARIANCE.diagonal() - 2 * w @ COVARIANCE + (w @ COVARIANCE * w).sum(1, True)
        squared = (missed + v.unsqueeze(1)).sum(1)  # Σ_i E(r_i - m)²
        normalizer = STEPS * torch.log(torch.tensor(2 * torch.pi * STD**2))
        likelihood = -0.5 * (normalizer + squared / STD**2)
        before = torch.zeros_like(w), torch.ones_like(v)
        if kl_to == "previous":
            before = (
                torch.cat([torch.zeros_like(w[:1]), w[:-1]]),
                torch.cat([torch.ones_like(v[:1]), v[:-1]]),
            )
        shift = ((w - before[0]) @ COVARIANCE * (w - before[0])).sum(1)
        kl = 0.5 * ((v + shift) / before[1] - 1 - (v / before[1]).log())
        return likelihood - kl

    optimizer = torch.optim.LBFGS(
        [weights, log_var], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = -elbos().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return elbos().detach(), (weights * visible).detach(), log_var.exp().detach()


def expected_evidence():
    """E log N(r; 0, C) = -½ (T log 2π + log |C| + T)."""
    return -0.5 * (STEPS * torch.log(torch.tensor(2 * torch.pi)) + COVARIANCE.logdet() + STEPS)


def test_predicting_the_future_narrows_beliefs_as_the_documents_say():
    # The exact posterior after t steps is N(Σ r / (t + σ²), σ² / (t + σ²)).
    seen = torch.arange(STEPS + 1).double()
    _, weights, variance = best("prior")
    exact = torch.tril(torch.ones(STEPS + 1, STEPS), diagonal=-1) / (seen + STD**2).unsqueeze(1)
    torch.testing.assert_close(weights, exact, rtol=0, atol=1e-3)
    whole_trial = torch.full_like(variance, STD**2 / (STEPS + STD**2))
    torch.testing.assert_close(variance, whole_trial, rtol=1e-3, atol=0)
    _, _, variance = best("previous")
    assert (variance < 0.9 * STD**2 / (seen + STD**2)).all()
    assert (variance[1:] < variance[:-1]).all()  # though they narrow along the trial


@pytest.mark.parametrize("kl_to", ["prior", "previous"])
def test_the_elbo_of_a_known_posterior_becomes_as_large_as_it_can_be(kl_to):
    agent, generator = toy_agent(kl_to), torch.Generator().manual_seed(1)
    elbos, *_ = best(kl_to)
    if kl_to == "prior":  # a belief that has seen the whole trial can be the exact posterior
        torch.testing.assert_close(elbos[-1], expected_evidence().double())

    for step in range(260):
        if step == 180:
            agent.optimizers["encoder"].param_groups[0]["lr"] = 1e-3
        loss = -agent.elbo(toy_history(300, generator))[0]
        agent.descend("encoder", loss)

    trial = toy_history(40_000, generator)
    with torch.no_grad():
        elbo, _ = agent.elbo(trial)
        belief = Gaussian(*agent.outputs(trial)[-1].chunk(2, dim=-1))
    assert elbo.item() == pytest.approx(elbos.mean().item(), rel=0.01)

    # What that says of these very trials, at the end, when all has been seen: with q = N(μ, s²),
    # E_q log p(r | m) = Σ -½ (log 2πσ² + ((r - μ)² + s²) / σ²).
    mean, std = belief.mean[:, 0], belief.log_std[:, 0].exp()
    likelihood = Gaussian(mean.view(1, -1, 1), torch.tensor([[[STD]]]).log()).log_prob(
        trial.reward.unsqueeze(-1)
    )
    likelihood = (likelihood - 0.5 * std**2 / STD**2).sum(0)
    prior = Gaussian(torch.zeros(1, 1), torch.zeros(1, 1))
    bound = (likelihood - belief.kl(prior)).mean()
    evidence = torch.distributions.MultivariateNormal(
        torch.zeros(STEPS).double(), COVARIANCE
    ).log_prob(trial.reward.T.double())
    assert bound <= evidence.mean()
    if kl_to == "prior":
        assert bound.item() == pytest.approx(evidence.mean().item(), rel=0.01)
        exact_mean = trial.reward.sum(0) / (STEPS + STD**2)
        exact_std = (STD**2 / (STEPS + STD**2)) ** 0.5
        assert (mean - exact_mean).abs().mean() < 0.1 * exact_std
        torch.testing.assert_close(std.mean(), torch.tensor(exact_std), rtol=0.05, atol=0)


def test_a_few_beliefs_and_steps_estimate_the_whole_elbo(early_ends):
    agent = make_agent(elbo_beliefs=None, elbo_steps=None)
    history = history_of(played(agent))
    assert history.valid.sum(0).unique().numel() > 2
    with torch.no_grad():
        whole = torch.stack([agent.elbo(history)[0] for _ in range(30)]).mean()
        agent.config = replace(agent.config, elbo_beliefs=3, elbo_steps=4)
        parts = torch.stack([agent.elbo(history)[0] for _ in range(400)])
    error = parts.std() / len(parts) ** 0.5
    assert (parts.mean() - whole).abs() < 4 * error
    assert error < 0.03 * whole.abs()


@pytest.mark.parametrize("memory", get_args(Kind))
def test_the_update_sees_the_beliefs_that_were_acted_on(memory, early_ends):
    agent = make_agent(episodes_per_trial=3, memory=memory, heads=2)
    agent.meta_update(played(agent))  # so that the moments say something
    batch = played(agent, seed=1)
    rollout = Rollout.concatenate(batch.rollouts)
    gaps = ~rollout.valid[:-1] & rollout.valid[1:]
    assert gaps.any()  # padding lies between episodes

    rollout = packed(rollout).masked()
    state = agent.shown(rollout.obs, agent.variables(rollout))
    with torch.no_grad():
        log_ratio = agent.policy(state).log_prob(rollout.action) - rollout.log_prob

    assert log_ratio[rollout.valid].abs().max() < 1e-5


def test_the_last_belief_has_seen_the_last_reward(early_ends):
    agent = make_agent()
    history = history_of(played(agent))
    end = history.valid.sum(0)
    column = int(end.argmin())
    assert end[column] < len(history.valid)  # a trial that is padded at its end
    richer = history.reward.clone()
    richer[end[column] - 1, column] += 1.0

    with torch.no_grad():
        before, after = (
            agent.outputs(each)[:, column] for each in (history, replace(history, reward=richer))
        )

    assert torch.equal(before[: end[column]], after[: end[column]])
    assert not torch.equal(before[end[column]], after[end[column]])


def test_the_policy_and_the_belief_learn_apart():
    agent = make_agent(decode_transitions=True)
    batch = played(agent)
    rollout = packed(Rollout.concatenate(batch.rollouts)).masked()

    def numbers(module):
        return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])

    inference, policy = numbers(agent.inference), numbers(agent.policy)
    agent.improve_policy(rollout, agent.variables(rollout))
    assert torch.equal(numbers(agent.inference), inference)
    assert not torch.equal(numbers(agent.policy), policy)
    policy = numbers(agent.policy)
    agent.improve_encoder(History.played(rollout), batch.tasks)
    assert torch.equal(numbers(agent.policy), policy)
    for part in agent.inference.values():
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters())


def test_a_deviation_below_its_floor_can_come_back():
    agent = make_agent(min_std=0.1, entropy_coefficient=10.0, target_kl=None)
    agent.policy.log_std.data.fill_(-4.0)  # as steps may leave it
    agent.meta_update(played(agent))
    assert (agent.policy.log_std.exp() > 0.1).all()


def test_it_learns_from_the_last_trials_of_the_buffer():
    agent = make_agent(replay_trials=TASKS * COPIES + 5)
    for seed in range(2):
        agent.meta_update(played(agent, seed))
    assert len(agent.replay) == TASKS * COPIES + 5
    rows = agent.replay.last
    assert rows["obs"].shape == (TASKS * COPIES + 5, 2 * FAMILY.spec.horizon, 2)
    latest = history_of(played(make_agent(), 0))  # the first were played by the initial policy
    kept = History.from_rows({name: each[:5] for name, each in rows.items()}, CPU)
    assert torch.equal(kept.action, latest.action[:, -5:])


BONUSES = {"exploration_bonus": 0.5, "error_bonus": 0.2, "bonus_updates": 4}


def test_a_state_and_belief_that_was_visited_earns_less_and_others_do_not(early_ends):
    agent = make_agent(**BONUSES, minibatches=8)
    history = history_of(played(agent))
    far = replace(history, obs=history.obs - 3, next_obs=history.next_obs - 3)

    def new(history):
        return agent.unexpected(history)["new"][history.valid].mean()

    before = new(history), new(far)
    for _ in range(4):
        agent.get_used_to(history)

    assert new(history) < 0.1 * before[0] and new(far) > 0.6 * before[1]


def test_the_decoder_s_error_earns_nothing_where_it_is_right_and_its_square_elsewhere():
    agent = toy_agent("prior", error_bonus=1.0)
    agent.outputs = lambda history: torch.zeros(STEPS + 1, 3, 2)  # believes that m = 0
    history = toy_history(3, torch.Generator().manual_seed(0))
    for reward in (history.reward, torch.zeros_like(history.reward)):
        found = agent.unexpected(replace(history, reward=reward))["error"]
        torch.testing.assert_close(found, reward**2 / STD**2 / 2, atol=1e-6, rtol=1e-5)


def test_bonuses_are_for_the_policy_alone_and_fade(early_ends, identical):
    agent, plain = make_agent(**BONUSES), make_agent()
    batch = played(agent)
    rollout = packed(Rollout.concatenate(batch.rollouts)).masked()
    extra = agent.rewarded(rollout).reward - rollout.reward
    assert (extra[rollout.valid] > 0).all() and (extra[~rollout.valid] == 0).all()
    errors = agent.unexpected(History.played(rollout))
    spread = {
        name: each[rollout.valid.flatten(1)].std(correction=0) for name, each in errors.items()
    }
    expected = 0.5 * errors["new"] / spread["new"] + 0.2 * errors["error"] / spread["error"]
    torch.testing.assert_close(extra, torch.where(rollout.valid, expected.view(extra.shape), 0.0))

    agent.meta_update(batch)
    half = agent.rewarded(rollout).reward - rollout.reward
    assert agent.bonus_left == 0.75 and (half > 0).any()
    plain.meta_update(batch)
    assert identical(agent.replay.columns, plain.replay.columns)  # what the encoder learns from
    assert identical(vars(agent.reward_moments), vars(plain.reward_moments))

    for _ in range(3):
        assert "bonus/new" in agent.meta_update(batch)
    assert agent.rewarded(rollout) is rollout
    assert "bonus/new" not in agent.meta_update(batch)


def test_the_objective_that_is_inspected_has_the_bonuses_in_its_rewards_too(early_ends):
    agent = make_agent(**BONUSES)
    batch = played(agent)
    rollout = packed(Rollout.concatenate(batch.rollouts)).masked()
    shown = agent.surrogate(batch).rollout  # by whose returns the advantages are judged
    assert torch.equal(shown.reward, agent.rewarded(rollout).reward)
    assert not torch.equal(shown.reward, rollout.reward)


def test_bonuses_are_taken_up_where_they_were(early_ends, identical, tmp_path):
    agent, other = make_agent(**BONUSES), make_agent(**BONUSES)
    agent.meta_update(played(agent))
    mark = agent.mark()
    agent.write_stored(tmp_path, mark)
    torch.save(agent.state_dict(), tmp_path / "state.pt")

    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.read_stored(tmp_path, mark)

    batch = played(agent, seed=1)
    assert identical(agent.meta_update(batch), other.meta_update(batch))
    assert identical(agent.state_dict(), other.state_dict())


def test_without_bonuses_there_is_nothing_of_them():
    agent = make_agent()
    rollout = packed(Rollout.concatenate(played(agent).rollouts)).masked()
    assert agent.rewarded(rollout) is rollout
    assert "bonuses" not in agent.state_dict() and set(agent.optimizers) == {"policy", "encoder"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exploration_bonus": -0.1}, "exploration_bonus must be at least 0, got -0.1"),
        ({"bonus_updates": 0}, "bonus_updates must be at least 1, got 0"),
        ({"replay_trials": 1}, "replay_trials must be at least 2, got 1"),
        ({"reward_std": 0.0}, "reward_std must be above 0, got 0.0"),
        ({"elbo_steps": 0}, "elbo_steps must be at least 1, got 0"),
        ({"decoder_sizes": (8, 0)}, r"decoder_sizes must all be at least 1, got \(8, 0\)"),
        ({"task_size": 0}, "task_size must be at least 1, got 0"),
        ({"initial_std": 0.01}, "initial_std must be at least min_std, which is 0.05, got 0.01"),
        ({"episodes_per_trial": 0}, "episodes_per_trial must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)
