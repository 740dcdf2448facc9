"""A MuJoCo family of two models of unlike size, written as any family would write it."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import mujoco
import numpy as np
import pytest
import torch

from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.protocols import TaskEnv
from meta_rl.core.seeding import world_seeds
from meta_rl.core.types import EnvSpec, Task, Tasks
from meta_rl.rollouts.mujoco.compiling import ACT, OBSERVE, REWARD, callback, write_double
from meta_rl.rollouts.mujoco.memory import coordinates
from meta_rl.rollouts.mujoco.row import Finish, RowLayout, WorldFormat, joint_speed
from meta_rl.rollouts.mujoco.scene import Binding, Scene, TaskCode, field_address
from meta_rl.rollouts.mujoco.task_env import MujocoTaskEnv

CPU = torch.device("cpu")
SUBSTEPS, HORIZON = 3, 6
OBS, ANGLE, SPEED, DRIVE = 0, 0, 1, 2
ROWS = RowLayout(size=3)
ANGLE_NOW = ROWS.joint("hinge")
SPEED_NOW = ROWS.sense(joint_speed("hinge"))
MARK = ROWS.site("mark")
BOB = ROWS.geom("bob")
WISHED = ROWS.constant("wished")
BEST = ROWS.memory("best")
FORMAT = WorldFormat(
    observation=slice(OBS, OBS + 2),
    finite=slice(OBS, OBS + 2),
    outputs=4,
    metrics={"near": 1, "mark": 2, "bob": 3},
    action_size=1,
    substeps=SUBSTEPS,
)
SECOND = '<body pos="0 0 -.3"><joint axis="0 1 0"/><geom size=".05" pos="0 0 -.3"/></body>'
SWING = """
<mujoco><option timestep=".01"/><worldbody><site name="mark" pos=".1 0 0"/>
<body><joint name="hinge" axis="0 1 0"/><geom name="bob" size=".05" pos="0 0 -.3"/>{}</body>
</worldbody>
<actuator><motor joint="hinge"/></actuator></mujoco>
"""


def act(addresses, numbers, action):
    write_double(addresses[0], numbers[0] * action[0])


def observe(addresses, numbers, action, x):
    x[ANGLE], x[SPEED], x[DRIVE] = x[ANGLE_NOW], x[SPEED_NOW], action[0]


def reward(x, out):
    missing = abs(x[ANGLE] - x[WISHED])
    x[BEST] = min(x[BEST], missing)
    out[0] = -missing - 0.1 * x[DRIVE] * x[DRIVE]
    out[1] = x[BEST]
    out[2] = x[MARK + 2]
    out[3] = x[BOB]


class World:
    """What resets: an attribute for each constant, and a model that the reset writes."""

    def __init__(self, xml):
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        self.wished, self.best = 0.0, 9.0

    def reset(self, wished):
        self.wished = wished
        self.model.site_pos[0, 2] = wished
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[0] = 0.1
        mujoco.mj_forward(self.model, self.data)


class Swing(Scene):
    def __init__(self, bodies):
        super().__init__(World(SWING.format(SECOND * (bodies - 1))), ROWS)
        self.compiled = callback(act, ACT), callback(observe, OBSERVE), callback(reward, REWARD)

    @property
    def code(self):
        return TaskCode(*(each.address for each in self.compiled))

    def reset(self, params):
        self.env.reset(params[0])
        return {OBS: np.array([self.env.data.qpos[0], 0.0])}

    def bind(self, data):
        return Binding(np.array([field_address(data, "ctrl")]), np.array([0.5]))


class Chance(Swing):
    """A swing that begins anywhere, and whose episode ends where it swings far."""

    starts_at_random = True

    def draw_start(self, state, random):
        angles, speeds = coordinates(self.model, state)
        angles[:], speeds[:] = random.uniform(-1, 1, len(angles)), random.normal(size=len(speeds))


class Swings(MujocoTaskEnv):
    def __init__(self, threads=1, horizon=HORIZON, **changes):
        own = replace(FORMAT, **changes)
        super().__init__(own, EnvSpec.box(2, (-2.0,), (1.0,), horizon), CPU, threads)
        self.scenes = {"one": Swing(1), "two": Swing(2)}

    def world(self, task):
        scene = self.scenes[task.name]
        return scene, scene.snapshot(task.params)


def tasks():
    names = ("one", "two", "one", "two", "two")
    return Tasks.stack([Task("swings", n, i, (0.1 * i,)) for i, n in enumerate(names)])


class Chances(Swings):
    def __init__(self, threads=1, horizon=HORIZON, **changes):
        super().__init__(threads, horizon, **changes)
        self.scenes = {"one": Chance(1), "two": Chance(2)}


def drive(steps, copies=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    return 3 * torch.rand(steps, len(tasks()), copies, 1, generator=random) - 2


def test_worlds_of_two_models_do_what_mujoco_itself_does_bit_for_bit():
    env = Swings(threads=2)
    assert isinstance(env, TaskEnv)
    first = env.start(tasks(), 1, seed=0)
    assert first.squeeze(1).tolist() == [[np.float32(0.1), 0.0]] * 5
    played = [env.step(action) for action in drive(HORIZON)]
    env.close()

    for m, task in enumerate(tasks()):
        world = World(SWING.format(SECOND * (task.name == "two")))
        world.reset(task.params[0])
        best = 9.0
        for t, action in enumerate(drive(HORIZON)[:, m].flatten().numpy()):
            world.data.ctrl[0] = 0.5 * np.float64(action)
            for _ in range(SUBSTEPS):
                mujoco.mj_step(world.model, world.data)
            mujoco.mj_forward(world.model, world.data)
            seen = np.array([world.data.qpos[0], world.data.qvel[0]], np.float32)
            np.testing.assert_array_equal(played[t].next_obs[m, 0], seen)
            missing = abs(world.data.qpos[0] - task.params[0])
            best = min(best, missing)
            expected = np.float32(-missing - 0.1 * np.float64(action) ** 2)
            np.testing.assert_allclose(played[t].reward[m, 0], expected, rtol=1e-6)
            assert played[t].metrics["near"][m, 0] == np.float32(best)  # the reward's own memory
            assert played[t].metrics["mark"][m, 0] == np.float32(task.params[0])  # its own model


def test_rollouts_do_not_depend_on_threads_or_on_what_was_played_before():
    def play(env):
        seen = [env.start(tasks(), 2, seed=0)]
        for action in drive(2 * HORIZON, copies=2):
            step = env.step(action)
            seen += [step.next_obs, step.reward, step.truncated, *step.metrics.values()]
            seen.append(env.reset_ended())
        return seen

    one, three = Swings(threads=1), Swings(threads=3)
    expected = play(one)
    three.start(tasks()[[4, 0]], 5, seed=0)
    three.step(torch.ones(2, 5, 1))
    torch.testing.assert_close(play(three), expected, rtol=0, atol=0)
    one.close()
    three.close()


def test_episodes_end_at_the_horizon_and_begin_again_as_the_first_did():
    env = Swings(horizon=2)
    first = env.start(tasks(), 1, seed=0)
    action = drive(1)[0]
    one, two, frozen = (env.step(action) for _ in range(3))
    assert not one.truncated.any() and two.truncated.all() and frozen.truncated.all()
    assert torch.equal(frozen.next_obs, two.next_obs) and not frozen.reward.any()
    assert torch.equal(env.reset_ended(), first)
    again = env.step(action)
    assert torch.equal(again.next_obs, one.next_obs) and torch.equal(again.reward, one.reward)
    assert torch.equal(again.metrics["near"], one.metrics["near"])  # the memory began anew
    env.close()
    assert torch.equal(env.start(tasks(), 1, seed=0), first)
    assert torch.equal(env.step(action).next_obs, one.next_obs)
    env.close()


def test_chance_in_resets_is_each_world_s_own_and_follows_from_its_seed():
    env = Chances(threads=2)
    first = env.start(tasks(), 2, seed=4)
    seeds = world_seeds(4, tasks(), copies=2)
    drawn = [np.random.default_rng(seed) for seed in seeds]
    for world, random in enumerate(drawn):
        joints = 1 + (tasks().names[world // 2] == "two")
        angle, speed = random.uniform(-1, 1, joints)[0], random.normal(size=joints)[0]
        expected = np.array([angle, speed], np.float32)
        np.testing.assert_array_equal(first[world // 2, world % 2], expected)
    for action in drive(HORIZON, copies=2):
        env.step(action)
    second = env.reset_ended()
    assert (second != first).all()
    for world, random in enumerate(drawn):
        joints = 1 + (tasks().names[world // 2] == "two")
        assert second[world // 2, world % 2, 0] == np.float32(random.uniform(-1, 1, joints)[0])
    assert torch.equal(env.start(tasks(), 2, seed=4), first)
    env.close()


def test_what_a_world_draws_does_not_depend_on_when_others_end():
    """An episode terminates where the bob swings to one side, so worlds reset when they will."""

    def play(env, which):
        seen = [env.start(tasks()[which], 1, seed=0)]
        for action in drive(40)[:, which]:
            step = env.step(action)
            seen += [step.next_obs, step.reward, step.terminated, step.truncated, env.reset_ended()]
        return seen

    all_, one = Chances(threads=2, terminated=3), Chances(terminated=3)
    together, alone = play(all_, [0, 1, 2, 3, 4]), play(one, [3])
    assert torch.stack(together[3::5]).any() and torch.stack(together[4::5]).any()
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours[[3]], theirs)
    all_.close()
    one.close()


def test_an_episode_that_terminates_is_not_truncated_and_waits_for_its_reset():
    env = Swings(terminated=1, horizon=2)  # `near` is above 0 from the first step on
    first = env.start(tasks(), 1, seed=0)
    ended = env.step(drive(1)[0])
    assert ended.terminated.all() and not ended.truncated.any() and ended.reward.all()
    waiting = env.step(drive(1)[0])
    assert waiting.terminated.all() and not waiting.truncated.any()
    assert torch.equal(waiting.next_obs, ended.next_obs) and not waiting.reward.any()
    assert torch.equal(env.reset_ended(), first)
    env.close()
    calm = Swings(terminated=2, horizon=1)  # `mark` is above 0 but for the first task
    calm.start(tasks(), 1, seed=0)
    step = calm.step(drive(1)[0])
    assert step.terminated.flatten().tolist() == [False, True, True, True, True]
    assert step.truncated.flatten().tolist() == [True, False, False, False, False]
    calm.close()


@pytest.mark.parametrize("finish", [Finish.FORWARD, Finish.NOTHING])
def test_a_family_chooses_what_mujoco_works_out_after_the_sub_steps(finish):
    env, world = Swings(finish=finish), World(SWING.format(""))
    env.start(tasks()[[0]], 1, seed=0)
    world.reset(0.0)
    for action in (-1.0, 1.0):
        step = env.step(torch.full((1, 1, 1), action))
        world.data.ctrl[0] = 0.5 * action
        mujoco.mj_step(world.model, world.data, nstep=SUBSTEPS)
        if finish is Finish.FORWARD:
            mujoco.mj_forward(world.model, world.data)
        assert step.metrics["bob"].item() == np.float32(world.data.geom("bob").xpos[0])
        here = np.float32(-0.3 * np.sin(world.data.qpos[0]))
        assert (abs(step.metrics["bob"].item() - here) < 1e-7) == (finish is Finish.FORWARD)
    env.close()


def test_actions_are_clipped_to_the_family_s_bounds_and_must_be_finite():
    env, bounded = Swings(), Swings()
    env.start(tasks(), 1, seed=0)
    bounded.start(tasks(), 1, seed=0)
    far, edge = torch.full((5, 1, 1), -9.0), torch.full((5, 1, 1), -2.0)
    assert torch.equal(env.step(far).next_obs, bounded.step(edge).next_obs)
    with pytest.raises(
        NonFiniteAction, match="2 of 5 worlds are not finite, in tasks two:1, two:3"
    ):
        env.step(torch.tensor([0, torch.nan, 0, torch.inf, 0]).reshape(5, 1, 1))
    with pytest.raises(UserError, match="threads must be at least 1, got 0"):
        Swings(threads=0)
    with pytest.raises(RuntimeError, match=r"call start\(\) before any other method of Swings"):
        Swings().step(edge)
    env.close()
    bounded.close()


def test_a_world_that_diverges_is_cut_and_harms_no_other():
    env, untouched = Swings(), Swings()
    for each in (env, untouched):
        each.start(tasks(), 1, seed=0)
        before = each.step(drive(1)[0])
    env._engine.states[1, 1:3] = np.nan
    step, expected = env.step(drive(1)[0]), untouched.step(drive(1)[0])
    assert step.metrics["diverged"].flatten().tolist() == [0, 1, 0, 0, 0]
    assert step.truncated.flatten().tolist() == [False, True, False, False, False]
    assert torch.equal(step.next_obs[1], before.next_obs[1]) and step.reward[1] == 0
    good = [0, 2, 3, 4]
    assert torch.equal(step.next_obs[good], expected.next_obs[good])
    env.close()
    untouched.close()


def test_an_interrupt_leaves_no_thread_behind_that_still_steps():
    env, untouched = Swings(threads=2), Swings()
    for each in (env, untouched):
        each.start(tasks(), 1, seed=0)
    engine, begun, finished = env._engine, threading.Event(), []
    (helper,) = engine._helpers
    work, own = helper._work, engine._work

    def late():
        begun.set()
        work()
        time.sleep(0.2)
        finished.append(True)

    def interrupted(thread):
        own(thread)
        if thread == 0:
            begun.wait()
            raise KeyboardInterrupt

    helper._work, engine._work = late, interrupted
    first, *others = drive(4)
    with pytest.raises(KeyboardInterrupt):
        env.step(first)
    assert finished
    engine._work = own
    untouched.step(first)
    for action in others:
        assert torch.equal(env.step(action).next_obs, untouched.step(action).next_obs)
    env.close()
    untouched.close()


def test_compiled_code_follows_what_it_imports_of_its_own_package(tmp_path):
    # numba itself looks at the file of a function alone, not at the constants it takes from others
    package = tmp_path / "own_family"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "code.py").write_text(
        "from meta_rl.rollouts.mujoco.compiling import compiled\n"
        "from own_family.places import PLACE\n"
        "@compiled\ndef place(x):\n    return x + PLACE\n"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *(path or "." for path in sys.path)]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }

    def placed():
        code = "from own_family.code import place as f; print(f(1), *f.stats.cache_hits.values())"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment
        )
        assert not done.returncode, done.stderr
        return done.stdout.split()

    (package / "places.py").write_text("PLACE = 1\n")
    assert [placed(), placed()] == [["2"], ["2", "1"]]
    (package / "places.py").write_text("PLACE = 2\n")
    assert placed() == ["3"]
