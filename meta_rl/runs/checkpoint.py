"""Checkpoints: written whole or not at all, and never unpickled."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import write

FORMAT = "meta-rl checkpoint 1"


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain data."""
    # In memory first: torch's writer hides why the system refused to write.
    content = io.BytesIO()
    torch.save({"format": FORMAT, **state}, content)
    write(content.getbuffer(), path, "the checkpoint")


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what `save` wrote; refuses everything else without executing any of it."""
    if not path.is_file():
        anew = ""
        if path.name == "latest.pt" and not any(path.parent.glob("*.pt")):
            anew = " Without any, it begins anew with `meta-rl train CONFIG --overwrite`"
        raise UserError(f"no checkpoint {path}; has the run made {path.name} yet?{anew}")
    reason = "is cut short or damaged"
    try:
        # torch does not check the sums that tell whether bits have changed on disk.
        with zipfile.ZipFile(path) as archive:
            intact = archive.testzip() is None
        if not intact:
            raise zipfile.BadZipFile
        reason = "holds more than tensors and plain data"
        state = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except Exception as error:  # whatever the readers stumble over in a file that is not ours
        other = path.with_name("best.pt" if path.name == "latest.pt" else "latest.pt")
        advice = f"no {other.name} lies beside it"
        if other.is_file():
            advice = f"{other} lies beside it: evaluate, adapt and render take --checkpoint"
        raise UserError(f"{path} {reason} and is not a checkpoint of meta-rl; {advice}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        given = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise UserError(f"{path} is not a {FORMAT!r}, but {given!r}; was it made by another tool?")
    if "wandb_run_id" in state:  # of a time when W&B's was the only sink with a state
        run_id = state.pop("wandb_run_id")
        state["sinks"] = {"W&B": {"run_id": run_id}} if run_id else {}
    return state
