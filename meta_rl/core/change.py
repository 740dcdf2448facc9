"""How tasks change: the settings."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from meta_rl.core.errors import UserError

NEVER = "never"
"""What `change.every` says of tasks that stay."""
UNITS = {
    "episode": "episodes",
    "episodes": "episodes",
    "step": "steps",
    "steps": "steps",
    "iteration": "iterations",
    "iterations": "iterations",
}
"""Units of `change.every`, as they may be written."""


@dataclass(frozen=True)
class ChangeConfig:
    """Tasks that change while an agent learns them."""

    every: str = NEVER
    """How often a task changes: `never`, after every `5 episodes` or `200 steps`, or with a
    probability at each step, `geometric 0.01`. `20 iterations` (with `sequence`) trains on one task
    name after the other, 20 meta-iterations on each."""
    how: Literal["redraw", "drift", "sequence"] = "redraw"
    """What a task changes into: another one of its split (`redraw`), a task on the way to
    another one (`drift`), or the split's next, one task name after the other (`sequence`)."""
    drift: float = 0.1
    """With `drift`: share of the way to another task that one change covers, in (0, 1]. The number
    of changes on the way is rounded, so 0.3 covers a third."""

    def __post_init__(self) -> None:
        if not 0 < self.drift <= 1:
            raise UserError(f"change.drift must be in (0, 1], got {self.drift}")
        if self.every == NEVER:
            return
        what = (
            f"change.every must be never, a whole number of episodes or steps (5 episodes, 200 "
            f"steps), geometric with a chance in (0, 1] (geometric 0.01), or iterations (20 "
            f"iterations), got {self.every!r}"
        )
        try:
            number = self.number
        except ValueError:
            raise UserError(what) from None
        whole = self.at_random or number == int(number)
        if not self._unit or number <= 0 or not whole or (self.at_random and number > 1):
            raise UserError(what)
        if not self.at_random:  # one spelling, so that protocols of one meaning are one
            object.__setattr__(self, "every", f"{int(number)} {self._unit}")
        if self.in_iterations and self.how != "sequence":
            raise UserError(
                f"change.every {self.every!r} leads training from one task name to the next, so "
                f"change.how must be sequence, got {self.how}"
            )

    @property
    def in_iterations(self) -> bool:
        """Whether training goes through the task names, rather than each task changing."""
        return self._unit == "iterations"

    @property
    def happens(self) -> bool:
        """Whether tasks change at all."""
        return self.every != NEVER

    @property
    def at_random(self) -> bool:
        """Whether changes come at random."""
        return self._unit == "geometric"

    @property
    def in_steps(self) -> bool:
        """Whether time is counted in steps rather than episodes."""
        return self._unit in ("geometric", "steps")

    @property
    def number(self) -> float:
        """Episodes or steps between changes, or the chance of one at each step."""
        words = self.every.split()
        number = float(words[1 if self.at_random else 0]) if len(words) == 2 else 0.0
        return number if isfinite(number) else 0.0

    @property
    def mean_steps(self) -> float | None:
        """Steps between changes, on average; None if they are counted in episodes."""
        if not self.in_steps:
            return None
        return 1 / self.number if self.at_random else self.number

    @property
    def changes_of_a_leg(self) -> int:
        """Changes until a drifting task has become another."""
        return max(1, round(1 / self.drift))

    @property
    def _unit(self) -> str:
        words = self.every.split()
        if len(words) == 2 and words[0] == "geometric":
            return "geometric"
        return UNITS.get(words[-1], "") if len(words) == 2 else ""
