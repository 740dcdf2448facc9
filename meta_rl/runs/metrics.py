"""The one reader of metrics.jsonl."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meta_rl.core.errors import UserError


@dataclass(frozen=True)
class Line:
    """One line of the file."""

    text: bytes
    """As it is written, with its end."""
    row: dict[str, Any]


@dataclass(frozen=True)
class RecordedMetrics:
    """What a metrics.jsonl holds."""

    lines: tuple[Line, ...]
    damaged: tuple[bytes, ...]
    """Lines that cannot be read, each with its end. The last line of a run that is training, or
    was killed, may lack its end; if it cannot be read it counts as unfinished, not as damaged."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The readable lines: counters, `wall_time_s` and metrics; null is no finite number."""
        return [line.row for line in self.lines]

    def wall_time_s(self, env_steps: int) -> float | None:
        """Time of training until it had so many env steps; None if it was not logged."""
        times = [
            row["wall_time_s"]
            for row in self.rows
            if "wall_time_s" in row and row["env_steps"] <= env_steps
        ]
        return max(times, default=None)


def read_metrics(path: Path, counters: Sequence[str] = ()) -> RecordedMetrics:
    """Read all lines; a file that is not there has none.

    Args:
        counters: Numbers that a line must have; one that lacks any counts as damaged.

    Raises:
        UserError: The file cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    lines, damaged = [], []
    for text in content.split(b"\n"):
        row = _row(text, counters)
        if row is not None:
            lines.append(Line(text + b"\n", row))
        elif text.strip():
            damaged.append(text + b"\n")
    if damaged and not content.endswith(b"\n") and damaged[-1] == content.split(b"\n")[-1] + b"\n":
        damaged.pop()  # the unfinished line
    return RecordedMetrics(tuple(lines), tuple(damaged))


def _row(text: bytes, counters: Sequence[str]) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError:  # of JSON, and of UTF-8
        return None
    if not isinstance(row, dict):
        return None
    if type(row.get("wall_time_s", 0.0)) not in (int, float):
        return None
    return row if all(type(row.get(name)) in (int, float) for name in counters) else None
