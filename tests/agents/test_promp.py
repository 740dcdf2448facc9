"""ProMP on one-step tasks whose objective is known exactly, and its penalty."""

import numpy as np
import pytest
import torch
from derivatives import gradient_of
from playing import Player
from torch.func import grad, hessian

from agents import maml_ppo, promp
from agents._maml import Stages
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, MetaBatch
from meta_rl.learning.policy import by_task, for_each_task
from meta_rl.learning.samples import Samples

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=5, test_goals=5))
ALPHA = 0.2


def make_agent(algorithm=promp, **settings):
    config = algorithm.Config(**{"hidden_sizes": (8,), "initial_std": 0.5} | settings)
    return algorithm.build(config, FAMILY.spec, CPU, 0)


def play(agent, seed=0):
    worker = Player(FAMILY, CPU, Streams(seed, CPU))
    tasks = FAMILY.sample(3, "train", worker.streams.tasks)
    context, rollouts = agent.begin(tasks, 4, True), []
    for k, phase in enumerate(agent.phases):
        if k > 0:
            context = agent.adapt(context, rollouts[-1])
        rollout, context = worker.collect(agent, context, tasks, 4, phase)
        rollouts.append(rollout)
    return MetaBatch(tasks, tuple(rollouts)), context


# One action a ~ N(μ, σ²), worth A(a) = 1 + 2a - a²: J(θ) = 1 + 2μ - μ² - σ², θ = (μ, log σ).


def bandit(algorithm):
    """The agent of two parameters, in double precision."""
    config = algorithm.Config(hidden_sizes=(), inner_lr=ALPHA)
    agent = algorithm.build(config, EnvSpec.box(1, (-1.0,), (1.0,), 1), CPU, 0)
    agent.theta = {
        "layers.0.weight": torch.zeros(1, 1, dtype=torch.float64),
        "layers.0.bias": torch.tensor([0.3], dtype=torch.float64),
        "log_std": torch.tensor([-0.4], dtype=torch.float64),
    }
    return agent


def two(theta):
    """The parameters that do anything."""
    return torch.cat([theta["layers.0.bias"], theta["log_std"]])


def objective(theta):
    mean, log_std = theta["layers.0.bias"][0], theta["log_std"][0]
    return 1 + 2 * mean - mean**2 - (2 * log_std).exp()


def exact(agent, theta):
    """Every action at once, weighted: Gauss-Hermite nodes, exact for polynomials up to 19."""
    node, weight = np.polynomial.hermite_e.hermegauss(10)
    policy = agent.policy.batched(
        for_each_task(theta, 1), torch.zeros(1, 10, 1, dtype=torch.float64)
    )
    action = policy.mean + policy.log_std.exp() * torch.tensor(node).view(1, 10, 1)
    return Samples(
        torch.zeros(1, 10, 1, dtype=torch.float64),
        action,
        policy.log_prob(action),
        (1 + 2 * action - action**2).squeeze(-1),
        torch.tensor(weight / weight.sum()).unsqueeze(0),
        copies=10,
    )


def inner_loss(agent, samples):
    """The surrogate as a function of θ, for torch.func."""

    def loss(theta):
        policy = agent.policy.batched(for_each_task(theta, 1), samples.obs)
        return agent.inner.loss(policy, samples)

    return loss


def inner_hessian(agent, samples):
    """Of the two parameters."""

    def loss(vector):
        theta = agent.theta | {"layers.0.bias": vector[:1], "log_std": vector[1:]}
        return inner_loss(agent, samples)(theta)

    return hessian(loss)(two(agent.theta))


def inner_gradient(agent, samples):
    """As the agent's inner loop takes it."""
    gradient = agent.inner.gradient(for_each_task(agent.theta, 1), samples)
    return {name: gradient[name].squeeze(0) for name in agent.theta}


def inner_products(agent, samples):
    """The Hessian of the two parameters as a meta-gradient multiplies with it."""
    rows = []
    for name in ("layers.0.bias", "log_std"):

        def slope(theta, name=name):
            return agent.inner.gradient(for_each_task(theta, 1), samples)[name].sum()

        rows.append(two(gradient_of(slope, agent.theta)))
    return torch.stack(rows)


def test_the_surrogate_has_the_gradient_and_the_curvature_of_the_true_objective():
    agent = bandit(promp)
    samples = exact(agent, agent.theta)

    gradient = inner_gradient(agent, samples)

    mean, variance = agent.theta["layers.0.bias"].item(), (2 * agent.theta["log_std"]).exp().item()
    expected = torch.tensor([2 - 2 * mean, -2 * variance], dtype=torch.float64)
    torch.testing.assert_close(-two(gradient), expected)
    curvature = torch.tensor([-2.0, -4 * variance], dtype=torch.float64).diag()
    torch.testing.assert_close(-inner_products(agent, samples), curvature)
    torch.testing.assert_close(gradient, grad(inner_loss(agent, samples))(agent.theta))
    torch.testing.assert_close(-inner_hessian(agent, samples), curvature)


