"""Windows of trials: some transitions in a row, around moments that are drawn at random."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meta_rl.learning.trials import History


@dataclass(frozen=True)
class Window:
    """W windows of S transitions each."""

    obs: Float[Tensor, "W S O"]
    action: Float[Tensor, "W S A"]
    reward: Float[Tensor, "W S"]
    next_obs: Float[Tensor, "W S O"]
    counted: Bool[Tensor, "W S"]
    """Which transitions there are: a window may reach beyond its trial."""

    @classmethod
    def of(
        cls, history: History, trial: Int[Tensor, "W"], start: Int[Tensor, "W"], steps: int
    ) -> "Window":
        """Cut a window out of each of these trials.

        Args:
            start: The first transition of each; negative ones reach before the trial.
            steps: S.
        """
        place = start.unsqueeze(1) + torch.arange(steps, device=start.device)  # (W, S)
        inside = (place >= 0) & (place < len(history.valid))
        rows = (place.clamp(0, len(history.valid) - 1), trial.unsqueeze(1))
        columns = (getattr(history, name)[rows] for name in ("obs", "action", "reward", "next_obs"))
        return cls(*columns, counted=inside & history.valid[rows])

    def seen_while_acting(self, first: Bool[Tensor, "W S"]) -> "Window":
        """Return the window without transitions whose end no agent is shown.

        Args:
            first: Whether the next step begins another episode: what is observed then is that
                episode's beginning.
        """
        return Window(self.obs, self.action, self.reward, self.next_obs, self.counted & ~first)


@dataclass(frozen=True)
class Moments:
    """W moments of trials: that before transition `step` of trial `trial`."""

    trial: Int[Tensor, "W"]
    step: Int[Tensor, "W"]

    @classmethod
    def drawn(cls, history: History, of_each: int, generator: torch.Generator) -> "Moments":
        """Draw moments of each trial, uniform over its transitions."""
        length = history.valid.sum(0).cpu()
        share = torch.rand(len(length), of_each, generator=generator, dtype=torch.float64)
        step = (share * length.unsqueeze(1)).long()
        trial = torch.arange(len(length)).unsqueeze(1).expand_as(step)
        device = history.valid.device
        return cls(trial.flatten().to(device), step.flatten().to(device))

    def future(self, history: History, steps: int) -> Window:
        """Return the next transitions of each."""
        return Window.of(history, self.trial, self.step, steps)

    def past(self, history: History, steps: int) -> Window:
        """Return the last transitions before each, as far as an agent has been shown them."""
        start = self.step - steps
        begins = torch.cat([history.first[1:], torch.zeros_like(history.first[:1])])
        place = start.unsqueeze(1) + torch.arange(steps, device=start.device)
        ended = begins[place.clamp(0, len(begins) - 1), self.trial.unsqueeze(1)]
        return Window.of(history, self.trial, start, steps).seen_while_acting(ended)
