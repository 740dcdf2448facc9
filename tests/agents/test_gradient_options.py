"""What others have added to MAML, against closed forms: ANIL, MAML++, Meta-SGD."""

import pytest
import torch
from derivatives import ParameterInnerLoop, adapted_policies, gradient_of, task_loss
from playing import Player

from agents import maml_ppo, maml_trpo, promp
from agents._maml import MAMLConfig, Stages
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.ranks import part_of
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, MetaBatch, map_tensors
from meta_rl.learning.descent import shortened
from meta_rl.learning.samples import Samples, prepare
from meta_rl.learning.trust_region import ravel, unravel

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=5, test_goals=20))
COPIES = 4
ALGORITHMS = pytest.mark.parametrize("algorithm", [maml_trpo, maml_ppo, promp])
SPEC = EnvSpec.box(2, (-1.0,), (1.0,), 1)


def make_agent(algorithm, **settings):
    config = algorithm.Config(**{"hidden_sizes": (8,), "initial_std": 0.5} | settings)
    return algorithm.build(config, FAMILY.spec, CPU, 0)


def play(agent, seed=0, tasks=3, after=0):
    """A meta-batch, and the context after so many more adaptations than training makes."""
    worker = Player(FAMILY, CPU, Streams(seed, CPU))
    drawn = FAMILY.sample(tasks, "train", worker.streams.tasks)
    context, rollouts = agent.begin(drawn, COPIES, True), []
    for k, phase in enumerate(agent.phases + agent.phases[-1:] * after):
        if k > 0:
            context = agent.adapt(context, rollouts[-1])
        rollout, context = worker.collect(agent, context, drawn, COPIES, phase)
        rollouts.append(rollout)
    return MetaBatch(drawn, tuple(rollouts)), context


def in_double(agent, batch):
    """What a batch's rollouts teach; it and θ become double precision, where tolerances are low."""
    agent.theta = {name: value.double() for name, value in agent.theta.items()}
    samples = [prepare(rollout, agent.config) for rollout in batch.rollouts]
    return [map_tensors(torch.Tensor.double, each) for each in samples]


class FunctionalStages(Stages):
    """An outer step's view whose policies torch.func can differentiate, as often as one likes."""

    def policies(self, theta, stages=None):
        found = adapted_policies(self.inner, theta, self.episodes, self.first_order)
        return {k: found[k] for k in (self.weights if stages is None else stages)}


A = 3.0


def quadratic_loss(phi, samples):
    """L(φ) = ½ |φ_x - c|² + ½ a |φ_y|² with the c of each task in the samples' observations."""
    distance = (phi["x"] - samples.obs[:, 0]).square().sum()
    return 0.5 * (distance + A * phi["y"].square().sum())


def quadratic(**settings):
    """An inner loop on quadratics, the θ that its step sizes come with, and two tasks."""
    config = MAMLConfig(**settings)
    inner = ParameterInnerLoop.like(config.inner_loop(config.policy(SPEC), quadratic_loss))
    theta = {"x": torch.tensor([0.3, -0.7]), "y": torch.tensor([2.0])}
    theta |= config.learned_step_sizes(theta, inner)
    centre = torch.tensor([[1.0, 2.0], [-3.0, 0.5]])
    zero = torch.zeros(2, 1)
    samples = Samples(centre.unsqueeze(1), zero.unsqueeze(2), zero, zero, zero, copies=1)
    return inner, theta, centre, [samples] * config.adaptation_steps


# Learned step sizes.


@pytest.mark.parametrize(
    ("step_sizes", "of_x", "of_weight"),
    [("per_layer", (2, 1), (2, 1, 1)), ("per_parameter", (2, 2), (2, 8, 2))],
)
def test_there_is_a_step_size_for_each_step_and_tensor_or_parameter(step_sizes, of_x, of_weight):
    settings = {"step_sizes": step_sizes, "adaptation_steps": 2, "later_inner_lr": 0.05}
    _, theta, _, _ = quadratic(**settings)
    assert theta["step_sizes.x"].shape == of_x

    theta = make_agent(maml_ppo, **settings).theta
    assert theta["step_sizes.layers.0.weight"].shape == of_weight
    policy = {name for name in theta if not name.startswith("step_sizes.")}
    assert theta.keys() - policy == {f"step_sizes.{name}" for name in policy}
    for name in policy:
        first, second = theta[f"step_sizes.{name}"]
        assert (first == 0.1).all() and (second == 0.05).all()


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("step_sizes", ["per_layer", "per_parameter"])
def test_learned_step_sizes_receive_the_analytic_gradient_of_a_quadratic(step_sizes, first_order):
    # φ_x - c = (1 - α) (θ_x - c) =: (1 - α) e and φ_y = (1 - aα) θ_y, so that
    # dL(φ)/dα = -(1 - α) e² of x and -a² (1 - aα) θ_y² of y: the same with and without the
    # second-order term, which is about dφ/dθ.
    inner, theta, centre, supports = quadratic(step_sizes=step_sizes)

    def outer_loss(theta):
        return quadratic_loss(inner.adapted(theta, supports, first_order), supports[0])

    gradient = torch.func.grad(outer_loss)(theta)

    squared = ((theta["x"] - centre) ** 2).sum(0)
    of_x = -(1 - 0.1) * squared
    of_y = -2 * A**2 * (1 - 0.1 * A) * theta["y"] ** 2  # of both tasks
    expected = of_x if step_sizes == "per_parameter" else of_x.sum(0, keepdim=True)
    torch.testing.assert_close(gradient["step_sizes.x"], expected.unsqueeze(0))
    torch.testing.assert_close(gradient["step_sizes.y"], of_y.unsqueeze(0))


