"""Slips that people's own environments have: a sentence tells, or they are taken as meant."""

from pathlib import Path

import pytest
from patience import PATIENCE_S

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
        ("LastObservationNan", ["next_obs is not finite", "first at step 4"]),
    ],
)
def test_a_slip_is_told_in_the_environment_s_terms(slip, phrases, adapt):
    outcome = adapt(slip)
    outcome.fails_with(*phrases)
    assert "line" not in outcome.err  # of ours


@pytest.mark.parametrize("harmless", ["Right", "RewardOfOneElement"])
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
