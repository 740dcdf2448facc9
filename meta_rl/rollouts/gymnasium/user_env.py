"""A Gymnasium environment that the user names, as a family of one task.

Nothing here may import torch: it runs in the workers of `meta_rl.rollouts.gymnasium.task_env`.
"""

import math
from dataclasses import dataclass
from typing import Any, SupportsFloat

import gymnasium

from meta_rl.core.errors import UserError
from meta_rl.core.spaces import (
    Space,
    check_action_space,
    check_observation_space,
    flat_size,
    same_layout,
    same_values,
)
from meta_rl.rollouts.gymnasium import checks
from meta_rl.rollouts.gymnasium.named import is_id, keywords_of_drawing, make
from meta_rl.rollouts.gymnasium.worker import Env, WorldTask


@dataclass(frozen=True)
class NamedEnvironment:
    """Makes the environment that `where` names, if a policy of the given spaces can act in it.

    Args:
        where: `module:attribute`, `path/to/file.py:attribute` (a class, or a function that makes
            the environment, called without arguments), or an id that Gymnasium knows.
    """

    where: str
    observation_space: Space
    action_space: Space
    metric_names: tuple[str, ...] = ("success",)

    def make(self, name: str) -> Env:
        """Make the environment; its success is NaN while it says nothing of it."""
        # An attribute that makes an environment says itself whether that is drawn, an id cannot.
        drawing = keywords_of_drawing(self.where, "--env") if is_id(self.where, "--env") else {}
        env = make(self.where, "--env", drawing)
        self._check_spaces(env)
        return SuccessReported(env, self.where)

    def assign(self, env: Env, task: WorldTask) -> None:
        """Leave the environment alone: its task may go on changing as it likes."""

    def _check_spaces(self, env: Env) -> None:
        where = f"the environment {self.where}"
        check_observation_space(env.observation_space, where)
        check_action_space(env.action_space, where)
        observed, size = flat_size(env.observation_space), flat_size(self.observation_space)
        theirs = env.action_space
        if observed != size or not same_layout(theirs, self.action_space):
            raise UserError(
                f"the policy observes {(size,)} and acts in "
                f"{self.action_space}, but {self.where} observes {(observed,)} and takes actions "
                f"in {theirs}; give "
                f"the environment the spaces of the run's tasks (gymnasium.wrappers "
                f"TransformObservation and RescaleAction may help)"
            )
        # The adapted policy's files take and give values of the run's spaces.
        for what, ours, other in (
            ("observes", self.observation_space, env.observation_space),
            ("acts in", self.action_space, theirs),
        ):
            if not same_values(ours, other):
                raise UserError(
                    f"the policy {what} {ours}, and {self.where} has {other} there: the sizes "
                    f"agree, but values of one mean something else in the other; give the "
                    f"environment the run's space (gymnasium.wrappers TransformObservation and "
                    f"TransformAction may help)"
                )


class SuccessReported(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Puts `info["success"]` or `info["is_success"]`, or else NaN, into `info["success"]`."""

    def __init__(self, env: Env, where: str) -> None:
        super().__init__(env)
        self._where = f"the environment {where}"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, which has no options."""
        return checks.reset(self.env, seed, self._where)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, reward, terminated, truncated, info = checks.step(self.env, action, self._where)
        success = self._told(info.get("success", info.get("is_success")))
        return obs, reward, terminated, truncated, {**info, "success": success}

    def _told(self, success: Any) -> float:
        """Return success as a number; NaN while it is None or not there."""
        try:
            return math.nan if success is None else float(success)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"success in the info of {self._where} must be a number or a truth, got {success!r}"
            ) from error
