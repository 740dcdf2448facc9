"""Meta-gradients on a chain whose best discount is known, and against finite differences."""

from dataclasses import replace
from statistics import NormalDist

import pytest
import torch
from playing import Player

from agents import meta_gradient
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, MetaBatch, Rollout, Tasks
from meta_rl.learning.policy import by_task, from_by_task
from meta_rl.learning.samples import prepare

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=8, test_goals=5))
OUTER_GAMMA, DELAY, WORTH = 0.8, 2, 2.0

STEP = pytest.mark.parametrize("learns", ["gamma", "gae_lambda", "inner_lr"])


def make_agent(spec=FAMILY.spec, **settings):
    config = meta_gradient.Config(**{"hidden_sizes": (8,), "initial_std": 0.5} | settings)
    return meta_gradient.build(config, spec, CPU, 0)


def play(agent, seed):
    worker = Player(FAMILY, CPU, Streams(seed, CPU))
    tasks = FAMILY.sample(2, "train", worker.streams.tasks)
    context = agent.begin(tasks, 6, True)
    return MetaBatch(tasks, (worker.collect(agent, context, tasks, 6, agent.phases[0])[0],))


# A chain of three states: an action a costs a² at once and pays 2a two steps later. Learning with
# γ and λ leads the mean action to μ = (γλ)², which the objective -μ² + 2 γ'² μ values most if
# γλ = γ': with λ below 1 that is another γ than the objective's own.


def chain(agent, copies=32):
    """Every copy walks the chain once, with the first actions evenly through their quantiles."""
    noise = torch.tensor([NormalDist().inv_cdf((n + 0.5) / copies) for n in range(copies)])
    shape = (DELAY + 1, 1, copies)
    obs = torch.zeros(*shape, 1)
    obs[0] = 1.0  # the action matters where the chain begins
    policy = agent.policy.batched(agent.begin(TASK, copies, True)["policy"], by_task(obs))
    moved = torch.cat([noise, torch.zeros(DELAY * copies)]).view(1, -1, 1)
    action = policy.mean + policy.log_std.exp() * moved
    log_prob = from_by_task(policy.log_prob(action), copies)
    action = from_by_task(action, copies)
    reward = torch.zeros(shape)
    reward[0] = -(action[0, ..., 0] ** 2)
    reward[DELAY] = WORTH * action[0, ..., 0]
    false = torch.zeros(shape, dtype=torch.bool)
    first, last = false.clone(), false.clone()
    first[0], last[DELAY] = True, True
    rollout = Rollout(
        obs=obs,
        prev_action=torch.zeros(*shape, 1),
        prev_reward=torch.zeros(shape),
        first=first,
        valid=~false,
        action=action,
        log_prob=log_prob,
        reward=reward,
        terminated=last,
        truncated=false,
        next_obs=torch.zeros(*shape, 1),
        metrics={},
    )
    return MetaBatch(TASK, (rollout,))


TASK = Tasks("chain", ("chain",), torch.zeros(1, dtype=torch.long), torch.zeros(1, 0).double())


def first_action(agent):
    return (agent.theta["layers.0.weight"] + agent.theta["layers.0.bias"]).item()


def chain_agent(**settings):
    return make_agent(
        EnvSpec.box(1, (-1.0,), (1.0,), DELAY + 1),
        **{
            "hidden_sizes": (),
            "min_std": 0.5,
            "inner_lr": 0.3,
            "normalize_advantage": False,
            "gae_lambda": 1.0,
            "learn_lambda": False,
            "outer_gamma": OUTER_GAMMA,
        }
        | settings,
    )


@pytest.mark.parametrize(
    ("gamma", "gae_lambda"), [(0.5, 1.0), pytest.param(0.97, 0.9, marks=pytest.mark.thorough)]
)
def test_it_finds_the_discount_that_is_best_on_a_chain(gamma, gae_lambda):
    def worth(gamma):  # of the policy that learning with γ leads to
        action = (gamma * gae_lambda) ** DELAY
        return -(action**2) + WORTH * OUTER_GAMMA**DELAY * action

    best = max((step / 1000 for step in range(1000)), key=worth)
    agent = chain_agent(gamma=gamma, gae_lambda=gae_lambda, outer_lr=0.02)
    for _ in range(200):
        metrics = agent.meta_update(chain(agent))

    assert metrics["policy/gamma"].item() == pytest.approx(best, abs=2e-3)
    assert best == pytest.approx(OUTER_GAMMA / gae_lambda, abs=1e-3)
    assert first_action(agent) == pytest.approx(OUTER_GAMMA**DELAY, abs=3e-3)


