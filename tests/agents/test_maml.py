import copy
from dataclasses import replace

import pytest
import torch
from derivatives import ParameterInnerLoop, adapted_policies
from playing import Player
from torch.func import functional_call, hessian, jacrev

from agents import maml_ppo, maml_trpo
from agents._maml import MAMLConfig, Stages
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent
from meta_rl.core.seeding import SharedNoise, Streams
from meta_rl.core.types import MetaBatch, Rollout, all_finite, map_tensors
from meta_rl.learning.policy import from_by_task
from meta_rl.learning.ppo import clipped_loss, clipped_surrogate
from meta_rl.learning.samples import Samples, prepare, thin
from meta_rl.learning.trust_region import TrustRegionConfig, ravel, unravel

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=20, test_goals=20))
COPIES = 4
ALGORITHMS = pytest.mark.parametrize("algorithm", [maml_trpo, maml_ppo])


def make_agent(algorithm=maml_trpo, seed=0, **settings):
    config = algorithm.Config(**{"hidden_sizes": (8,), "initial_std": 0.5} | settings)
    return algorithm.build(config, FAMILY.spec, CPU, seed)


def make_worker(seed=0):
    return Player(FAMILY, CPU, Streams(seed, CPU))


def play(agent, worker, tasks, copies=COPIES):
    """Let the agent play its phases, adapting between them, as a trainer does."""
    context, rollouts = agent.begin(tasks, copies, True), []
    for k, phase in enumerate(agent.phases):
        if k > 0:
            context = agent.adapt(context, rollouts[-1])
        rollout, context = worker.collect(agent, context, tasks, copies, phase)
        rollouts.append(rollout)
    return MetaBatch(tasks, tuple(rollouts)), context


def meta_batch(agent, seed=0, tasks=3):
    worker = make_worker(seed)
    return play(agent, worker, FAMILY.sample(tasks, "train", worker.streams.tasks))[0]


def padded(rollout, steps=3):
    """The rollout with steps of rubbish behind its end that are marked as padding."""
    rubbish = map_tensors(lambda x: torch.full_like(x[:steps], 7), rollout)
    return Rollout.concatenate([rollout, replace(rubbish, valid=rubbish.valid & False)])


def double(data):
    return map_tensors(lambda x: x.double() if x.is_floating_point() else x, data)


def in_double(agent, batch):
    """The agent and its experience in double precision, where finite differences are sharp."""
    agent.theta = {name: value.double() for name, value in agent.theta.items()}
    return replace(batch, experience=tuple(map(double, batch.rollouts)))


def task_log_prob(agent, params, samples, m):
    """Log-probabilities of one task's actions by the module's own forward."""
    return functional_call(agent.policy, params, (samples.obs[m],)).log_prob(samples.action[m])


def inner_loop(agent, theta, supports, m, create_graph):
    """One task's parameters after its inner steps, in plain torch.autograd."""
    config, phi = agent.config, theta
    for k, samples in enumerate(supports):
        objective = (
            samples.weight[m] * task_log_prob(agent, phi, samples, m) * samples.advantage[m]
        ).sum()
        gradient = torch.autograd.grad(objective, list(phi.values()), create_graph=create_graph)
        later = config.later_inner_lr
        alpha = config.inner_lr if k == 0 or later is None else later
        alpha = torch.tensor(alpha)  # the agent's step sizes are in single precision
        phi = {name: phi[name] + alpha * g for name, g in zip(phi, gradient, strict=True)}
    return phi


def surrogate_of_task(agent, phi, query, m):
    ratio = (task_log_prob(agent, phi, query, m) - query.log_prob[m]).exp()
    return -(query.weight[m] * ratio * query.advantage[m]).sum() / len(query.obs)


def surrogate(agent, theta, supports, query):
    """The MAML objective, task by task: an implementation of its own."""
    theta = {name: value.detach().requires_grad_() for name, value in theta.items()}
    return sum(
        surrogate_of_task(agent, inner_loop(agent, theta, supports, m, False), query, m).detach()
        for m in range(len(query.obs))
    )


