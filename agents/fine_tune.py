"""One policy for all tasks, which each new task tunes: transfer without learning to learn."""

from dataclasses import dataclass

import torch

from agents import multitask_ppo
from agents._maml import PolicyGradientConfig
from meta_rl.core.types import EnvSpec
from meta_rl.learning.inner_loop import InnerLoop, scheduled, score_function_loss


@dataclass(frozen=True)
class Config(PolicyGradientConfig, multitask_ppo.Config):
    """Control: multi-task PPO, then plain policy-gradient fine-tuning on each new task."""


def build(
    config: Config, spec: EnvSpec, device: torch.device, seed: int
) -> multitask_ppo.MultitaskPPO:
    """Put MAML's inner loop on a θ that is good at once and was not made for being adapted."""
    policy = config.policy(spec)
    inner = InnerLoop(policy, score_function_loss, scheduled(config.step_size))
    return multitask_ppo.MultitaskPPO(config, policy, device, seed, inner)