@pytest.mark.parametrize("step_sizes", ["per_layer", "per_parameter"])
def test_the_gradient_of_a_policy_s_step_sizes_equals_finite_differences(step_sizes):
    agent = make_agent(maml_ppo, step_sizes=step_sizes, adaptation_steps=2)
    batch, _ = play(agent)
    episodes = in_double(agent, batch)
    stages = Stages(agent.inner, episodes, {2: 1.0}, first_order=False)

    def loss(theta):
        policies = stages.policies(theta)
        return stages.clipped_loss(policies, policies, agent.config.clip)[0]

    gradient = ravel(gradient_of(loss, agent.theta))

    vector, generator = ravel(agent.theta), torch.Generator().manual_seed(0)
    learned = ravel(
        {
            name: torch.full_like(value, float(name.startswith("step_sizes.")))
            for name, value in agent.theta.items()
        }
    )
    assert (gradient * learned).norm() > 1e-3
    for along in torch.randn(4, len(vector), generator=generator, dtype=torch.float64) * learned:
        ahead, behind = (loss(unravel(vector + e * along, agent.theta)) for e in (1e-6, -1e-6))
        torch.testing.assert_close(gradient @ along, (ahead - behind) / 2e-6, atol=1e-7, rtol=1e-4)


@ALGORITHMS
@pytest.mark.parametrize("step_sizes", ["per_layer", "per_parameter"])
def test_an_update_moves_the_step_sizes_and_adaptation_uses_them(algorithm, step_sizes):
    agent = make_agent(algorithm, step_sizes=step_sizes)
    metrics = agent.meta_update(play(agent)[0])
    learned = {k: v for k, v in agent.theta.items() if k.startswith("step_sizes.")}
    assert all((value != 0.1).any() for value in learned.values())
    torch.testing.assert_close(
        metrics["inner/step_size"], torch.tensor(0.1)
    )  # of the θ that collected

    batch, context = play(agent, seed=1)
    samples = prepare(batch.rollouts[0], agent.config)
    begin = agent.begin(batch.tasks, COPIES, True)["policy"]
    gradient = agent.inner.gradient(begin, samples)
    for name, value in gradient.items():
        moved = begin[name] - learned[f"step_sizes.{name}"] * value
        torch.testing.assert_close(context["policy"][name], moved)


def test_steps_beyond_those_learned_take_the_last_one_s_size():
    agent = make_agent(maml_ppo, step_sizes="per_layer", adaptation_steps=2, later_inner_lr=0.01)
    batch, context = play(agent, after=1)

    samples = prepare(batch.rollouts[2], agent.config)
    before = play(agent)[1]["policy"]
    gradient = agent.inner.gradient(before, samples)

    assert context["steps"].tolist() == [3, 3, 3]
    for name, value in gradient.items():
        torch.testing.assert_close(context["policy"][name], before[name] - 0.01 * value)


# The head alone.


@ALGORITHMS
@pytest.mark.parametrize("step_sizes", ["fixed", "per_parameter"])
def test_with_anil_only_the_head_adapts_and_all_is_learned(algorithm, step_sizes):
    agent = make_agent(algorithm, adapt="head", step_sizes=step_sizes)
    before = {name: value.clone() for name, value in agent.theta.items()}
    batch, context = play(agent)

    adapted = {
        name for name, value in context["policy"].items() if not torch.equal(value[0], before[name])
    }
    assert adapted == {"layers.1.weight", "layers.1.bias", "log_std"}

    agent.meta_update(batch)
    assert all((agent.theta[name] != before[name]).any() for name in before)
    learned = {name for name in before if name.startswith("step_sizes.")}
    assert learned == (
        {f"step_sizes.{name}" for name in adapted} if step_sizes != "fixed" else set()
    )


