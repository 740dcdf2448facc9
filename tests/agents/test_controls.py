"""The controls that a claim of learning to learn has to beat: what each of them must do."""

from dataclasses import replace
from math import ceil, log, sqrt

import pytest
import torch
from derivatives import gradient_of
from playing import Player
from torch.func import functional_call

from agents import fine_tune, maml_trpo, multitask_ppo, random, scripted
from envs import metaworld
from envs.point_navigation import Config, PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Expert
from meta_rl.core.seeding import SharedNoise, Streams
from meta_rl.core.types import EnvSpec, MetaBatch, Tasks, TimeStep
from meta_rl.evaluation.protocol import make_protocol
from meta_rl.experiment.building import build_agent, build_distribution
from meta_rl.experiment.config import load_experiment
from meta_rl.learning.samples import prepare

CPU = torch.device("cpu")
FAMILY = PointNavigation(Config(horizon=12, test_goals=5))


def collect(agent, family=FAMILY, tasks=None, copies=3):
    """One phase of the agent's, and the context that it began with."""
    tasks = family.tasks("test") if tasks is None else tasks
    worker = Player(family, CPU, Streams(0, CPU))
    context = agent.begin(tasks, copies, True)
    rollout, _ = worker.collect(agent, context, tasks, copies, agent.phases[0])
    worker.env.close()
    return MetaBatch(tasks, (rollout,)), context


def build(module, seed=0, **settings):
    return module.build(module.Config(hidden_sizes=(8,), **settings), FAMILY.spec, CPU, seed)


def goals(*places):
    params = torch.tensor(places, dtype=torch.float64)
    index = torch.arange(len(places))
    return Tasks("point_navigation", ("point",) * len(places), index, params)


CONTROLS = ("multitask_ppo", "fine_tune", "random", "scripted")


@pytest.mark.parametrize("family", ["point_navigation", "ml1_reach", "ml1_push", "ml10"])
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_is_trained_and_measured_at_the_budget_of_maml(family, control):
    budgets, protocols, learns = [], [], []
    for name in (control, "maml_ppo"):
        experiment = load_experiment(f"{family}_{name}")
        distribution = build_distribution(experiment)
        agent = build_agent(experiment, distribution.spec, CPU)
        episodes = sum(phase.episodes for phase in agent.phases) * experiment.meta_batch_size
        budgets.append(episodes * experiment.copies * experiment.meta_iterations)
        held_out = replace(experiment.evaluation, split="test", goals=20)
        copies = held_out.copies or experiment.copies
        protocols.append(make_protocol(agent, distribution, held_out, copies))
        learns.append(bool(agent.state_dict()))
    assert protocols[0] == protocols[1]
    assert budgets[0] == budgets[1] if learns[0] else budgets[0] < budgets[1] / 50


@pytest.mark.parametrize("family", ["point_navigation", "ml1_reach", "ml1_push", "ml10"])
def test_agents_that_adapt_by_gradients_are_measured_alike(family):
    protocols = []
    for name in ("maml_trpo", "maml_ppo", "promp", "reptile", "meta_gradient"):
        experiment = load_experiment(f"{family}_{name}")
        distribution = build_distribution(experiment)
        agent = build_agent(experiment, distribution.spec, CPU)
        measured = replace(experiment.evaluation, split="test")
        protocols.append(make_protocol(agent, distribution, measured, experiment.evaluation_copies))
    assert all(protocol == protocols[0] for protocol in protocols)


# One policy for all tasks.


def plain_policy_gradient(agent, samples):
    """∇ of -mean over tasks of E[log π(a|s) A], task by task through the module's own forward."""
    theta = {name: value.clone().requires_grad_() for name, value in agent.theta.items()}
    losses = [
        -(samples.weight[m] * log_prob * samples.advantage[m]).sum()
        for m in range(len(samples.obs))
        for policy in [functional_call(agent.policy, theta, (samples.obs[m],))]
        for log_prob in [policy.log_prob(samples.action[m])]
    ]
    gradient = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    return dict(zip(theta, gradient, strict=True))


def test_the_first_step_of_multi_task_ppo_follows_the_plain_policy_gradient():
    agent = build(multitask_ppo, epochs=1, minibatches=1, outer_lr=0.01)
    batch, _ = collect(agent)
    gradient = plain_policy_gradient(agent, prepare(batch.rollouts[0], agent.config))
    before = {name: value.clone() for name, value in agent.theta.items()}

    metrics = agent.meta_update(batch)

    norm = torch.cat([value.flatten() for value in gradient.values()]).norm()
    torch.testing.assert_close(metrics["outer/gradient_norm"], norm, rtol=1e-4, atol=1e-6)
    for name, value in gradient.items():  # Adam's first step is lr g / (|g| + ε)
        expected = before[name] - 0.01 * value / (value.abs() + 1e-8)
        sure = value.abs() > 1e-4  # where it is nearly 0, its sign is rounding's
        torch.testing.assert_close(agent.theta[name][sure], expected[sure], rtol=1e-4, atol=1e-5)


