"""What a stream of task names left behind: what was forgotten, and what it gave to later tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meta_rl.core.change import ChangeConfig
from meta_rl.core.types import Score
from meta_rl.evaluation.result import read_summary
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
        """Each task's score when its turn had ended."""
        ends = self.turn * np.arange(1, len(self.names) + 1)
        places = np.minimum(np.searchsorted(self.iterations, ends), len(self.iterations) - 1)
        found: Float[np.ndarray, K] = self.values[places, np.arange(len(self.names))]
        return found

    @property
    def at_the_end(self) -> Float[np.ndarray, "K"]:
        """Each task's score when the stream had ended."""
        found: Float[np.ndarray, K] = self.values[-1]
        return found

    @property
    def forgetting(self) -> Float[np.ndarray, "K"]:
        """How much of each task was lost after its turn; nothing can be of the last."""
        lost: Float[np.ndarray, K] = self.after_its_turn - self.at_the_end
        return lost if self.score.higher_is_better else -lost

    def while_learned(self, place: int) -> float:
        """Return the mean over a task's turn: the area under its learning curve, normalized."""
        during = (self.iterations > place * self.turn) & (
            self.iterations <= (place + 1) * self.turn
        )
        return float(self.values[during, place].mean()) if during.any() else np.nan


def read_stream(run: Path, experiment: Mapping[str, Any]) -> StreamRecord | None:
    """Read a run's evaluations over its stream; None if it has gone through none.

    Args:
        experiment: As plain data.
    """
    change = ChangeConfig(**experiment.get("change", {}))
    return read_curves(run, experiment, int(change.number)) if change.in_iterations else None


def read_curves(run: Path, experiment: Mapping[str, Any], turn: int) -> StreamRecord | None:
    """Read a run's evaluations while training, by task name; None if there are none.

    Args:
        turn: Meta-iterations on each name.
    """
    split = experiment["evaluation"]["choose_on"]
    summaries: dict[int, Mapping[str, Any]] = {}
    for path in sorted(RunFolder(run).evaluations.glob("*.json")):
        summary = read_summary(path)
        if summary["protocol"]["split"] == split:
            summaries[summary["meta_iterations"]] = summary
    if not summaries:
        return None
    iterations = sorted(summaries)
    score = Score(**summaries[iterations[0]]["scores"][0])
    rows = [summaries[made]["stages"][-1][f"{score.name}_by_name"] for made in iterations]
    names = tuple(rows[0])
    values = np.array([[row[name] for name in names] for row in rows])
    return StreamRecord(names, turn, score, np.array(iterations), values)


def mean_stream(records: Sequence[StreamRecord]) -> StreamRecord:
    """Return the mean over seeds of one experiment, where all were evaluated."""
    first = records[0]
    shared = sorted(set.intersection(*(set(each.iterations.tolist()) for each in records)))
    values = [each.values[np.isin(each.iterations, shared)] for each in records]
    return StreamRecord(
        first.names, first.turn, first.score, np.array(shared), np.mean(values, axis=0)
    )


def forward_transfer(while_learned: float, while_learned_alone: float) -> float:
    """Return how much better a task was learned than alone, of what there was to gain.

    (A - B) / (1 - B), A and B being areas under curves of success (Wolczyk et al. 2021, §4).
    """
    room = 1 - while_learned_alone
    return (while_learned - while_learned_alone) / room if room > 0 else 0.0
