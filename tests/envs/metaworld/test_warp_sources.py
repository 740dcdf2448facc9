"""Warp compiles the task files that numba compiles; `scripts/check_warp.py` tries all fifty."""

import pytest

wp = pytest.importorskip("warp")

from envs.metaworld.source_parity import compare_sources  # noqa: E402
from envs.metaworld.warp.kernels import observing  # noqa: E402

TASKS = ("reach-v3", "peg-insert-side-v3", "dial-turn-v3")
"""No object that matters, a rotation matrix to read, and an observation of its own."""


@pytest.mark.parametrize("name", TASKS)
def test_both_compilers_observe_and_judge_the_same_states_alike(name):
    found = compare_sources(name, "v2", steps=60)
    assert found.states == 180
    assert found.observation < 1e-5
    assert found.outputs < 1e-4
    assert not found.jumped


def test_a_task_compiles_for_a_gpu_that_is_not_there(tmp_path):
    kernel = observing("envs.metaworld.native.tasks.dial_turn", "reward_v1")
    wp.compile_aot_module(kernel.module, arch=90, module_dir=tmp_path, use_ptx=True)
    (ptx,) = tmp_path.glob("*.ptx")
    assert ".target sm_90" in ptx.read_text()