def meta_gradient(agent, batch):
    """The gradient that `meta_update` follows: huge damping turns its step into one along it."""
    before = ravel(agent.theta)
    metrics = agent.meta_update(batch)
    assert metrics["outer/accepted"] == 1
    step = before - ravel(agent.theta)
    return step / step.norm() * metrics["outer/gradient_norm"], metrics


def flat_gradient(loss, params, **options):
    gradient = torch.autograd.grad(loss, list(params.values()), **options)
    return ravel(dict(zip(params, gradient, strict=True)))


ALONG_THE_GRADIENT = TrustRegionConfig(damping=1e9, max_kl=1e-3)


def adapted_policy(agent, theta, supports, query):
    """The policies after all inner steps, on the episodes that they played."""
    episodes = [*supports, query]
    return stages(agent, episodes).policies(theta, [len(supports)])[len(supports)]


def stages(agent, episodes):
    """These episodes as the agent's outer step sees them."""
    config, made = agent.config, agent.meta_updates
    return Stages(agent.inner, episodes, config.stage_weights(made), config.is_first_order(made))


def functional_policy(agent, supports, query):
    """What `adapted_policy` makes of raveled θ, for torch.func: an oracle for its derivatives."""
    first_order = agent.config.is_first_order(agent.meta_updates)

    def policy(vector):
        theta = unravel(vector, agent.theta)
        episodes = [*supports, query]
        return adapted_policies(agent.inner, theta, episodes, first_order)[len(supports)]

    return policy


# The inner step on a quadratic loss.


A = 3.0


def quadratic_loss(phi, samples):
    """L(φ) = ½ a |φ - c|² with the c of each task in the samples' observations."""
    return 0.5 * A * (phi["x"] - samples.obs[:, 0]).square().sum()


def quadratic(adaptation_steps, **settings):
    """An inner loop on quadratics, its θ, its centres, and its supports."""
    config = MAMLConfig(adaptation_steps=adaptation_steps, **settings)
    inner = ParameterInnerLoop.like(config.inner_loop(config.policy(FAMILY.spec), quadratic_loss))
    centre = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    zero = torch.zeros(2, 1)
    samples = Samples(centre.unsqueeze(1), zero.unsqueeze(2), zero, zero, zero, copies=1)
    return inner, torch.tensor([0.3, -0.7]), centre, [samples] * adaptation_steps


STEP_SIZES = pytest.mark.parametrize(
    ("adaptation_steps", "later", "contraction"),
    [
        (1, None, 1 - 0.1 * 3),  # 1 - α a
        (2, None, (1 - 0.1 * 3) ** 2),
        (2, 0.05, (1 - 0.1 * 3) * (1 - 0.05 * 3)),
        (3, 0.05, (1 - 0.1 * 3) * (1 - 0.05 * 3) ** 2),
    ],
)


@STEP_SIZES
def test_inner_steps_on_a_quadratic_contract_towards_each_task_s_centre(
    adaptation_steps, later, contraction
):
    inner, theta, centre, supports = quadratic(adaptation_steps, later_inner_lr=later)

    phi = inner.adapted({"x": theta}, supports)["x"]

    torch.testing.assert_close(phi - centre, contraction * (theta - centre))


@STEP_SIZES
@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_of_a_quadratic_has_its_closed_form(
    adaptation_steps, later, contraction, first_order
):
    # φ - c = k (θ - c) with k = Π (1 - α a), so dL(φ)/dθ = k² a (θ - c): one k is the inner
    # steps' Jacobian, which first-order MAML drops.
    inner, theta, centre, supports = quadratic(adaptation_steps, later_inner_lr=later)

    def outer_loss(theta):
        phi = inner.adapted({"x": theta}, supports, first_order)
        return quadratic_loss(phi, supports[0])

    gradient = torch.func.grad(outer_loss)(theta)

    factor = contraction if first_order else contraction**2
    torch.testing.assert_close(gradient, (factor * A * (theta - centre)).sum(0))


