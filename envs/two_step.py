"""The two-step task, which tells planning from the repetition of what was rewarded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float, Float64, Int
from torch import Tensor

from envs._chance import Chance
from envs._drawn import DrawnFamily, of_each_copy
from meta_rl.core.checks import check_at_least, check_within_unit
from meta_rl.core.errors import UserError
from meta_rl.core.types import RETURN, EnvSpec, Rollout, Score, Step, Tasks

GOOD_CHOICE = Score("good_choice", "good choice", "good_choice", "mean")
"""Share of the trials whose choice leads more often to the better of the second states."""


@dataclass(frozen=True)
class Config:
    """Choices whose outcomes are common or rare, and rewards that swap (Wang et al. 2016)."""

    horizon: int = 200
    """Steps of one episode (T), at least 2 and even: two for each trial."""
    common: float = 0.8
    """Probability that a choice leads to its own second state, in [0.5, 1]."""
    high: float = 0.9
    """Probability of a reward in the better second state, in [0.5, 1]. In the other one it is 1 -
    high."""
    swap: float = 0.025
    """Probability that the second states swap their rewards before a trial, in [0, 1]."""
    test_tasks: int = 300
    """Schedules of swaps in the test split, at least 1. An evaluation on the train split has as
    many."""
    validation_tasks: int = 100
    """Schedules of the validation split, at least 1, by which the best checkpoint is chosen."""
    task_seed: int = 0
    """Seed of the held-out schedules, at least 0, independent of the run's seed."""

    def __post_init__(self) -> None:
        check_at_least(0, self, "task_seed", where="envs")
        check_at_least(1, self, "test_tasks", "validation_tasks", where="envs")
        if self.horizon < 2 or self.horizon % 2:
            raise UserError(f"envs.horizon must be even and at least 2, got {self.horizon}")
        check_within_unit(self, "common", "high", "swap", where="envs")
        for name in ("common", "high"):
            if (given := getattr(self, name)) < 0.5:
                raise UserError(f"envs.{name} must be in [0.5, 1], got {given:g}")


class TwoStep(DrawnFamily):
    """Trials of two steps: a choice between two second states, and what the state brings.

    Task: a schedule of swaps, as one number for each trial, uniform in [0, 1). The first number
    tells which second state is better at first; a later one below `swap` makes them swap. Drawn
    anew for every meta-batch, fixed for validation and test.
    Observation: the first state, or one of the two second states, as one-hot.
    Action: one of two, as one-hot. In the first state, each leads to a second state of its own
    with the probability `common`, else to the other one. In a second state it has no effect.
    Reward: 0 or 1 in a second state, with probability `high` in the better one; 0 in the first.
    Episode: T steps, always as many. The memory of RL² lasts for one episode.

    After Wang et al. 2016, who simplify the task of Daw et al. 2011: its second states have
    choices of their own and rewards that drift.
    """

    family = "two_step"

    def __init__(self, config: Config) -> None:
        super().__init__("schedule", config.test_tasks, config.validation_tasks, config.task_seed)
        self.config = config
        self.spec = EnvSpec(
            spaces.Discrete(3),
            spaces.Discrete(2),
            config.horizon,
            self.family,
            metrics=("good_choice",),
            scores=(RETURN, GOOD_CHOICE),
        )

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw some schedules."""
        trials = self.config.horizon // 2
        return torch.rand(count, trials, generator=generator, dtype=torch.float64)

    def make_env(self, device: torch.device, workers: int) -> "TwoStepEnv":
        """Make the simulator: a few tensors on the device, no processes."""
        return TwoStepEnv(self.config, device)

    def protocol(self) -> Mapping[str, Any]:
        """The probabilities, the horizon and the held-out schedules."""
        config = self.config
        chances = {"common": config.common, "high": config.high, "swap": config.swap}
        return {
            "horizon": config.horizon,
            **chances,
            "test_tasks": config.test_tasks,
            "task_seed": config.task_seed,
        }


class TwoStepEnv:
    """All worlds of all schedules as one tensor; all are at the same step of a trial."""

    changes_within_episodes = True

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config, self.device = config, device
        self.better: Int[Tensor, "M N P"] = torch.zeros(0, 0, 0, dtype=torch.long)
        self.state: Int[Tensor, "M N"] = torch.zeros(0, 0, dtype=torch.long)
        self.choice: Int[Tensor, "M N"] = torch.zeros(0, 0, dtype=torch.long)
        self.steps = 0

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N 3"]:
        """Begin an episode in every world, in the first state."""
        better = better_state(tasks.params.to(self.device), self.config.swap)
        self.better = of_each_copy(better, copies)
        self.chance = Chance(tasks, copies, seed, self.device)
        self.state = torch.zeros(len(tasks), copies, dtype=torch.long, device=self.device)
        self.choice = torch.zeros_like(self.state)
        self.steps = 0
        return self._observed()

    def step(self, action: Float[Tensor, "M N 2"]) -> Step:
        """Choose in the first state of every world, or take what the second brings."""
        drawn = self.chance.uniform()
        better = self.better[..., self.steps % self.config.horizon // 2]
        if self.steps % 2 == 0:
            self.choice = action.argmax(-1)
            rare = (drawn >= self.config.common).long()
            self.state = 1 + (self.choice ^ rare)
            reward = torch.zeros_like(drawn)
        else:
            chance = torch.where(self.state - 1 == better, self.config.high, 1 - self.config.high)
            reward = (drawn < chance).float()
            self.state = torch.zeros_like(self.state)
        self.steps += 1
        over = torch.full_like(self.state, self.steps % self.config.horizon == 0, dtype=torch.bool)
        return Step(
            next_obs=self._observed(),
            reward=reward.float(),
            terminated=torch.zeros_like(over),
            truncated=over,
            metrics={"good_choice": (self.choice == better).float()},
        )

    def reset_ended(self) -> Float[Tensor, "M N 3"]:
        """Go on: every trial, and so every episode, ends in the first state."""
        return self._observed()

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Give some worlds other schedules."""
        better = better_state(tasks.params.to(self.device), self.config.swap)
        self.better.flatten(0, 1)[list(worlds)] = better

    def _observed(self) -> Float[Tensor, "M N 3"]:
        return torch.nn.functional.one_hot(self.state, 3).float()

    def close(self) -> None:
        """Nothing to release."""


