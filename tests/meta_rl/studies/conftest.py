"""A small sweep whose trainings run in this process."""

import shutil

import pytest
from in_process import trained_in_process


@pytest.fixture(scope="module")
def config(small_config):
    return small_config("maml_ppo", meta_iterations=4, evaluation={"every": 1, "goals": 2})


HALVING = ("--vary", "agent.inner_lr=0.001,0.1,1,5", "--seeds", "2")
HALVING += ("--early-stopping", "asha", "--reduction", "2", "--processes", "1")


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A folder with a finished sweep of four trials in runs/s."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, trained_in_process():
        patch.chdir(folder)
        assert main(["sweep", str(config), *HALVING, "--name", "s"]) == 0
    return folder


@pytest.fixture
def sweep(meta_rl, config, in_process):
    """Run the sweep of `finished`, or as much as is missing of it."""

    def run(*words):
        return meta_rl("sweep", config, *HALVING, "--name", "s", *words)

    return run


@pytest.fixture
def sweep_again(sweep, finished, tmp_path):
    """The same, from where `finished` is."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return sweep
