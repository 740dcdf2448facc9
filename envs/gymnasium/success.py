"""When an episode of a Gymnasium environment counts as solved. Nothing here may import torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from meta_rl.core.errors import UserError, did_you_mean

WORDS = ("terminated", "survived")


@dataclass(frozen=True)
class Success:
    """What success is, told step by step."""

    kind: Literal["terminated", "survived", "info", "episode_return"]
    key: str = ""
    """The key of `info`."""
    least: float = 0.0
    """The least return."""

    def of_step(
        self,
        info: Mapping[str, Any],
        episode_return: float,
        terminated: bool,
        truncated: bool,
        lasted: bool,
    ) -> bool:
        """Return whether the episode counts as solved by this step.

        Args:
            episode_return: Sum of the rewards up to this step. Only the whole episode's counts.
            lasted: Whether it went on to the horizon; what truncates it before is no success.
        """
        if self.kind == "info":
            return self._told(info) > 0
        if self.kind == "episode_return":
            return (terminated or truncated) and episode_return >= self.least
        return terminated if self.kind == "terminated" else lasted

    def _told(self, info: Mapping[str, Any]) -> float:
        """Return the number in `info`; 0 while it is None or not there."""
        told = info.get(self.key)
        try:
            return 0.0 if told is None else float(told)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"envs.success looks for a number or a truth in info[{self.key!r}], which is "
                f"{told!r}; name another key, or count success in a wrapper"
            ) from error


def read(given: Any) -> Success | None:
    """Return what `envs.success` says; None has no success."""
    if given is None:
        return None
    if given in WORDS:
        return Success(given)
    if isinstance(given, Mapping) and len(given) == 1:
        ((key, value),) = given.items()
        if key == "info" and isinstance(value, str):
            return Success("info", key=value)
        if (
            key == "episode_return"
            and isinstance(value, int | float)
            and not isinstance(value, bool)
        ):
            return Success("episode_return", least=float(value))
    hint = did_you_mean(given, [*WORDS]) if isinstance(given, str) else ""
    raise UserError(
        f"envs.success must be terminated, survived, {{info: KEY}} or {{episode_return: NUMBER}}, "
        f"got {given!r}{'; ' if hint else ''}{hint}"
    )
