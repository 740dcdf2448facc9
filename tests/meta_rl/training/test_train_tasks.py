"""Training tasks that are fixed for a run, in place of new ones for each meta-batch."""

import json

import pytest
import torch

from envs import metaworld, point_navigation
from meta_rl.core.change import ChangeConfig
from meta_rl.core.continual import Stream, fixed_pool, sample_to_train
from meta_rl.core.errors import UserError
from meta_rl.core.lives import Changing
from meta_rl.experiment.identity import learning_part

FAMILY = point_navigation.build(point_navigation.Config())


def labels(tasks):
    return {task.label for task in tasks}


def test_meta_batches_are_drawn_from_the_runs_own_tasks_without_repetition():
    pool, again, other = (fixed_pool(FAMILY, 5, seed) for seed in (0, 0, 1))
    assert labels(pool) == labels(again) and not labels(pool) & labels(other)
    generator = torch.Generator().manual_seed(0)
    drawn = [sample_to_train(FAMILY, i, 3, 1, generator, pool) for i in range(30)]
    assert all(len(labels(tasks)) == 3 for tasks in drawn)
    assert set.union(*(labels(tasks) for tasks in drawn)) == labels(pool)
    assert len(set(drawn[0].params.flatten().tolist()) & set(pool.params.flatten().tolist())) == 6


def test_without_a_number_the_family_draws_and_old_runs_are_the_same_experiment():
    assert fixed_pool(FAMILY, None, 0) is None
    assert learning_part({"copies": 2, "train_tasks": None}) == learning_part({"copies": 2})
    assert learning_part({"copies": 2, "train_tasks": 5}) != learning_part({"copies": 2})


def test_a_run_resumes_on_the_same_tasks(meta_rl, small_config, run_at, tmp_path):
    config = small_config("maml_ppo", train_tasks=2, meta_iterations=4)
    meta_rl("train", config, "--name", "whole").succeeds()
    meta_rl("train", config, "--name", "cut", "--meta-iterations", 2).succeeds()
    meta_rl("train", "--resume", "runs/cut", "--meta-iterations", 4).succeeds()
    whole, cut = (tmp_path / "runs" / name / "metrics.jsonl" for name in ("whole", "cut"))
    last = [json.loads(path.read_text().splitlines()[-2])["return/before"] for path in (whole, cut)]
    assert last[0] == last[1]


def test_too_few_tasks_a_stream_and_tasks_that_change_are_refused(meta_rl, small_config):
    refused = meta_rl("train", small_config("maml_ppo", train_tasks=1))
    refused.fails_with("train_tasks must be at least meta_batch_size, which is 2, got 1")

    continual = metaworld.build(metaworld.Config(benchmark="CW10"))
    stream = Stream(continual, ChangeConfig(every="2 iterations", how="sequence"))
    with pytest.raises(UserError, match="one name after the other"):
        fixed_pool(stream, 5, 0)
    changing = Changing(FAMILY, ChangeConfig(every="1 episodes"))
    with pytest.raises(UserError, match="turns them into any of the family's"):
        fixed_pool(changing, 5, 0)
