"""What every agent of the catalog promises; a new file in agents/ is tested by being there."""

import ast
import inspect
import re
import textwrap
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch
from gpu import CUDA
from playing import Player
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from envs.point_navigation import Config, PointEnv, PointNavigation
from meta_rl.core.protocols import Inspectable, MetaAgent, Stored
from meta_rl.core.seeding import SharedNoise, Streams
from meta_rl.core.types import MetaBatch, Phase, TimeStep, map_tensors
from meta_rl.diagnosis.maths import compare, probe
from meta_rl.evaluation.measuring import evaluate
from meta_rl.experiment import catalog
from meta_rl.experiment.config import EvaluationConfig
from meta_rl.runs import checkpoint

CPU = torch.device("cpu")
FAMILY = PointNavigation(Config(horizon=6, test_goals=5))
TASKS, COPIES = 3, 2


OPTIONS = (
    ("maml_trpo", {"adapt": "head", "before_weight": 0.3, "normalize_observations": True}),
    # MAML++
    ("maml_ppo", {"step_sizes": "per_layer", "first_order_updates": 2, "multi_step_updates": 4}),
    ("promp", {"step_sizes": "per_parameter", "first_order": True}),
    ("reptile", {"adaptation_steps": 2, "later_inner_lr": 0.05}),
    ("maml_trpo", {"first_order": True, "curvature_stride": 2}),
    (
        "reptile",
        {"outer_optimizer": "adam", "outer_lr": 1e-3, "annealing_updates": 4, "inner_epochs": 2},
    ),
    (
        "meta_gradient",
        {"learn_step_size": True, "trace_decay": 0.5, "normalize_observations": True},
    ),
    ("rl2_ppo", {"memory": "lstm", "critic": True}),
    ("in_context_sac", {"memory": "lstm", "gammas": (0.5,)}),
    ("metric", {"memory": "transformer", "heads": 2, "context_steps": 5}),
    ("varibad", {"memory": "fast_weights", "heads": 2}),
    ("mbrl", {"adaptation": "recurrence"}),  # which alone has a memory
)
"""What changes an agent's structure. Each is tried on every agent whose Config has the settings:
always on the one beside it, and on agents that are not here; on the others if all is thorough."""


def pytest_generate_tests(metafunc):
    """Run each test for every agent of the catalog, and for every option if it builds one."""
    names = catalog.names("agents")
    if "build_agent" not in metafunc.fixturenames:
        metafunc.parametrize("name", names)
        return
    known = {
        name: {field.name for field in fields(catalog.load("agents", name).Config)}
        for name in names
    }
    always = {name for name, _ in OPTIONS}
    metafunc.parametrize(
        ("name", "options"),
        [
            pytest.param(
                name,
                options,
                id="-".join([name, *options]),
                marks=pytest.mark.thorough if name in always - {chosen} else (),
            )
            for name in names
            for chosen, options in ((name, {}), *OPTIONS)
            if options.keys() <= known[name] and not ("memory" in options and name == "mbrl")
        ],
    )


@pytest.fixture
def build_agent(build_agent, options):
    """Build a small agent of the catalog with the options under test."""
    several = {"adaptation_steps": 2} if "multi_step_updates" in options else {}

    def build(name, spec, device="cpu", seed=0):
        return build_agent(name, spec, device, seed, **options, **several)

    return build


def make_worker(seed=0, device=CPU):
    return Player(FAMILY, device, Streams(seed, device))


def play(agent, worker, tasks):
    """Let the agent play its phases as the trainer does; return all contexts on the way too."""
    context, rollouts = agent.begin(tasks, COPIES, True), []
    contexts = [context]
    for k, phase in enumerate(agent.phases):
        if k > 0:
            context = agent.adapt(context, rollouts[-1])
            contexts.append(context)
        previous = rollouts[-1] if rollouts else None
        rollout, context = worker.collect(agent, context, tasks, COPIES, phase, previous)
        rollouts.append(rollout)
        contexts.append(context)
    return MetaBatch(tasks, tuple(rollouts)), contexts


def some_tasks(seed=0, count=TASKS):
    return FAMILY.sample(count, "train", torch.Generator().manual_seed(seed))


