"""MAML with PPO's clipped objective as the outer step."""

from dataclasses import dataclass

import torch

from agents._clipped_maml import ClippedMAML, ClippedMAMLConfig
from agents._maml import Stages
from meta_rl.core.types import EnvSpec
from meta_rl.learning.inner_loop import score_function_loss
from meta_rl.learning.ppo import TaskLoss


@dataclass(frozen=True)
class Config(ClippedMAMLConfig):
    """MAML with PPO's clipped objective as the outer step (after Rothfuss et al. 2019, §6)."""


class MAMLPPO(ClippedMAML):
    """Takes several epochs of PPO on the return after adaptation."""

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed, score_function_loss)

    def outer_loss(self, stages: Stages) -> TaskLoss:
        """-J^CLIP(θ'): minus PPO's objective of the policies after adaptation."""
        return stages.clipped_objective(self.theta, self.config.clip)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MAMLPPO:
    """Make the agent with its initial parameters."""
    return MAMLPPO(config, spec, device, seed)