def test_minibatches_hold_some_of_every_task_and_together_every_step_once():
    agent = build(multitask_ppo, minibatches=4, epochs=1, target_kl=None)
    batch, _ = collect(agent)
    seen = []
    step = agent.step
    agent.step = lambda samples: (seen.append(samples), step(samples))[1]

    agent.meta_update(batch)

    whole = prepare(batch.rollouts[0], agent.config)
    assert len(seen) == 4 and all(len(part.obs) == 5 for part in seen)
    played = torch.cat([part.log_prob for part in seen], dim=1)
    torch.testing.assert_close(played.sort(dim=1).values, whole.log_prob.sort(dim=1).values)


def test_a_minibatch_of_padding_alone_teaches_nothing():
    agent = build(multitask_ppo)
    samples = prepare(collect(agent)[0].rollouts[0], agent.config)
    before = {name: value.clone() for name, value in agent.theta.items()}
    metrics = agent.step(replace(samples, weight=torch.zeros_like(samples.weight)))
    assert metrics["outer/gradient_norm"] == metrics["outer/kl"] == 0
    assert all(torch.equal(agent.theta[name], value) for name, value in before.items())


@pytest.mark.parametrize("target_kl", [1e-9, None])
def test_epochs_end_when_the_policy_has_moved_far_enough(target_kl):
    agent = build(multitask_ppo, epochs=3, target_kl=target_kl)
    metrics = agent.meta_update(collect(agent)[0])
    assert metrics["outer/epochs"] == (1 if target_kl else 3)


def test_what_does_not_adapt_keeps_its_context():
    for agent in (build(multitask_ppo), random.build(random.Config(), FAMILY.spec, CPU, 0)):
        batch, context = collect(agent)
        assert agent.adapt(context, batch.rollouts[0]) is context


def test_multi_task_ppo_learns_what_all_tasks_share():
    # Goals to the right: going there serves each of them, though none is told apart.
    tasks = goals((0.5, 0.3), (0.5, 0.0), (0.5, -0.3))
    agent = build(multitask_ppo, outer_lr=0.01)
    returns = []
    for _ in range(15):
        batch, _ = collect(agent, tasks=tasks, copies=10)
        returns.append(batch.rollouts[0].reward.sum(0).mean())
        agent.meta_update(batch)
    assert returns[-1] > returns[0] + 0.5


def test_a_deviation_that_fell_below_its_floor_is_raised_to_it_and_goes_on_learning():
    agent = build(multitask_ppo, initial_std=0.3, min_std=0.3)
    agent.theta["log_std"] -= 0.5
    metrics = agent.meta_update(collect(agent)[0])

    torch.testing.assert_close(metrics["policy/std"], torch.tensor(0.3))
    learned = gradient_of(agent.surrogate(collect(agent)[0]).loss, agent.theta)
    assert (learned["log_std"] != 0).all()


# Fine-tuning.


def test_fine_tuning_is_mamls_inner_step_from_the_same_parameters(identical):
    tuner = build(fine_tune, inner_lr=0.3)
    maml = build(maml_trpo, inner_lr=0.3)
    maml.theta = tuner.theta
    batch, context = collect(tuner)

    tuned = tuner.adapt(tuner.adapt(context, batch.rollouts[0]), batch.rollouts[0])
    adapted = maml.adapt(maml.begin(batch.tasks, 3, True), batch.rollouts[0])
    adapted = maml.adapt(adapted, batch.rollouts[0])

    assert identical(tuned, adapted)
    assert not torch.equal(tuned["policy"]["log_std"], context["policy"]["log_std"])


def test_fine_tuning_is_pretrained_by_multi_task_ppo(identical):
    tuner, multitask = build(fine_tune), build(multitask_ppo)
    batch, _ = collect(tuner)
    metrics = [agent.meta_update(batch) for agent in (tuner, multitask)]
    assert identical(*metrics)
    assert identical(tuner.state_dict(), multitask.state_dict())


# The floor.


def test_random_actions_fill_their_bounds_evenly_and_their_density_integrates_to_one():
    spec = EnvSpec.box(2, (-1.0, 0.0), (1.0, 0.5), 5)
    agent = random.build(random.Config(), spec, CPU, 0)
    worlds = (1, 100_000)
    known = torch.ones(worlds, dtype=torch.bool)
    step = TimeStep(*(torch.zeros(*worlds, 2),) * 2, torch.zeros(worlds), known, known)

    action, log_prob, _ = agent.act({}, step, SharedNoise(torch.Generator().manual_seed(0)))

    unit = (action[0] - torch.tensor(spec.action_bounds[0])) / torch.tensor([2.0, 0.5])
    assert unit.min() >= 0 and unit.max() <= 1
    shares = torch.stack([unit[:, a].histc(10, 0, 1) for a in range(2)]) / len(unit)
    torch.testing.assert_close(shares, torch.full((2, 10), 0.1), atol=0.005, rtol=0)  # 5 σ
    torch.testing.assert_close(log_prob, torch.full((1, 100_000), -log(2 * 0.5)))
    assert torch.equal(agent.act({}, step, None)[0][0, 0], torch.tensor([0.0, 0.25]))


