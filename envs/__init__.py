"""Task distributions: one module a family. `make_vec` and `make_sb3` step them from any code."""

import importlib
from typing import TYPE_CHECKING, Any

import meta_rl  # noqa: F401 -- before torch, whose idle threads it keeps from spinning

if TYPE_CHECKING:
    from envs._faces import make_vec
    from envs._sb3_face import make_sb3

__all__ = ["make_sb3", "make_vec"]

_FACES = {"make_sb3": "envs._sb3_face", "make_vec": "envs._faces"}


def __getattr__(name: str) -> Any:
    if name not in _FACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_FACES[name]), name)
