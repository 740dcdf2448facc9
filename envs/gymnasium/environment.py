"""Gymnasium environments in worker processes, turned from one task into another.

Nothing here may import torch.
"""

import os
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any, SupportsFloat
from weakref import WeakSet

import gymnasium
from gymnasium.wrappers import TimeLimit

from envs.gymnasium.actions import scaled, unscaled
from envs.gymnasium.places import Place, attribute, rows, same
from envs.gymnasium.success import Success
from envs.gymnasium.variation import Variation
from envs.gymnasium.wrapping import Wrapping
from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.core.spaces import check_action_space, check_observation_space
from meta_rl.rollouts.gymnasium import checks
from meta_rl.rollouts.gymnasium.named import keywords_of_drawing, make
from meta_rl.rollouts.gymnasium.worker import Env, WorldTask


@dataclass(frozen=True)
class VariedFamily:
    """Makes an environment of the config's id and gives it tasks."""

    where: str
    keywords: Mapping[str, Any]
    wrappings: tuple[Wrapping, ...]
    variations: tuple[Variation, ...]
    horizon: int
    success: Success | None

    def values(self, params: tuple[float, ...]) -> list[Any]:
        """Return what the numbers of a task mean."""
        pairs = zip(self.variations, params, strict=True)
        return [variation.value(number) for variation, number in pairs]

    def keywords_of(self, values: list[Any]) -> dict[str, Any]:
        """Return the keywords that a task's environment is made with."""
        keywords = dict(self.keywords)
        for variation, value in zip(self.variations, values, strict=True):
            if variation.target == "keyword":
                keywords |= dict.fromkeys(variation.names, value)
        return deepcopy(keywords)  # an environment may change what it is given

    def any_keywords(self) -> dict[str, Any]:
        """Return the keywords of some task, for an environment may need those that vary."""
        return self.keywords_of([each.value(each.draw("train", 0.0)) for each in self.variations])

    def make_plain(self, keywords: Mapping[str, Any]) -> Env:
        """Make an environment as it comes, drawn as pictures where it can be."""
        drawing = keywords_of_drawing(self.where, "envs.id")
        env = make(self.where, "envs.id", {**drawing, **keywords}, self.horizon)
        if self.wrappings and isinstance(env, TimeLimit):
            # A wrapper may take several of its steps for one, and the horizon counts those.
            env._max_episode_steps = sys.maxsize
        for wrapping in self.wrappings:
            env = wrapping.around(env)
        return env

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Success, if the config says what it is."""
        return ("success",) if self.success else ()

    def make(self, name: str) -> Env:
        """Make an environment. Those that pygame draws need no screen for it, nor its greeting."""
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        return VariedEnvironment(self)

    def assign(self, env: Env, task: WorldTask) -> None:
        """Change the environment into the task."""
        assert isinstance(env, VariedEnvironment)
        env.assign(task.params)


LIVING: "WeakSet[VariedEnvironment]" = WeakSet()
"""The environments of this process."""


class VariedEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that can become any task of its family.

    What variations change is put back to what the environment came with before another task is
    assigned, so that nothing of the last one is left. Actions of a bounded Box are scaled from
    [-1, 1] to it.
    """

    def __init__(self, family: VariedFamily) -> None:
        self._family = family
        self._where = f"the environment {family.where}"
        self._originals: list[list[Place]] = []
        self._held: list[Any] = []
        self._keywords = family.any_keywords()
        super().__init__(family.make_plain(self._keywords))
        check_observation_space(self.env.observation_space, self._where)
        check_action_space(self.env.action_space, self._where)
        self.action_space = scaled(self.env.action_space)
        self._originals = self._find_checked()
        self._is_new = False
        self._task_seed: int | None = None
        self._steps, self._return, self._told = 0, 0.0, False

    def assign(self, params: tuple[float, ...]) -> None:
        """Become the task of these numbers, one for each variation."""
        values = self._family.values(params)
        keywords = self._family.keywords_of(values)
        if keywords != self._keywords:
            self._make_again(keywords)
        # An episode may have replaced what the last task was put into, so it is looked for anew.
        places = self._find()
        for place, first in zip(chain(*places), chain(*self._originals), strict=True):
            place.original = first.original
            place.restore()
        self._task_seed = None
        for variation, value, found in zip(self._family.variations, values, places, strict=True):
            if variation.target == "seed":
                self._task_seed = value
            for place in found:
                put = place.original * value if variation.multiplies else value
                place.check_kept(put, variation.where)
                place.put(put)
        self._is_new = True
        if any(variation.target == "model" for variation in self._family.variations):
            import mujoco

            # What MuJoCo derives from masses and the like, such as the inertia of whole trees.
            physics: Any = self.env.unwrapped
            mujoco.mj_setConst(physics.model, physics.data)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; by the task's own seed, if it has one, so that all begin alike."""
        self._steps, self._return, self._told = 0, 0.0, False
        own = self._task_seed
        put = self._find() if self._is_new else []
        self._is_new = False
        begun = checks.reset(self.env, seed if own is None else own, self._where)
        if put:
            self._check_kept(put)
        return begun

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment, and say whether the episode is solved."""
        action = unscaled(action, self.env.action_space)
        obs, reward, terminated, truncated, info = checks.step(self.env, action, self._where)
        self._steps += 1
        self._return += reward
        truncated = not terminated and (truncated or self._steps >= self._family.horizon)
        if (success := self._family.success) is not None:
            self._check_told(success, info, terminated or truncated)
            lasted = not terminated and self._steps >= self._family.horizon
            solved = success.of_step(info, self._return, terminated, truncated, lasted)
            info = {**info, "success": float(solved)}
        return obs, reward, terminated, truncated, info

    def _make_again(self, keywords: dict[str, Any]) -> None:
        self._restore()  # what outlives the environment
        before = self.env
        self.env = self._family.make_plain(keywords)
        self.env.unwrapped.np_random = before.unwrapped.np_random  # its chance goes on
        self._keywords = keywords
        before.close()
        for was, now in (
            (before.observation_space, self.env.observation_space),
            (before.action_space, self.env.action_space),
        ):
            if was != now:
                raise UserError(
                    f"{self._where} has the space {now} with the keywords {keywords}, and {was} "
                    f"with others, but one policy needs one space: bring them to one size in a "
                    f"wrapper, and name the function that makes it, path/to/file.py:function"
                )
        self._originals = self._find_checked()

    def _find(self) -> list[list[Place]]:
        """Return the places that each variation changes, as the environment is now."""
        found: list[list[Place]] = []
        for each in self._family.variations:
            places: list[Place] = []
            for name in each.names:
                if each.target == "attribute":
                    places.append(attribute(self.env, name, each.where))
                elif each.target == "model":
                    places += rows(self.env, name, each.parts, each.where)
            found.append(places)
        return found

    def _find_checked(self) -> list[list[Place]]:
        """Return the places in a new environment, if tasks can change them."""
        found = self._find()
        self._held = [place.holder for places in found for place in places]
        for each, places in zip(self._family.variations, found, strict=True):
            for place in places:
                self._check_not_shared(place, each.where)
                place.check_settable(each.where)
                if each.multiplies:
                    place.check_number(each.where)
        LIVING.add(self)
        return found

    def _check_not_shared(self, place: Place, where: str) -> None:
        """Raise a UserError if another environment of this process would change, too."""
        for other in LIVING:
            if other is not self and any(place.holder is held for held in other._held):
                raise UserError(
                    f"{where} changes {place.name!r} within an object that all environments of "
                    f"{self._family.where} share, so each would play the task of another; let "
                    f"every environment make its own, or play each in a process of its own "
                    f"(--workers)"
                )

    def close(self) -> None:
        """Close it, and leave nothing changed that outlives it."""
        self._restore()
        LIVING.discard(self)
        super().close()

    def _restore(self) -> None:
        for place in chain(*self._originals):
            place.restore()

    def _check_kept(self, put: list[list[Place]]) -> None:
        """Raise a UserError if the first reset of a task has undone what the task changed."""
        for each, before, after in zip(self._family.variations, put, self._find(), strict=True):
            for was, now in zip(before, after, strict=True):
                if not same(was.original, now.original):
                    raise UserError(
                        f"{each.where} changes {was.name!r} to {was.original!r}, but reset() of "
                        f"{self._where} sets it to {now.original!r}, so all tasks would be alike; "
                        f"vary a keyword that the environment is made with, or the seed of its "
                        f"resets"
                    )

    def _check_told(self, success: Success, info: dict[str, Any], ended: bool) -> None:
        """Raise a UserError if a whole episode has not once told its success."""
        if success.kind != "info":
            return
        self._told |= success.key in info
        if ended and not self._told:
            hint = did_you_mean(success.key, [*map(str, info)])
            raise UserError(
                f"envs.success looks for {success.key!r} in the info of {self._family.where}, "
                f"which held none in a whole episode; {hint}It holds: "
                f"{', '.join(map(str, info)) or 'nothing'}"
            )