def test_the_head_s_step_is_the_head_s_part_of_the_whole_step():
    whole, head = make_agent(maml_ppo), make_agent(maml_ppo, adapt="head")
    batch, expected = play(whole)

    context = head.adapt(head.begin(batch.tasks, COPIES, True), batch.rollouts[0])

    for name in ("layers.1.weight", "layers.1.bias", "log_std"):
        torch.testing.assert_close(context["policy"][name], expected["policy"][name])


# Annealing.


def test_derivative_order_annealing_is_first_order_until_it_is_not():
    settings = [{"first_order": True}, {}, {"first_order_updates": 1}]
    first_order, second_order, annealed = (make_agent(maml_ppo, **each) for each in settings)
    batches = [play(annealed, seed)[0] for seed in range(2)]

    metrics = [
        [agent.meta_update(batch)["outer/gradient_norm"] for batch in batches]
        for agent in (first_order, annealed)
    ]
    assert torch.equal(metrics[0][0], metrics[1][0])
    assert not torch.equal(metrics[0][1], metrics[1][1])

    # From the same θ, the second update is the second-order agent's.
    second_order.theta = {name: value.clone() for name, value in annealed.theta.items()}
    batch, _ = play(second_order, seed=2)
    norms = [each.meta_update(batch)["outer/gradient_norm"] for each in (annealed, second_order)]
    assert torch.equal(*norms)


def test_the_multi_step_loss_fades_to_the_last_step_s():
    agent = make_agent(maml_ppo, adaptation_steps=3, multi_step_updates=4)
    weights = {}
    for meta_updates in (0, 2, 4, 9):
        weights[meta_updates] = agent.config.stage_weights(meta_updates)

    assert weights[0] == pytest.approx({1: 1 / 3, 2: 1 / 3, 3: 1 / 3})
    assert weights[2] == pytest.approx({1: 1 / 6, 2: 1 / 6, 3: 2 / 3})
    assert weights[4] == weights[9] == {3: 1.0}


@ALGORITHMS
def test_the_multi_step_loss_is_the_weighted_sum_over_the_stages(algorithm):
    agent = make_agent(
        algorithm,
        adaptation_steps=2,
        multi_step_updates=4,
        normalize_advantage=False,
        gae_lambda=0.5,
    )
    agent.meta_updates = 1  # weights 3/8 and 5/8
    batch, _ = play(agent)
    means = [prepare(rollout, agent.config).advantage.mean() for rollout in batch.rollouts]

    metrics = agent.meta_update(batch)

    expected = -(3 / 8 * means[1] + 5 / 8 * means[2])
    assert abs(means[1] - means[2]) > 1e-3
    torch.testing.assert_close(metrics["outer/loss_before"], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ({}, {1: 0.5, 2: 0.5}),
        ({"before_weight": 0.2}, {0: 0.2, 1: 0.4, 2: 0.4}),
        ({"adapt": "head", "step_sizes": "per_parameter"}, {1: 0.5, 2: 0.5}),
    ],
)
def test_the_curvature_of_the_multi_step_divergence_is_its_hessian(settings, weights):
    agent = make_agent(
        maml_trpo,
        **{
            "hidden_sizes": (3,),
            "adaptation_steps": 2,
            "multi_step_updates": 4,
            "step_sizes": "per_layer",
            "trust_region": maml_trpo.TrustRegionConfig(damping=0.0),
        }
        | settings,
    )
    batch, _ = play(agent, tasks=2)
    episodes = in_double(agent, batch)
    view = (agent.inner, episodes, agent.config.stage_weights(0), False)
    theta = ravel(agent.theta)

    product = agent.divergence_curvature(Stages(*view))
    dense = torch.stack([product(row) for row in torch.eye(len(theta), dtype=torch.float64)], 1)

    stages = FunctionalStages(*view)
    old = stages.policies(agent.theta)

    def divergence(vector):
        new = stages.policies(unravel(vector, agent.theta))
        return sum(w * episodes[k].mean_over_tasks(old[k].kl(new[k])) for k, w in weights.items())

    torch.testing.assert_close(dense, torch.func.hessian(divergence)(theta))


# The meta-gradient.


