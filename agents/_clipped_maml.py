"""MAML with clipped gradient steps outside: the common base of MAML-PPO and ProMP."""

from dataclasses import dataclass

import torch

from agents._maml import MAML, MAMLConfig, Stages
from meta_rl.core.protocols import Surrogate
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics
from meta_rl.learning.descent import Descent
from meta_rl.learning.ppo import OuterEpochsConfig, TaskLoss, descend_epochs
from meta_rl.learning.task_gradient import InnerLoss


@dataclass(frozen=True)
class ClippedMAMLConfig(MAMLConfig, OuterEpochsConfig):
    """MAML with epochs of Adam steps on a clipped objective."""

    epochs: int = 5
    """Passes over the tasks of each meta-batch, at least 1."""
    clip: float = 0.3
    """PPO's clip range (ε), above 0: the policy ratio is clipped to [1 - ε, 1 + ε]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        OuterEpochsConfig.__post_init__(self)


class ClippedMAML(MAML):
    """Moves θ by several clipped gradient steps through the adaptation.

    Args:
        loss: The loss of an inner step.
    """

    config: ClippedMAMLConfig
    descent: Descent
    generator: torch.Generator

    def __init__(
        self,
        config: ClippedMAMLConfig,
        spec: EnvSpec,
        device: torch.device,
        seed: int,
        loss: InnerLoss,
    ) -> None:
        super().__init__(config, config.policy(spec), loss, device, seed)
        self.descent = Descent(torch.optim.Adam, self.theta, lr=config.outer_lr)
        self.generator = make_generator(seed, "update")

    def outer_loss(self, stages: Stages) -> TaskLoss:
        """Return the loss of the epochs: minus the objective, as a function of θ and tasks."""
        raise NotImplementedError(f"{type(self).__name__} must say what its epochs descend")

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Take several epochs of steps on the objective of one meta-batch."""
        stages = self.stages(batch)
        metrics = descend_epochs(
            self.outer_loss(stages),
            len(batch.tasks),
            self.theta,
            self.descent,
            self.config,
            self.generator,
            at_first=lambda gradient: self.diagnostics(gradient, stages.episodes[0]),
        )
        self.count(batch)
        return metrics

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the outer steps for inspection."""
        stages = self.stages(batch)
        loss = self.outer_loss(stages)
        return self.open_surrogate(batch, stages, lambda theta: loss(theta, None)[0])
