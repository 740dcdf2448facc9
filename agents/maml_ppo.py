"""MAML with PPO's clipped objective as the outer step."""

from dataclasses import dataclass

import torch

from agents._maml import MAML, MAMLConfig
from meta_rl.core.protocols import Surrogate
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics
from meta_rl.learning.descent import Descent
from meta_rl.learning.inner_loop import score_function_loss
from meta_rl.learning.ppo import OuterEpochsConfig, descend_epochs


@dataclass(frozen=True)
class Config(MAMLConfig, OuterEpochsConfig):
    """MAML with PPO's clipped objective as the outer step (after Rothfuss et al. 2019, §6)."""

    epochs: int = 5
    """Passes over the tasks of each meta-batch, at least 1."""
    clip: float = 0.3
    """PPO's clip range (ε), above 0: the policy ratio is clipped to [1 - ε, 1 + ε]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        OuterEpochsConfig.__post_init__(self)


class MAMLPPO(MAML):
    """Moves θ by several clipped gradient steps through the adaptation."""

    config: Config
    descent: Descent
    generator: torch.Generator

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, config.policy(spec), score_function_loss, device, seed)
        self.descent = Descent(torch.optim.Adam, self.theta, lr=config.outer_lr)
        self.generator = make_generator(seed, "update")

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Several epochs of PPO on the return after adaptation."""
        stages = self.stages(batch)
        metrics = descend_epochs(
            stages.clipped_objective(self.theta, self.config.clip),
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
        loss = stages.clipped_objective(self.theta, self.config.clip)
        return self.open_surrogate(batch, stages, lambda theta: loss(theta, None)[0])


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLPPO:
    """Make the agent with its initial parameters."""
    return MAMLPPO(config, spec, device, seed)