def test_the_score_function_surrogate_has_the_gradient_and_another_curvature():
    agent, other = bandit(promp), bandit(maml_ppo)
    samples = exact(agent, agent.theta)

    first, second = (inner_gradient(each, samples) for each in (agent, other))
    torch.testing.assert_close(first, second)
    difference = inner_hessian(agent, samples) - inner_hessian(other, samples)
    assert difference.abs().max() > 0.1
    products = inner_products(agent, samples) - inner_products(other, samples)
    torch.testing.assert_close(products, difference)


def test_the_meta_gradient_is_that_of_the_true_objective_after_a_true_step():
    agent = bandit(promp)

    def stepped(theta):
        gradient = grad(objective)(theta)
        return {name: value + ALPHA * gradient[name] for name, value in theta.items()}

    phi = {name: value.squeeze(0) for name, value in adapted(agent).items()}
    torch.testing.assert_close(two(phi), two(stepped(agent.theta)))
    episodes = [exact(agent, agent.theta), exact(agent, phi)]

    stages = Stages(agent.inner, episodes, {1: 1.0}, first_order=False)

    def outer(theta):
        policies = stages.policies(theta)
        return -stages.clipped_loss(policies, policies, agent.config.clip)[0]

    torch.testing.assert_close(outer(agent.theta), objective(phi))
    expected = grad(lambda theta: objective(stepped(theta)))(agent.theta)
    torch.testing.assert_close(two(gradient_of(outer, agent.theta)), two(expected))


def adapted(agent):
    return agent.inner.adapted(agent.theta, [exact(agent, agent.theta)])


# As an agent.


def test_it_adapts_as_maml_does():
    agent, maml = make_agent(), make_agent(maml_ppo)
    batch, context = play(agent)

    expected = maml.adapt(maml.begin(batch.tasks, 4, True), batch.rollouts[0])

    torch.testing.assert_close(context["policy"], expected["policy"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adaptation_steps", [1, 2])
def test_the_penalty_is_on_the_policies_before_each_inner_step(adaptation_steps):
    def moved(coefficient):
        agent = make_agent(
            adaptation_steps=adaptation_steps,
            inner_kl_coefficient=coefficient,
            outer_lr=0.01,
            target_inner_kl=None,
        )
        before = {name: value.clone() for name, value in agent.theta.items()}
        batch, _ = play(agent)
        metrics = agent.meta_update(batch)
        obs = by_task(batch.rollouts[0].obs)
        old, new = (
            agent.policy.batched(for_each_task(theta, 3), obs) for theta in (before, agent.theta)
        )
        torch.testing.assert_close(
            metrics["outer/kl_stage_0"], old.kl(new).mean(), atol=1e-6, rtol=1e-4
        )
        assert (f"outer/kl_stage_{adaptation_steps - 1}" in metrics) and (
            f"outer/kl_stage_{adaptation_steps}" not in metrics
        )
        return metrics["outer/kl_stage_0"]

    assert moved(1e3) < 0.5 * moved(1e-3)


def test_eta_doubles_halves_or_stays_around_the_target_for_each_inner_step():
    agent = make_agent(adaptation_steps=4, inner_kl_coefficient=0.2, target_inner_kl=0.01)
    kl = torch.tensor([0.0151, 0.0149, 0.0067, 0.0066])
    torch.testing.assert_close(agent.adapted_eta(kl), torch.tensor([0.4, 0.2, 0.2, 0.1]))

    agent.eta = torch.full((4,), 1e-6)
    assert (agent.adapted_eta(kl / 1e6) == 1e-6).all()
    kept = make_agent(adaptation_steps=4, inner_kl_coefficient=0.2, target_inner_kl=None)
    assert (kept.adapted_eta(kl) == 0.2).all()


def test_an_update_adapts_eta_by_where_its_last_epoch_ended():
    agent = make_agent(outer_lr=0.05, inner_kl_coefficient=0.01)
    metrics = agent.meta_update(play(agent)[0])
    assert metrics["outer/kl_stage_0"] > 0.015
    assert metrics["outer/kl_coefficient"] == torch.tensor(0.01)
    assert agent.eta == torch.tensor([0.02])


@pytest.mark.parametrize("name", ["inner_kl_coefficient", "target_inner_kl", "clip"])
def test_a_bad_setting_is_a_user_error_that_names_it(name):
    with pytest.raises(UserError, match=rf"agent\.{name} must be above 0, got -1"):
        promp.Config(**{name: -1.0})
