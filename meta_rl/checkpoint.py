"""Checkpoints: written whole or not at all, and never unpickled."""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from meta_rl.errors import UserError

FORMAT = "meta-rl checkpoint 1"


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain data to a temporary file, then put it in place of the old one."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    # torch reports a failed write as a RuntimeError of its zip writer.
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        kept = f"; the one before is untouched: {path}" if path.exists() else ""
        raise UserError(
            f"cannot write the checkpoint {path}: {error}; free space or make the folder "
            f"writable{kept}"
        ) from error


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote; refuses everything else without executing any of it."""
    if not path.is_file():
        raise UserError(f"no checkpoint {path}; has the run made {path.name} yet?")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        intact = zipfile.is_zipfile(path)
        reason = "holds more than tensors and plain data" if intact else "is cut short or damaged"
        raise UserError(
            f"{path} {reason} and is not a checkpoint of meta-rl; use another, such as "
            f"{'best.pt' if path.name == 'latest.pt' else 'latest.pt'} in the same folder"
        ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        given = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path} is not a {FORMAT!r}, but {given!r}; was it made by another tool?")
    return state
