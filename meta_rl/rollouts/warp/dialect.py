"""Compiles task code with Warp, from the very files that numba compiles.

Such a file imports `compiled`, `Row` and the like from `meta_rl.rollouts.mujoco.compiling`. Here it
is loaded a second time, with what this module has in their place.
"""

import builtins
import importlib.util
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, no_type_check

import warp as wp

from meta_rl.rollouts.mujoco import compiling

wp.config.log_level = wp.LOG_ERROR  # it tells of each kernel, and that a CPU is no GPU
wp.init()


def kernel(code: Callable[..., Any]) -> Any:
    """Compile a kernel, together with all others of its module."""
    return wp.kernel(code, enable_backward=False)


def kernel_of_its_own(code: Callable[..., Any]) -> Any:
    """Compile a kernel that is made several times, each with other functions to call."""
    return wp.kernel(code, enable_backward=False, module="unique")


@wp.func
@no_type_check
def multiply_add(a: float, b: float, c: float) -> float:
    """Return a * b + c."""
    return a * b + c


WORDS = SimpleNamespace(
    compiled=wp.func,
    Row=wp.array[float],
    Integers=wp.array[int],
    multiply_add=multiply_add,
)
"""What task code finds in place of `compiling`."""


@cache
def twin(name: str) -> ModuleType:
    """Return a module of task code, its functions those of Warp.

    What it imports of its own top-level package is loaded anew, too; all else is as ever.
    """
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, name
    module = ModuleType(name)
    module.__file__ = spec.origin
    importing = partial(_import, f"{name.partition('.')[0]}.")
    module.__dict__["__builtins__"] = {**vars(builtins), "__import__": importing}
    code = compile(Path(spec.origin).read_text(), spec.origin, "exec")
    exec(code, module.__dict__)
    return module


def function(module: str, name: str) -> Any:
    """Return a function of task code for Warp's kernels to call, compiled or not yet so."""
    found = getattr(twin(module), name)
    return found if isinstance(found, wp.Function) else wp.func(found)


def _import(own: str, name: str, *arguments: Any) -> Any:
    """Stand in for `__import__` where task code imports something by name."""
    if name == compiling.__name__:
        return WORDS
    if name.startswith(own):
        return twin(name)
    return builtins.__import__(name, *arguments)