# Adaptation and acting.


@ALGORITHMS
def test_the_agents_keep_the_protocol(algorithm):
    agent = make_agent(algorithm, adaptation_steps=2, episodes_per_phase=3)

    assert isinstance(agent, MetaAgent)
    assert [phase.episodes for phase in agent.phases] == [3, 3, 3]


@ALGORITHMS
def test_every_task_begins_at_theta(algorithm):
    agent = make_agent(algorithm)

    context = agent.begin(FAMILY.tasks("test"), COPIES, True)

    assert context["steps"].tolist() == [0] * 20
    for name, value in context["policy"].items():
        assert torch.equal(value, agent.theta[name].expand(20, *agent.theta[name].shape))


@ALGORITHMS
def test_acting_and_adapting_never_change_theta(algorithm):
    agent = make_agent(algorithm, adaptation_steps=2)
    theta = copy.deepcopy(agent.theta)

    _, context = play(agent, make_worker(), FAMILY.tasks("test"))

    assert context["steps"].tolist() == [2] * 20
    assert all(torch.equal(agent.theta[name], theta[name]) for name in theta)
    moved = context["policy"]["layers.0.weight"] - theta["layers.0.weight"]
    assert (moved.flatten(1).norm(dim=1) > 0).all()


def test_a_context_is_a_value_that_acting_and_adapting_leave_alone():
    agent = make_agent()
    tasks = FAMILY.tasks("test")[:3]
    context = agent.begin(tasks, COPIES, True)
    rollout, after = make_worker().collect(agent, context, tasks, COPIES, agent.phases[0])
    kept = copy.deepcopy(context)
    agent.adapt(context, rollout)

    for name, value in after["policy"].items():
        assert torch.equal(value, context["policy"][name])
        assert value.data_ptr() != agent.theta[name].data_ptr()  # a rollout may write into its own
    assert torch.equal(context["steps"], kept["steps"])
    assert all(torch.equal(context["policy"][name], kept["policy"][name]) for name in agent.theta)


def test_one_adaptation_equals_a_policy_gradient_step_written_out_for_each_task():
    agent = make_agent(adaptation_steps=2, later_inner_lr=0.03)
    batch, context = play(agent, make_worker(), FAMILY.tasks("test")[:3])
    supports = [prepare(rollout, agent.config) for rollout in batch.rollouts[:-1]]
    theta = {name: value.clone().requires_grad_() for name, value in agent.theta.items()}

    for m in range(3):
        phi = inner_loop(agent, theta, supports, m, create_graph=False)
        for name, value in phi.items():
            torch.testing.assert_close(
                context["policy"][name][m], value.detach(), atol=1e-5, rtol=1e-4
            )


def test_adapting_one_task_leaves_the_others_alone_bit_for_bit():
    agent = make_agent()
    batch, _ = play(agent, make_worker(), FAMILY.tasks("test")[:3])
    rollout = batch.rollouts[0]
    reward = rollout.reward.clone()
    reward[:, 1] = torch.randn(reward[:, 1].shape, generator=torch.Generator().manual_seed(0))
    begin = agent.begin(batch.tasks, COPIES, True)

    context = agent.adapt(begin, rollout)
    changed = agent.adapt(begin, replace(rollout, reward=reward))

    for name, value in context["policy"].items():
        assert torch.equal(changed["policy"][name][[0, 2]], value[[0, 2]])
    weight = "layers.0.weight"
    assert not torch.allclose(changed["policy"][weight][1], context["policy"][weight][1])


