"""What a stream of task names left behind: what was forgotten, and what it gave to later tasks."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from meta_rl.core.change import ChangeConfig
from meta_rl.core.continual import Stream
from meta_rl.core.types import Score
from meta_rl.evaluation.folder import Evaluations
from meta_rl.experiment.building import build_distribution
from meta_rl.experiment.config import experiment_from_dict
from meta_rl.runs.folder import RunFolder


@dataclass(frozen=True)
class StreamRecord:
    """A run's evaluations while it went through K names: J of them, after adaptation."""

    names: tuple[str, ...]
    """In the order of the stream."""
    turn: int
    """Meta-iterations on each name."""
    score: Score
    iterations: Int[np.ndarray, "J"]
    """Meta-iterations before each evaluation."""
    values: Float[np.ndarray, "J K"]

    @property
    def after_its_turn(self) -> Float[np.ndarray, "K"]:
        """Each task's score by the last evaluation of its turn; NaN where there was none."""
        found = np.full(len(self.names), np.nan)
        for place in range(len(self.names)):
            # The last one's turn has no end: a longer training stays with that task.
            longer = place == len(self.names) - 1
            if (rows := np.flatnonzero(self.during(place, longer))).size:
                found[place] = self.values[rows[-1], place]
        return found

    @property
    def at_the_end(self) -> Float[np.ndarray, "K"]:
        """Each task's score when the stream had ended."""
        found: NDArray[np.float64] = self.values[-1]
        return found

    @property
    def forgetting(self) -> Float[np.ndarray, "K"]:
        """How much of each task was lost after its turn; nothing can be of the last."""
        lost: NDArray[np.float64] = self.after_its_turn - self.at_the_end
        return lost if self.score.higher_is_better else -lost

    def while_learned(self, place: int) -> float:
        """Return the mean over a task's turn: the area under its learning curve, normalized."""
        during = self.during(place)
        return float(self.values[during, place].mean()) if during.any() else np.nan

    def during(self, place: int, longer: bool = False) -> Bool[np.ndarray, "J"]:
        """Return which evaluations were made during a task's turn, its end included.

        Args:
            longer: Take those after its end, too.
        """
        found: NDArray[np.bool_] = self.iterations > place * self.turn
        if not longer:
            found &= self.iterations <= (place + 1) * self.turn
        return found

    def times(self, place: int) -> list[int]:
        """Return the meta-iterations of a task's turn after which it was evaluated."""
        found: list[int] = (self.iterations[self.during(place)] - place * self.turn).tolist()
        return found


def read_stream(run: Path, experiment: Mapping[str, Any]) -> StreamRecord | None:
    """Read a run's evaluations over its stream; None if it has gone through none.

    Args:
        experiment: As plain data.
    """
    if not ChangeConfig(**experiment.get("change", {})).in_iterations:
        return None
    distribution = build_distribution(experiment_from_dict(dict(experiment), str(run)))
    assert isinstance(distribution, Stream)
    return read_curves(run, experiment, distribution.turn, distribution.names)


def read_curves(
    run: Path, experiment: Mapping[str, Any], turn: int, names: Sequence[str] = ()
) -> StreamRecord | None:
    """Read a run's evaluations while training, by task name; None if there are none.

    They are those of the split that checkpoints are chosen on, and of the protocol that most of
    them have: others were made by hand.

    Args:
        turn: Meta-iterations on each name.
        names: The names in the order of the stream; without them, those that were measured.
    """
    asked = experiment["evaluation"]["choose_on"], experiment["evaluation"]["seed"]
    evaluations = Evaluations(RunFolder(run).evaluations)
    found = [each for each in evaluations if (each.split, each.seed) == asked]
    if not found:
        return None
    ((usual, _),) = Counter(each.fingerprint for each in found).most_common(1)
    made = {each.meta_iterations: each.summary for each in found if each.fingerprint == usual}
    iterations = sorted(made)
    score = Score(**made[iterations[0]]["scores"][0])
    rows = [made[each]["stages"][-1][f"{score.name}_by_name"] for each in iterations]
    names = tuple(names or rows[0])
    values = np.array([[row.get(name, np.nan) for name in names] for row in rows])
    return StreamRecord(names, turn, score, np.array(iterations), values)


def mean_stream(records: Sequence[StreamRecord]) -> StreamRecord:
    """Return the mean over seeds of one experiment, where all were evaluated; or else the first."""
    first = records[0]
    shared = sorted(set.intersection(*(set(each.iterations.tolist()) for each in records)))
    if not shared:
        return first
    values = [each.values[np.isin(each.iterations, shared)] for each in records]
    return StreamRecord(
        first.names, first.turn, first.score, np.array(shared), np.mean(values, axis=0)
    )


def forward_transfer(while_learned: float, while_learned_alone: float) -> float:
    """Return how much better a task was learned than alone, of what there was to gain.

    (A - B) / (1 - B), A and B being areas under curves of success (Wolczyk et al. 2021, §4). NaN if
    either is unknown.
    """
    if np.isnan([while_learned, while_learned_alone]).any():
        return np.nan
    room = 1 - while_learned_alone
    return (while_learned - while_learned_alone) / room if room > 0 else 0.0
