"""What an evaluation found: every episode of every cell, written to files and read back."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import write
from meta_rl.core.protocols import ALL_TASKS
from meta_rl.core.types import RETURN, SUCCESS, Score
from meta_rl.evaluation.life_plan import SINCE_CHANGE
from meta_rl.evaluation.protocol import fingerprint
from meta_rl.evaluation.statistics import estimate, mean


def now() -> str:
    """Return the time in UTC, as evaluations say when they were made: ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class EvalResult:
    """What an agent achieved on M tasks at each of S stages of adaptation, 0 before any."""

    names: tuple[str, ...]
    index: tuple[int, ...]
    scores: Mapping[str, Float[np.ndarray, "E S M N"]]
    """All E episodes of all N copies: the denominators are fixed before the first step."""
    judged_by: tuple[Score, ...]
    """What was measured; the first decides which agent is better, the next where it ties."""
    adaptation_episodes: tuple[int, ...]
    """Episodes of its task that a policy had learned from at each stage; where tasks change, time
    since the last change."""
    protocol: Mapping[str, Any]
    env_steps: int
    """Environment steps of training that the agent has had."""
    meta_iterations: int
    checkpoint: str = "latest"
    """Which checkpoint was measured: the newest, the best by evaluation while training, a file."""
    seed: int = 0
    """Seed of the actions' noise."""
    made_at: str | None = field(default_factory=now)
    """When it was measured, in UTC (ISO 8601); None in files older than this field."""

    @property
    def fingerprint(self) -> str:
        """Short hash of all that a comparable result must share."""
        return fingerprint(self.protocol)

    @property
    def shown(self) -> tuple[Score, ...]:
        """The scores in the order of tables."""
        return self.judged_by[::-1]

    @property
    def stages_are(self) -> str:
        """What tells the stages apart, as tables name it."""
        unit = self.protocol.get(SINCE_CHANGE)
        return "adaptation episodes" if unit is None else f"{unit} since the change"

    @property
    def task_labels(self) -> tuple[str, ...]:
        """Each task's name with its index."""
        pairs = zip(self.names, self.index, strict=True)
        return tuple(f"{name}:{index}" for name, index in pairs)

    @property
    def strata(self) -> tuple[str, ...]:
        """What each task is one of, for intervals: within these, a bootstrap draws tasks anew.

        It is the task's name. Where all splits hold all the tasks that there are, none is a sample
        of others, so each is a stratum of its own.
        """
        return self.task_labels if ALL_TASKS in self.protocol else self.names

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, S, M, N): episodes, stages, tasks, copies."""
        return self.scores[self.judged_by[0].name].shape

    @property
    def cells_per_stage(self) -> int:
        """How many cells measure each stage, over all tasks and copies."""
        episodes, _, tasks, copies = self.shape
        return int(episodes * tasks * copies)

    def after_adaptation(self, quantity: str) -> Float[np.ndarray, "E M N"]:
        """Return the scores of the last stage.

        Where tasks change, stages are times since a change: then it is the mean over all of these
        times, which may last differently long.
        """
        if SINCE_CHANGE not in self.protocol:
            return self.scores[quantity][:, -1]
        ends = [*self.adaptation_episodes[1:], self.protocol["between_changes"]]
        lasting = np.subtract(ends, self.adaptation_episodes)
        found: Float[np.ndarray, "E M N"] = np.average(
            self.scores[quantity], axis=1, weights=lasting
        )
        return found

    def summary(self) -> dict[str, Any]:
        """Return means and intervals for each stage, in all and for each task name."""
        stages = []
        for stage, episodes in enumerate(self.adaptation_episodes):
            row: dict[str, Any] = {"stage": stage, "adaptation_episodes": episodes}
            for score in self.shown:
                by_task = self.scores[score.name][:, stage].mean((0, 2))
                found = estimate(mean, [by_task[None]], self.strata)
                row[score.name] = {"mean": found.value, "low": found.low, "high": found.high}
                row[f"{score.name}_by_name"] = {
                    name: float(by_task[[other == name for other in self.names]].mean())
                    for name in dict.fromkeys(self.names)
                }
            stages.append(row)
        return {
            "fingerprint": self.fingerprint,
            "protocol": dict(self.protocol),
            "env_steps": self.env_steps,
            "meta_iterations": self.meta_iterations,
            "checkpoint": self.checkpoint,
            "seed": self.seed,
            "made_at": self.made_at,
            "tasks": len(self.names),
            "cells_per_stage": self.cells_per_stage,
            "scores": [asdict(score) for score in self.judged_by],
            "stages": stages,
            "by_task": self.by_task(),
        }

    def by_task(self) -> list[dict[str, Any]]:
        """Return one row for each task name and goal: its means at every stage."""
        means = {score.name: self.scores[score.name].mean((0, 3)).T for score in self.shown}
        return [
            {"task": name, "goal": goal}
            | {quantity: by_stage[m].tolist() for quantity, by_stage in means.items()}
            for m, (name, goal) in enumerate(zip(self.names, self.index, strict=True))
        ]

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Return columns, and one row for each task, goal and stage."""
        labels = [score.label for score in self.shown]
        columns = ["task", "goal", "stage", "adaptation_episodes", *labels]
        rows = [
            [
                name,
                self.index[m],
                stage,
                episodes,
                *(float(self.scores[score.name][:, stage, m].mean()) for score in self.shown),
            ]
            for m, name in enumerate(self.names)
            for stage, episodes in enumerate(self.adaptation_episodes)
        ]
        return columns, rows

    def metrics(self) -> dict[str, float]:
        """Return the stages' means as logs name them: by the split, `evaluation/` for test."""
        split = self.protocol["split"]
        section = "evaluation" if split == "test" else split
        return {
            f"{section}/{score.label}/stage_{stage}": float(
                self.scores[score.name][:, stage].mean((0, 2)).mean()
            )
            for stage in range(len(self.adaptation_episodes))
            for score in self.shown
        }

    def rank(self) -> tuple[float, ...]:
        """Return what `best` means: the scores after all adaptation, larger being better."""
        values = (
            self.after_adaptation(score.name).mean() * (1 if score.higher_is_better else -1)
            for score in self.judged_by
        )
        # NaN would compare as neither better nor worse, and so stay the best for ever.
        return tuple(float(np.nan_to_num(value, nan=-np.inf)) for value in values)

    def save_as(self, path: Path) -> Path:
        """Write the JSON file `path`, and beside it all cells as npz; each whole or not at all."""
        content = io.BytesIO()
        columns: dict[str, Any] = {
            "names": np.array(self.names),
            "index": np.array(self.index),
            "adaptation_episodes": np.array(self.adaptation_episodes),
            **self.scores,
        }
        np.savez_compressed(content, **columns)
        summary = json.dumps(self.summary(), indent=2, allow_nan=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot write the evaluation {path}: {error}") from error
        write(content.getbuffer(), path.with_suffix(".npz"), "the evaluation")
        write(summary.encode(), path, "the evaluation")
        return path

    @classmethod
    def load(cls, path: Path) -> "EvalResult":
        """Read what `save_as` wrote: the JSON file at `path`, and the npz beside it."""
        summary = read_summary(path)
        cells_path = path.with_suffix(".npz")
        try:
            with cells_path.open("rb") as file, np.load(file, allow_pickle=False) as cells:
                judged_by = _judged_by(summary)
                result = cls(
                    names=tuple(cells["names"].tolist()),
                    index=tuple(cells["index"].tolist()),
                    scores={score.name: cells[score.name] for score in judged_by},
                    judged_by=judged_by,
                    adaptation_episodes=tuple(cells["adaptation_episodes"].tolist()),
                    protocol=summary["protocol"],
                    env_steps=summary["env_steps"],
                    meta_iterations=summary["meta_iterations"],
                    checkpoint=summary["checkpoint"],
                    seed=summary["seed"],
                    made_at=summary["made_at"],
                )
            _, stages, tasks, _ = result.shape
            sizes = (len(result.adaptation_episodes), len(result.names), len(result.index))
            shapes = {cells.shape for cells in result.scores.values()}
            if sizes != (stages, tasks, tasks) or len(shapes) > 1:
                raise ValueError("its arrays do not fit together")
        except Exception as error:  # whatever numpy and zipfile stumble over in a damaged file
            raise _unreadable(cells_path, error) from error
        return result


def read_summary(path: Path) -> dict[str, Any]:
    """Read the JSON file of an evaluation: what `EvalResult.summary` returned.

    Older files say neither which checkpoint was measured, nor by which seed, nor when: it was the
    latest, the seed 0, and `made_at` is None.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(summary, dict) or not isinstance(summary.get("protocol"), dict):
            raise ValueError("it is not the summary of an evaluation")
        for name in ("env_steps", "meta_iterations"):
            if not isinstance(summary.get(name), int):
                raise ValueError(f"it lacks {name}")
        if summary.get("made_at") is not None:
            datetime.fromisoformat(summary["made_at"])
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _unreadable(path, error) from error
    return {"checkpoint": "latest", "seed": 0, "made_at": None, **summary}


def _judged_by(summary: Mapping[str, Any]) -> tuple[Score, ...]:
    """Return what a file's result is judged by; older files do not say it."""
    if "scores" in summary:
        return tuple(Score(**score) for score in summary["scores"])
    return (RETURN,) if summary["protocol"]["success_rule"] is None else (SUCCESS, RETURN)


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
    elif path.is_file() and path.stat().st_size == 0:
        reason = "it is empty"
    return UserError(
        f"cannot read the evaluation {path}: {reason}; make it again with `meta-rl evaluate`, or "
        f"delete it"
    )