@pytest.mark.parametrize("normalize_advantage", [False, True])
def test_padding_has_no_influence_on_adaptation(normalize_advantage):
    agent = make_agent(normalize_advantage=normalize_advantage)
    batch, _ = play(agent, make_worker(), FAMILY.tasks("test")[:3])
    begin = agent.begin(batch.tasks, COPIES, True)

    context = agent.adapt(begin, padded(batch.rollouts[0]))

    expected = agent.adapt(begin, batch.rollouts[0])
    torch.testing.assert_close(context["policy"], expected["policy"], atol=1e-5, rtol=1e-4)


def test_weights_are_a_mean_over_each_task_s_valid_steps():
    agent = make_agent()
    rollout = padded(meta_batch(agent).rollouts[0])

    samples = prepare(rollout, agent.config)

    torch.testing.assert_close(samples.weight.sum(1), torch.ones(3))
    assert torch.equal(from_by_task(samples.weight, COPIES) > 0, rollout.valid)
    thinned = thin(samples, 3)
    torch.testing.assert_close(thinned.weight.sum(1), torch.ones(3))
    kept = from_by_task(samples.obs, COPIES)[::3]  # every third time step, of all copies
    assert torch.equal(from_by_task(thinned.obs, COPIES), kept)


def test_deterministic_acting_is_the_mean_of_each_task_s_own_policy():
    agent = make_agent()
    batch, context = play(agent, make_worker(), FAMILY.tasks("test")[:3])
    timestep = batch.rollouts[-1].at(5)

    action, log_prob, after = agent.act(context, timestep, None)

    assert after is context
    for m in range(3):
        own = {name: value[m] for name, value in context["policy"].items()}
        policy = functional_call(agent.policy, own, (timestep.obs[m],))
        torch.testing.assert_close(action[m], policy.mean)
        torch.testing.assert_close(log_prob[m], policy.log_prob(policy.mean))
    drawn, again = (
        agent.act(context, timestep, SharedNoise(torch.Generator().manual_seed(1)))[0]
        for _ in range(2)
    )
    assert torch.equal(drawn, again) and not torch.equal(drawn, action)


# The outer gradient.


@pytest.mark.parametrize("adaptation_steps", [1, 2])
def test_before_the_update_the_recomputed_ratio_of_the_query_episodes_is_one(adaptation_steps):
    # Not bit for bit: acting multiplies N states at a time and the update all T N of them.
    agent = make_agent(adaptation_steps=adaptation_steps, later_inner_lr=0.03)
    batch = meta_batch(agent)
    *supports, query = (prepare(rollout, agent.config) for rollout in batch.rollouts)

    policy = adapted_policy(agent, agent.theta, supports, query)

    played = query.weight > 0
    torch.testing.assert_close(
        policy.log_prob(query.action)[played], query.log_prob[played], atol=1e-5, rtol=1e-5
    )


