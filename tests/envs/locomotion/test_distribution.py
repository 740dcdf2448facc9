import math
from itertools import combinations
from typing import get_args

import gymnasium
import pytest
import torch

from envs.locomotion import SIMULATORS, TASKS, Config, build
from envs.locomotion.gymnasium_face import LocomotionFamily
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Split
from meta_rl.experiment import catalog
from meta_rl.experiment.config import load_experiment

DIRECTIONS = ("half_cheetah_direction", "ant_direction")
OPEN = tuple(name for name in TASKS if name not in DIRECTIONS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(name, count=4000):
    return build(Config(task=name)).sample(count, "train", generator()).params


@pytest.mark.parametrize("name", TASKS)
def test_sizes_that_are_known_beforehand_are_those_of_gymnasium(name):
    spec, env = build(Config(task=name)).spec, LocomotionFamily().make(name)
    assert env.observation_space.shape == (spec.observation_size,)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (spec.action_size,))
    assert spec.action_space == env.action_space
    sizes = TASKS[name].robot.dynamics_sizes
    for field, size in sizes.items() if TASKS[name].varies == "dynamics" else ():
        assert getattr(env.robot.model, field).size == size
    env.close()


@pytest.mark.parametrize("name", DIRECTIONS)
def test_both_directions_are_in_every_split_and_the_protocol_says_so(name):
    family = build(Config(task=name))
    for split in get_args(Split):
        tasks = family.tasks(split)
        assert tasks.params.flatten().tolist() == [-1, 1] and tasks.index.tolist() == [0, 1]
        batch = family.sample(40, split, generator())
        assert batch.params.sum() == 0 and set(batch.index.tolist()) == {0, 1}
    odd = [family.sample(3, "train", generator(seed)).params.sum() for seed in range(20)]
    assert {float(each) for each in odd} == {-1.0, 1.0}  # chance says which comes twice
    assert family.protocol()["splits"] == "both directions are in every split"


def test_a_checkpoint_of_two_directions_cannot_be_chosen_on_a_validation_split(meta_rl):
    words = ("train", "half_cheetah_direction_maml_trpo", "--tracking.mode", "off")
    refused = meta_rl(*words, "--evaluation.choose-on", "validation")
    refused.fails_with("every split of half_cheetah_direction holds all of its tasks", "choose-on")


@pytest.mark.parametrize("name", OPEN)
def test_splits_share_no_task_and_stay_as_they_are(name):
    family, other_seed = build(Config(task=name)), build(Config(task=name, task_seed=1))
    splits = [family.tasks(split) for split in get_args(Split)]
    fresh = family.sample(50, "train", generator())
    for one, other in combinations([*splits, fresh], 2):
        assert not set(one.index.tolist()) & set(other.index.tolist())
        assert not {each.params for each in one} & {each.params for each in other}
    again = [build(Config(task=name)).tasks(split) for split in get_args(Split)]
    for one, same in zip(splits, again, strict=True):
        assert torch.equal(one.params, same.params)
    assert not torch.equal(family.tasks("test").params, other_seed.tasks("test").params)
    held_out = set(family.tasks("test").index.tolist())
    assert set(family.sample(7, "test", generator()).index.tolist()) <= held_out
    assert "splits" not in family.protocol()


@pytest.mark.parametrize(("name", "fastest"), [("half_cheetah_velocity", 2), ("ant_velocity", 3)])
def test_velocities_are_uniform_up_to_the_fastest(name, fastest):
    share = drawn(name).flatten() / fastest
    assert 0 <= share.min() < 0.01 and 0.99 < share.max() <= 1
    assert abs(share.mean() - 0.5) < 4 * math.sqrt(1 / 12 / 4000)


def test_goals_are_uniform_in_the_disk_and_headings_on_the_circle():
    goals = drawn("ant_goal")
    inside = (goals.norm(dim=1) < 1.5).double().mean()  # a quarter of the area
    assert goals.norm(dim=1).max() <= 3 and abs(inside - 0.25) < 4 * math.sqrt(0.1875 / 4000)
    headings = drawn("humanoid_direction")
    torch.testing.assert_close(headings.norm(dim=1), torch.ones(4000).double())
    for each in (goals / 3, headings):
        assert each.mean(dim=0).abs().max() < 4 * math.sqrt(0.5 / 4000)


def test_dynamics_are_log_uniform_and_of_damping_less_wide():
    params = drawn("hopper_dynamics", count=500)
    sizes = TASKS["hopper_dynamics"].robot.dynamics_sizes
    assert params.shape[1] == sum(sizes.values())
    for (field, size), factors in zip(
        sizes.items(), params.split(list(sizes.values()), dim=1), strict=True
    ):
        base = 1.3 if field == "dof_damping" else 1.5
        powers = factors.log() / math.log(base)
        assert factors.shape[1] == size
        assert 2.95 < powers.abs().max() <= 3 + 1e-12
        assert abs(powers.mean()) < 4 * math.sqrt(3 / powers.numel())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "half_cheetah_velocty"}, "did you mean 'half_cheetah_velocity'"),
        ({"simulator": "wrap"}, "no simulator 'wrap' in locomotion; .*native, gymnasium, warp"),
        ({"horizon": 0}, "envs.horizon must be at least 1, got 0"),
        ({"test_tasks": 0}, "envs.test_tasks must be at least 1, got 0"),
        ({"task_seed": -1}, "envs.task_seed must be at least 0, got -1"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        build(Config(**settings))


def test_more_tasks_than_a_split_has_are_refused():
    family = build(Config(validation_tasks=3))
    with pytest.raises(UserError, match="4 tasks are more than the 3 validation tasks"):
        family.sample(4, "validation", generator())
    with pytest.raises(UserError, match="meta_batch_size must be at least 1, got 0"):
        family.sample(0, "train", generator())


@pytest.mark.parametrize("simulator", SIMULATORS)
def test_the_simulators_report_what_the_spec_says(simulator):
    if simulator == "warp":
        pytest.importorskip("mujoco_warp", reason="needs the extra gpu")
    family = build(Config(simulator=simulator))
    env = family.make_env(torch.device("cpu"), 1)
    env.start(family.tasks("test")[:1], 1, seed=0)
    assert tuple(env.step(torch.zeros(1, 1, 6)).metrics) == family.spec.metrics
    env.close()


@pytest.mark.parametrize("config", [n for n in catalog.config_names() if "cheetah" in n])
def test_the_experiments_are_of_the_papers_horizon(config):
    experiment = load_experiment(config)
    assert experiment.envs.horizon == 200
    # Off-policy agents go on with what they have stored of the others, and play 5 tasks at a time.
    off_policy = experiment.agent_name in ("pearl", "in_context_sac")
    assert experiment.meta_batch_size == (5 if off_policy else 40)
