"""Loads configs for a help page without the libraries that take seconds to import.

An agent's `Config` stands in the file of its algorithm, which imports torch. A help page wants the
fields alone, so for as long as it takes, imports of large libraries give stand-ins: classes that
can be inherited from, subscripted, called and asked for any attribute, and that do nothing.
"""

import contextlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, TypeVar

LARGE = (
    *("torch", "jaxtyping", "gymnasium", "scipy", "matplotlib", "PIL", "wandb", "tensorboard"),
    *("mujoco", "numba", "llvmlite", "stable_baselines3"),
)
"""Libraries that have stand-ins."""

ResultT = TypeVar("ResultT")


def with_standins(read: Callable[[], ResultT]) -> ResultT:
    """Call a function while large libraries are replaced; if that is not enough, as they are.

    A process that has torch already has nothing to gain.
    """
    if "torch" not in sys.modules:
        # A module that computes with a library while it is imported fails on a stand-in.
        with contextlib.suppress(Exception), _replaced():
            return read()
    return read()


class _Anything(type):
    """The metaclass of stand-ins: whatever is done with one gives it again."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __call__(cls, *arguments: Any, **named: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__

    def __instancecheck__(cls, instance: Any) -> bool:
        return False


class _StandIn(metaclass=_Anything):
    """Anything that a large library holds."""


class _Library(ModuleType):
    """A module of a large library."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for large libraries and whatever lies in them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a stand-in's spec, or None for all other modules."""
        if fullname.partition(".")[0] not in LARGE:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        """Return a stand-in."""
        return _Library(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: it is complete."""


@contextlib.contextmanager
def _replaced() -> Iterator[None]:
    """Replace large libraries; forget afterwards what was imported on top of them."""
    from meta_rl.experiment import catalog

    before = set(sys.modules)
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        # Python's own modules, and the small libraries, have seen no stand-in.
        forgotten = {*LARGE, "meta_rl", "agents", "envs"}
        forgotten |= {plugin.partition(".")[0] for plugin in catalog.plugins()}
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in forgotten:
                del sys.modules[name]
                package, _, child = name.rpartition(".")
                with contextlib.suppress(KeyError, AttributeError):
                    delattr(sys.modules[package], child)
