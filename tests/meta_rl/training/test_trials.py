"""Trials: a drawn task that is in the meta-batch several times."""

import json

import torch

from envs import point_navigation
from meta_rl.core.continual import sample_to_train

SMALL = (
    "--meta-iterations 1 --meta-batch-size 2 --copies 2 --agent.hidden-sizes 8 --envs.horizon 5 "
    "--evaluation.goals 1 --tracking.mode off --threads 1"
)


def test_each_task_is_there_as_often_as_it_has_trials():
    family = point_navigation.build(point_navigation.Config())
    alone = sample_to_train(family, 0, 2, 1, torch.Generator().manual_seed(0))
    tasks = sample_to_train(family, 0, 2, 3, torch.Generator().manual_seed(0))
    first, second = (task.label for task in alone)
    assert [task.label for task in tasks] == [first] * 3 + [second] * 3


def test_trials_play_apart_and_all_of_them_count(meta_rl, tmp_path):
    for trials in (1, 3):
        words = f"train point_navigation_maml_trpo {SMALL} --trials {trials} --name t{trials}"
        meta_rl(*words.split()).succeeds()
    steps, returns = zip(
        *(
            (row["env_steps"], row["return/before"])
            for name in ("t1", "t3")
            for row in [
                json.loads((tmp_path / "runs" / name / "metrics.jsonl").read_text().split("\n")[0])
            ]
        ),
        strict=True,
    )
    assert steps[1] == 3 * steps[0]
    assert returns[0] != returns[1]  # the further trials have noise of their own


def test_at_least_one_trial(meta_rl):
    meta_rl("train", "point_navigation_maml_trpo", "--trials", "0").fails_with(
        "trials must be at least 1, got 0"
    )
