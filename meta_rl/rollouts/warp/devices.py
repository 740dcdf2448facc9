"""The devices of torch as Warp knows them."""

from typing import Any

import torch
import warp as wp


def warp_device(device: torch.device) -> Any:
    """Return Warp's device for one of torch's."""
    if device.type == "cuda" and device.index is None:
        # Torch means its current GPU by `cuda`, and Warp finds GPUs by their numbers alone.
        device = torch.device("cuda", torch.cuda.current_device())
    return wp.device_from_torch(device)
