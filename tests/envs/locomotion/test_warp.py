"""Locomotion in MuJoCo Warp, on its slow device cpu; `scripts/check_warp.py` tries all tasks."""

import numpy as np
import pytest
import torch

pytest.importorskip("mujoco_warp", reason="needs the extra gpu")

from envs.locomotion import Config, build
from meta_rl.core.protocols import DrawingTaskEnv, TaskEnv
from meta_rl.rollouts.mujoco.memory import coordinates

CPU = torch.device("cpu")
HORIZON = 4


def make(name, simulator="warp"):
    distribution = build(Config(task=name, simulator=simulator, horizon=HORIZON))
    tasks = distribution.sample(3, "train", torch.Generator().manual_seed(0))
    return distribution, tasks, distribution.make_env(CPU, 1)


def actions(distribution, steps):
    generator = torch.Generator().manual_seed(0)
    shape = (steps, 3, 2, distribution.spec.action_size)
    return torch.rand(shape, generator=generator) * 2 - 1


@pytest.mark.parametrize("name", ["half_cheetah_velocity", "walker2d_dynamics"])
def test_from_the_same_states_it_agrees_with_the_native_simulator(name):
    distribution, tasks, native = make(name, "native")
    native.start(tasks, 2, 0)
    _, _, env = make(name)
    assert isinstance(env, TaskEnv) and isinstance(env, DrawingTaskEnv)
    env.start(tasks, 2, 0)
    (worlds, _), engine = env._groups[0], native._engine
    places = [coordinates(worlds.scene.model, state) for state in engine.states]
    worlds.data.qpos.assign(np.float32([positions for positions, _ in places]))
    worlds.data.qvel.assign(np.float32([speeds for _, speeds in places]))
    worlds.rows.assign(engine.rows.astype(np.float32))
    for action in actions(distribution, 3):
        expected, step = native.step(action), env.step(action)
        torch.testing.assert_close(step.next_obs, expected.next_obs, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(step.reward, expected.reward, rtol=1e-3, atol=1e-4)
        assert torch.equal(step.terminated, expected.terminated)
        native.reset_ended()
        env.reset_ended()
    native.close()
    env.close()


def test_every_episode_begins_elsewhere_and_the_seed_says_where():
    distribution, tasks, env = make("ant_direction")
    first = env.start(tasks, 2, 0)
    assert first[:, 0].ne(first[:, 1]).any() and torch.isfinite(first).all()
    assert not first[..., 27:].any()  # no forces yet
    for action in actions(distribution, HORIZON):
        last = env.step(action)
        begun = env.reset_ended()
    assert last.truncated.all()
    assert begun.ne(first).any() and not begun[..., 27:].any()
    deviation = (begun - first.mean((0, 1)))[..., :27].abs().max()
    assert 0.05 < deviation < 1.0  # 0.1 times a normal number
    assert torch.equal(env.start(tasks, 2, 0), first)
    assert not torch.equal(env.start(tasks, 2, 1), first)
    env.close()