@ALGORITHMS
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"first_order": True},
        {"adapt": "head"},
        {"activation": "relu", "hidden_sizes": (6, 5)},
        {"step_sizes": "per_parameter", "adaptation_steps": 2},
        {"before_weight": 0.2, "multi_step_updates": 4, "adaptation_steps": 2},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_the_meta_gradient_is_that_of_torch_func(algorithm, settings):
    agent = make_agent(algorithm, **settings)
    batch, _ = play(agent)
    episodes = in_double(agent, batch)
    config = agent.config
    view = (agent.inner, episodes, config.stage_weights(0), config.is_first_order(0))
    generator = torch.Generator().manual_seed(0)
    theta = {  # not where the episodes were played, so that ratios differ from 1
        name: value + 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in agent.theta.items()
    }
    loss, functional = (task_loss(agent, kind(*view)) for kind in (Stages, FunctionalStages))

    gradient = gradient_of(lambda theta: loss(theta, None)[0], theta)

    expected = torch.func.grad(lambda theta: functional(theta, None)[0])(theta)
    torch.testing.assert_close(gradient, expected)


# Outer steps.


@pytest.mark.parametrize("algorithm", [maml_ppo, promp])
def test_a_minibatch_is_some_of_the_tasks(algorithm):
    agent = make_agent(algorithm, adaptation_steps=2)
    stages = agent.stages(play(agent, tasks=3)[0])
    loss = task_loss(agent, stages)
    theta = {name: value + 0.01 for name, value in agent.theta.items()}

    def gradient(which):
        return ravel(gradient_of(lambda theta: loss(theta, which)[0], theta))

    alone = [gradient(part_of(torch.tensor([m]), 3)) for m in range(3)]
    torch.testing.assert_close(torch.stack(alone).mean(0), gradient(None), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


@pytest.mark.parametrize("algorithm", [maml_ppo, promp])
@pytest.mark.parametrize(("target_kl", "epochs"), [(None, 4), (1e-7, 1)])
def test_epochs_take_a_step_for_each_minibatch_until_the_whole_batch_has_moved_enough(
    algorithm, target_kl, epochs, monkeypatch
):
    agent = make_agent(algorithm, epochs=4, minibatches=2, target_kl=target_kl, outer_lr=0.01)
    batch, _ = play(agent, tasks=3)
    stages, steps = agent.stages(batch), []
    old = stages.acting_policies(agent.theta)
    step = agent.descent.step
    monkeypatch.setattr(agent.descent, "step", lambda *given: steps.append(given) or step(*given))

    metrics = agent.meta_update(batch)

    assert len(steps) == 2 * epochs and metrics["outer/epochs"] == epochs
    moved = stages.divergence(old, stages.acting_policies(agent.theta))
    torch.testing.assert_close(metrics["outer/kl"], moved, atol=1e-6, rtol=1e-3)


def test_long_gradients_are_scaled_down_and_short_ones_kept():
    gradient = {"x": torch.tensor([3.0, 0.0]), "y": torch.tensor([[4.0]])}
    torch.testing.assert_close(ravel(shortened(gradient, 0.5)), torch.tensor([0.3, 0.0, 0.4]))
    for longest in (5.1, None):
        assert torch.equal(ravel(shortened(gradient, longest)), ravel(gradient))


def test_several_trust_region_steps_go_further_until_the_policies_have_left_enough():
    def update(**settings):
        agent = make_agent(maml_trpo, **settings)
        batch, _ = play(agent)
        stages = agent.stages(batch)
        old = stages.acting_policies(agent.theta)
        metrics = agent.meta_update(batch)
        moved = stages.divergence(old, stages.acting_policies(agent.theta))
        torch.testing.assert_close(metrics["outer/kl"], moved, atol=1e-6, rtol=1e-3)
        return metrics, agent.theta

    one, _ = update()
    three, theta = update(outer_steps=3, target_kl=None)
    stopped, first = update(outer_steps=3, target_kl=1e-6)

    assert [each["outer/steps"].item() for each in (one, three, stopped)] == [1, 3, 1]
    assert three["outer/kl"] > 2 * one["outer/kl"]
    assert three["outer/loss_after"] < one["outer/loss_after"] - 1e-4
    assert torch.equal(three["outer/loss_before"], one["outer/loss_before"])
    assert not torch.equal(ravel(theta), ravel(first))


def test_a_multi_step_loss_needs_several_steps():
    with pytest.raises(UserError, match=r"adaptation_steps is 1; raise it, or leave"):
        maml_ppo.Config(multi_step_updates=5)
    with pytest.raises(UserError, match=r"agent.first_order_updates must be at least 0, got -1"):
        promp.Config(first_order_updates=-1)


# Checkpoints.


@ALGORITHMS
def test_a_checkpoint_from_before_updates_were_counted_still_loads(algorithm):
    agent = make_agent(algorithm)
    state = agent.state_dict()
    del state["meta_updates"]
    agent.load_state_dict(state)
    assert agent.meta_updates == 0
