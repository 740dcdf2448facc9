"""Environments that a user names: an id of Gymnasium, or what makes one in a module or a file.

Nothing here may import torch: it runs in the workers of `meta_rl.rollouts.gymnasium.task_env`.
"""

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.envs.registration import (
    EnvSpec,
    find_highest_version,
    get_env_id,
    load_env_creator,
    parse_env_id,
)

from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.worker import Env

EXTRAS = {"minigrid": "minigrid", "gymnasium_robotics": "robotics"}
"""The extra of this project that brings a module."""

MISFIT = re.compile(r"unexpected keyword argument|missing \d+ required|multiple values for")
"""What Python says where a call's keywords do not fit."""

PROJECT = Path(__file__).resolve().parents[3]
"""Where `meta_rl`, `envs` and `agents` are imported from."""


def make(
    where: str,
    said: str,
    keywords: Mapping[str, Any] | None = None,
    horizon: int | None = None,
) -> Env:
    """Make the environment that a user names.

    Args:
        where: `module:attribute` or `path/to/file.py:attribute` (a class, or a function that makes
            the environment), or an id that Gymnasium knows.
        said: The setting that names it, for errors.
        keywords: What it is made with.
        horizon: Steps after which an id's own limit ends an episode; none leaves it as registered.
    """
    keywords = keywords or {}
    if (maker := maker_of(where, said)) is not None:
        return _called(maker, where, said, keywords)
    limit = {} if horizon is None else {"max_episode_steps": horizon}
    try:
        # An id, also `module:id`. Gymnasium's own checker would speak before ours.
        env: Env = gymnasium.make(where, disable_env_checker=True, **limit, **keywords)
    except gymnasium.error.Error as error:
        raise UserError(
            f"no environment {said} {where}: {error}; name module:attribute, "
            f"path/to/file.py:attribute, or an id that Gymnasium knows"
        ) from error
    except TypeError as error:
        if not MISFIT.search(str(error)):
            raise  # a mistake within the environment
        raise _refused(where, said, keywords, error) from error
    return env


def file_of(where: str, said: str) -> Path | None:
    """Return the file of what makes an environment; none of an id."""
    maker = maker_of(where, said)
    try:
        found = None if maker is None else inspect.getsourcefile(inspect.unwrap(maker))
    except TypeError:  # what is no class or function of Python's, such as a partial
        return None
    return None if found is None else Path(found)


def is_id(where: str, said: str) -> bool:
    """Return whether an environment is named by an id, and not by what makes it."""
    return maker_of(where, said) is None


def registered_horizon(where: str) -> int | None:
    """Return the steps of an episode that an id is registered with; none knows of none."""
    spec = _registered(where)
    return None if spec is None else spec.max_episode_steps


def _registered(where: str) -> EnvSpec | None:
    """Return what an id is registered with, also `module:id`; none of what is no id."""
    module, _, name = where.rpartition(":")
    if module.endswith(".py") or module.startswith("."):
        return None
    try:
        if module:
            importlib.import_module(module)
        namespace, plain, version = parse_env_id(name)
        if version is None:  # `gymnasium.make` takes the newest
            newest = find_highest_version(namespace, plain)
            name = get_env_id(namespace, plain, newest)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ModuleNotFoundError):
        return None


def keywords_of_drawing(where: str, said: str) -> dict[str, str]:
    """Return the keyword that lets an environment be drawn, if it says that it takes it."""
    drawing = {"render_mode": "rgb_array"}
    maker = maker_of(where, said)
    if maker is None:
        spec = _registered(where)
        if spec is None:
            return {}
        entry = spec.entry_point
        try:
            maker = load_env_creator(entry) if isinstance(entry, str) else entry
        except (gymnasium.error.Error, ImportError):
            return {}  # what it needs is not installed, as `make` tells
        modes = getattr(maker, "metadata", {}).get("render_modes", ())
        return drawing if "rgb_array" in modes else {}
    parameters = inspect.signature(maker).parameters
    return drawing if "render_mode" in parameters else {}


def maker_of(where: str, said: str) -> Callable[..., Any] | None:
    """Return what a module or a file has to call; none for an id."""
    source, colon, attribute = where.rpartition(":")
    if not colon:
        return None
    if source.endswith(".py"):
        module = _module_of_file(Path(source), said)
    else:
        try:
            module = importlib.import_module(source)
        except TypeError as error:
            if not source.startswith("."):
                raise
            raise UserError(
                f"{said} {where}: a module's whole name begins with no dot; or name its file: "
                f"path/to/file.py:{attribute}"
            ) from error
        except ModuleNotFoundError as error:
            if error.name is None or not f"{source}.".startswith(f"{error.name}."):
                raise  # the module is there, but something that it imports is not
            if source in EXTRAS:
                advice = f"install its extra: pip install -e '.[{EXTRAS[source]}]'"
            else:
                advice = (
                    f"make sure that Python finds it (PYTHONPATH, or pip install -e), or name its "
                    f"file: path/to/file.py:{attribute}"
                )
            raise UserError(f"cannot import {source!r} of {said} {where}; {advice}") from error
        if not hasattr(module, attribute):
            return None  # an id that the module registers
    maker: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(maker):
        raise UserError(f"{said} {where}: no {attribute!r} to call in {module.__name__}")
    return maker


def _module_of_file(path: Path, said: str) -> ModuleType:
    if not path.is_file():
        looked, advice = "", ""
        if not path.is_absolute():
            looked = f", looked for from {Path.cwd()}"
            advice = ", or run the command in the folder that this path begins in"
        raise UserError(
            f"no file {path} for {said}{looked}; name path/to/file.py:attribute{advice}"
        )
    path = path.resolve()
    name = path.stem
    if _is_of_another(name, path):
        name = str(path)  # such as meta-rl's own `envs`, or mujoco, which this may want to import
    if name in sys.modules:
        return sys.modules[name]
    # It may import what lies beside it, but nothing there takes the place of this project.
    for place in (PROJECT, path.parent):
        if str(place) not in sys.path:
            sys.path.append(str(place))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _is_of_another(name: str, path: Path) -> bool:
    """Return whether another module than a file has that name, imported or not."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None) != str(path)
    found = importlib.util.find_spec(name) if name.isidentifier() else None
    return found is not None and (found.origin is None or Path(found.origin).resolve() != path)


def _called(maker: Callable[..., Any], where: str, said: str, keywords: Mapping[str, Any]) -> Env:
    try:
        inspect.signature(maker).bind(**keywords)
    except TypeError as error:
        raise _refused(where, said, keywords, error) from error
    env = maker(**keywords)
    if not isinstance(env, gymnasium.Env):
        raise UserError(
            f"{said} {where} must make a gymnasium.Env, but it made {type(env).__name__}"
        )
    return env


def _refused(where: str, said: str, keywords: Mapping[str, Any], error: TypeError) -> UserError:
    # The keyword that lets it be drawn is ours.
    given = ", ".join([name for name in keywords if name != "render_mode"] or keywords)
    if not given:
        return UserError(
            f"{said} {where} cannot be made without keywords: {error}; name a function that makes "
            f"it, path/to/file.py:function, or give envs.keywords in a config"
        )
    return UserError(
        f"{said} {where} does not take the keywords that it was given, {given}: {error}"
    )
