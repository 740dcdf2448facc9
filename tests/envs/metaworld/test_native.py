import subprocess
import sys

import numpy as np
import pytest
import torch
from cases import quick
from scipy.spatial.transform import Rotation

from envs.metaworld import TASK_NAMES, Config, build
from envs.metaworld.native import row
from envs.metaworld.native.observation import write_scipy_quaternion
from envs.metaworld.native.scene import scene, task_module
from envs.metaworld.native.task_env import NativeTaskEnv
from envs.metaworld.parity import DRIVES, Comparison, Parity
from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.protocols import TaskEnv
from meta_rl.core.types import Task, Tasks

CPU = torch.device("cpu")
QUICK = ("reach-v3", "peg-insert-side-v3")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Keep the goals of this module's tests in a cache of their own, but not compiled code."""
    with pytest.MonkeyPatch.context() as patch:
        from meta_rl.rollouts.mujoco.compiling import cache_root

        cache_root()
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tasks(cache):
    """Tasks of three classes, in an order that makes a thread change between them."""
    goals = {}
    for name in ("reach-v3", "push-v3", "drawer-close-v3"):
        goals[name] = [task.params for task in build(Config(task=name)).tasks("train")]
    names = ("reach-v3", "push-v3", "reach-v3", "drawer-close-v3", "push-v3")
    picked = [(name, number, goals[name][number]) for number, name in enumerate(names)]
    return Tasks.stack(
        [Task("metaworld", n, i, (*params, *[0.0] * (6 - len(params)))) for n, i, params in picked]
    )


def make(threads=1, horizon=500, reward_version="v2"):
    spec = build(Config(horizon=horizon)).spec
    sizes = {"reach-v3": 6, "push-v3": 6, "drawer-close-v3": 3}
    return NativeTaskEnv(reward_version, sizes, spec, CPU, threads)


def play(env, tasks, steps=12, copies=2):
    """Return all that a short rollout brings."""
    seen = [env.start(tasks, copies, seed=0)]
    noise = torch.Generator().manual_seed(0)
    for _ in range(steps):
        step = env.step(torch.rand(len(tasks), copies, 4, generator=noise) * 2 - 1)
        seen += [step.next_obs, step.reward, step.truncated, step.metrics["success"]]
        seen.append(env.reset_ended())
    return seen


@pytest.mark.parametrize("reward_version", ["v2", "v1"])
@pytest.mark.parametrize("name", quick(TASK_NAMES, QUICK))
def test_a_task_agrees_with_metaworld(name, reward_version):
    goals = list(build(Config(task=name)).tasks("train"))[:2]
    comparison, parity = Comparison(name, reward_version, len(goals[0].params)), Parity()
    # `scripts/check_native.py` plays every goal by every drive, in both versions
    drives = DRIVES if reward_version == "v2" else ("noisy",)
    for number, drive in enumerate(drives):
        comparison.play(goals[number % 2].params, drive, 60, parity)
    comparison.close()
    assert parity.agrees, parity.describe()
    assert parity.free_observation < 1e-12  # in fact bit for bit but for sums of squares


@pytest.mark.parametrize("name", TASK_NAMES)
def test_a_task_is_named_after_its_file_and_has_both_rewards(name):
    assert name in TASK_NAMES
    module = task_module(name)
    assert isinstance(module.task, row.TaskRow)
    assert module.__doc__.startswith(f"{name}: ")
    assert module.reward_v1.__doc__ and module.reward_v2.__doc__


def test_it_is_a_task_env_and_agrees_with_the_gymnasium_one(tasks):
    env = make()
    assert isinstance(env, TaskEnv)
    reach = tasks[[0, 2]]
    expected_env = build(Config(task="reach-v3", simulator="gymnasium")).make_env(CPU, 1)
    expected = play(expected_env, reach)
    expected_env.close()
    torch.testing.assert_close(play(env, reach), expected, rtol=1e-6, atol=1e-6)
    env.close()


def test_rollouts_do_not_depend_on_threads_or_history(tasks):
    one, three = make(threads=1), make(threads=3)
    expected = play(one, tasks)
    play(three, tasks[[4, 0]], copies=5)
    torch.testing.assert_close(play(three, tasks), expected, rtol=0, atol=0)
    assert torch.equal(expected[0][:, 0], expected[0][:, 1])  # copies begin alike
    one.close()
    three.close()


