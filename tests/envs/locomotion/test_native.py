"""The native simulator held against Gymnasium's own environments, bit for bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from envs.locomotion import TASKS, Config, build
from envs.locomotion.gymnasium_face import LocomotionFamily
from envs.locomotion.native.observation import sum_of_squares
from envs.locomotion.native.scene import scene
from meta_rl.core.protocols import TaskEnv
from meta_rl.core.seeding import world_seeds
from meta_rl.core.types import Tasks
from meta_rl.rollouts.gymnasium.worker import WorldTask
from meta_rl.rollouts.mujoco.engine import Engine

CPU = torch.device("cpu")
STEPS = 300


def random_actions(count, size):
    return np.random.default_rng(0).uniform(-1, 1, (count, size)).astype(np.float32)


def waves(count, size):
    """Every joint swings, each with a phase of its own: the robot gets somewhere."""
    time, joint = np.arange(count)[:, None], np.arange(size)
    return np.sin(0.3 * time + 1.3 * joint).astype(np.float32)


def stillness(count, size):
    return np.zeros((count, size), dtype=np.float32)


@pytest.mark.parametrize("drive", [random_actions, waves, stillness])
@pytest.mark.parametrize("name", TASKS)
def test_episodes_equal_gymnasiums_bit_for_bit(name, drive):
    """Observations, rewards and ends, and the resets after them, of one world each."""
    its_scene, observation = scene(name), scene(name).format.observation
    tasks = build(Config(task=name)).tasks("test")[[1]]
    seeds = world_seeds(7, tasks, copies=1)
    engine = Engine(its_scene.format, threads=1)
    engine.place([(its_scene, its_scene.snapshot(task.params)) for task in tasks], seeds)
    family = LocomotionFamily()
    reference = family.make(name)
    family.assign(reference, WorldTask(name, 1, *[task.params for task in tasks]))
    obs, _ = reference.reset(seed=seeds[0])
    np.testing.assert_array_equal(engine.rows[0, observation], obs)
    ends = 0
    for action in drive(STEPS, its_scene.format.action_size):
        engine.actions[0] = action
        engine.step()
        obs, reward, terminated, truncated, _ = reference.step(action)
        np.testing.assert_array_equal(engine.rows[0, observation], obs)
        assert engine.outputs[0].tolist() == [reward, terminated]
        assert not truncated and not engine.diverged[0]
        if terminated:
            ends += 1
            engine.restore(np.array([0]))
            obs, _ = reference.reset()
            np.testing.assert_array_equal(engine.rows[0, observation], obs)
    falls = {"humanoid_direction", "walker2d_dynamics", "hopper_dynamics"}
    never = {"ant_goal", *(each for each in TASKS if each.startswith("half_cheetah"))}
    assert ends >= 1 if name in falls else ends == 0 or name not in never
    engine.close()
    reference.close()


def play(env, tasks, copies=2, steps=60, seed=5):
    """Return all that a short rollout brings."""
    seen = [env.start(tasks, copies, seed)]
    size = TASKS[tasks.names[0]].robot.action_size
    noise = torch.Generator().manual_seed(0)
    for _ in range(steps):
        step = env.step(torch.rand(len(tasks), copies, size, generator=noise) * 2 - 1)
        seen += [step.next_obs, step.reward, step.terminated, step.truncated, env.reset_ended()]
    return seen


@pytest.mark.parametrize("name", ["half_cheetah_direction", "hopper_dynamics"])
def test_both_simulators_play_the_same_whatever_their_threads(name):
    family = build(Config(task=name, horizon=25))
    reference = build(Config(task=name, horizon=25, simulator="gymnasium"))
    tasks = family.sample(3, "train", torch.Generator().manual_seed(0))
    gymnasium, one, three = (
        each.make_env(CPU, workers) for each, workers in ((reference, 2), (family, 1), (family, 3))
    )
    assert isinstance(one, TaskEnv)

    expected = play(gymnasium, tasks)
    play(three, tasks[[2, 0]], copies=5)
    ours, again = play(one, tasks), play(three, tasks)

    torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    terminated, truncated = torch.stack(ours[3::5]), torch.stack(ours[4::5])
    assert truncated.any() and terminated.any() == (name == "hopper_dynamics")
    assert not (terminated & truncated).any()
    for env in (gymnasium, one, three):
        env.close()


def test_copies_and_episodes_begin_each_elsewhere_and_a_seed_repeats_them():
    family = build(Config(task="half_cheetah_direction", horizon=1))
    env, tasks = family.make_env(CPU, 1), family.tasks("train")
    action = torch.zeros(2, 3, 6)
    first = env.start(tasks, 3, seed=0).clone()
    env.step(action)
    second = env.reset_ended().clone()
    begun = torch.cat([first, second], dim=1).reshape(-1, 17)
    assert len(begun.unique(dim=0)) == len(begun)
    assert torch.equal(env.start(tasks, 3, seed=0), first)
    env.step(action)
    assert torch.equal(env.reset_ended(), second)
    assert not torch.equal(env.start(tasks, 3, seed=1), first)
    env.close()


def test_a_task_that_is_there_twice_has_worlds_of_its_own_each_time():
    family = build(Config(task="half_cheetah_direction"))
    env, tasks = family.make_env(CPU, 1), family.tasks("train")
    twice = env.start(tasks[[0, 0]], 1, seed=0)
    assert not torch.equal(twice[0], twice[1])
    assert torch.equal(twice.reshape(-1, 17), env.start(tasks[[0]], 2, seed=0).reshape(-1, 17))
    env.close()


def test_an_episode_terminates_alone_and_its_end_stays_told_until_it_begins_again():
    family = build(Config(task="hopper_dynamics"))
    env = family.make_env(CPU, 1)
    env.start(family.tasks("test")[:3], 1, seed=0)
    while not (step := env.step(torch.ones(3, 1, 3))).terminated.any():
        env.reset_ended()
    fallen = step.terminated
    assert not fallen.all() and not step.truncated.any()
    after = env.step(torch.ones(3, 1, 3))
    assert (after.terminated & fallen == fallen).all() and not after.reward[fallen].any()
    assert torch.equal(after.next_obs[fallen], step.next_obs[fallen])
    assert not torch.equal(after.next_obs[~fallen], step.next_obs[~fallen])
    env.close()


def test_dynamics_are_each_world_s_own_model_and_leave_the_robot_s_alone():
    name = "walker2d_dynamics"
    its_scene, tasks = scene(name), build(Config(task=name)).tasks("test")[:2]
    usual = its_scene.model.body_mass.copy()
    changed = [its_scene.snapshot(task.params).model.changed for task in tasks]
    np.testing.assert_array_equal(its_scene.model.body_mass, usual)
    for task, fields in zip(tasks, changed, strict=True):
        assert fields.keys() == {"body_mass", "body_inertia", "dof_damping", "geom_friction"}
        np.testing.assert_array_equal(fields["body_mass"], usual * task.params[: len(usual)])


def test_sums_of_squares_are_rounded_as_numpys():
    random = np.random.default_rng(0)
    for count in (0, 1, 7, 8, 9, 17, 84, 128):
        numbers = random.normal(scale=3, size=count)
        expected = np.sum(np.square(np.clip(numbers, -2.0, 2.0)))
        assert sum_of_squares(numbers, 0, count, 2.0) == expected


def test_a_scene_keeps_a_bounded_number_of_snapshots(monkeypatch):
    from meta_rl.rollouts.mujoco import scene as scenes

    monkeypatch.setattr(scenes, "MOST_SNAPSHOTS", 3)
    its_scene = scene("half_cheetah_velocity")
    monkeypatch.setattr(its_scene, "_snapshots", {})
    first = its_scene.snapshot((0.0,))
    for velocity in (0.1, 0.2, 0.3):
        its_scene.snapshot((velocity,))
    assert list(its_scene._snapshots) == [(0.1,), (0.2,), (0.3,)]
    assert its_scene.snapshot((0.0,)) is not first


def test_both_simulators_draw_alike(can_draw):
    """After a step Gymnasium draws what the last sub-step began with, so not bit for bit."""
    pictures = []
    for simulator in ("native", "gymnasium"):
        family = build(Config(task="half_cheetah_direction", simulator=simulator))
        env = family.make_env(CPU, 1)
        env.start(family.tasks("test")[:1], 1, seed=0)
        shown = [env.draw()]
        for action in waves(20, 6):
            env.step(torch.from_numpy(action).reshape(1, 1, 6))
        pictures.append([*shown, env.draw()])
        env.close()
    (before, after), (their_before, their_after) = pictures
    assert before.shape == (400, 400, 3) and before.dtype == np.uint8
    np.testing.assert_array_equal(before, their_before)

    def difference(one, other):
        return np.abs(one.astype(int) - other.astype(int)).mean()

    assert difference(after, their_after) < difference(after, before) / 3


def test_importing_the_family_imports_neither_numba_nor_mujoco():
    code = "import sys, envs.locomotion; print({'numba', 'mujoco', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "set()"


def test_worker_processes_do_not_load_torch():
    code = "import sys, envs.locomotion.gymnasium_face; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "False"


def test_the_order_of_tasks_does_not_matter():
    family = build(Config(task="ant_velocity"))
    env, tasks = family.make_env(CPU, 2), family.tasks("test")[:3]
    expected = play(env, tasks, steps=5)
    turned = play(env, Tasks.stack(list(tasks)[::-1]), steps=5)
    assert torch.equal(expected[0], turned[0].flip(0))
    env.close()