def test_a_discount_that_is_not_learned_leads_elsewhere():
    agent = chain_agent(gamma=0.5, learn_gamma=False, learn_step_size=True, outer_lr=1e-9)
    for _ in range(100):
        metrics = agent.meta_update(chain(agent))
    assert metrics["policy/gamma"] == torch.tensor(0.5)
    assert first_action(agent) == pytest.approx(0.5**DELAY, abs=0.01)


@STEP
def test_the_meta_gradient_equals_finite_differences_through_the_update(learns):
    agent = make_agent(
        gamma=0.9,
        gae_lambda=0.7,
        learn_step_size=True,
        outer_lr=1e-9,
        inner_lr=0.5,
        outer_gamma=0.95,
    )
    first, second = play(agent, 0), play(agent, 1)
    theta = dict(agent.theta)

    def judged(shift):
        eta = agent.eta | {learns: agent.eta[learns] + shift}
        samples = agent.estimate(first.rollouts[0], eta)
        gradient = torch.func.grad(agent.shared_loss)(theta, samples)
        alpha = agent.setting(eta, "inner_lr")
        moved = {name: theta[name] - alpha * gradient[name] for name in theta}
        samples = prepare(second.rollouts[0], agent.config, 0.95, 1.0)
        return agent.shared_loss(moved, samples)

    agent.meta_update(first)
    agent.meta_update(second)

    slope = (judged(0.05) - judged(-0.05)) / 0.1
    assert slope.abs() > 1e-4
    torch.testing.assert_close(agent.eta[learns].grad, slope, atol=2e-5, rtol=2e-2)


def test_the_trace_remembers_earlier_updates_if_it_decays_slowly():
    def trace(decay):
        agent = make_agent(trace_decay=decay, gamma=0.9, outer_lr=1e-9)
        traces = []
        for seed in range(2):
            agent.meta_update(play(make_agent(), seed))
            traces.append(agent.trace["log_std"]["gamma"])
        return traces

    (first, forgot), (same, remembered) = trace(0.0), trace(0.5)
    assert torch.equal(first, same)
    torch.testing.assert_close(remembered, forgot + 0.5 * first)


def test_on_a_new_task_it_goes_on_learning_alone_with_the_learned_return():
    agent = make_agent(gamma=0.9)
    batch = play(agent, 0)
    agent.eta["gamma"].copy_(torch.tensor(0.3).logit())
    context = agent.begin(batch.tasks, 6, True)

    adapted = agent.adapt(context, batch.rollouts[0])["policy"]

    rollout = batch.rollouts[0]
    alone = {field: value[:, :1] for field, value in vars(rollout).items() if field != "metrics"}
    samples = prepare(replace(rollout, **alone, metrics={}), agent.config, 0.3, 0.95)
    gradient = torch.func.grad(agent.shared_loss)(agent.theta, samples)
    for name, value in agent.theta.items():
        expected = value - 0.1 * gradient[name]
        torch.testing.assert_close(adapted[name][0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.0}, "agent.gamma must lie between 0 and 1 .* learn_gamma: false"),
        ({"gae_lambda": 1.0}, "agent.gae_lambda must lie .* learn_lambda: false"),
        ({"outer_gamma": 1.5}, r"agent.outer_gamma must be in \[0, 1\], got 1.5"),
        ({"outer_lr": 0.0}, "agent.outer_lr must be above 0, got 0.0"),
        ({"learn_gamma": False, "learn_lambda": False}, "learn_step_size must be true"),
    ],
)
def test_a_bad_setting_is_a_user_error_that_names_it(settings, message):
    with pytest.raises(UserError, match=message):
        meta_gradient.Config(**settings)
