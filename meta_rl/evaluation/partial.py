"""The cells of an evaluation: filled task by task, and kept in case it is interrupted."""

import contextlib
import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from meta_rl.runs import checkpoint


class Cells:
    """Returns and successes, (E, S, M, N), of which some tasks have been measured.

    Args:
        path: File that keeps what is measured until all is; none keeps nothing. What it holds
            already must come from the same agent, options and seed: its name has to see to that.
    """

    def __init__(self, shape: tuple[int, int, int, int], path: Path | None = None) -> None:
        self.path = path
        self.episode_return: Float[NDArray[np.float64], "E S M N"] = np.full(shape, np.nan)
        self.success: Float[NDArray[np.float64], "E S M N"] = np.full(shape, np.nan)
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

    def fill(
        self,
        rows: list[int],
        episode_return: Float[NDArray[np.float64], "E S m N"],
        success: Float[NDArray[np.float64], "E S m N"],
    ) -> None:
        """Put in what was measured of some tasks, and keep it."""
        self.episode_return[:, :, rows] = episode_return
        self.success[:, :, rows] = success
        self.measured[rows] = True
        if self.path is not None:
            self._save(self.path)

    def _load(self, path: Path) -> None:
        with path.open("rb") as file, np.load(file) as kept:
            columns = {name: kept[name] for name in ("episode_return", "success", "measured")}
        if all(column.shape == getattr(self, name).shape for name, column in columns.items()):
            vars(self).update(columns)

    def _save(self, path: Path) -> None:
        content = io.BytesIO()
        np.savez(
            content,
            episode_return=self.episode_return,
            success=self.success,
            measured=self.measured,
        )
        checkpoint.write(content.getbuffer(), path, "the unfinished evaluation")
