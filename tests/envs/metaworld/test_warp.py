"""Meta-World in MuJoCo Warp, on its slow device cpu; `scripts/check_warp.py` tries all tasks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gpu import CUDA

pytest.importorskip("mujoco_warp", reason="needs the extra gpu")

from mujoco_warp import DeterminismType

from envs.metaworld import Config, build
from envs.metaworld.warp.task_env import WarpMetaworld
from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.protocols import ChangingTaskEnv, DrawingTaskEnv, TaskEnv
from meta_rl.core.types import Tasks

CPU = torch.device("cpu")
HORIZON = 6


@pytest.fixture(scope="module")
def tasks():
    """Tasks of two classes, by turns."""
    reach, drawer = (
        list(build(Config(task=name)).tasks("train")) for name in ("reach-v3", "drawer-open-v3")
    )
    padding = [0.0] * (len(reach[0].params) - len(drawer[0].params))
    drawer = [replace(task, params=(*task.params, *padding)) for task in drawer[:2]]
    return Tasks.stack([reach[0], drawer[0], reach[1], drawer[1]])


@pytest.fixture(scope="module")
def env():
    """Worlds that all tests share: what a start leaves behind must not matter."""
    made = WarpMetaworld(
        "v2", {"reach-v3": 6, "drawer-open-v3": 3}, build(Config(horizon=HORIZON)).spec, CPU
    )
    yield made
    made.close()


def play(env, tasks, steps, copies=2):
    noise = torch.Generator().manual_seed(0)
    seen = [env.start(tasks, copies, seed=0)]
    steps_seen = []
    for _ in range(steps):
        drawn = torch.rand(len(tasks), copies, 4, generator=noise) * 2 - 1
        steps_seen.append(env.step(drawn))
        seen.append(env.reset_ended())
    return seen, steps_seen


def test_it_is_a_task_env(env):
    assert isinstance(env, TaskEnv) and isinstance(env, DrawingTaskEnv)


def test_it_agrees_with_the_native_simulator(env, tasks):
    native = build(Config(horizon=HORIZON)).make_env(CPU, 1)
    native._goal_sizes = {"reach-v3": 6, "drawer-open-v3": 3}
    expected, expected_steps = play(native, tasks, HORIZON)
    seen, steps = play(env, tasks, HORIZON)
    native.close()
    assert torch.equal(seen[0], expected[0])
    assert torch.equal(seen[-1], seen[0])  # the next episode has begun
    for ours, theirs in zip(steps, expected_steps, strict=True):
        torch.testing.assert_close(ours.next_obs, theirs.next_obs, rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.reward, theirs.reward, rtol=1e-2, atol=1e-3)
        assert torch.equal(ours.truncated, theirs.truncated)
        assert torch.equal(ours.terminated, theirs.terminated)
        assert not ours.metrics["overflow"].any() and not ours.metrics["diverged"].any()


def test_a_task_does_the_same_whatever_is_beside_it_and_came_before(env, tasks):
    first, steps = play(env, tasks, 3)
    noise = torch.Generator().manual_seed(0)
    again = tasks[[1, 0, 3, 2]]
    assert torch.equal(env.start(again, 2, seed=5), first[0][[1, 0, 3, 2]])
    for step in steps:
        drawn = torch.rand(4, 2, 4, generator=noise) * 2 - 1
        moved = env.step(drawn[[1, 0, 3, 2]])
        assert torch.equal(moved.next_obs, step.next_obs[[1, 0, 3, 2]])
        env.reset_ended()


def test_an_episode_that_ended_stays_as_it_is_until_it_is_reset(env, tasks):
    start = env.start(tasks, 1, seed=0)
    action = torch.ones(4, 1, 4)
    for _ in range(HORIZON):
        last = env.step(action)
    assert last.truncated.all()
    after = env.step(action)
    assert torch.equal(after.next_obs, last.next_obs)
    assert after.truncated.all() and not after.reward.any()
    assert torch.equal(env.reset_ended(), start)
    assert not env.step(action).truncated.any()


def test_a_world_whose_numbers_are_not_finite_is_cut_and_begins_anew(env, tasks):
    start = env.start(tasks, 1, seed=0)
    worlds, at = env._groups[0]
    worlds.data.qvel.fill_(float("nan"))
    step = env.step(torch.zeros(4, 1, 4))
    cut = torch.zeros(4, 1)
    cut[at] = 1.0
    assert torch.equal(step.metrics["diverged"], cut)
    assert torch.equal(step.truncated, cut > 0)
    assert not step.reward[at].any()
    assert torch.equal(step.next_obs[at], start[at])
    assert torch.equal(env.reset_ended()[at], start[at])
    assert torch.isfinite(env.step(torch.zeros(4, 1, 4)).next_obs).all()


def test_contacts_without_room_are_counted_and_told_once(env, tasks, caplog):
    env.start(tasks, 1, seed=0)
    worlds, at = env._groups[0]
    worlds.data.overflow.fill_(4)
    step = env.step(torch.zeros(4, 1, 4))
    assert step.metrics["overflow"].sum() == len(at)
    env.reset_ended()
    assert not env.step(torch.zeros(4, 1, 4)).metrics["overflow"].any()
    assert "left some out" not in caplog.text  # a rollout does not wait for it
    env.start(tasks, 1, seed=0)
    env.start(tasks, 1, seed=0)
    assert caplog.text.count("left some out") == 1


def test_an_action_that_is_not_finite_raises_on_the_processor(env, tasks):
    env.start(tasks, 1, seed=0)
    with pytest.raises(NonFiniteAction):
        env.step(torch.full((4, 1, 4), float("nan")))


def test_a_world_whose_action_is_refused_is_cut(env, tasks):
    env.start(tasks, 1, seed=0)
    worlds, _ = env._groups[0]
    worlds.tensors.refused.fill_(True)
    worlds.step()
    assert worlds.tensors.metrics[:, -2].all() and worlds.tensors.truncated.all()
    step = env.step(torch.zeros(4, 1, 4))  # which says anew what is refused
    assert not step.metrics["diverged"].any()


def test_repeatable_arithmetic_has_contacts_in_a_fixed_order(tasks):
    torch.use_deterministic_algorithms(True)
    try:
        spec = build(Config(horizon=HORIZON)).spec
        env = WarpMetaworld("v2", {"reach-v3": 6}, spec, CPU)
        first = play(env, tasks[[0, 2]], HORIZON)
        assert env._groups[0][0].model.opt.deterministic == DeterminismType.ALL
        play(env, tasks[[2, 0]], 2)
        again = play(env, tasks[[0, 2]], HORIZON)
        env.close()
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(first[0], again[0], strict=True):
        assert torch.equal(one, other)


def test_worlds_become_other_tasks_as_in_the_native_simulator(env, tasks):
    native = build(Config(horizon=HORIZON)).make_env(CPU, 1)
    native._goal_sizes = {"reach-v3": 6, "drawer-open-v3": 3}
    noise = torch.Generator().manual_seed(1)
    both = (native, env)
    for each in both:
        assert isinstance(each, ChangingTaskEnv)
        each.start(tasks, 2, seed=0)
        each.change([0, 3], tasks[[2, 3]])  # before any step: they begin as those
    begun = [each.reset_ended() for each in both]
    assert torch.equal(*begun)
    assert torch.equal(begun[1][0, 0], begun[1][2, 0])
    for step in range(HORIZON + 2):
        action = torch.rand(4, 2, 4, generator=noise) * 2 - 1
        expected, found = (each.step(action) for each in both)
        torch.testing.assert_close(found.next_obs, expected.next_obs, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.reward, expected.reward, rtol=1e-2, atol=1e-3)
        if step == 1:  # while episodes go on
            for each in both:
                each.change([1, 4], tasks[[2, 0]])
        if step == HORIZON - 1:  # at their end
            for each in both:
                each.change([5, 6], tasks[[0, 1]])
        begun = [each.reset_ended() for each in both]
        torch.testing.assert_close(*begun, rtol=0, atol=1e-3)
    native.close()


def test_a_world_cannot_become_a_task_of_another_model(env, tasks):
    env.start(tasks, 1, seed=0)
    with pytest.raises(UserError, match=r"none can become drawer-open-v3.*native"):
        env.change([0], tasks[[1]])


def test_a_state_for_pictures_is_that_of_the_first_world(env, tasks):
    env.start(tasks, 2, seed=0)
    env.step(torch.ones(4, 2, 4))
    worlds, _ = env._groups[0]
    packed = env.state_of_first_world()
    positions = packed[1 : 1 + worlds.scene.model.nq]
    np.testing.assert_allclose(positions, worlds.data.qpos.numpy()[0], rtol=1e-6)


@pytest.mark.parametrize("device", [CUDA])
def test_on_a_gpu_a_step_is_a_graph_that_nothing_waits_for(tasks, device):
    spec = build(Config(horizon=HORIZON)).spec
    env = WarpMetaworld("v2", {"reach-v3": 6, "drawer-open-v3": 3}, spec, torch.device(device))
    start = env.start(tasks, 2, seed=0)
    action = torch.ones(4, 2, 4, device=device)
    env.step(action)  # compiles, and captures the graph
    env.reset_ended()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(HORIZON - 1):
            step = env.step(action)
            obs = env.reset_ended()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert step.truncated.all()
    torch.testing.assert_close(obs, start)
    assert torch.isfinite(step.next_obs).all()
    env.close()


def train(meta_rl, name, simulator, meta_iterations):
    words = (
        f"train ml1_reach_maml_trpo --name {name} --meta-iterations {meta_iterations} "
        f"--envs.simulator {simulator} --envs.horizon 8 --meta-batch-size 2 --copies 2 "
        "--agent.episodes-per-phase 1 --evaluation.goals 1 --evaluation.every 0 "
        "--tracking.mode off --threads 1 --workers 1"
    )
    meta_rl(*words.split()).succeeds()


def returns(run):
    """The returns of every rollout of a training."""
    return [
        value for row in run.rows for metric, value in row.items() if metric.startswith("return/")
    ]


@pytest.mark.parametrize("device", [CUDA])
def test_on_a_gpu_an_action_that_is_not_finite_cuts_its_world(tasks, device):
    spec = build(Config(horizon=HORIZON)).spec
    env = WarpMetaworld("v2", {"reach-v3": 6, "drawer-open-v3": 3}, spec, torch.device(device))
    env.start(tasks, 2, seed=0)
    action = torch.zeros(4, 2, 4, device=device)
    action[1, 0, 2] = float("nan")
    step = env.step(action)
    cut = torch.zeros(4, 2, device=device)
    cut[1, 0] = 1.0
    assert torch.equal(step.metrics["diverged"], cut)
    assert torch.isfinite(env.reset_ended()).all()
    env.close()


@pytest.mark.slow
def test_maml_trpo_earns_what_it_earns_in_the_native_simulator_and_resumes(
    tmp_path, meta_rl, run_at, identical, request
):
    native, warp, stopped = (run_at(tmp_path / "runs" / n) for n in ("native", "warp", "stopped"))
    train(meta_rl, "native", "native", 2)
    train(meta_rl, "warp", "warp", 2)
    train(meta_rl, "stopped", "warp", 1)
    np.testing.assert_allclose(returns(warp), returns(native), rtol=1e-2)

    meta_rl("train", "--resume", "runs/stopped", "--meta-iterations", 2).succeeds()
    assert identical(stopped.latest["agent"], warp.latest["agent"])
    assert returns(stopped) == returns(warp)

    meta_rl("evaluate", "runs/warp", "--split", "train").succeeds()
    request.getfixturevalue("can_draw")
    meta_rl("render", "runs/warp", "--task", "reach-v3").succeeds()
    assert list((warp.path / "videos").glob("*.mp4"))
