"""Slips that people's own environments have: a sentence tells, or they are taken as meant."""

import sys
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from patience import PATIENCE_S

from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.checks import check_observation, reset

sys.path.append(str(Path(__file__).parent))

import slips

SLIPS = Path(__file__).with_name("slips.py")


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_config):
    """A run whose policy can act in the environments."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("slips")
    assert main(["train", str(small_config()), "--runs", str(folder)]) == 0
    return folder / "small"


@pytest.fixture
def adapt(base, meta_rl, tmp_path):
    def run(name):
        output = tmp_path / "adapted.pt"
        return meta_rl("adapt", base, "--env", f"{SLIPS}:{name}", "--output", output)

    return run


@pytest.mark.parametrize(
    ("slip", "phrases"),
    [
        (
            "ResetOfOldGym",
            ["reset() of", "returned an array of shape (2,)", "(observation, info)", "shimmy"],
        ),
        ("ShorterThanItsSpace", ["has shape (1,)", "its observation_space says (2,)"]),
        ("TerminatedNone", ["terminated of", "must be a boolean, got None"]),
        (
            "StepOfOldGym",
            [
                "step() of",
                "returned 4 values",
                "(observation, reward, terminated, truncated, info)",
            ],
        ),
        ("InfoNone", ["info of", "must be a dictionary, got None"]),
        ("SuccessInWords", ["success in the info of", "a number or a truth, got 'yes'"]),
        ("LastObservationNan", ["next_obs is not finite", "first at step 4"]),
    ],
)
def test_a_slip_is_told_in_the_environment_s_terms(slip, phrases, adapt):
    outcome = adapt(slip)
    outcome.fails_with(*phrases)
    assert "line" not in outcome.err  # of ours


@pytest.mark.parametrize("harmless", ["Right", "RewardOfOneElement", "SuccessNone", "Equal"])
def test_what_is_meant_well_is_taken(harmless, adapt):
    outcome = adapt(harmless).succeeds()
    assert "return" in outcome.out


def test_a_reset_without_a_seed_is_taken_with_one_warning(base, meta_rl_process, tmp_path):
    output = tmp_path / "adapted.pt"
    process = meta_rl_process(
        "adapt", base, "--env", f"{SLIPS}:ResetWithoutSeed", "--output", output
    )
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    assert err.count("takes no seed, so its chance cannot be repeated") == 1


def test_each_of_several_equal_environments_is_reset_as_it_can():
    with pytest.warns(RuntimeWarning, match="takes no seed"):
        for env in (slips.Equal(), slips.Equal()):
            assert reset(env, 0, "it")[0].shape == (2,)
            assert reset(env, 0, "it")[0].shape == (2,)


PARTS = spaces.Dict({"kind": spaces.Discrete(2), "pose": spaces.Tuple([spaces.Box(-1, 1, (2,))])})


def test_numbers_in_parts_of_an_observation_may_leave_their_bounds_as_those_of_one_alone():
    for pose in (np.array([0.5, 1.01]), np.array([np.nan, 0.0], np.float32)):
        check_observation(PARTS, {"kind": 1, "pose": (pose,)}, "step()", "it")


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (
            {"kind": 1, "pose": (np.zeros(3),)},
            r"the observation\['pose'\]\[0\] that step\(\) of it returned has shape \(3,\)",
        ),
        ({"kind": 2, "pose": (np.zeros(2),)}, r"observation\['kind'\] .* is not in its"),
        ({"kind": 1, "pose": ()}, r"observation\['pose'\] .* is not in its"),
        (
            {"kind": 1},
            r"the observation that step\(\) of it returned, \{'kind': 1\}, is not in its",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_named(obs, message):
    with pytest.raises(UserError, match=message):
        check_observation(PARTS, obs, "step()", "it")
