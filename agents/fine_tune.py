"""One policy for all tasks, fine-tuned on each new task: transfer without meta-learning."""

from dataclasses import dataclass

import torch

from agents._joint_ppo import JointPPO, JointPPOConfig
from agents._maml import PolicyGradientConfig
from meta_rl.core.types import EnvSpec
from meta_rl.learning.inner_loop import InnerLoop, scheduled, score_function_loss


@dataclass(frozen=True)
class Config(PolicyGradientConfig, JointPPOConfig):
    """Control: multi-task PPO, then plain policy-gradient fine-tuning on each new task."""


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> JointPPO:
    """Make multi-task PPO with MAML's inner loop: its θ is not trained for adaptation."""
    policy = config.policy(spec)
    inner = InnerLoop(policy, score_function_loss, scheduled(config.step_size))
    return JointPPO(config, policy, device, seed, inner)
