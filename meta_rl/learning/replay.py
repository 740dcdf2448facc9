"""A replay of experience: in memory, and in files that are written once and never changed.

A checkpoint stays small: it holds a mark, which names the stored rows by their numbers. The rows
themselves are in files, the segments, written before the checkpoint that names them.
"""

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import write
from meta_rl.core.ranks import gathered
from meta_rl.core.types import Tasks


class Replay:
    """The last `capacity` rows of named columns, for an agent that is `protocols.Stored`.

    Rows are numbered through the whole life of a run. The rows that a mark names stay in memory
    until rows are added after a later mark, so that an update can be taken back.

    Args:
        columns: The columns without any row, (0, ...).
    """

    def __init__(self, capacity: int, columns: Mapping[str, Shaped[Tensor, "0 ..."]]) -> None:
        self.capacity = capacity
        self.columns = dict(columns)
        self._first = 0
        """Number of the first row in memory."""
        self._marked = 0
        """Number of the first row that the last mark names."""
        self._written = 0
        """Rows before this number have been written to segments."""

    @property
    def added(self) -> int:
        """Number of rows ever added."""
        return self._first + len(next(iter(self.columns.values())))

    @property
    def room(self) -> int:
        """Bytes of the last `capacity` rows; adding rows takes more (`footprint.check_store`)."""
        numbers = ((column.shape[1:].numel(), column) for column in self.columns.values())
        return self.capacity * sum(count * column.element_size() for count, column in numbers)

    def __len__(self) -> int:
        return min(self.added - self._first, self.capacity)

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Append rows, (B, ...) in each column; kept on the CPU.

        Rows before those that the last mark names are forgotten. An interruption leaves the rows
        that a mark names, and maybe some of the new ones.
        """
        before = self._marked - self._first
        kept = {name: column[before:] for name, column in self.columns.items()}
        self.columns, self._first = kept, self._marked
        for name, column in kept.items():  # one by one: less memory is held twice
            kept[name] = torch.cat([column, rows[name].detach().to(column)])

    @property
    def last(self) -> dict[str, Tensor]:
        """The last rows, at most `capacity` of them: what updates may learn from."""
        surplus = self.added - self._first - len(self)
        return {name: column[surplus:] for name, column in self.columns.items()}

    def sample(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw `count` of the last rows, with repetition."""
        drawn = torch.randint(len(self), (count,), generator=generator)
        return {name: column[drawn] for name, column in self.last.items()}

    def mark(self) -> dict[str, int]:
        """Return a mark of the rows within the capacity; the next `add` drops older ones."""
        self._marked = self.added - len(self)
        return {"first": self._marked, "added": self.added}

    def rewind(self, mark: Mapping[str, int]) -> None:
        """Forget the rows that were added after a mark."""
        kept = mark["added"] - self._first
        self.columns = {name: column[:kept] for name, column in self.columns.items()}

    def write(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Write the rows that a mark names and that are in no file yet, as one segment.

        Call it before rows are added after a later mark: until then the rows are in memory.
        """
        start, end = max(self._written, mark["first"]), mark["added"]
        if start < end:
            kept = slice(start - self._first, end - self._first)
            content = io.BytesIO()
            torch.save({name: each[kept].clone() for name, each in self.columns.items()}, content)
            write(content.getbuffer(), folder / f"{start:012}-{end:012}.pt", "replayed experience")
        self._written = max(self._written, end)

    def delete(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Delete the segments without any row that a mark names, once its checkpoint is written."""
        for path, _, end in _segments(folder):
            if end <= mark["first"]:
                path.unlink()

    def read(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Read the rows that a mark names; delete segments that were written after it."""
        pieces: list[dict[str, Tensor]] = []
        expected = mark["first"]
        for path, start, end in _segments(folder):
            if start >= mark["added"]:
                path.unlink()
            elif end > mark["first"] and start <= expected and end <= mark["added"]:
                try:
                    rows: dict[str, Tensor] = torch.load(path, weights_only=True)
                except Exception as error:  # the reader raises many kinds
                    raise UserError(
                        f"{path} is cut short or damaged, and the run needs it to go on; put it "
                        f"back, or start the run again"
                    ) from error
                skipped = expected - start
                pieces.append({name: column[skipped:] for name, column in rows.items()})
                expected = end
        if expected != mark["added"]:
            raise UserError(
                f"{folder} lacks the rows {expected} to {mark['added']} of the checkpoint's "
                f"replayed experience; put the folder back as it was, or start the run again"
            )
        if missing := {name for piece in pieces for name in self.columns.keys() - piece.keys()}:
            raise UserError(
                f"{folder} is of another version of the agent: its rows have no "
                f"{', '.join(sorted(missing))}; start the run again"
            )
        self.columns = {
            name: torch.cat([column[:0], *(piece[name] for piece in pieces)])
            for name, column in self.columns.items()
        }
        self._first = self._marked = mark["first"]
        self._written = mark["added"]


class KeepsReplay:
    """The methods of `protocols.Stored`, for an agent that stores everything in a replay."""

    replay: Replay

    def keep(self, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Store the rows of all ranks, (B, ...) in each column, on every rank; return them."""
        found = gathered(dict(rows))
        of_all = {name: torch.cat([own[name] for own in found]) for name in rows}
        self.replay.add(of_all)
        return of_all

    @property
    def room(self) -> int:
        """Bytes of the full replay."""
        return self.replay.room

    def mark(self) -> dict[str, int]:
        """Return a mark of the replay's rows."""
        return self.replay.mark()

    def rewind(self, mark: Mapping[str, int]) -> None:
        """Forget the rows that were stored after the last mark."""
        self.replay.rewind(mark)

    def write_stored(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Write the rows that a mark names."""
        self.replay.write(folder, mark)

    def delete_stored(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Delete the files that hold no row that a mark names."""
        self.replay.delete(folder, mark)

    def read_stored(self, folder: Path, mark: Mapping[str, int]) -> None:
        """Read the rows that a mark names."""
        self.replay.read(folder, mark)


def task_keys(tasks: Tasks) -> Int[Tensor, "M"]:
    """Return a number for each task that is the same whenever it is played: 63 bits of a hash."""
    digests = [hashlib.blake2b(task.label.encode(), digest_size=8).digest() for task in tasks]
    return torch.tensor([int.from_bytes(each, "little") >> 1 for each in digests])


class RowsByTask:
    """Draws rows of each task, in whatever order the rows are.

    Args:
        key: The task of each row.
        rows: The places of the rows that may be drawn.
    """

    def __init__(self, key: Int[Tensor, "R"], rows: Int[Tensor, "D"]) -> None:
        self.keys, whose, self.count = torch.unique(
            key[rows], return_inverse=True, return_counts=True
        )
        self._rows = rows[whose.argsort(stable=True)]
        self._start = self.count.cumsum(0) - self.count

    def __len__(self) -> int:
        return len(self.keys)

    def sample(
        self, which: Int[Tensor, "M"], count: int, generator: torch.Generator
    ) -> Int[Tensor, "M B"]:
        """Draw the places of `count` rows of each of some tasks, with repetition.

        Args:
            which: The tasks' places in `keys`.
        """
        share = torch.rand(len(which), count, generator=generator, dtype=torch.float64)
        drawn = (share * self.count[which].unsqueeze(1)).long()
        return self._rows[self._start[which].unsqueeze(1) + drawn]


def _segments(folder: Path) -> list[tuple[Path, int, int]]:
    """Return a folder's segments, each with the numbers of its first row and of the next one."""
    found = []
    for path in sorted(folder.glob("*-*.pt")):
        start, _, end = path.stem.partition("-")
        found.append((path, int(start), int(end)))
    return found
