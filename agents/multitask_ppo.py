"""One policy for all tasks, trained by PPO: a control without adaptation."""

from dataclasses import dataclass

import torch

from agents._joint_ppo import JointPPO, JointPPOConfig
from meta_rl.core.types import EnvSpec


@dataclass(frozen=True)
class Config(JointPPOConfig):
    """Control: one policy for all tasks by PPO (Schulman et al. 2017); it never adapts."""


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> JointPPO:
    """Make the agent with its initial parameters."""
    return JointPPO(config, config.policy(spec), device, seed)