@ALGORITHMS
def test_the_loss_before_the_update_is_minus_the_mean_advantage_after_adaptation(algorithm):
    agent = make_agent(algorithm, normalize_advantage=False, gae_lambda=0.5)
    batch = meta_batch(agent)
    advantage = prepare(batch.rollouts[-1], agent.config).advantage
    assert advantage.mean().abs() > 1e-3  # or the test would say little

    metrics = agent.meta_update(batch)

    torch.testing.assert_close(
        metrics["outer/loss_before"], -advantage.mean(), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("adaptation_steps", [1, 2])
def test_the_meta_gradient_equals_finite_differences_of_the_surrogate(adaptation_steps):
    agent = make_agent(
        adaptation_steps=adaptation_steps, later_inner_lr=0.05, trust_region=ALONG_THE_GRADIENT
    )
    batch = in_double(agent, meta_batch(agent))
    *supports, query = (prepare(rollout, agent.config) for rollout in batch.rollouts)
    theta = agent.theta
    vector = ravel(theta)

    gradient, metrics = meta_gradient(agent, batch)

    def loss(vector):
        return surrogate(agent, unravel(vector, theta), supports, query)

    torch.testing.assert_close(metrics["outer/loss_before"], loss(vector))
    epsilon = 1e-5
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        along = torch.randn(len(vector), generator=generator, dtype=torch.float64)
        along = along / along.norm()
        slope = (loss(vector + epsilon * along) - loss(vector - epsilon * along)) / (2 * epsilon)
        # The gradient is read from a step of finite length: the curvature bends it by 1e-6 or so.
        torch.testing.assert_close(gradient @ along, slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("adaptation_steps", [1, 2])
def test_the_first_order_meta_gradient_is_the_surrogate_s_own_at_the_adapted_parameters(
    adaptation_steps,
):
    agent = make_agent(
        adaptation_steps=adaptation_steps, first_order=True, trust_region=ALONG_THE_GRADIENT
    )
    batch = in_double(agent, meta_batch(agent))
    *supports, query = (prepare(rollout, agent.config) for rollout in batch.rollouts)
    theta = {name: value.clone().requires_grad_() for name, value in agent.theta.items()}

    gradient, _ = meta_gradient(agent, batch)

    expected = torch.zeros_like(gradient)
    second_order = torch.zeros_like(gradient)
    for m in range(3):
        phi = inner_loop(agent, theta, supports, m, create_graph=True)
        loss = surrogate_of_task(agent, phi, query, m)
        expected += flat_gradient(loss, phi, retain_graph=True)
        second_order += flat_gradient(loss, theta)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-4)
    assert (gradient - second_order).norm() > 0.1 * gradient.norm()  # what the Jacobian is worth


# The outer step.


@pytest.mark.parametrize(
    ("adaptation_steps", "first_order"), [(1, False), (1, True), (2, False), (2, True)]
)
def test_the_curvature_is_the_hessian_of_the_divergence_after_adaptation(
    adaptation_steps, first_order
):
    damping = 0.01
    agent = make_agent(
        hidden_sizes=(3,),
        adaptation_steps=adaptation_steps,
        first_order=first_order,
        trust_region=TrustRegionConfig(damping=damping),
    )
    batch = in_double(agent, meta_batch(agent, tasks=2))
    batch = replace(batch, experience=tuple(map(padded, batch.rollouts)))
    *supports, query = (double(prepare(rollout, agent.config)) for rollout in batch.rollouts)
    theta = ravel(agent.theta)
    size = len(theta)

    product = agent.divergence_curvature(stages(agent, [*supports, query]))
    dense = torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)], dim=1)

    undamped = dense - damping * torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(dense, dense.T)
    assert torch.linalg.eigvalsh(dense).min() > 0.99 * damping

    functional = functional_policy(agent, supports, query)

    def outputs(vector):
        policy = functional(vector)
        return torch.cat([policy.mean.flatten(), policy.log_std.flatten()])

    jacobian = jacrev(outputs)(theta)
    old = adapted_policy(agent, agent.theta, supports, query)
    on_mean = (query.weight / 2).unsqueeze(-1) * (-2 * old.log_std).exp()  # 1/σ², mean over tasks
    metric = torch.cat([on_mean.flatten(), torch.full((2 * 2,), 2 / 2, dtype=torch.float64)])
    torch.testing.assert_close(undamped, jacobian.T @ (metric.unsqueeze(1) * jacobian))

    torch.testing.assert_close(old, functional(theta))

    def divergence(vector):
        return (query.weight * old.kl(functional(vector))).sum() / 2

    torch.testing.assert_close(undamped, hessian(divergence)(theta))


def test_a_thinned_curvature_is_that_of_the_thinned_experience():
    thinned, whole = make_agent(curvature_stride=3), make_agent()
    *supports, query = (prepare(rollout, whole.config) for rollout in meta_batch(whole).rollouts)
    vector = torch.randn(ravel(whole.theta).shape, generator=torch.Generator().manual_seed(0))

    all_, kept = [*supports, query], [thin(samples, 3) for samples in [*supports, query]]
    product = thinned.divergence_curvature(stages(thinned, all_))(vector)

    torch.testing.assert_close(product, whole.divergence_curvature(stages(whole, kept))(vector))
    assert not torch.allclose(product, whole.divergence_curvature(stages(whole, all_))(vector))


