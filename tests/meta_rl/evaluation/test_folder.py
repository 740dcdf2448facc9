"""Which of the evaluations in a folder is asked for."""

from dataclasses import replace

import numpy as np
import pytest

from meta_rl.core.errors import UserError
from meta_rl.core.types import RETURN
from meta_rl.evaluation.folder import Evaluations
from meta_rl.evaluation.life_plan import LEARNING
from meta_rl.evaluation.result import EvalResult

PROTOCOL = {"split": "validation", "actions": "sampled", "goals": 5}
OWN = EvalResult(
    names=("a",),
    index=(0,),
    scores={"episode_return": np.ones((1, 1, 1, 1))},
    judged_by=(RETURN,),
    adaptation_episodes=(0,),
    protocol=PROTOCOL,
    env_steps=30,
    meta_iterations=3,
    seed=7,
)
OTHERS = (
    replace(OWN, protocol={**PROTOCOL, "goals": 1}),
    replace(OWN, protocol={**PROTOCOL, "split": "test"}),
    replace(OWN, seed=0),
    replace(OWN, checkpoint="best"),
    replace(OWN, env_steps=20, meta_iterations=2),
    replace(OWN, protocol={**PROTOCOL, LEARNING: "never"}),
)


@pytest.fixture
def evaluations(tmp_path):
    found = Evaluations(tmp_path / "evaluations")
    for other in OTHERS:
        found.save(other)
    return found


def test_a_runs_own_evaluation_is_none_of_those_that_were_made_by_hand(evaluations):
    assert evaluations.own(3, PROTOCOL, seed=7) is None
    evaluations.save(OWN)
    found = evaluations.own(3, PROTOCOL, seed=7)
    assert found is not None and found.summary() == OWN.summary()


def test_what_was_damaged_is_not_there_and_can_be_written_again(evaluations):
    """Of a run's own, that is: whoever goes through all of them is told."""
    path = evaluations.save(OWN)
    path.with_suffix(".npz").write_bytes(b"")
    (path.parent / "0.json").write_text("{")  # by hand, before it in order
    assert evaluations.own(3, PROTOCOL, seed=7) is None
    with pytest.raises(UserError, match="cannot read the evaluation"):
        list(evaluations)
    evaluations.save(OWN)
    assert evaluations.own(3, PROTOCOL, seed=7) is not None


def test_evaluations_of_other_stages_or_runs_lie_side_by_side(tmp_path):
    found = Evaluations(tmp_path)
    more = replace(
        OWN, adaptation_episodes=(0, 5), scores={"episode_return": np.ones((1, 2, 1, 1))}
    )
    paths = [found.save(OWN), found.save(more), found.save(more), found.save(OWN, "other")]
    assert paths[1] == paths[2] and len({*paths}) == 3
    assert [each.stages for each in found] == [(0, 5), (0,), (0,)]


def test_cells_are_read_only_when_asked_for(evaluations):
    for path in evaluations.path.glob("*.npz"):
        path.unlink()
    assert sorted(each.seed for each in evaluations) == [0, 7, 7, 7, 7, 7]
