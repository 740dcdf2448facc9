"""One policy for all tasks, which each new task tunes: transfer without learning to learn."""

from dataclasses import dataclass

import torch

from agents import multitask_ppo
from agents._maml import GradientAdapter, PolicyGradientConfig
from meta_rl.core.types import EnvSpec


@dataclass(frozen=True)
class Config(PolicyGradientConfig, multitask_ppo.Config):
    """Control: multi-task PPO, then plain policy-gradient fine-tuning on each new task."""


class FineTune(GradientAdapter, multitask_ppo.MultitaskPPO):
    """Adapts as MAML does, from a θ that is good at once and was not made for being adapted."""

    config: Config


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> FineTune:
    """Make the agent with its initial parameters."""
    return FineTune(config, spec, device, seed)
