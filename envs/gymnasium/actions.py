"""Actions of a bounded Box as numbers in [-1, 1]. Nothing here may import torch."""

from typing import Any

import numpy as np
from gymnasium import spaces

from meta_rl.core.spaces import Space, nearest


def scaled(space: Space) -> Space:
    """Return the space that policies act in: [-1, 1] for each number of a bounded Box."""
    if isinstance(space, spaces.Box) and space.is_bounded():
        return spaces.Box(-1.0, 1.0, space.shape, np.float32)
    return space


def unscaled(action: Any, space: Space) -> Any:
    """Return the environment's own action; numbers beyond [-1, 1] count as the bounds."""
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        return action
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    place = (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0) / 2.0
    return nearest(space, low + place * (high - low))
