"""Finds agents, task families and experiments by name: the folder is the registry."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeAlias

from meta_rl.core.errors import UserError, what_there_is

Package: TypeAlias = Literal["agents", "envs"]

ROOT = Path(__file__).resolve().parents[2]
"""The folder that holds `meta_rl/`, `agents/`, `envs/` and `configs/`."""

_plugins: set[str] = set()


def allow_plugin(module: str) -> None:
    """Let `agent.name` or `envs.name` be this module of the user's own, outside the tree.

    It may lie in the working folder, like the files that a config names.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    if "." not in module or importlib.util.find_spec(module.partition(".")[0]) is None:
        raise UserError(
            f"cannot find the plugin {module!r}; name a module as package.module, whose package is "
            f"in this folder, or where Python finds it (PYTHONPATH, or pip install -e)"
        )
    _plugins.add(module)


def plugins() -> frozenset[str]:
    """Return the modules that were allowed."""
    return frozenset(_plugins)


def names(package: Package) -> list[str]:
    """List the modules and packages of a package without importing them."""
    return sorted(
        path.stem if path.suffix == ".py" else path.name
        for path in (ROOT / package).iterdir()
        if not path.name.startswith(("_", "."))
        and (path.suffix == ".py" or (path / "__init__.py").exists())
    )


def has(package: Package, name: str) -> bool:
    """Return whether `load` would look for a module of that name."""
    return name in _plugins or name in names(package)


def load(package: Package, name: str) -> ModuleType:
    """Import the module of an agent or a family.

    Only what lies in the tree, or what the user allowed as a plugin, is ever imported: a name in
    a checkpoint or a run folder cannot reach further.
    """
    if name in _plugins:
        try:
            return _complete(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the plugin is there, but something that it imports is not
            raise UserError(f"cannot find the plugin {name!r}: {error}") from error
    if "." in name:
        raise UserError(
            f"{name!r} is a module outside of {package}/; allow it with --plugin {name}, or in "
            f"Python by meta_rl.experiment.catalog.allow_plugin({name!r})"
        )
    known = names(package)
    if name not in known:
        raise UserError(f"no {name!r} in {package}/; {what_there_is(name, known)}")
    found = importlib.import_module(package)
    if not found.__file__ or Path(found.__file__).resolve().parent.parent != ROOT:
        raise UserError(
            f"Python finds another package named {package!r} first, at {found.__file__}; remove "
            f"it from PYTHONPATH, or uninstall what brought it"
        )
    return _complete(importlib.import_module(f"{package}.{name}"))


def _complete(module: ModuleType) -> ModuleType:
    for part in ("Config", "build"):
        if not hasattr(module, part):
            raise UserError(f"{module.__name__} has no {part}; see CONTRIBUTING.md")
    return module


def pretrained_names() -> list[str]:
    """List the policies in pretrained/."""
    return sorted(path.parent.name for path in (ROOT / "pretrained").glob("*/config.yaml"))


def run_path(name: str) -> Path:
    """Return a run's folder: a path, or pretrained/NAME from wherever meta-rl is installed."""
    path = Path(name)
    if path.exists() or path.parent != Path("pretrained"):
        return path
    known = pretrained_names()
    if path.name not in known:
        raise UserError(f"no {path.name!r} in pretrained/; {what_there_is(path.name, known)}")
    return ROOT / path


def config_names() -> list[str]:
    """List the experiments in configs/."""
    return sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


def config_path(name: str) -> Path:
    """Return the file of an experiment: a path, or the name of one in configs/."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"no config file {name!r}; `meta-rl list configs` shows what there is")
        return path
    known = config_names()
    if name not in known:
        raise UserError(f"no {name!r} in configs/; {what_there_is(name, known)}")
    return ROOT / "configs" / f"{name}.yaml"
