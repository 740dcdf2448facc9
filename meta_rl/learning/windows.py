"""Transitions of trials before and after random moments."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meta_rl.learning.trials import History


@dataclass(frozen=True)
class Window:
    """S transitions of each of W trials."""

    obs: Float[Tensor, "W S O"]
    action: Float[Tensor, "W S A"]
    reward: Float[Tensor, "W S"]
    next_obs: Float[Tensor, "W S O"]
    counted: Bool[Tensor, "W S"]
    """Which transitions exist: some places may lie beyond a trial."""

    @classmethod
    def of(cls, history: History, trial: Int[Tensor, "W"], place: Int[Tensor, "W S"]) -> "Window":
        """Take transitions from each of these trials.

        Args:
            place: Numbers of the transitions; negative ones are before the trial.
        """
        inside = (place >= 0) & (place < len(history.valid))
        rows = (place.clamp(0, len(history.valid) - 1), trial.unsqueeze(1))
        return cls(
            history.obs[rows],
            history.action[rows],
            history.reward[rows],
            history.next_obs[rows],
            inside & history.valid[rows],
        )


@dataclass(frozen=True)
class Moments:
    """W moments of trials, each before transition `step` of trial `trial`."""

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

    def of(self, trials: Int[Tensor, "D"]) -> tuple[Bool[Tensor, "W"], "Moments"]:
        """Return which moments are of some trials, and these moments, numbered in those trials.

        Args:
            trials: Numbers of trials, in order.
        """
        among = torch.isin(self.trial, trials)
        return among, Moments(torch.searchsorted(trials, self.trial[among]), self.step[among])

    def next(self, history: History, steps: int) -> Window:
        """Return the next `steps` transitions after each moment."""
        return Window.of(history, self.trial, in_a_row(self.step, steps))

    def later(self, history: History, steps: int, generator: torch.Generator) -> Window:
        """Draw `steps` transitions from each moment to the end of its trial, with repetition."""
        rest = (history.valid.sum(0)[self.trial] - self.step).unsqueeze(1)
        share = torch.rand(len(rest), steps, generator=generator, dtype=torch.float64)
        place = self.step.unsqueeze(1) + (share.to(rest.device) * rest).long()
        return Window.of(history, self.trial, place)

    def past(self, history: History, steps: int) -> Window:
        """Return the last transitions before each moment that an agent has seen whole.

        It does not see where an episode's last transition leads: its next observation is the start
        of another episode.
        """
        shown = torch.ones_like(history.first)
        shown[:-1] = ~history.first[1:]
        in_order = torch.argsort(~shown, dim=0, stable=True)  # each trial's shown ones, then others
        before = torch.cat([torch.zeros_like(in_order[:1]), shown.cumsum(0)])[self.step, self.trial]
        number = in_a_row(before - steps, steps)
        place = in_order[number.clamp(min=0), self.trial.unsqueeze(1)]
        return Window.of(history, self.trial, torch.where(number >= 0, place, -1))


def in_a_row(start: Int[Tensor, "W"], steps: int) -> Int[Tensor, "W S"]:
    """Return `steps` consecutive places from each start on."""
    return start.unsqueeze(1) + torch.arange(steps, device=start.device)
