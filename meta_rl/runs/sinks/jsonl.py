"""The run's record: metrics.jsonl."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import to_json, write
from meta_rl.runs.metrics import read_metrics
from meta_rl.runs.sinks.base import Beginning, Sink


class JsonlSink(Sink):
    """Appends one JSON object a line, complete on disk before `log` returns.

    The JSON is strict: NaN and infinities, which it cannot express, are written as null.
    `wall_time_s` is the total running time, summed over resumes.
    """

    name = "metrics.jsonl"
    is_the_record = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started_s = time.monotonic()

    def tidy(self, run: Beginning) -> None:
        """Drop what a killed run wrote after its last checkpoint."""
        self.truncate_after(run.meta_iterations_before)

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Append one line."""
        row = {
            "env_steps": env_steps,
            "meta_iterations": meta_iterations,
            "wall_time_s": round(time.monotonic() - self._started_s, 3),
            **metrics,
        }
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(to_json(row) + "\n")
                file.flush()
                os.fsync(file.fileno())  # no checkpoint shall know more than the record
        except OSError as error:
            raise self._unwritable(error) from error

    def truncate_after(self, meta_iterations: int) -> None:
        """Keep only readable lines up to a meta-iteration. The file is replaced in one step.

        A last line that a kill cut short goes. Other damaged lines move to `NAME.damaged`.
        """
        if not self._path.is_file():
            return
        recorded = read_metrics(self._path, ("env_steps", "meta_iterations"))
        kept = [line for line in recorded.lines if line.row["meta_iterations"] <= meta_iterations]
        if kept:
            self._started_s = time.monotonic() - kept[-1].row.get("wall_time_s", 0.0)
        try:
            if recorded.damaged:
                aside = self._path.with_name(self._path.name + ".damaged")
                with aside.open("ab") as file:
                    file.writelines(recorded.damaged)
                self.notify(
                    f"warning: damaged lines of {self._path} were moved to {aside.name} "
                    f"({len(recorded.damaged)}); the run goes on without them"
                )
            content = b"".join(line.text for line in kept)
            if content != self._path.read_bytes():
                write(content, self._path, "the metrics")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self._path}: {error}; free space, then resume the run")
