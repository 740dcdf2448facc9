"""What a user is told who has no MuJoCo Warp."""

from importlib.util import find_spec

import pytest

without_warp = pytest.mark.skipif(
    find_spec("mujoco_warp") is not None, reason="MuJoCo Warp is installed here"
)


@without_warp
@pytest.mark.parametrize("config", ["ml1_reach_maml_trpo", "half_cheetah_velocity_rl2_ppo"])
def test_without_the_extra_the_simulator_says_what_to_install(meta_rl, tmp_path, config):
    outcome = meta_rl("train", config, "--envs.simulator", "warp")
    outcome.fails_with("mujoco-warp", "pip install -e '.[gpu]'", "--envs.simulator native")
    assert not (tmp_path / "runs").exists()