def test_an_accepted_outer_step_lowers_the_surrogate_and_keeps_the_divergence():
    agent = make_agent()
    batch = meta_batch(agent)
    *supports, query = (prepare(rollout, agent.config) for rollout in batch.rollouts)
    old = adapted_policy(agent, agent.theta, supports, query)
    before = surrogate(agent, agent.theta, supports, query)

    metrics = agent.meta_update(batch)

    after = surrogate(agent, agent.theta, supports, query)
    new = adapted_policy(agent, agent.theta, supports, query)
    assert metrics["outer/accepted"] == 1
    assert after < before - 1e-4
    torch.testing.assert_close(metrics["outer/loss_after"], after, atol=1e-5, rtol=1e-3)
    kl = (query.weight * old.kl(new)).sum() / 3
    torch.testing.assert_close(metrics["outer/kl"], kl, atol=1e-6, rtol=1e-3)
    assert 0.3 * 0.01 < kl <= 0.01 + 1e-6


def test_trpo_keeps_the_very_theta_when_the_experience_is_not_finite():
    agent = make_agent()
    batch = meta_batch(agent)
    reward = batch.rollouts[-1].reward.clone()
    reward[3, 1, 2] = torch.nan
    broken = (*batch.rollouts[:-1], replace(batch.rollouts[-1], reward=reward))
    theta = copy.deepcopy(agent.theta)

    metrics = agent.meta_update(replace(batch, experience=broken))

    assert metrics["outer/accepted"] == 0
    assert all(torch.equal(agent.theta[name], theta[name]) for name in theta)


def test_ppo_shows_that_the_experience_was_not_finite():
    agent = make_agent(maml_ppo)
    batch = meta_batch(agent)
    reward = batch.rollouts[-1].reward.clone()
    reward[3, 1, 2] = torch.nan
    broken = (*batch.rollouts[:-1], replace(batch.rollouts[-1], reward=reward))

    metrics = agent.meta_update(replace(batch, experience=broken))

    assert not torch.isfinite(metrics["outer/loss_before"])  # so the trainer rejects the update


def test_ppo_shows_that_only_a_gradient_was_not_finite():
    agent = make_agent(maml_ppo)
    batch = meta_batch(agent)
    # A ratio of e²⁰⁰ is infinite. Clipped, its objective is finite, but its slope is 0 times ∞.
    best = prepare(batch.rollouts[-1], agent.config).advantage[0].argmax().item()
    log_prob = batch.rollouts[-1].log_prob.clone()
    log_prob[best // COPIES, 0, best % COPIES] -= 200
    broken = (*batch.rollouts[:-1], replace(batch.rollouts[-1], log_prob=log_prob))

    metrics = agent.meta_update(replace(batch, experience=broken))

    assert torch.isfinite(metrics["outer/loss_before"])
    assert not all_finite(agent.state_dict())  # so the trainer rejects the update


def test_the_clipped_objective_pays_no_more_for_a_ratio_beyond_the_clip():
    ratio = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5], requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])

    objective = clipped_surrogate(ratio, advantage, clip=0.3)
    (slope,) = torch.autograd.grad(objective.sum(), ratio)

    # Gains stop at 1.3 and at 0.7; losses never do.
    torch.testing.assert_close(objective, torch.tensor([0.5, 1.0, 1.3, -0.7, -1.0, -1.5]))
    assert slope.tolist() == [1, 1, 0, 0, -1, -1]


