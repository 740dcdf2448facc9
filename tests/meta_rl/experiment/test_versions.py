import json

import pytest
import torch
import yaml

from agents import maml_ppo, rl2_ppo
from meta_rl.core.errors import UserError
from meta_rl.experiment import strict_yaml, versions
from meta_rl.experiment.config import experiment_from_dict, to_dict
from meta_rl.runs import checkpoint

OLD = {
    "version": 1,
    "agent": {"name": "rl2_ppo", "learning_rate": 0.002},
    "envs": {"name": "point_navigation"},
    "envs_per_task": 3,
    "evaluation": {"split": "train", "copies": 2},
}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch):
    monkeypatch.setattr(versions, "_told", set())


def test_a_config_of_version_1_is_read_with_one_line_that_names_the_new_words(capsys):
    for _ in range(2):
        experiment = experiment_from_dict(OLD, "x.yaml")
    assert experiment.copies == 3 and experiment.evaluation.copies == 2
    assert experiment.agent == rl2_ppo.Config(outer_lr=0.002)
    assert experiment.evaluation.choose_on == "train" and experiment.version == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1
    for words in ("x.yaml is read as version 2", "envs_per_task is now copies", "agent.outer_lr"):
        assert words in told.err


def test_a_config_without_a_version_may_use_either_words(capsys):
    without = {key: value for key, value in OLD.items() if key != "version"}
    assert experiment_from_dict(without, "x.yaml").copies == 3
    new = {"agent": {"name": "maml_ppo", "outer_lr": 0.1}, "envs": OLD["envs"], "copies": 4}
    capsys.readouterr()
    experiment = experiment_from_dict(new, "y.yaml")
    assert experiment.agent == maml_ppo.Config(outer_lr=0.1) and experiment.copies == 4
    assert capsys.readouterr().err == ""


def test_what_version_2_says_of_a_split_is_not_what_it_chooses_on(capsys):
    data = {"version": 2, "agent": {"name": "rl2_ppo"}, "envs": OLD["envs"]}
    experiment = experiment_from_dict({**data, "evaluation": {"split": "test"}}, "x.yaml")
    assert experiment.evaluation.split == "test"
    assert experiment.evaluation.choose_on == "validation"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("version", ["2", True, 3, None])
def test_a_version_that_is_none_is_told_as_it_was_given(version):
    with pytest.raises(UserError, match=f"is a config of version {version!r}, but"):
        experiment_from_dict({**OLD, "version": version}, "x.yaml")


def test_counts_of_t_mazes_that_told_nothing_are_left_out(capsys):
    data = {"version": 2, "agent": {"name": "rl2_ppo"}, "envs": {"name": "t_maze", "test_tasks": 9}}
    assert experiment_from_dict(data, "x.yaml").envs.horizon == 101
    assert "both T-mazes are in every split" in capsys.readouterr().err


def test_what_was_translated_stays_as_it_is(capsys):
    experiment = experiment_from_dict(OLD, "x.yaml")
    capsys.readouterr()
    assert experiment_from_dict(to_dict(experiment), "z.yaml") == experiment
    assert capsys.readouterr().err == ""


def test_an_agent_that_still_says_learning_rate_keeps_it():
    data = {"agent": {"name": "own.agent", "learning_rate": 0.1}}
    read = versions.translated(data, "x", lambda name: ["learning_rate"])
    assert read["agent"] == data["agent"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("--envs-per-task", "--copies"), ("--agent.learning-rate", "--agent.outer-lr")],
)
def test_a_flag_of_version_1_is_answered_with_the_new_one(old, new, meta_rl, small_config):
    meta_rl("train", small_config("rl2_ppo"), old, 3).fails_with(f"{old} is now called {new}")


def test_a_run_of_version_1_goes_on_is_evaluated_adapts_and_is_compared(
    meta_rl, small_config, run_at, identical, tmp_path
):
    config = small_config("multitask_ppo", agent={"outer_lr": 0.002})
    meta_rl("train", config).succeeds()
    run = run_at(tmp_path / "runs" / "small")
    age(run.path)

    whole = meta_rl("train", config, "--name", "whole", "--meta-iterations", 4).succeeds()
    resumed = meta_rl("train", "--resume", run.path, "--meta-iterations", 4).succeeds()
    assert "envs_per_task is now copies" in resumed.err and whole.err == ""
    assert identical(run.latest["agent"], run_at(tmp_path / "runs" / "whole").latest["agent"])
    assert strict_yaml.read(run.path / "config.yaml")["version"] == 2

    age(run.path)
    meta_rl("evaluate", run.path).succeeds()
    meta_rl("compare", run.path, tmp_path / "runs" / "whole").succeeds()
    meta_rl("adapt", run.path, "--goal", "1").succeeds()


def age(run):
    """Make of a run's files what version 1 would have written."""
    path = run / "config.yaml"
    path.write_text(yaml.safe_dump(older(yaml.safe_load(path.read_text()))))
    for name in ("latest", "best"):
        state = torch.load(run / "checkpoints" / f"{name}.pt", weights_only=True)
        state["config"] = older(state["config"])
        checkpoint.save(state, run / "checkpoints" / f"{name}.pt")


def older(config):
    data = json.loads(json.dumps(config))
    data["version"] = 1
    data["envs_per_task"] = data.pop("copies")
    data["agent"]["learning_rate"] = data["agent"].pop("outer_lr")
    data["evaluation"]["split"] = data["evaluation"].pop("choose_on")
    return data
