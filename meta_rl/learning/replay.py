"""Experience that an agent keeps: in memory, and in files that are written once and never changed.

A checkpoint stays small: it holds a mark, which names the rows that were stored then. The rows
themselves are in segments, written before the checkpoint that names them.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import write


class Replay:
    """The last `capacity` rows of named columns, for an agent that is `protocols.Stored`.

    Rows have numbers, in order, for the whole life of a run. What a mark names stays in memory
    until the next mark, so that an update can be taken back.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.columns: dict[str, Tensor] = {}
        self._first = 0
        """Number of the first row in memory."""
        self._written = 0
        """Rows before this number are in segments, if they are anywhere."""

    @property
    def added(self) -> int:
        """Rows ever added."""
        return self._first + (len(next(iter(self.columns.values()))) if self.columns else 0)

    def __len__(self) -> int:
        return min(self.added - self._first, self.capacity)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows, (B, ...) in each column; kept on the CPU."""
        own = {name: column.detach().cpu() for name, column in rows.items()}
        if self.columns:
            own = {name: torch.cat([column, own[name]]) for name, column in self.columns.items()}
        self.columns = own

    def sample(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw so many of the last rows, with repetition."""
        drawn = torch.randint(len(self), (count,), generator=generator)
        return self.rows(drawn + (self.added - self._first - len(self)))

    def rows(self, which: Int[Tensor, "B"]) -> dict[str, Tensor]:
        """Return rows by their place in memory."""
        return {name: column[which] for name, column in self.columns.items()}

    def mark(self) -> dict[str, int]:
        """Forget the rows beyond the capacity, and return what names the others."""
        surplus = self.added - self._first - len(self)
        if surplus:
            self.columns = {name: column[surplus:] for name, column in self.columns.items()}
            self._first += surplus
        return {"first": self._first, "added": self.added}

    def rewind(self, mark: Mapping[str, int]) -> None:
        """Forget what was added after the last mark."""
        kept = mark["added"] - self._first
        self.columns = {name: column[:kept] for name, column in self.columns.items()}

    def write(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Write the rows that the last mark names and that are in no file yet, as one segment.

        The segments that the mark names no row of stay until the next call: the checkpoint that
        is about to be replaced may still name them.
        """
        segments = _segments(folder)
        start, end = max(self._written, mark["first"]), mark["added"]
        if start < end:
            kept = slice(start - self._first, end - self._first)
            content = io.BytesIO()
            torch.save({name: each[kept].clone() for name, each in self.columns.items()}, content)
            write(content.getbuffer(), folder / f"{start:012}-{end:012}.pt", "replayed experience")
        self._written = max(self._written, end)
        for path, _, last in segments:
            if last <= self._named_before:
                path.unlink()
        self._named_before = mark["first"]

    _named_before = 0
    """First row that the checkpoint on disk names."""

    def read(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Read the rows that a mark names; delete what was written after it."""
        pieces: list[dict[str, Tensor]] = []
        expected = mark["first"]
        for path, start, end in _segments(folder):
            if start >= mark["added"]:
                path.unlink()
            elif end > mark["first"] and start <= expected and end <= mark["added"]:
                rows: dict[str, Tensor] = torch.load(path, weights_only=True)
                skipped = expected - start
                pieces.append({name: column[skipped:] for name, column in rows.items()})
                expected = end
        if expected != mark["added"]:
            raise UserError(
                f"{folder} lacks the rows {expected} to {mark['added']} of the checkpoint's "
                f"replayed experience; put the folder back as it was, or start the run again"
            )
        names = pieces[0] if pieces else {}
        self.columns = {name: torch.cat([piece[name] for piece in pieces]) for name in names}
        self._first, self._written = mark["first"], mark["added"]
        self._named_before = mark["first"]


def _segments(folder: Path) -> list[tuple[Path, int, int]]:
    """Return the segments of a folder with the numbers of their first row and of that after."""
    found = []
    for path in sorted(folder.glob("*-*.pt")):
        start, _, end = path.stem.partition("-")
        found.append((path, int(start), int(end)))
    return found