def better_state(schedule: Float64[Tensor, "M P"], swap: float) -> Int[Tensor, "M P"]:
    """Return which second state, 0 or 1, is the better one in each trial."""
    swaps = schedule < swap
    swaps[:, 0] = schedule[:, 0] < 0.5
    return swaps.long().cumsum(1) % 2


@dataclass(frozen=True)
class Stays:
    """How often a choice was repeated, by what it had brought in the trial before.

    The axes of both are the task, then not rewarded and rewarded, then rare and common transition.
    """

    stayed: Float[Tensor, "M 2 2"]
    """Trials that repeated the choice of the trial before."""
    trials: Float[Tensor, "M 2 2"]
    """All trials but the first of each episode."""

    @property
    def probability(self) -> Float[Tensor, "2 2"]:
        """Share of the trials that repeated the choice, over all tasks."""
        return self.stayed.sum(0) / self.trials.sum(0)

    @property
    def model_based_index(self) -> float:
        """How much more a reward makes stay after a common transition than after a rare one.

        Who plans knows that a reward after a rare transition speaks for the other choice: the
        index is above 0. Who repeats what was rewarded last has an index of 0 (Daw et al. 2011),
        but not who sums up rewards over many trials: a common transition then goes with a choice
        that is valued already (Akam et al. 2015). Compare with a learner of values.
        """
        (rare_lost, common_lost), (rare_won, common_won) = self.probability.tolist()
        return float(common_won - rare_won - (common_lost - rare_lost))

    @property
    def model_free_index(self) -> float:
        """How much more a reward makes stay, whatever the transition was."""
        lost, won = self.probability.mean(1).tolist()
        return float(won - lost)


def stays(rollout: Rollout) -> Stays:
    """Count how often the choices of whole episodes were repeated."""
    choice = rollout.action[::2].argmax(-1)
    common = rollout.obs[1::2].argmax(-1) - 1 == choice
    won = rollout.reward[1::2] > 0
    goes_on = ~rollout.first[2::2]  # the first trial of an episode has none before it
    stayed = choice[1:] == choice[:-1]
    cells_stayed, cells_trials = [], []
    for has_won in (False, True):
        for is_common in (False, True):
            here = goes_on & (won[:-1] == has_won) & (common[:-1] == is_common)
            cells_trials.append(here.sum((0, 2)))
            cells_stayed.append((here & stayed).sum((0, 2)))
    stacked = (torch.stack(cells, dim=1).float() for cells in (cells_stayed, cells_trials))
    return Stays(*(cells.view(-1, 2, 2) for cells in stacked))


def build(config: Config) -> TwoStep:
    """Make the task distribution."""
    return TwoStep(config)
