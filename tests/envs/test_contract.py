"""What every family of the catalog promises; a new file in envs/ is tested by being there."""

import ast
import inspect
import json
import textwrap
from dataclasses import fields, is_dataclass, replace
from itertools import combinations
from typing import get_args

import pytest
import torch
from gpu import CUDA

from meta_rl.core.errors import UserError
from meta_rl.core.protocols import ChangingTaskEnv, Expert, Split, TaskDistribution, TaskEnv
from meta_rl.evaluation.protocol import describe_protocol
from meta_rl.experiment import catalog
from meta_rl.experiment.config import EvaluationConfig

CPU = torch.device("cpu")
HORIZON = 4

pytestmark = pytest.mark.parametrize("name", catalog.names("envs"))


def example(module):
    """A family's default config, or the one that it names where some setting has no default."""
    return module.EXAMPLE if hasattr(module, "EXAMPLE") else module.Config()


def build(name):
    """Build the family with its example config, but for a short horizon where it has one."""
    module = catalog.load("envs", name)
    config = example(module)
    short = {"horizon": HORIZON} if hasattr(config, "horizon") else {}
    return module.build(replace(config, **short))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def keys(tasks):
    return {(task.name, task.index) for task in tasks}


@pytest.fixture
def started(name, request):
    """A simulator that has begun two copies of three tasks, and the family."""
    device = torch.device(getattr(request, "param", "cpu"))
    family = build(name)
    env = family.make_env(device, workers=2)
    tasks = family.sample(3, "train", generator())
    yield family, env, tasks, env.start(tasks, copies=2, seed=0), device
    env.close()


def actions(family, seed, device=CPU):
    low, high = (torch.tensor(bounds) for bounds in family.spec.action_bounds)
    share = torch.rand(3, 2, family.spec.action_size, generator=generator(seed))
    return (low + share * (high - low)).to(device)


def test_its_config_describes_itself_and_every_setting(name):
    config = catalog.load("envs", name).Config
    assert is_dataclass(config) and config.__dataclass_params__.frozen
    assert config.__doc__.partition("\n")[0].endswith(".")
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    described = {
        field.target.id
        for field, below in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr)
    }
    assert {field.name for field in fields(config)} <= described


def test_it_is_a_family_with_its_example_config(name):
    module = catalog.load("envs", name)
    family = module.build(example(module))
    assert isinstance(family, TaskDistribution)
    assert family.family == name
    assert family.spec.horizon >= 1 and family.spec.observation_size >= 1
    low, high = family.spec.action_bounds
    assert len(low) == len(high) == family.spec.action_size
    assert all(isinstance(metric, str) for metric in family.spec.metrics)


def has_few(family):
    """Whether a family has so few tasks that all are in every split."""
    return "every split" in family.protocol().get("splits", "")


def test_sampling_is_reproducible_and_of_the_right_size(name):
    family = build(name)
    for split in get_args(Split):
        for count in (1, 5):
            tasks = family.sample(count, split, generator())
            assert len(tasks) == count
            assert has_few(family) or len(keys(tasks)) == count
            assert tasks.family == name
            assert tasks.params.shape[0] == count and tasks.params.isfinite().all()
        again = family.sample(5, split, generator())
        assert again.names == tasks.names
        assert torch.equal(again.index, tasks.index) and torch.equal(again.params, tasks.params)
    draws = generator()
    several = [family.sample(5, "train", draws) for _ in range(10)]
    assert not all(torch.equal(one.params, several[0].params) for one in several)


def test_held_out_tasks_are_fixed_and_apart_from_those_of_training(name):
    family, again = build(name), build(name)
    splits = {split: family.tasks(split) for split in get_args(Split)}
    for split, tasks in splits.items():
        same = again.tasks(split)
        assert same.names == tasks.names and torch.equal(same.params, tasks.params)
        assert torch.equal(same.index, tasks.index)
        assert len(keys(tasks)) == len(tasks) > 0
    if has_few(family):  # which its protocol tells
        return
    for one, other in combinations(splits.values(), 2):
        assert not keys(one) & keys(other)
        goals, others = ({(task.name, task.params) for task in tasks} for tasks in (one, other))
        assert not goals & others
    for split in ("test", "validation"):
        assert keys(family.sample(3, split, generator())) <= keys(splits[split])
        assert not keys(family.sample(5, "train", generator())) & keys(splits[split])


def test_an_index_never_means_two_tasks_however_many_are_drawn(name):
    family, draws, known = build(name), generator(), {}
    for _ in range(20):
        for task in family.sample(5, "train", draws):
            assert known.setdefault(task.label, task.params) == task.params


def test_a_negative_seed_of_its_tasks_is_refused(name):
    config = example(catalog.load("envs", name))
    for field in fields(config):
        if field.name.endswith("_seed"):
            with pytest.raises(UserError, match=f"{field.name} must be"):
                replace(config, **{field.name: -1})


def test_its_protocol_is_plain_and_stable_and_says_the_horizon(name):
    protocol = build(name).protocol()
    assert json.loads(json.dumps(protocol)) == protocol == build(name).protocol()
    assert protocol["horizon"] == build(name).spec.horizon
    assert protocol.items() <= describe_protocol(build(name), EvaluationConfig(), 1, 1).items()


