"""A small run that tests of commands may change as they like."""

import shutil

import pytest


@pytest.fixture(scope="session")
def trained_small(small_config, tmp_path_factory):
    """A folder with a finished small run in runs/small."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(small_config()), "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture
def run(trained_small, tmp_path, run_at):
    """A copy of it, in the folder where the test's commands run."""
    shutil.copytree(trained_small / "runs", tmp_path / "runs")
    return run_at(tmp_path / "runs" / "small")
