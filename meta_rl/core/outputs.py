"""The places that output goes to: checked before any work, and written whole or not at all."""

import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def check_file(path: Path, advice: str) -> None:
    """Raise a UserError unless a file can be written to `path`; leave nothing behind.

    Folders that do not exist are fine if they can be made. A file that exists keeps its content;
    its folder must take the temporary file that is to replace it.

    Args:
        advice: What to do otherwise, such as `choose another --output`.
    """
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: it is a folder, not a file; {advice}")
        if not path.exists():
            _try_folder(path.parent)
        elif path.is_file():  # opening a pipe would wait for its reader
            with path.open("ab"):
                pass
            _try_folder(path.resolve().parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def check_folder(path: Path, advice: str) -> None:
    """Raise a UserError unless files can be written to the folder `path`; leave nothing behind.

    Args:
        advice: What to do otherwise, such as `choose another --figures`.
    """
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"cannot write to {path}: it is a file, not a folder; {advice}")
        _try_folder(path)
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror or error}; {advice}") from error


def check_replaceable(advice: str, *paths: Path) -> None:
    """Raise a UserError unless files of one folder can be written as `write` writes them.

    Args:
        advice: What to do otherwise, such as `choose another --output`.
    """
    for path in paths:
        check_file(path, advice)
    check_folder(paths[0].parent, advice)  # which takes the temporary files


def _try_folder(path: Path) -> None:
    """Make the folder and a file in it, and remove both again.

    Permissions are not asked for: they do not tell of read-only disks, nor of what root may do.
    """
    missing: list[Path] = []
    while not path.exists() and path != path.parent:
        missing.append(path)
        path = path.parent
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir()
            made.append(path)
        with tempfile.TemporaryFile(dir=path):
            pass
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed while it wrote to a folder has left there.

    To be called by who alone writes there.
    """
    for path in filter(is_unfinished, folder.glob("*.tmp")):
        with contextlib.suppress(OSError):
            path.unlink()


def is_unfinished(path: Path) -> bool:
    """Return whether a file is one that `write` had begun when its process was killed."""
    return re.fullmatch(r".+\.\d+\.tmp", path.name) is not None


@contextlib.contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Make the folder of a file, and turn what fails until the file is written into a UserError.

    Args:
        advice: What to do then, such as `choose another --output`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; {advice}") from error


def to_json(data: Any, indent: int | None = None) -> str:
    """Return plain data as JSON, which has neither NaN nor infinity: null stands for them."""

    def known(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: known(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [known(item) for item in value]
        return None if isinstance(value, float) and not isfinite(value) else value

    return json.dumps(known(data), indent=indent, allow_nan=False)


def write(content: bytes | memoryview, path: Path, what: str) -> None:
    """Write to a temporary file, then put it in place of the old one; others may do so, too."""
    try:
        path.parent.mkdir(exist_ok=True)
        with _replacing(path) as temporary, temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        kept = f"; the one before is untouched: {path}" if path.exists() else ""
        raise UserError(
            f"cannot write {what} {path}: {error}; free space or make the folder writable{kept}"
        ) from error


def write_output(content: bytes, path: Path, advice: str) -> None:
    """Write a file that the user named, whole or not at all; make its folder.

    What is there and no file, such as a pipe, is written to as it is.

    Args:
        advice: What to do if it cannot be written, such as `choose another --output`.
    """
    with writing(path, advice):
        if path.exists() and not path.is_file():
            path.write_bytes(content)
            return
        with _replacing(path.resolve()) as temporary:  # a link stays one
            temporary.write_bytes(content)


def png(figure: "Figure") -> bytes:
    """Return a figure of matplotlib's as a picture."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    return drawn.getvalue()


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that takes the place of a file, and is gone if something fails."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:  # also when a signal comes
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
