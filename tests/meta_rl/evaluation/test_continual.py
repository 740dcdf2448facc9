"""Streams of task names: whose turn it is, what is forgotten, and what is passed on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from envs import metaworld, point_navigation
from meta_rl.core.change import ChangeConfig
from meta_rl.core.continual import Stream, sample_to_train
from meta_rl.core.errors import UserError
from meta_rl.core.types import SUCCESS
from meta_rl.evaluation.continual import StreamRecord, forward_transfer, mean_stream, read_stream
from meta_rl.experiment.config import to_dict
from meta_rl.runs.folder import RunFolder

SCRIPTS = str(Path(__file__).parents[3] / "scripts")


def stream(every="2 iterations"):
    family = metaworld.build(metaworld.Config(benchmark="CW10"))
    return Stream(family, ChangeConfig(every=every, how="sequence"))


def test_training_goes_through_the_names_of_continual_world_in_order():
    family = stream()
    generator = torch.Generator().manual_seed(0)
    names = [set(sample_to_train(family, i, 4, 1, generator).names) for i in range(25)]
    order = [metaworld.config.CW10[min(i // 2, 9)] for i in range(25)]
    assert names == [{name} for name in order]


def test_all_names_are_measured_on_goals_that_are_not_trained_on():
    family = stream()
    assert tuple(dict.fromkeys(family.tasks("test").names)) == metaworld.config.CW10
    splits = [
        {(task.name, task.params) for task in family.tasks(split)}
        for split in ("train", "validation", "test")
    ]
    assert sum(map(len, splits)) == len(set.union(*splits))


def test_a_meta_batch_larger_than_a_name_has_tasks_is_refused():
    with pytest.raises(UserError, match="meta_batch_size must be between 1 and 50"):
        stream().sample(51, "train", torch.Generator())


def test_a_family_of_one_name_has_no_stream():
    family = point_navigation.build(point_navigation.Config())
    with pytest.raises(UserError, match="has point alone"):
        Stream(family, ChangeConfig(every="2 iterations", how="sequence"))


def test_iterations_want_a_sequence():
    with pytest.raises(UserError, match="must be sequence"):
        ChangeConfig(every="2 iterations")


RECORD = StreamRecord(
    ("a", "b"),
    2,
    SUCCESS,
    np.array([1, 2, 3, 4]),
    np.array([[0.5, 0.0], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]),
)


def test_forgetting_is_what_was_there_after_a_turn_and_is_not_at_the_end():
    np.testing.assert_allclose(RECORD.after_its_turn, [0.9, 0.8])
    np.testing.assert_allclose(RECORD.at_the_end, [0.2, 0.8])
    np.testing.assert_allclose(RECORD.forgetting, [0.7, 0.0])


def test_what_was_not_measured_in_its_turn_is_not_known():
    cut = StreamRecord(("a", "b"), 3, SUCCESS, np.array([2]), np.array([[0.9, 0.1]]))
    np.testing.assert_allclose(cut.after_its_turn, [0.9, np.nan])
    np.testing.assert_allclose(cut.forgetting, [0.0, np.nan])


def test_transfer_is_a_share_of_what_there_was_to_gain():
    assert RECORD.while_learned(0) == pytest.approx(0.7)
    assert RECORD.while_learned(1) == pytest.approx(0.6)
    assert forward_transfer(0.6, 0.2) == pytest.approx(0.5)
    assert forward_transfer(0.1, 0.2) == pytest.approx(-0.125)
    assert np.isnan(forward_transfer(0.5, np.nan)) and np.isnan(forward_transfer(np.nan, 0.5))


def test_a_training_that_is_longer_than_a_turn_counts_for_the_turn_alone():
    times, values = np.arange(1, 7), np.array([[0.5, 0.9, 1, 1, 1, 1]]).T
    alone = StreamRecord(("a",), 2, SUCCESS, times, values)
    assert alone.while_learned(0) == RECORD.while_learned(0) == pytest.approx(0.7)
    assert alone.times(0) == RECORD.times(1) == [1, 2]
    assert alone.after_its_turn == [1]


def test_seeds_are_averaged_where_all_were_measured():
    other = StreamRecord(("a", "b"), 2, SUCCESS, np.array([2, 4]), np.array([[0.5, 0.3], [0, 1]]))
    mean = mean_stream([RECORD, other])
    assert mean.iterations.tolist() == [2, 4]
    np.testing.assert_allclose(mean.values, [[0.7, 0.2], [0.1, 0.9]])


def test_a_stream_from_the_command_line(meta_rl, small_config, tmp_path, monkeypatch):
    """Train, resume in the middle, report, and set beside a training on one name."""
    short = {"name": "metaworld", "benchmark": "CW10", "horizon": 3}
    evaluation = {"every": 1, "goals": 1, "copies": 1, "adaptation_steps": 0}
    config = small_config(
        "multitask_ppo",
        name="stream",
        envs=short,
        meta_iterations=3,
        change={"every": "1 iterations", "how": "sequence"},
        evaluation=evaluation,
    )
    meta_rl("train", config).succeeds()
    meta_rl("train", "--resume", "runs/stream", "--meta-iterations", 10).succeeds()
    record = read_stream(
        tmp_path / "runs/stream", to_dict(RunFolder(Path("runs/stream")).experiment())
    )
    assert record is not None
    assert record.names == metaworld.config.CW10
    assert record.iterations.tolist() == list(range(1, 11))
    meta_rl("report", "runs/stream", "--output", "report.html").succeeds()
    page = (tmp_path / "report.html").read_text()
    assert "went through the task names in turn" in page
    assert "peg-unplug-side-v3" in page

    alone = {"name": "metaworld", "task": "push-wall-v3", "horizon": 3}
    single = small_config(
        "multitask_ppo", name="alone", envs=alone, meta_iterations=1, evaluation=evaluation
    )
    meta_rl("train", single).succeeds()
    monkeypatch.setattr(sys, "path", [SCRIPTS, *sys.path])
    from forward_transfer import transfers

    found = transfers(tmp_path / "runs/stream", (tmp_path / "runs/alone",))
    assert list(found) == ["push-wall-v3"]
    settings = tmp_path / "runs/alone/config.yaml"
    settings.write_text(settings.read_text().replace("multitask_ppo", "fine_tune"))
    with pytest.raises(UserError, match=r"differs from .* by more than its tasks \(agent.name"):
        transfers(tmp_path / "runs/stream", (tmp_path / "runs/alone",))
    text = settings.read_text().replace("fine_tune", "multitask_ppo")
    settings.write_text(text.replace("horizon: 3", "horizon: 4"))
    with pytest.raises(UserError, match=r"by more than its tasks \(envs.horizon"):
        transfers(tmp_path / "runs/stream", (tmp_path / "runs/alone",))
    with pytest.raises(UserError, match="has no evaluations of a stream"):
        transfers(tmp_path / "runs/alone", ())
    with pytest.raises(UserError, match="one of the stream's names"):
        transfers(tmp_path / "runs/stream", (tmp_path / "runs/stream",))
