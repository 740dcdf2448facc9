import sys

import numpy as np
import pytest
import torch

from envs import metaworld, point_navigation
from meta_rl.core.errors import UserError
from meta_rl.rollouts import opengl
from meta_rl.rollouts.opengl import choose_opengl

CPU = torch.device("cpu")
COMPARED = ("native", "gymnasium")
"""Simulators that do the same step by step."""


@pytest.fixture(scope="module")
def filmed_and_not(can_draw):
    """What each simulator of reach-v3 shows, and what it brings with and without drawing."""
    pictures, brought = {}, {}
    for simulator in COMPARED:
        reach = metaworld.build(metaworld.Config(simulator=simulator))
        env = reach.make_env(CPU, workers=1)
        for drawing in (True, False):
            env.start(reach.tasks("test")[:1], 1, seed=0)
            shown = pictures.setdefault(simulator, [])
            seen = brought[simulator, drawing] = []
            for number in range(12):
                if drawing and number % 11 == 0:
                    shown.append(env.draw())
                step = env.step(torch.tensor([[[0.5, 1.0, 1.0, 0.0]]]))
                seen += [step.next_obs, step.reward.unsqueeze(-1)]
        env.close()
    return pictures, brought


def test_both_simulators_show_the_same_pictures(filmed_and_not):
    pictures, _ = filmed_and_not

    for native, reference in zip(*pictures.values(), strict=True):
        assert native.shape == (400, 400, 3) and native.dtype == np.uint8
        np.testing.assert_array_equal(native, reference)


def test_drawing_changes_nothing(filmed_and_not):
    _, brought = filmed_and_not

    for simulator in COMPARED:
        for drawn, undrawn in zip(brought[simulator, True], brought[simulator, False], strict=True):
            torch.testing.assert_close(drawn, undrawn, rtol=0, atol=0)


def test_a_picture_is_upright_and_shows_where_the_arm_is(filmed_and_not):
    (before, after), _ = filmed_and_not[0].values()

    def redness(picture):
        red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
        return (red - np.maximum(green, blue) > 60).sum(axis=1)

    def brown(picture):
        red, _, blue = np.moveaxis(picture.astype(int), 2, 0)
        return ((red - blue > 20) & (red < 170)).sum()

    assert brown(before[200:]) > 2 * brown(before[:200])  # the table is below
    rows = np.arange(400)
    mean_height = [
        400 - (rows * redness(each)).sum() / redness(each).sum() for each in (before, after)
    ]
    assert mean_height[1] > mean_height[0] + 5  # the arm was raised


def test_a_goal_is_marked_where_metaworld_means_it_even_if_its_own_model_does_not(can_draw):
    # MuJoCo puts the mark of sweep-v3 to the world's origin, out of sight
    sweep = metaworld.build(metaworld.Config(task="sweep-v3"))
    env = sweep.make_env(CPU, workers=1)
    pictures = []
    for task in (0, 1):  # the object's place and the goal differ
        env.start(sweep.tasks("test")[[task]], 1, seed=0)
        env.draw()
        data = env._pictures._maker._env.data
        np.testing.assert_allclose(data.site("goal").xpos, env._pictures._maker._env._target_pos)
        pictures.append(env.draw())
    env.close()

    assert (pictures[0] != pictures[1]).any()


def test_tasks_beyond_a_benchmark_have_its_spec():
    reach = metaworld.build(metaworld.Config(horizon=200, reward_version="v1"))

    push = reach.beyond("push-v3")

    assert set(push.tasks("test").names) == {"push-v3"}
    assert push.spec == reach.spec and push.protocol()["reward_version"] == "v1"
    assert reach.beyond("juggle-v3") is None


def test_a_point_is_drawn_where_it_is():
    family = point_navigation.build(point_navigation.Config())
    env = family.make_env(CPU, workers=1)
    tasks = family.tasks("test")[:1]
    env.start(tasks, 1, seed=0)
    env.step(torch.tensor([[[1.0, 0.0]]]))
    env.step(torch.tensor([[[1.0, 1.0]]]))

    picture = env.draw()

    row, column = np.argwhere((picture == (65, 105, 225)).all(-1)).mean(0)  # royal blue
    metres = 2 * point_navigation.VISIBLE / point_navigation.PICTURE_SIZE
    np.testing.assert_allclose((column * metres, row * metres), (0.65 + 0.2, 0.65 - 0.1), atol=0.01)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others need no choice")
@pytest.mark.parametrize(
    ("found", "given", "chosen"),
    [
        ({"EGL", "OSMesa"}, None, "egl"),
        ({"OSMesa"}, None, "osmesa"),
        ({"EGL", "OSMesa"}, "glfw", "glfw"),
    ],
)
def test_opengl_without_a_display_is_chosen_unless_the_user_chose(
    monkeypatch, found, given, chosen
):
    monkeypatch.setenv("MUJOCO_GL", "to be restored")
    monkeypatch.delenv("MUJOCO_GL")
    if given:
        monkeypatch.setenv("MUJOCO_GL", given)
    monkeypatch.setattr(opengl, "find_library", lambda name: name if name in found else None)

    choose_opengl()

    assert opengl.os.environ["MUJOCO_GL"] == chosen


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others need no choice")
def test_without_opengl_and_display_the_packages_are_named(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(opengl, "find_library", lambda name: None)

    with pytest.raises(UserError, match=r"neither EGL nor OSMesa .* libegl1 .* libosmesa6"):
        choose_opengl()