@pytest.mark.parametrize("started", ["cpu", CUDA], indirect=True)
def test_its_simulator_returns_tensors_of_the_promised_shapes(name, started):
    family, env, _, obs, device = started
    assert isinstance(env, TaskEnv)
    size = family.spec.observation_size
    step = env.step(actions(family, 0, device))
    for seen in (obs, step.next_obs, env.reset_ended()):
        assert seen.shape == (3, 2, size) and seen.dtype == torch.float32
        assert seen.device.type == device.type and seen.isfinite().all()
    assert step.reward.shape == (3, 2) and step.reward.dtype == torch.float32
    assert step.terminated.dtype == step.truncated.dtype == torch.bool
    assert tuple(step.metrics) == family.spec.metrics
    assert all(value.shape == (3, 2) for value in step.metrics.values())


def test_the_horizon_truncates_and_resets_touch_ended_episodes_alone(name, started):
    family, env, _, obs, _ = started
    age = torch.zeros(3, 2)
    for t in range(2 * HORIZON + 1):
        step = env.step(actions(family, t))
        age += 1
        assert not (step.terminated & step.truncated).any()
        ended = step.terminated | step.truncated
        assert torch.equal(ended, (age >= HORIZON) | step.terminated)
        successor = step.next_obs.clone()
        obs = env.reset_ended()
        assert torch.equal(obs[~ended], successor[~ended])
        assert torch.equal(step.next_obs, successor)  # the true successor is not overwritten
        age[ended] = 0


def test_what_it_does_depends_on_tasks_seed_and_actions_alone(name, started):
    family, env, tasks, obs, _ = started

    def play(env, obs):
        seen = [obs]
        for t in range(HORIZON + 2):
            step = env.step(actions(family, t))
            seen += [step.next_obs, step.reward, step.terminated, step.truncated, env.reset_ended()]
        return seen

    expected = play(env, obs)
    repeated = play(env, env.start(tasks, 2, 0))
    other = family.make_env(CPU, workers=1)
    elsewhere = play(other, other.start(tasks, 2, 0))
    other.close()
    for mine, again, theirs in zip(expected, repeated, elsewhere, strict=True):
        assert torch.equal(mine, again) and torch.equal(mine, theirs)


def test_its_worlds_become_other_tasks_and_back(name, started):
    """A world that became what it was is as it would be; one that became another goes on."""
    family, env, tasks, _, _ = started
    assert isinstance(env, ChangingTaskEnv)
    worlds = range(6)
    own, others = tasks[[0, 0, 1, 1, 2, 2]], tasks[[1, 2, 2, 0, 0, 1]]

    def play(changing):
        env.start(tasks, copies=2, seed=7)
        shown, changed = [], 0
        for t in range(2 * HORIZON):
            if changing and t == 1 and env.changes_within_episodes:
                env.change(worlds, own)
            step = env.step(actions(family, t))
            if changing and (step.terminated | step.truncated).all():
                env.change(worlds, others)
                env.change(worlds, own)
                changed += 1
            shown += [step.reward, step.next_obs, env.reset_ended()]
        assert changed or not changing
        return shown

    for one, other in zip(play(False), play(True), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_another_task_shows_within_the_episode_if_it_can_come_there(name, started):
    family, env, tasks, _, _ = started
    if not env.changes_within_episodes:
        pytest.skip("its tasks change between episodes")
    others = family.tasks("test")[[-1] * 6]

    def play(change):
        env.start(tasks, copies=2, seed=7)
        shown = []
        for t in range(HORIZON):
            if change and t == 1:
                env.change(range(6), others)
            step = env.step(actions(family, t))
            shown.append(torch.stack([step.reward, *step.metrics.values()]))
            env.reset_ended()
        return torch.stack(shown)

    before, after = play(False), play(True)
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1:], after[1:])


def test_actions_beyond_the_bounds_are_clipped(name, started):
    family, env, tasks, _, _ = started
    high = torch.tensor(family.spec.action_bounds[1]).expand(3, 2, -1)
    at_the_bound = env.step(high)
    env.start(tasks, 2, 0)
    beyond = env.step(high + 7)
    assert torch.equal(at_the_bound.next_obs, beyond.next_obs)
    assert torch.equal(at_the_bound.reward, beyond.reward)


def test_the_expert_that_it_may_have_knows_each_task_and_keeps_to_the_bounds(name):
    family, module = build(name), catalog.load("envs", name)
    if not hasattr(module, "expert"):
        pytest.skip("the family has none")
    assert family.spec.family == name  # or the expert would not be found
    tasks, expert = family.tasks("test")[[0, 1, 0]], module.expert()
    assert isinstance(expert, Expert)

    knowledge = expert.knowledge(tasks)
    obs = torch.randn(3, 2, family.spec.observation_size, generator=generator())
    action = expert.act(knowledge, obs[[0, 0, 0]])

    assert action.shape == (3, 2, family.spec.action_size) and action.dtype == torch.float32
    low, high = (torch.tensor(bounds) for bounds in family.spec.action_bounds)
    assert ((low <= action) & (action <= high)).all()
    assert torch.equal(knowledge[0], knowledge[2]) and not torch.equal(knowledge[0], knowledge[1])
    assert torch.equal(action[0], action[2])