def test_padding_counts_nothing_in_the_clipped_loss_whatever_its_ratio_is():
    # The density of 50 padded zeros under deviations of 0.05 is e¹⁰⁴, beyond single precision.
    log_ratio = torch.tensor([0.1, 104.0], requires_grad=True)
    loss, metrics = clipped_loss(log_ratio, torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0]), 0.2)
    (slope,) = torch.autograd.grad(loss, log_ratio)
    torch.testing.assert_close(loss, -torch.tensor(0.1).exp())
    torch.testing.assert_close(slope, torch.stack([loss, torch.zeros(())]))
    assert all_finite(metrics)


def test_ppo_s_first_gradient_is_that_of_the_unclipped_surrogate():
    agent, reference = make_agent(maml_ppo, epochs=1), make_agent(trust_region=ALONG_THE_GRADIENT)
    batch = in_double(reference, meta_batch(reference))
    theta = {name: value.clone() for name, value in reference.theta.items()}
    agent.load_state_dict(agent.state_dict() | {"theta": theta})

    metrics = agent.meta_update(batch)

    gradient, _ = meta_gradient(reference, batch)
    own = ravel({name: value.grad for name, value in agent.theta.items()})
    torch.testing.assert_close(own, gradient, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(metrics["outer/gradient_norm"], gradient.norm())


def test_ppo_stops_once_the_divergence_exceeds_its_target():
    def epochs(target_kl):
        agent = make_agent(maml_ppo, epochs=6, outer_lr=0.02, target_kl=target_kl)
        return agent.meta_update(meta_batch(agent))["outer/epochs"].item()

    assert epochs(None) == 6
    assert epochs(1e-6) == 1  # the first step is always taken, and it already went too far
    assert 1 <= epochs(0.05) < 6


# Learning.


@ALGORITHMS
def test_a_few_meta_iterations_teach_fast_adaptation(algorithm):
    settings = {} if algorithm is maml_trpo else {"outer_lr": 5e-3}
    agent = make_agent(algorithm, hidden_sizes=(16,), **settings)
    worker = make_worker()

    def held_out_return():
        """Mean return before and after adaptation on the held-out goals, always the same noise."""
        batch, _ = play(agent, make_worker(seed=99), FAMILY.tasks("test"), copies=10)
        return [(r.reward * r.valid).sum(0).mean().item() for r in batch.rollouts]

    _, untrained = held_out_return()
    for _ in range(15):
        tasks = FAMILY.sample(10, "train", worker.streams.tasks)
        agent.meta_update(play(agent, worker, tasks, copies=10)[0])

    before, after = held_out_return()
    # Three seeds gave -7.6 to -5.6 untrained, -4.4 to -3.5 trained, and -6.9 or less unadapted.
    assert after > 0.8 * untrained
    assert after > 0.75 * before


# Settings.


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (maml_trpo, {"adaptation_steps": 0}),
        (maml_trpo, {"episodes_per_phase": 0}),
        (maml_trpo, {"inner_lr": 0.0}),
        (maml_trpo, {"inner_lr": float("inf")}),
        (maml_trpo, {"later_inner_lr": -0.1}),
        (maml_trpo, {"min_std": 0.0}),
        (maml_trpo, {"gamma": 1.5}),
        (maml_trpo, {"curvature_stride": 0}),
        (maml_ppo, {"epochs": 0}),
        (maml_ppo, {"clip": -0.1}),
        (maml_ppo, {"outer_lr": float("nan")}),
    ],
)
def test_a_bad_setting_is_a_user_error_that_names_it(algorithm, settings):
    ((name, value),) = settings.items()

    with pytest.raises(UserError, match=rf"agent\.{name} must be .*, got {value}"):
        algorithm.Config(**settings)


def test_settings_that_would_do_nothing_are_refused():
    with pytest.raises(
        UserError, match=r"agent\.initial_std must be at least min_std, .* got 0\.1"
    ):
        maml_trpo.Config(initial_std=0.1, min_std=0.2)
    with pytest.raises(UserError, match=r"agent\.later_inner_lr has no effect"):
        maml_ppo.Config(later_inner_lr=0.05, step_sizes="per_layer")
