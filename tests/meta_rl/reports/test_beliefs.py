import pytest
import torch

from meta_rl.core.types import Tasks
from meta_rl.reports.beliefs import Beliefs, along_the_trial, in_the_plane, watch_beliefs
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trained import load_trained


@pytest.fixture(scope="module")
def runs(small_config, tmp_path_factory):
    """A run of each agent that tells what it believes, and of one that does not."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("runs")
    for agent in ("varibad", "metric", "random"):
        words = [
            "train",
            str(small_config(agent, name=agent, meta_iterations=1)),
            "--runs",
            str(folder),
        ]
        assert main(words) == 0
    return folder


def test_a_report_shows_the_beliefs_of_those_that_tell_them(runs, meta_rl, tmp_path):
    words = ("--beliefs", "--allow-different-protocols", "--output", tmp_path / "report.html")
    outcome = meta_rl("report", *sorted(runs.iterdir()), *words).succeeds()
    assert "note: random has no beliefs to draw" in outcome.out
    page = (tmp_path / "report.html").read_text()
    assert "nearest task is its own" in page
    for agent in ("varibad", "metric"):
        assert f"Line charts of the belief of {agent}" in page
        assert f"The last belief of each trial of {agent}" in page
    assert "belief of random" not in page


@pytest.mark.parametrize("name", ["varibad", "metric"])
def test_what_is_watched_is_what_the_agent_believes(runs, name):
    trained = load_trained(RunFolder(runs / name), "latest")
    beliefs = watch_beliefs(trained, trained.distribution.tasks("test"), name)
    assert beliefs.mean.shape == (10, 3, 5, 5)  # two episodes of 5 steps, 3 tasks, 5 trials
    assert (beliefs.std is None) is (name == "metric")
    assert beliefs.first.sum(0).eq(2).all() and beliefs.valid.all()
    nothing = trained.agent.begin(beliefs.tasks, 5, False)
    assert not torch.equal(beliefs.mean[0], trained.agent.belief(nothing).mean)
    drawn = along_the_trial(beliefs).axes
    assert len(drawn) == (3 if name == "metric" else 6)
    assert all(len(axis.lines) >= 5 for axis in drawn)
    assert len(in_the_plane(beliefs).axes[0].collections) == 3


def test_a_trial_that_ends_early_ends_with_its_own_last_belief():
    # Two tasks, two trials of three steps; the second trial of task 0 has one step alone.
    valid = torch.ones(3, 2, 2, dtype=torch.bool)
    valid[1:, 0, 1] = False
    mean = torch.zeros(3, 2, 2, 1)
    mean[:, 1] = 5.0
    mean[1:, 0, 1] = 100.0  # padding
    tasks = Tasks("f", ("a", "b"), torch.arange(2), torch.zeros(2, 1).double())
    beliefs = Beliefs("some", tasks, mean, None, torch.zeros_like(valid), valid)
    assert beliefs.at_the_end(mean).flatten().tolist() == [0.0, 0.0, 5.0, 5.0]
    assert beliefs.nearest_task_accuracy() == 1.0
