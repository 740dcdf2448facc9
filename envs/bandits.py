"""Bernoulli bandits: k arms that pay 0 or 1, each with a probability that is not shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Float64, Int
from PIL import Image, ImageDraw
from torch import Tensor

from envs._chance import Chance
from envs._drawn import DrawnFamily, of_each_copy
from meta_rl.core.checks import check_at_least
from meta_rl.core.distributions import one_hot
from meta_rl.core.errors import UserError
from meta_rl.core.types import RETURN, EnvSpec, Picture, Score, Step, Tasks

BEST_ARM = Score("best_arm", "best arm", "best_arm", "mean")
"""Share of the pulls that are of the best arm."""
REGRET = Score("regret", "regret", "regret", "sum", higher_is_better=False)
"""How much less an episode's pulls earn on average than as many of the best arm."""
PICTURE_SIZE = 400
"""Width and height of a picture, in pixels."""


@dataclass(frozen=True)
class Config:
    """Arms that pay 0 or 1 with unseen probabilities (Duan et al. 2016)."""

    arms: int = 5
    """Arms to choose from (k), at least 2."""
    horizon: int = 10
    """Pulls of one episode (n), at least 1."""
    test_tasks: int = 1000
    """Bandits of the test split, at least 1. An evaluation on the train split has as many."""
    validation_tasks: int = 200
    """Bandits of the validation split, at least 1, by which the best checkpoint is chosen."""
    task_seed: int = 0
    """Seed of the held-out bandits, at least 0, independent of the run's seed."""

    def __post_init__(self) -> None:
        check_at_least(0, self, "task_seed", where="envs")
        check_at_least(2, self, "arms", where="envs")
        check_at_least(1, self, "horizon", "test_tasks", "validation_tasks", where="envs")


class Bandits(DrawnFamily):
    """Bandits whose arms' probabilities are independent and uniform in [0, 1].

    Task: the k probabilities; drawn anew for every meta-batch, fixed for validation and test.
    Observation (1,): always 1. An agent learns from its own actions and rewards alone.
    Action: one of k arms, as one-hot.
    Reward: 1 with the arm's probability, else 0.
    Episode: n pulls, always as many. A trial of RL² is one episode (`episodes_per_trial: 1`).

    As in Duan et al. 2016. A reward's chance depends on seed, task, copy and pull, not on
    the arm: whatever an agent has pulled before, the same arm pays at the same pulls.
    """

    family = "bandits"
    between_tasks = True

    def __init__(self, config: Config) -> None:
        super().__init__("bandit", config.test_tasks, config.validation_tasks, config.task_seed)
        self.config = config
        self.spec = EnvSpec(
            spaces.Box(0.0, 1.0, (1,), np.float32),
            spaces.Discrete(config.arms),
            config.horizon,
            self.family,
            metrics=("best_arm", "regret"),
            scores=(RETURN, BEST_ARM, REGRET),
        )

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw the probabilities of some bandits."""
        return torch.rand(count, self.config.arms, generator=generator, dtype=torch.float64)

    def make_env(self, device: torch.device, workers: int) -> "BanditEnv":
        """Make the simulator: a few tensors on the device, no processes."""
        return BanditEnv(self.config, device)

    def protocol(self) -> Mapping[str, Any]:
        """The arms, the horizon and the held-out bandits."""
        return {
            "arms": self.config.arms,
            "horizon": self.config.horizon,
            "test_tasks": self.config.test_tasks,
            "task_seed": self.config.task_seed,
        }


class BanditEnv:
    """All bandits as one tensor."""

    changes_within_episodes = True

    def __init__(self, config: Config, device: torch.device) -> None:
        self.horizon, self.device = config.horizon, device
        self.probability: Float64[Tensor, "M N k"] = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.obs: Float[Tensor, "M N 1"] = torch.zeros(0, 0, 1)
        self.pulled: Int[Tensor, "M N"] | None = None
        self.pulls = 0

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N 1"]:
        """Begin an episode with every bandit."""
        self.probability = of_each_copy(self._probabilities(tasks), copies)
        self.chance = Chance(tasks, copies, seed, self.device)
        self.obs = torch.ones(len(tasks), copies, 1, device=self.device)
        self.pulled, self.pulls = None, 0
        return self.obs

    def step(self, action: Float[Tensor, "M N k"]) -> Step:
        """Pull an arm of every bandit."""
        self.pulls += 1
        self.pulled = arm = action.argmax(-1)
        probability = self.probability.gather(-1, arm.unsqueeze(-1)).squeeze(-1)
        best = self.probability.amax(-1)
        over = torch.full(arm.shape, self.pulls % self.horizon == 0, device=self.device)
        return Step(
            next_obs=self.obs,
            reward=(self.chance.uniform() < probability).float(),
            terminated=torch.zeros_like(over),
            truncated=over,
            metrics={
                "best_arm": (probability == best).float(),
                "regret": (best - probability).float(),
            },
        )

    def reset_ended(self) -> Float[Tensor, "M N 1"]:
        """Go on: all episodes end together, and nothing is left of them."""
        return self.obs

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Give some worlds other probabilities."""
        self.probability.flatten(0, 1)[list(worlds)] = self._probabilities(tasks)

    def _probabilities(self, tasks: Tasks) -> Float64[Tensor, "M k"]:
        if not ((tasks.params >= 0) & (tasks.params <= 1)).all():
            raise UserError(
                f"a bandit must be given by the probabilities of its arms, each in [0, 1], got "
                f"{tasks.params.tolist()}"
            )
        return tasks.params.to(self.device)

    def draw(self) -> Picture:
        """Return the arms' probabilities as bars; the arm that was pulled last is blue."""
        picture = Image.new("RGB", (PICTURE_SIZE, PICTURE_SIZE), "white")
        canvas = ImageDraw.Draw(picture)
        pulled = None if self.pulled is None else int(self.pulled[0, 0])
        width = PICTURE_SIZE / self.probability.shape[-1]
        for arm, probability in enumerate(self.probability[0, 0].tolist()):
            top, left = (1 - probability) * PICTURE_SIZE, arm * width
            fill = "royalblue" if arm == pulled else "lightgrey"
            canvas.rectangle([left + 2, top, left + width - 2, PICTURE_SIZE], fill=fill)
        return np.asarray(picture)

    def close(self) -> None:
        """Nothing to release."""


class BestArm:
    """Pulls the best arm."""

    def knowledge(self, tasks: Tasks) -> Float[Tensor, "M k"]:
        """Return the arms' probabilities."""
        return tasks.params.float()

    def act(
        self, knowledge: Float[Tensor, "M k"], obs: Float[Tensor, "M N O"]
    ) -> Float[Tensor, "M N k"]:
        """Return the arm that pays most often, as one-hot."""
        return one_hot(knowledge).unsqueeze(1).expand(-1, obs.shape[1], -1)


def build(config: Config) -> Bandits:
    """Make the task distribution."""
    return Bandits(config)


def expert() -> BestArm:
    """Make who knows the best arm."""
    return BestArm()