def test_a_random_walks_return_is_as_theory_has_it():
    # Each step adds 0.1 u to a coordinate, Var u = 1/3, so E|p_t - g|² = |g|² + 2 t 0.01 / 3, and
    # over T steps the mean return is -(T |g|² + 0.01 T (T + 1) / 3).
    T, copies = 10, 4000
    family = PointNavigation(Config(reward="squared", horizon=T))
    agent = random.build(random.Config(), family.spec, CPU, 0)
    tasks = goals((0.5, 0.5), (-0.5, 0.3))

    returns = collect(agent, family, tasks, copies)[0].rollouts[0].reward.sum(0)

    expected = -(T * tasks.params.square().sum(1) + 0.01 * T * (T + 1) / 3).float()
    error = returns.std(dim=1).max() / sqrt(copies)
    torch.testing.assert_close(returns.mean(dim=1), expected, atol=4 * error.item(), rtol=0)


def test_random_actions_want_bounds():
    spec = EnvSpec.box(2, (-1.0, -float("inf")), (1.0, 1.0), 5)
    with pytest.raises(UserError, match="random actions need bounds"):
        random.build(random.Config(), spec, CPU, 0)


# The ceiling.


def test_the_point_is_led_straight_to_its_goal():
    tasks = goals((0.5, 0.25), (-0.3, 0.0), (0.02, 0.45))
    agent = scripted.build(scripted.Config(), FAMILY.spec, CPU, 0)

    (rollout,) = collect(agent, tasks=tasks, copies=1)[0].rollouts

    taken = rollout.valid.sum((0, 2)).tolist()
    assert taken == [ceil(place.abs().max().item() * 10) for place in tasks.params]
    assert rollout.metrics["success"].amax(0).min() == 1
    # on its way to (-0.3, 0) it is 0.2, 0.1 and 0 away
    torch.testing.assert_close(rollout.reward[:3, 1, 0], torch.tensor([-0.2, -0.1, 0.0]))


def test_meta_worlds_own_policy_reaches_hidden_goals():
    family = metaworld.build(metaworld.Config(task="reach-v3", horizon=100))
    agent = scripted.build(scripted.Config(), family.spec, CPU, 0)
    tasks = family.tasks("test")[[0, 7]]

    batch, context = collect(agent, family, tasks, copies=1)

    # reach-v3's goal is the last part of its params
    torch.testing.assert_close(context["knowledge"][:, 1:], tasks.params[:, 3:].float())
    rollout = batch.rollouts[0]
    assert (rollout.metrics["success"].amax(0) == 1).all()
    assert (rollout.obs[..., 36:39] == 0).all()  # which no one but the expert was shown


def test_each_class_is_played_by_its_own_policy():
    drawers, reach = (
        metaworld.build(metaworld.Config(task=f"{name}-v3", horizon=5)).tasks("test")[[0]]
        for name in ("drawer-close", "reach")
    )
    expert = metaworld.expert()
    assert isinstance(expert, Expert)
    numbers = [expert.knowledge(tasks)[0, 0] for tasks in (drawers, reach)]
    assert [metaworld.TASK_NAMES[int(n)] for n in numbers] == ["drawer-close-v3", "reach-v3"]
    obs = torch.rand(1, 2, 39, generator=torch.Generator().manual_seed(0))
    actions = [expert.act(expert.knowledge(tasks), obs) for tasks in (drawers, reach)]
    assert not torch.equal(*actions)


def test_a_family_without_experts_is_told_so():
    with pytest.raises(UserError, match=r"the family of these tasks has no expert for the agent"):
        scripted.build(scripted.Config(), EnvSpec.box(2, (-1.0,), (1.0,), 5), CPU, 0)


@pytest.mark.parametrize("agent", ["random", "scripted"])
def test_a_run_that_learns_nothing_resumes_as_if_nothing_had_happened(
    agent, meta_rl, small_config, run_at, tmp_path
):
    config = small_config(agent)
    meta_rl("train", config, "--runs", "whole").succeeds()
    meta_rl("train", config, "--meta-iterations", 1).succeeds()
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", 2).succeeds()
    ours, whole = run_at(tmp_path / "runs" / "small"), run_at(tmp_path / "whole" / "small")
    assert ours.latest["streams"]["tasks"].equal(whole.latest["streams"]["tasks"])
    assert ours.rows[-1] == whole.rows[-1]


def test_meta_worlds_policies_cannot_be_exported():
    class Program(torch.nn.Module):
        def forward(self, obs):
            return metaworld.expert().act(torch.zeros(1, 4), obs)

    with pytest.raises(UserError, match="cannot be exported"):
        torch.export.export(Program(), (torch.zeros(1, 1, 39),))
