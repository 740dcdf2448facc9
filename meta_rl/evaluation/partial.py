"""The cells of an evaluation: filled task by task, and kept in case it is interrupted."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from meta_rl.core.outputs import write


class Cells:
    """Scores, (E, S, M, N) each, of which some tasks have been measured.

    Args:
        names: Of the scores.
        path: File that keeps what is measured until all is; none keeps nothing. What it holds
            already must come from the same agent, options and seed: its name has to see to that.
    """

    def __init__(
        self, names: Sequence[str], shape: tuple[int, int, int, int], path: Path | None = None
    ) -> None:
        self.path = path
        self.scores: dict[str, Float[np.ndarray, "E S M N"]] = {
            name: np.full(shape, np.nan) for name in names
        }
        self.measured: NDArray[np.bool_] = np.zeros(shape[2], dtype=np.bool_)
        if path is not None:
            # A damaged file costs nothing but to measure again, whatever its readers stumble over.
            with contextlib.suppress(Exception):
                self._load(path)

    @property
    def missing(self) -> list[int]:
        """Rows of the tasks that are still to be measured."""
        rows: list[int] = np.flatnonzero(~self.measured).tolist()
        return rows

    def fill(self, rows: list[int], scores: Mapping[str, Float[np.ndarray, "E S m N"]]) -> None:
        """Put in what was measured of some tasks, and keep it."""
        for name, cells in self.scores.items():
            cells[:, :, rows] = scores[name]
        self.measured[rows] = True
        if self.path is not None:
            self._save(self.path)

    def _load(self, path: Path) -> None:
        with path.open("rb") as file, np.load(file) as kept:
            scores = {name: kept[name] for name in self.scores}
            measured = kept["measured"]
        shapes = {name: cells.shape for name, cells in scores.items()}
        fits = shapes == {name: cells.shape for name, cells in self.scores.items()}
        if fits and measured.shape == self.measured.shape:
            self.scores, self.measured = scores, measured

    def _save(self, path: Path) -> None:
        content = io.BytesIO()
        columns: dict[str, Any] = {**self.scores, "measured": self.measured}
        np.savez(content, **columns)
        write(content.getbuffer(), path, "the unfinished evaluation")
