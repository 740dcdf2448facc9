"""2-D navigation: a point in the plane that must find a goal it is not shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from PIL import Image, ImageDraw
from torch import Tensor

from envs._drawn import DrawnFamily, of_each_copy
from meta_rl.core.checks import check_at_least
from meta_rl.core.errors import UserError
from meta_rl.core.types import EnvSpec, Picture, Step, Tasks

NAME = "point"
"""The one task name of the family; its tasks differ by their goals."""
PICTURE_SIZE = 400
"""Width and height of a picture, in pixels."""
VISIBLE = 0.65
"""How far from the start a picture reaches to each side, in metres."""


@dataclass(frozen=True)
class Config:
    """A point in the plane that must find an unseen goal (Finn et al. 2017, §5.3)."""

    reward: Literal["distance", "squared", "sparse"] = "distance"
    """Reward of each step: minus the distance to the goal in metres (`distance`), or minus its
    square (`squared`). `sparse` is 1 minus the distance within 0.2 m of the goal, and 0
    elsewhere."""
    horizon: int = 100
    """Most steps of one episode (T), at least 1."""
    test_goals: int = 200
    """Goals of the test split, at least 1. An evaluation on the train split has as many."""
    validation_goals: int = 40
    """Goals of the validation split, at least 1, by which the best checkpoint is chosen."""
    goal_seed: int = 0
    """Seed of the held-out goals, at least 0, independent of the run's seed."""

    def __post_init__(self) -> None:
        if self.reward not in ("distance", "squared", "sparse"):
            raise UserError(f"envs.reward must be distance, squared or sparse, got {self.reward!r}")
        check_at_least(1, self, "horizon", "test_goals", "validation_goals", where="envs")
        check_at_least(0, self, "goal_seed", where="envs")


class PointNavigation(DrawnFamily):
    """Goals uniform in the square [-0.5, 0.5]², metres.

    Task: goal position, drawn anew for every meta-batch; validation and test goals are fixed.
    Observation (2,): position in metres, (0, 0) at first.
    Action (2,): velocity, clipped to [-1, 1] and scaled to 0.1 metres a step.
    Reward: minus the distance to the goal after the move, in metres.
    Episode: ends within 0.01 m of the goal in both coordinates, or at the horizon.

    As in the authors' released code (cbfinn/maml_rl). Their paper's text says that the squared
    distance is the cost, but its figures, -40 before adaptation, fit only the plain distance;
    `reward: squared` follows the text.

    `reward: sparse` is as in the sparse point robot of PEARL's released code (Rakelly et al. 2019):
    a point must come near the goal to learn anything of it. Episodes then go on at the goal, since
    there is more to earn, and `success` is to be near it.
    """

    family = "point_navigation"
    between_tasks = True

    def __init__(self, config: Config) -> None:
        self.config = config
        self.spec = EnvSpec.box(
            2, (-1.0, -1.0), (1.0, 1.0), config.horizon, self.family, metrics=("success",)
        )
        super().__init__(
            NAME, config.test_goals, config.validation_goals, config.goal_seed, called="goals"
        )

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M 2"]:
        """Draw goals, in metres."""
        return torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5

    def make_env(self, device: torch.device, workers: int) -> "PointEnv":
        """Make the simulator: a few tensors on the device, no processes."""
        return PointEnv(self.config, device)

    def protocol(self) -> Mapping[str, Any]:
        """The reward, the horizon and the held-out goals."""
        return {
            "reward": self.config.reward,
            "horizon": self.config.horizon,
            "test_goals": self.config.test_goals,
            "goal_seed": self.config.goal_seed,
        }


class PointEnv:
    """All points of all tasks as one tensor."""

    SPEED = 0.1
    REACHED = 0.01
    NEAR = 0.2
    changes_within_episodes = True

    def __init__(self, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.goal: Float[Tensor, "M N 2"] = torch.zeros(0, 0, 2)
        self.position: Float[Tensor, "M N 2"] = torch.zeros(0, 0, 2)
        self.time: Float[Tensor, "M N"] = torch.zeros(0, 0)
        self.ended: Bool[Tensor, "M N"] = torch.zeros(0, 0, dtype=torch.bool)

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N 2"]:
        """Put every point at the origin. Nothing here is random, so the seed has no effect."""
        self.goal = of_each_copy(tasks.params.to(self.device, torch.float32), copies)
        self.position = torch.zeros(len(tasks), copies, 2, device=self.device)
        self.time = torch.zeros(len(tasks), copies, device=self.device)
        self.ended = torch.zeros(len(tasks), copies, dtype=torch.bool, device=self.device)
        return self.position

    def step(self, action: Float[Tensor, "M N 2"]) -> Step:
        """Move every point."""
        self.position = self.position + action.clamp(-1, 1) * self.SPEED
        self.time = self.time + 1
        offset = self.position - self.goal
        squared = offset.pow(2).sum(-1)
        reached = (offset.abs() < self.REACHED).all(-1)
        reward, terminated = -squared.sqrt(), reached
        if self.config.reward == "squared":
            reward = -squared
        elif self.config.reward == "sparse":
            reached = squared < self.NEAR**2
            reward, terminated = torch.where(reached, 1 + reward, 0.0), torch.zeros_like(reached)
        truncated = (self.time >= self.config.horizon) & ~terminated
        self.ended = terminated | truncated
        return Step(
            next_obs=self.position,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            metrics={"success": reached.float()},
        )

    def reset_ended(self) -> Float[Tensor, "M N 2"]:
        """Put the points of ended episodes back to the origin."""
        self.position = torch.where(self.ended.unsqueeze(-1), 0.0, self.position)
        self.time = torch.where(self.ended, 0.0, self.time)
        return self.position

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Move the goals of some points."""
        self.goal.flatten(0, 1)[list(worlds)] = tasks.params.to(self.goal)

    def draw(self) -> Picture:
        """Return the plane as seen from above: the goal green, the point blue, the start grey."""
        picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        canvas.rectangle([*_pixel(-0.5, 0.5), *_pixel(0.5, -0.5)], outline="lightgrey", width=2)
        canvas.circle(_pixel(0.0, 0.0), 4, fill="grey")
        canvas.circle(_pixel(*self.goal[0, 0].tolist()), 9, outline="green", width=3)
        canvas.circle(_pixel(*self.position[0, 0].tolist()), 6, fill="royalblue")
        return np.asarray(picture)

    def close(self) -> None:
        """Nothing to release."""


class PointExpert:
    """Goes straight to the goal, as fast as it can."""

    def knowledge(self, tasks: Tasks) -> Float[Tensor, "M 2"]:
        """Return the goals, in metres."""
        return tasks.params.float()

    def act(self, knowledge: Float[Tensor, "M 2"], obs: Float[Tensor, "M N 2"]) -> Tensor:
        """Return the velocity to the goal; near it, the one that arrives with the next step."""
        missing = (knowledge.unsqueeze(1) - obs) / PointEnv.SPEED
        return missing / missing.abs().amax(-1, keepdim=True).clamp(min=1)


def _pixel(x: float, y: float) -> tuple[float, float]:
    """Return where in the picture a position is; those far outside of it are at its edge."""
    half = PICTURE_SIZE / 2
    right, up = (min(max(each / VISIBLE, -1.0), 1.0) * half for each in (x, y))
    return half + right, half - up


def build(config: Config) -> PointNavigation:
    """Make the task distribution."""
    return PointNavigation(config)


def expert() -> PointExpert:
    """Make who knows the way."""
    return PointExpert()