def test_the_horizon_truncates_and_a_reset_repeats_the_first_observation(tasks):
    env = make(horizon=3)
    first = env.start(tasks, 1, seed=0)
    action = torch.ones(len(tasks), 1, 4)
    steps = [env.step(action) for _ in range(4)]
    assert [step.truncated.all().item() for step in steps] == [False, False, True, True]
    assert torch.equal(steps[3].next_obs, steps[2].next_obs)  # an ended world stays as it is
    assert not steps[3].reward.any() and steps[2].reward.all()
    assert torch.equal(env.reset_ended(), first)
    again = env.step(action)
    assert torch.equal(again.next_obs, steps[0].next_obs)
    assert torch.equal(again.reward, steps[0].reward)
    env.close()


def test_a_world_that_diverges_is_cut_and_harms_no_other(tasks, capfd):
    env, untouched = make(), make()
    action = torch.full((len(tasks), 2, 4), 0.3)
    for each in (env, untouched):
        each.start(tasks, 2, seed=0)
        before = each.step(action)
    broken, good = 3, [world for world in range(10) if world != 3]
    env._engine.states[broken, 1:20] = np.nan  # all positions
    step, expected = env.step(action), untouched.step(action)
    obs, reward = step.next_obs.reshape(10, 39), step.reward.reshape(10)
    assert torch.equal(obs[good], expected.next_obs.reshape(10, 39)[good])
    assert torch.equal(reward[good], expected.reward.reshape(10)[good])
    assert torch.equal(obs[broken], before.next_obs.reshape(10, 39)[broken])
    assert reward[broken] == 0
    assert step.truncated.reshape(10).nonzero().tolist() == [[broken]]
    assert step.metrics["diverged"].reshape(10).nonzero().tolist() == [[broken]]
    env.reset_ended()
    assert not env.step(action).metrics["diverged"].any()
    assert "WARNING" not in capfd.readouterr().out  # nor a file of MuJoCo's
    env.close()
    untouched.close()


def test_actions_that_are_not_finite_are_refused_and_large_ones_clipped(tasks):
    env = make()
    env.start(tasks, 1, seed=0)
    action = torch.zeros(len(tasks), 1, 4)
    action[1, 0, 2] = torch.nan
    with pytest.raises(NonFiniteAction, match=r"1 of 5 worlds are not finite, in tasks push-v3:1;"):
        env.step(action)
    large, one = make(), make()
    large.start(tasks, 1, seed=0)
    one.start(tasks, 1, seed=0)
    action = torch.ones(len(tasks), 1, 4)
    assert torch.equal(large.step(9 * action).next_obs, one.step(action).next_obs)
    with pytest.raises(UserError, match="threads must be at least 1, got 0"):
        make(threads=0)


def test_quaternions_are_those_of_scipy_also_where_terms_tie():
    generator = np.random.default_rng(0)
    rotations = [*Rotation.random(100, rng=generator), *Rotation.create_group("O")]
    for rotation in rotations:
        x = np.concatenate([rotation.as_matrix().ravel(), np.zeros(4)])
        write_scipy_quaternion(x, 0, 9)
        expected = Rotation.from_matrix(rotation.as_matrix()).as_quat()
        np.testing.assert_allclose(x[9:], expected, rtol=0, atol=1e-15)


def test_constants_that_are_views_of_the_simulator_are_sensed(cache):
    its_scene = scene("drawer-close-v3", "v2", 3)
    its_scene.snapshot(
        tuple(build(Config(task="drawer-close-v3")).tasks("train").params[0].tolist())
    )
    assert row.OBJECT_START not in its_scene.sensed()  # a sum, hence a copy
    its_scene.task.constants[500] = ("init_left_pad", 3)  # metaworld keeps a view here
    live = its_scene._find_live(its_scene.env)
    del its_scene.task.constants[500]
    pad = its_scene.model.body("leftpad").id
    assert (live[500].field, live[500].start, live[500].size) == ("xpos", 3 * pad, 3)


def test_importing_the_family_does_not_import_the_native_simulator():
    code = "import sys, envs.metaworld; print('numba' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "False"
