"""What an environment gives, held against Gymnasium's API: slips become sentences, not numbers.

An observation alone unpacks into two "values", a short one broadcasts, `None` counts as false:
Python and NumPy take all of it without a word. Nothing here may import torch.
"""

import inspect
import warnings
import weakref
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from meta_rl.core.errors import UserError
from meta_rl.core.spaces import Space

Env = gymnasium.Env[Any, Any]

_mended: "dict[int, weakref.ref[Env]]" = {}
"""Environments whose reset was looked at, by their `id`: some are equal, or cannot be hashed."""
_told: set[type] = set()
"""Kinds of environments whose warning was given."""


def reset(env: Env, seed: int | None, where: str) -> tuple[Any, dict[str, Any]]:
    """Reset an environment; raise a UserError unless it answers as Gymnasium's API says.

    Args:
        where: What errors call the environment.
    """
    given = _reset_that_takes_a_seed(env, seed, where)
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], dict):
        raise UserError(
            f"reset() of {where} returned {_described(given)}, but Gymnasium's returns "
            f"(observation, info), where info is a dictionary; wrap an environment of the old "
            f"gym package with shimmy's GymV21CompatibilityV0, or return both"
        )
    obs, info = given
    check_observation(env.observation_space, obs, "reset()", where)
    return obs, info


def step(env: Env, action: Any, where: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Step an environment; raise a UserError unless it answers as Gymnasium's API says."""
    given: Any = env.step(action)
    if not isinstance(given, tuple) or len(given) != 5:
        raise UserError(
            f"step() of {where} returned {_described(given)}, but Gymnasium's returns "
            f"(observation, reward, terminated, truncated, info); wrap an environment of the old "
            f"gym package with shimmy's GymV21CompatibilityV0, or split its done in two"
        )
    obs, reward, terminated, truncated, info = given
    check_observation(env.observation_space, obs, "step()", where)
    if not isinstance(info, dict):
        raise UserError(
            f"info of {where} must be a dictionary, got {_described(info)}; return {{}} if there "
            f"is nothing to tell"
        )
    return (
        obs,
        _number(reward, where),
        _boolean(terminated, "terminated", where),
        _boolean(truncated, "truncated", where),
        info,
    )


def check_observation(
    space: Space, obs: Any, whose: str, where: str, what: str = "the observation"
) -> None:
    """Raise a UserError unless an observation has its space's type and shape.

    Neither bounds nor finiteness of a Box are looked at, also as a part of a Dict or a Tuple: many
    environments leave their bounds by a little, and NaN is reported with its step by who collects.

    Args:
        what: What errors call the observation, or the part of it.
    """
    if isinstance(space, spaces.Box):
        array: NDArray[Any] = np.asarray(obs)
        if array.dtype.kind not in "fiub":
            raise UserError(
                f"{what} that {whose} of {where} returned must be numbers, got {_described(obs)}"
            )
        if array.shape != space.shape:
            raise UserError(
                f"{what} that {whose} of {where} returned has shape {array.shape}, but "
                f"its observation_space says {space.shape}; correct one of them"
            )
    elif isinstance(space, spaces.Dict) and isinstance(obs, dict) and obs.keys() == space.keys():
        for name, part in space.items():
            check_observation(part, obs[name], whose, where, f"{what}[{name!r}]")
    elif (
        isinstance(space, spaces.Tuple)
        and isinstance(obs, tuple | list)
        and len(obs) == len(space.spaces)
    ):
        for place, (part, value) in enumerate(zip(space.spaces, obs, strict=True)):
            check_observation(part, value, whose, where, f"{what}[{place}]")
    elif not space.contains(obs):
        raise UserError(
            f"{what} that {whose} of {where} returned, {_described(obs)}, is not in its "
            f"observation_space {space}; correct one of them"
        )


def _reset_that_takes_a_seed(env: Env, seed: int | None, where: str) -> Any:
    """Reset an environment, also one whose reset has no keyword `seed`, with a warning."""
    base = env.unwrapped
    known = _mended.get(id(base), lambda: None)() is base
    missing = [] if known else _missing_keywords(base)
    _mended[id(base)] = weakref.ref(base)
    if missing:
        original = base.reset
        taken = {"seed", "options"} - set(missing)

        def reset_as_it_can(*, seed: Any = None, options: Any = None) -> Any:
            given = {"seed": seed, "options": options}
            return original(**{name: given[name] for name in taken})

        base.reset = reset_as_it_can  # type: ignore[method-assign]
        if "seed" in missing and type(base) not in _told:
            _told.add(type(base))
            warnings.warn(
                f"reset() of {where} takes no seed, so its chance cannot be repeated; give it "
                f"the keyword seed and call super().reset(seed=seed)",
                RuntimeWarning,
                stacklevel=2,
            )
    return env.reset(seed=seed)


def _missing_keywords(base: Env) -> list[str]:
    parameters = inspect.signature(base.reset).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return []
    return [name for name in ("seed", "options") if name not in parameters]


def _number(reward: Any, where: str) -> float:
    """Return a reward as a number; an array of one element is one."""
    if isinstance(reward, float | int | np.floating | np.integer):
        return float(reward)
    array: NDArray[Any] = np.asarray(reward)
    if array.dtype.kind in "fiub" and array.size == 1:
        return float(array.reshape(()))
    raise UserError(f"the reward of {where} must be a number, got {_described(reward)}")


def _boolean(flag: Any, name: str, where: str) -> bool:
    if isinstance(flag, bool | np.bool_):
        return bool(flag)
    array: NDArray[Any] = np.asarray(flag)
    if array.dtype.kind == "b" and array.size == 1:
        return bool(array.reshape(()))
    raise UserError(f"{name} of {where} must be a boolean, got {_described(flag)}")


def _described(value: Any) -> str:
    """Return what a value is, in a few words."""
    if isinstance(value, tuple):
        kinds = ", ".join(type(each).__name__ for each in value)
        return f"{len(value)} values ({kinds})"
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:57]}..."