def some_steps(seed=0, count=TASKS, device=CPU):
    generator = torch.Generator().manual_seed(seed)
    shape = (count, COPIES)
    step = TimeStep(
        obs=torch.randn(*shape, 2, generator=generator),
        prev_action=torch.randn(*shape, 2, generator=generator),
        prev_reward=torch.randn(*shape, generator=generator),
        first=torch.zeros(shape, dtype=torch.bool),
        valid=torch.ones(shape, dtype=torch.bool),
    )
    return TimeStep(**{field.name: getattr(step, field.name).to(device) for field in fields(step)})


def copied(state):
    return pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, state)


def assert_close(ours, theirs):
    for mine, other in zip(pytree.tree_leaves(ours), pytree.tree_leaves(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_its_config_describes_itself_and_every_setting(name):
    config = catalog.load("agents", name).Config
    assert is_dataclass(config) and config.__dataclass_params__.frozen
    assert config.__doc__.partition("\n")[0].endswith(".")
    described = set()
    for cls in config.__mro__:
        if is_dataclass(cls):
            (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            for field, below in zip(node.body, node.body[1:], strict=False):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    described.add(field.target.id)
    assert {field.name for field in fields(config)} <= described


def test_it_is_an_agent_with_its_default_config(name):
    module = catalog.load("agents", name)
    agent = module.build(module.Config(), FAMILY.spec, CPU, 0)
    assert isinstance(agent, MetaAgent)
    assert isinstance(agent.copies_share_experience, bool)
    assert len(agent.phases) > 0
    assert all(isinstance(phase, Phase) and phase.episodes > 0 for phase in agent.phases)


def test_its_context_is_a_pytree_of_tensors_with_one_row_a_task(name, build_agent):
    agent = build_agent(name, FAMILY.spec)
    _, contexts = play(agent, make_worker(), some_tasks())
    for context in contexts:
        for leaf in pytree.tree_leaves(context):
            assert isinstance(leaf, torch.Tensor)
            assert leaf.shape[0] == TASKS
            assert not leaf.requires_grad


def test_it_acts_for_all_worlds_with_a_joint_log_probability(name, build_agent):
    agent = build_agent(name, FAMILY.spec)
    context = agent.begin(some_tasks(), COPIES, True)
    with torch.no_grad():
        action, log_prob, moved = agent.act(
            context, some_steps(), SharedNoise(torch.Generator().manual_seed(0))
        )
    assert action.shape == (TASKS, COPIES, 2) and action.dtype == torch.float32
    assert log_prob.shape == (TASKS, COPIES)
    assert action.isfinite().all() and log_prob.isfinite().all()
    assert pytree.tree_structure(moved) == pytree.tree_structure(context)


def test_begin_act_and_adapt_leave_the_agent_and_their_arguments_alone(
    name, build_agent, identical
):
    agent, worker, tasks = build_agent(name, FAMILY.spec), make_worker(), some_tasks()
    agent.meta_update(play(agent, worker, tasks)[0])  # so that nothing is still at its start
    before = copied(agent.state_dict())

    context = agent.begin(tasks, COPIES, True)
    begun = copied(context)
    rollout, acted = worker.collect(agent, context, tasks, COPIES, agent.phases[0])
    kept, kept_rollout = copied(acted), copied(vars(rollout))
    agent.adapt(acted, rollout)

    assert identical(agent.state_dict(), before)
    assert identical(context, begun)
    assert identical(acted, kept)
    assert identical(vars(rollout), kept_rollout)


def test_its_mode_is_repeatable_and_draws_nothing(name, build_agent):
    agent = build_agent(name, FAMILY.spec)
    context = agent.begin(some_tasks(), COPIES, True)
    state = torch.get_rng_state()
    with torch.no_grad():
        first, again = (agent.act(context, some_steps(), None)[0] for _ in range(2))
        drawn = agent.act(context, some_steps(), SharedNoise(torch.Generator().manual_seed(0)))[0]
    assert torch.equal(first, again)
    # Who has something to learn must try something.
    assert not torch.equal(first, drawn) or not agent.state_dict()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_same_seed_gives_the_same_agent_and_the_same_rollouts(name, build_agent, identical):
    batches = []
    for seed, noise in ((0, 0), (0, 0), (0, 1)):
        torch.manual_seed(noise)
        agent = build_agent(name, FAMILY.spec, seed=seed)
        batches.append(play(agent, make_worker(noise), some_tasks())[0])
    first, again, other = ([vars(rollout) for rollout in batch.rollouts] for batch in batches)
    assert identical(first, again)
    assert not identical(first, other) or not agent.state_dict()


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_meta_update_returns_finite_scalars(name, build_agent, device):
    device = torch.device(device)
    agent, worker = build_agent(name, FAMILY.spec, device), make_worker(device=device)
    for seed in range(3):
        metrics = agent.meta_update(play(agent, worker, some_tasks(seed))[0])
        for value in metrics.values():
            assert isinstance(value, torch.Tensor) and value.dim() == 0 and value.isfinite()
    for leaf in pytree.tree_leaves(agent.begin(some_tasks(), COPIES, True)):
        assert leaf.device.type == device.type


def test_it_begins_with_nothing_of_which_task_it_is(name, build_agent, identical):
    agent = build_agent(name, FAMILY.spec)
    if getattr(agent, "sees_tasks", False):
        pytest.skip("it is shown each task")
    agent.meta_update(play(agent, make_worker(), some_tasks())[0])
    one, other = (agent.begin(some_tasks(seed), COPIES, training=False) for seed in range(2))
    assert identical(one, other)


@pytest.mark.parametrize("device", [CUDA])
def test_an_update_on_the_gpu_is_that_of_the_cpu(name, build_agent, device, tmp_path):
    agent, worker = build_agent(name, FAMILY.spec), make_worker()
    agent.meta_update(play(agent, worker, some_tasks())[0])  # so that optimizers have a state
    elsewhere = build_agent(name, FAMILY.spec, device)
    save(agent, tmp_path)
    load(elsewhere, tmp_path)
    batch, before = play(agent, worker, some_tasks(1))[0], weights(agent)

    agent.meta_update(batch)
    elsewhere.meta_update(moved(batch, device))

    # Conjugate gradients in single precision amplify rounding: a few per cent of the step differ
    # between two orders of the same tasks on one device, too.
    here, there = weights(agent) - before, weights(elsewhere) - before
    assert torch.linalg.vector_norm(there - here) <= 0.3 * torch.linalg.vector_norm(here)


def moved(batch, device):
    """Return a copy of a meta-batch on another device."""
    rollouts = [map_tensors(lambda x: x.to(device), rollout) for rollout in batch.rollouts]
    return MetaBatch(batch.tasks, tuple(rollouts))


BESIDE_WEIGHTS = re.compile("generator|optimizer|moments|count|step|seed|updates|scale|targets")


def weights(agent):
    """Return a copy of all that an agent learns by gradients, on the CPU.

    Larger numbers beside it, such as the moments of returns, would hide how it moves.
    """
    state, _ = pytree.tree_flatten_with_path(agent.state_dict())
    flat = [
        leaf.detach().cpu().double().flatten()
        for path, leaf in state
        if torch.is_tensor(leaf) and not BESIDE_WEIGHTS.search(pytree.keystr(path))
    ]
    return torch.cat([torch.zeros(1, dtype=torch.double), *flat])


def test_tasks_without_any_reward_do_no_harm(name, build_agent):
    agent, worker = build_agent(name, FAMILY.spec), make_worker()
    for seed in range(2):
        batch, _ = play(agent, worker, some_tasks(seed))
        for rollout in batch.rollouts:  # as where a reward is sparse and was not found yet
            rollout.reward[:, 1] = 0
            rollout.prev_reward[:, 1] = 0
        metrics = agent.meta_update(batch)
        assert all(value.isfinite() for value in metrics.values())
    tensors = [leaf for leaf in pytree.tree_leaves(agent.state_dict()) if hasattr(leaf, "isfinite")]
    assert all(leaf.isfinite().all() for leaf in tensors)


def test_what_it_saves_is_all_that_its_future_depends_on(name, build_agent, identical, tmp_path):
    agent, worker = build_agent(name, FAMILY.spec), make_worker()
    agent.meta_update(play(agent, worker, some_tasks())[0])
    save(agent, tmp_path)
    noise = worker.streams.state_dict()
    expected = []
    for seed in (1, 2):
        batch, _ = play(agent, worker, some_tasks(seed))
        expected += [[vars(rollout) for rollout in batch.rollouts], agent.meta_update(batch)]
    expected.append(agent.state_dict())

    restored, worker = build_agent(name, FAMILY.spec, seed=9), make_worker(9)
    load(restored, tmp_path)
    worker.streams.load_state_dict(noise)
    found = []
    for seed in (1, 2):
        batch, _ = play(restored, worker, some_tasks(seed))
        found += [[vars(rollout) for rollout in batch.rollouts], restored.meta_update(batch)]
    found.append(restored.state_dict())

    assert identical(found, expected)


def save(agent, folder):
    """Write what a run's checkpoint holds of an agent, and what it stores beside it."""
    mark = agent.mark() if isinstance(agent, Stored) else None
    if mark is not None:
        agent.write_stored(folder, mark)
    checkpoint.save({"agent": agent.state_dict(), "stored": mark}, folder / "agent.pt")


def load(agent, folder):
    """Read what `save` wrote."""
    state = checkpoint.load(folder / "agent.pt")
    agent.load_state_dict(state["agent"])
    if isinstance(agent, Stored):
        agent.read_stored(folder, state["stored"])


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_objective_that_it_may_open_is_the_one_it_follows(name, build_agent, identical, device):
    device = torch.device(device)
    agent, worker = build_agent(name, FAMILY.spec, device), make_worker(device=device)
    if not isinstance(agent, Inspectable):
        pytest.skip("the agent opens none")
    agent.meta_update(play(agent, worker, some_tasks())[0])  # so that nothing is still at its start
    batch, before = play(agent, worker, some_tasks(1))[0], copied(agent.state_dict())

    maths = compare(agent.surrogate(probe(batch)))

    assert maths.log_ratio < 1e-4
    assert maths.gradient_error < 1e-3 or maths.approximation is not None
    assert maths.direction_cosine > 0
    assert identical(agent.state_dict(), before)


def test_loading_takes_a_copy(name, build_agent, identical):
    agent, worker = build_agent(name, FAMILY.spec), make_worker()
    agent.meta_update(play(agent, worker, some_tasks())[0])
    state = copied(agent.state_dict())
    before = copied(state)

    agent.load_state_dict(state)
    agent.meta_update(play(agent, worker, some_tasks(1))[0])

    assert identical(state, before)
    agent.load_state_dict(state)
    assert identical(agent.state_dict(), before)


def test_a_tasks_experience_stays_its_own(name, build_agent):
    agent, worker, tasks = build_agent(name, FAMILY.spec), make_worker(), some_tasks()
    rollout, context = worker.collect(
        agent, agent.begin(tasks, COPIES, True), tasks, COPIES, agent.phases[0]
    )
    reward, obs = rollout.reward.clone(), rollout.obs.clone()
    reward[:, 1] = torch.linspace(-5, 5, len(reward)).unsqueeze(-1)
    obs[:, 1] = 3.0
    others = [0, 2]

    def rows(tree):
        return pytree.tree_map(lambda leaf: leaf[others], tree)

    adapted = agent.adapt(context, rollout)
    elsewhere = agent.adapt(context, replace(rollout, reward=reward, obs=obs))
    assert_close(rows(adapted), rows(elsewhere))

    steps = some_steps()
    seen = steps.obs.clone()
    seen[1] = 9.0
    with torch.no_grad():
        action, _, moved = agent.act(adapted, steps, None)
        other_action, _, other_moved = agent.act(adapted, replace(steps, obs=seen), None)
    assert_close(action[others], other_action[others])
    assert_close(rows(moved), rows(other_moved))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_how_many_tasks_are_played_together_does_not_matter(name, build_agent, device):
    device = torch.device(device)
    agent, steps = build_agent(name, FAMILY.spec, device), some_steps(device=device)
    together = agent.act(agent.begin(some_tasks(), COPIES, True), steps, None)[0].detach()
    tasks = some_tasks()
    for m in range(TASKS):
        one = TimeStep(
            **{field.name: getattr(steps, field.name)[m : m + 1] for field in fields(steps)}
        )
        alone = agent.act(agent.begin(tasks[[m]], COPIES, True), one, None)[0].detach()
        torch.testing.assert_close(alone[0], together[m], rtol=1e-4, atol=1e-5)


def test_an_evaluation_does_not_depend_on_how_many_tasks_are_played_together(
    name, build_agent, monkeypatch
):
    monkeypatch.setattr(PointEnv, "REACHED", 0.3)  # so that episodes have many lengths
    family = PointNavigation(Config(horizon=8, test_goals=5))
    agent = build_agent(name, family.spec)
    config = EvaluationConfig(adaptation_steps=2)
    alone, pairs, all_ = (
        evaluate(agent, family, family.make_collector(CPU, 1), CPU, config, COPIES, size, 0, 0)
        for size in (1, 2, None)
    )
    for other in (pairs, all_):  # last bits depend on the sizes of matrices
        np.testing.assert_allclose(
            other.scores["episode_return"], alone.scores["episode_return"], rtol=1e-4
        )
        np.testing.assert_array_equal(other.scores["success"], alone.scores["success"])
    assert alone.scores["success"].any()
    assert len(np.unique(alone.scores["episode_return"])) > 1


@pytest.mark.parametrize("junk", [float("nan"), float("inf")])
def test_what_padding_holds_does_not_reach_an_update(
    name, build_agent, junk, monkeypatch, identical
):
    monkeypatch.setattr(PointEnv, "REACHED", 0.3)  # so that episodes have many lengths
    family = PointNavigation(Config(horizon=8, test_goals=5))
    results = []
    for filling in (0.0, junk):
        agent = build_agent(name, family.spec)
        tasks = family.sample(TASKS, "train", torch.Generator().manual_seed(0))
        batch, _ = play(agent, Player(family, CPU, Streams(0, CPU)), tasks)
        padded = tuple(filled(rollout, filling) for rollout in batch.rollouts)
        assert not all(rollout.valid.all() for rollout in padded)
        adapted = agent.adapt(agent.begin(tasks, COPIES, True), padded[0])
        metrics = agent.meta_update(replace(batch, experience=padded))
        results.append((adapted, metrics, copied(agent.state_dict())))
    assert identical(*results)


def filled(rollout, value):
    """Put a number wherever padding is."""

    def fill(column):
        if not column.is_floating_point():
            return column
        extra = column.dim() - rollout.valid.dim()
        valid = rollout.valid.view(*rollout.valid.shape, *[1] * extra)
        return torch.where(valid, column, value)

    return map_tensors(fill, rollout)


class Sizes(TorchDispatchMode):
    """Notes operations that read from tensors how large their result is."""

    def __init__(self):
        super().__init__()
        self.read = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        chosen_by_mask = any(
            leaf.dtype == torch.bool
            for leaf in pytree.tree_leaves(args[1:])
            if torch.is_tensor(leaf)
        )
        by_index = func is torch.ops.aten.index.Tensor and not chosen_by_mask
        if torch.Tag.dynamic_output_shape in func.tags and not by_index:
            self.read.append(func)
        return func(*args, **kwargs or {})


def test_it_acts_by_one_program_of_tensors(name, build_agent, monkeypatch):
    """So a GPU can replay a step as a graph, in place.

    No step depends on numbers that the processor must read first, or brings tensors of its own. On
    the CPU alone a transformer counts what it remembers.
    """
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    agent, worker = build_agent(name, FAMILY.spec), make_worker()
    agent.meta_update(play(agent, worker, some_tasks())[0])
    context = agent.begin(some_tasks(), COPIES, True)
    drawn, replayed = (torch.Generator().manual_seed(0) for _ in range(2))
    leaves, structure = pytree.tree_flatten((context, vars(some_steps())))

    def step(*leaves):
        context, timestep = pytree.tree_unflatten(leaves, structure)
        acted = agent.act(context, TimeStep(**timestep), SharedNoise(replayed))
        return pytree.tree_leaves(acted)

    with torch.no_grad():
        program = make_fx(step)(*copied(leaves))
        assert not any("lift_fresh" in node.name for node in program.graph.nodes)
        replayed.manual_seed(0)
        again = copied(pytree.tree_leaves(context))
        for seed in range(3):
            expected = agent.act(context, some_steps(seed), SharedNoise(drawn))
            with Sizes() as sizes:
                found = program(*again, *vars(some_steps(seed)).values())
            assert not sizes.read
            assert_close(found, pytree.tree_leaves(expected))
            context = expected[-1]
            for kept, moved in zip(again, found[2:], strict=True):
                kept.copy_(moved)


@pytest.mark.parametrize("device", [CUDA])
def test_on_a_gpu_a_graph_plays_what_the_agent_plays(name, build_agent, device, identical):
    device = torch.device(device)
    agent, tasks = build_agent(name, FAMILY.spec, device), some_tasks()
    graphed, plain = make_worker(device=device), make_worker(device=device)
    graphed.collector.cuda_graph = True
    for _ in range(2):  # an update may put parameters elsewhere
        expected, contexts = play(agent, plain, tasks)
        found, moved = play(agent, graphed, tasks)
        assert identical(
            [vars(each) for each in found.rollouts], [vars(each) for each in expected.rollouts]
        )
        assert identical(moved, contexts)
        agent.meta_update(expected)
    assert identical(graphed.streams.state_dict(), plain.streams.state_dict())
