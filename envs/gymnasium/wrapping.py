"""Wrappers that a config puts an environment into. Nothing here may import torch."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.named import maker_of
from meta_rl.rollouts.gymnasium.worker import Env


@dataclass(frozen=True)
class Wrapping:
    """A wrapper's class by its name, and the keywords that it is made with."""

    name: str
    keywords: Mapping[str, Any]

    @property
    def made_by(self) -> Callable[..., Any]:
        """The wrapper's class, or a function that makes it."""
        found = maker_of(self.name, "envs.wrappers")
        if found is None:
            module, _, attribute = self.name.rpartition(":")
            raise UserError(
                f"envs.wrappers names {self.name}, but {module} has no {attribute}; name "
                f"package.module:Class, such as gymnasium.wrappers:FilterObservation, or "
                f"path/to/file.py:Class"
            )
        return found

    def around(self, env: Env) -> Env:
        """Return the environment in the wrapper."""
        wrapper = self.made_by
        try:
            inspect.signature(wrapper).bind(env, **self.keywords)
        except TypeError as error:
            given = ", ".join(self.keywords) or "no keywords"
            raise UserError(f"envs.wrappers gives {self.name} {given}: {error}") from error
        try:
            wrapped = wrapper(env, **self.keywords)
        except (gymnasium.error.Error, TypeError, ValueError) as error:
            raise UserError(f"envs.wrappers: {self.name} refuses: {error}") from error
        if not isinstance(wrapped, gymnasium.Env):
            raise UserError(
                f"envs.wrappers names {self.name}, which makes a {type(wrapped).__name__} and no "
                f"environment"
            )
        self._check_forgets(wrapped, env)
        return wrapped

    def _check_forgets(self, wrapped: Env, env: Env) -> None:
        """Raise a UserError if the wrapper would carry what it has seen from task to task."""
        while wrapped is not env and isinstance(wrapped, gymnasium.Wrapper):
            if isinstance(wrapped, NormalizeObservation | NormalizeReward):
                raise UserError(
                    f"envs.wrappers names {self.name}, whose running statistics go on from task to "
                    f"task, so results would depend on the number of workers; leave it out: agents "
                    f"scale observations (agent.normalize_observations where it is a choice) and "
                    f"rewards themselves"
                )
            wrapped = wrapped.env


def read(entries: Any) -> tuple[Wrapping, ...]:
    """Return the wrappers of `envs.wrappers`."""
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise UserError(f"envs.wrappers must be a list of names, got {entries!r}")
    return tuple(_wrapping(entry) for entry in entries)


def _wrapping(entry: Any) -> Wrapping:
    if isinstance(entry, str):
        entry = {entry: {}}
    if isinstance(entry, Mapping) and len(entry) == 1:
        ((name, keywords),) = entry.items()
        named = isinstance(name, str) and all(name.rpartition(":"))
        if (
            named
            and isinstance(keywords, Mapping)
            and all(isinstance(each, str) for each in keywords)
        ):
            return Wrapping(name, keywords)
    raise UserError(
        f"an entry of envs.wrappers must be package.module:Class or path/to/file.py:Class, or "
        f"that with its keywords, {{package.module:Class: {{keyword: value}}}}, got {entry!r}"
    )
