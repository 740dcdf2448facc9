"""Gymnasium's spaces as vectors: a policy sees and gives flat rows of numbers.

Observations are laid out as `gymnasium.spaces.flatten` does; so are actions: a Box row by row, a
Discrete choice as one-hot, a MultiDiscrete one as one-hots side by side. Nothing here imports
torch: it runs in worker processes.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from meta_rl.core.errors import UserError

Space = gymnasium.Space[Any]


def flat_size(space: Space) -> int:
    """Return how many numbers a value of the space is as a vector."""
    return int(spaces.flatdim(space))


def bounded(space: Space, low: Sequence[float], high: Sequence[float]) -> bool:
    """Return whether actions are numbers, each within finite bounds that lie apart in float32.

    Args:
        low: Least number of each dimension.
        high: Largest number of each dimension.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        spans = np.subtract(high, low, dtype=np.float32)
    return not choices(space) and bool(np.isfinite(spans).all() and (spans > 0).all())


def check_observation_space(space: Space, where: str) -> None:
    """Raise a UserError unless values of the space are vectors of one size, which files can tell.

    Gymnasium would flatten a Text, too, but to codes of its characters, which mean no quantity.
    """
    if not _is_row(space):
        raise UserError(
            f"{where} observes {space}, which cannot be flattened to a row of numbers: Box, "
            f"Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these can; wrap it with "
            f"gymnasium.wrappers.TransformObservation"
        )


def _is_row(space: Space) -> bool:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.values() if isinstance(space, spaces.Dict) else space.spaces
        return all(_is_row(part) for part in parts)
    return isinstance(
        space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    )


def check_action_space(space: Space, where: str) -> None:
    """Raise a UserError unless policies can act in the space."""
    if not isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete):
        raise UserError(
            f"{where} takes actions in {space}, but only Box, Discrete and MultiDiscrete actions "
            f"are supported; wrap it with gymnasium.wrappers.TransformAction"
        )


def flat_observation(space: Space, value: Any) -> Any:
    """Return an observation as a vector."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1:
        return value
    return spaces.flatten(space, value)


def action_of(space: Space, flat: NDArray[np.float32]) -> Any:
    """Return the action that a vector means; of a one-hot its largest number decides."""
    if isinstance(space, spaces.Box):
        return nearest(space, flat.reshape(space.shape))
    sizes = choices(space)
    ends = np.cumsum(sizes)
    chosen = [int(flat[end - size : end].argmax()) for size, end in zip(sizes, ends, strict=True)]
    if isinstance(space, spaces.Discrete):
        return space.dtype.type(int(space.start) + chosen[0])
    assert isinstance(space, spaces.MultiDiscrete)
    picked = np.array(chosen, space.dtype).reshape(space.shape)
    return space.start + picked


def nearest(box: spaces.Box, numbers: NDArray[Any]) -> NDArray[Any]:
    """Return the value of a Box that is nearest to some numbers, in its own type."""
    if not np.issubdtype(box.dtype, np.integer):
        return np.clip(numbers.astype(box.dtype), box.low, box.high)
    with np.errstate(invalid="ignore"):  # the largest int64 has no float of its own, but 2⁶³
        whole = np.clip(numbers.round(), box.low, box.high).astype(box.dtype)
    inside = np.where(numbers >= box.high, box.high, whole)
    return np.where(numbers <= box.low, box.low, inside)


def choices(space: Space) -> tuple[int, ...]:
    """Return the number of options of each choice that a discrete action makes; none of a Box."""
    if isinstance(space, spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, spaces.MultiDiscrete):
        return tuple(int(number) for number in space.nvec.reshape(-1))
    return ()


def bounds(space: Space) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the least and the largest numbers of a value as a vector."""
    box = spaces.flatten_space(space)
    assert isinstance(box, spaces.Box)
    low, high = (end.reshape(-1).astype(float).tolist() for end in (box.low, box.high))
    return tuple(low), tuple(high)


def to_plain(space: Space) -> dict[str, Any]:
    """Return a space as plain data."""
    match space:
        case spaces.Box():
            low, high = space.low.reshape(-1).tolist(), space.high.reshape(-1).tolist()
            box = {"low": low, "high": high, "shape": list(space.shape), "dtype": str(space.dtype)}
            return {"kind": "Box", **box}
        case spaces.Discrete():
            count, start = int(space.n), int(space.start)
            return {"kind": "Discrete", "n": count, "start": start, "dtype": str(space.dtype)}
        case spaces.MultiDiscrete():
            counts = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
            return {"kind": "MultiDiscrete", **counts, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"kind": "MultiBinary", "n": space.n}
        case spaces.Dict():
            parts = {name: to_plain(part) for name, part in space.spaces.items()}
            return {"kind": "Dict", "spaces": parts}
        case spaces.Tuple():
            return {"kind": "Tuple", "spaces": [to_plain(part) for part in space.spaces]}
    raise UserError(f"cannot write the space {space} to a file")


def from_plain(data: dict[str, Any]) -> Space:
    """Return the space that `to_plain` described."""
    match data["kind"]:
        case "Box":
            low, high = (
                np.array(data[end], data["dtype"]).reshape(data["shape"]) for end in ("low", "high")
            )
            return spaces.Box(low, high, dtype=low.dtype.type)
        case "Discrete":
            return spaces.Discrete(data["n"], start=data["start"], **_type_of(data))
        case "MultiDiscrete":
            counts, start = (np.array(data[name]) for name in ("nvec", "start"))
            return spaces.MultiDiscrete(counts, start=start, **_type_of(data))
        case "MultiBinary":
            return spaces.MultiBinary(data["n"])
        case "Dict":
            # Pairs keep their order, in which values are flattened; a dictionary would be sorted.
            parts = data["spaces"].items()
            return spaces.Dict([(name, from_plain(part)) for name, part in parts])
        case "Tuple":
            return spaces.Tuple([from_plain(part) for part in data["spaces"]])
    raise UserError(f"no space of the kind {data['kind']!r} is known")


def _type_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return the keyword for the type of choices; files from before it was kept have int64."""
    dtype = np.dtype(data.get("dtype", "int64"))
    return {} if dtype == np.int64 else {"dtype": dtype.type}


def same_values(one: Space, other: Space) -> bool:
    """Return whether a row of numbers stands for the same value of both spaces.

    A Box's values are rows themselves, whatever the other space makes of its own.
    """
    if isinstance(one, spaces.Box) or isinstance(other, spaces.Box):
        return flat_size(one) == flat_size(other)
    return _meaning(one) == _meaning(other)


def _meaning(space: Space) -> object:
    """Return what the numbers of a row stand for; of a Box they are just numbers."""
    match space:
        case spaces.Box():
            return flat_size(space)
        case spaces.Dict():
            return [(name, _meaning(part)) for name, part in space.items()]
        case spaces.Tuple():
            return [_meaning(part) for part in space.spaces]
    return {name: value for name, value in to_plain(space).items() if name != "dtype"}


def same_layout(one: Space, other: Space) -> bool:
    """Return whether a policy that acts in one space can act in the other: kind, sizes, bounds."""
    if choices(one) or choices(other):
        return choices(one) == choices(other)
    if not isinstance(one, spaces.Box) or not isinstance(other, spaces.Box):
        return False
    return flat_size(one) == flat_size(other) and all(
        np.allclose(ours, theirs) for ours, theirs in zip(bounds(one), bounds(other), strict=True)
    )
