"""The passive T-maze: a sign at the start tells which way to turn at the end of a long corridor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from envs._drawn import evenly, of_each_copy
from meta_rl.core.checks import check_at_least
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import ALL_TASKS, Split
from meta_rl.core.types import RETURN, SUCCESS, EnvSpec, Step, Tasks
from meta_rl.rollouts.collector import SimulatedFamily

FORTH, UP, BACK, DOWN = range(4)
"""What an agent can do."""


@dataclass(frozen=True)
class Config:
    """A sign seen once, a corridor, and a turn that depends on it (Bakker 2001, Ni et al. 2023)."""

    horizon: int = 101
    """Steps of one episode, at least 2. The corridor has one step less (L)."""

    def __post_init__(self) -> None:
        check_at_least(2, self, "horizon", where="envs")


class TMaze(SimulatedFamily):
    """A corridor of L steps whose end forks; only the first observation tells where the goal is.

    Task: 1 for a goal that is up, -1 for one that is down. There are no others, so both are in
    every split: what is measured is memory, not what carries over to new tasks.
    Observation (2,): at the start (0, 1) for a goal that is up, (0, -1) for one that is down; in
    the corridor (0, 0), also at the start once it was left; at the junction (1, 0), and (1, ±1)
    up and down of it.
    Action: forth, up, back or down, as one-hot. Into a wall, an agent stays where it is.
    Reward: 1 for the goal at the last step. Before it, -1/L at each step that finds the agent
    behind who went forth at every step.
    Episode: L + 1 steps, always as many: there is none to lose on the way. The memory of RL² lasts
    for one episode. The optimum is 1; without a memory it is 0.5 on average.

    As TMazeClassicPassive of Ni et al. 2023, whose goals and walls it has.
    """

    family = "t_maze"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = EnvSpec(
            spaces.Box(-1.0, 1.0, (2,)),
            spaces.Discrete(4),
            config.horizon,
            self.family,
            metrics=("success",),
            scores=(SUCCESS, RETURN),
        )

    def sample(self, count: int, split: Split, generator: torch.Generator) -> Tasks:
        """Draw some mazes, as many of the one kind as of the other, or one more."""
        return evenly(self.tasks(split), count, generator)

    def tasks(self, split: Split) -> Tasks:
        """Return both mazes, whatever the split."""
        params = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
        return Tasks(self.family, ("maze",) * 2, torch.arange(2), params)

    def make_env(self, device: torch.device, workers: int) -> "TMazeEnv":
        """Make the simulator: a few tensors on the device, no processes."""
        return TMazeEnv(self.config, device)

    def protocol(self) -> Mapping[str, Any]:
        """The length of an episode, and that no maze is held out."""
        return {"horizon": self.spec.horizon, ALL_TASKS: "both mazes are in every split"}


class TMazeEnv:
    """All mazes as one tensor; all are at the same step of their episode."""

    changes_within_episodes = False

    def __init__(self, config: Config, device: torch.device) -> None:
        self.corridor, self.device = config.horizon - 1, device
        self.goal: Int[Tensor, "M N"] = torch.zeros(0, 0, dtype=torch.long)
        self.along = torch.zeros_like(self.goal)
        self.aside = torch.zeros_like(self.goal)
        self.steps = 0

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N 2"]:
        """Begin an episode in every world, at the sign."""
        self.goal = of_each_copy(goal_side(tasks.params.to(self.device)), copies)
        self._place_at_start()
        return self._observed()

    def step(self, action: Float[Tensor, "M N 4"]) -> Step:
        """Move in every world, or stay where a wall is."""
        self.steps += 1
        move = action.argmax(-1)
        forth = (move == FORTH).long() - (move == BACK).long()
        up = (move == UP).long() - (move == DOWN).long()
        at_junction = self.along == self.corridor
        along = (self.along + forth).clamp(0, self.corridor)
        self.along = torch.where(self.aside == 0, along, self.along)
        self.aside = torch.where(at_junction, (self.aside + up).clamp(-1, 1), self.aside)
        over = self.steps > self.corridor
        reached = (self.aside == self.goal) & over
        behind = (self.along < self.steps).float() / self.corridor
        ends = torch.full(reached.shape, over, device=self.device)
        return Step(
            next_obs=self._observed(),
            reward=reached.float() if over else -behind,
            terminated=torch.zeros_like(ends),
            truncated=ends,
            metrics={"success": reached.float()},
        )

    def reset_ended(self) -> Float[Tensor, "M N 2"]:
        """Begin the next episode, if the last step has ended all."""
        if self.steps > self.corridor:
            self._place_at_start()
        return self._observed()

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Put the goals of some worlds elsewhere, before the sign is seen."""
        self.goal.flatten()[list(worlds)] = goal_side(tasks.params.to(self.device))

    def _place_at_start(self) -> None:
        self.along, self.aside = torch.zeros_like(self.goal), torch.zeros_like(self.goal)
        self.steps = 0

    def _observed(self) -> Float[Tensor, "M N 2"]:
        """What is seen: the sign at the first step alone."""
        sign = self.goal if self.steps == 0 else self.aside
        return torch.stack([self.along == self.corridor, sign], dim=-1).float()

    def close(self) -> None:
        """Nothing to release."""


def goal_side(params: Float64[Tensor, "M 1"]) -> Int[Tensor, "M"]:
    """Return 1 where the goal is up, -1 where it is down."""
    if not (params.abs() == 1).all():
        raise UserError(
            f"a maze must be given by 1 (goal up) or -1 (goal down), got {params.tolist()}"
        )
    return params[:, 0].long()


class Guide:
    """Goes forth to the junction, and from there to the goal."""

    def knowledge(self, tasks: Tasks) -> Float[Tensor, "M 1"]:
        """Return on which side each goal is."""
        return goal_side(tasks.params).float().unsqueeze(1)

    def act(
        self, knowledge: Float[Tensor, "M 1"], obs: Float[Tensor, "M N O"]
    ) -> Float[Tensor, "M N 4"]:
        """Return the next move, as one-hot."""
        at_junction: Bool[Tensor, "M N"] = obs[..., 0] > 0
        turn = torch.where(knowledge > 0, UP, DOWN)
        move = torch.where(at_junction, turn, FORTH)
        return torch.nn.functional.one_hot(move, 4).float()


def build(config: Config) -> TMaze:
    """Make the task distribution."""
    return TMaze(config)


def expert() -> Guide:
    """Make who knows where the goal is."""
    return Guide()
