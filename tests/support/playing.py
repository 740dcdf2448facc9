"""Plays rollouts for tests that need experience of their own, step by step."""

import torch

from meta_rl.core.protocols import EnvDistribution, Noises, TaskEnv
from meta_rl.rollouts.collector import RolloutCollector


class Player:
    """A collector with its streams."""

    def __init__(
        self,
        family: EnvDistribution,
        device: torch.device,
        streams: Noises,
        env: TaskEnv | None = None,
    ) -> None:
        self.streams = streams
        self.env = env or family.make_env(device, 1)
        self.collector = RolloutCollector(family.spec, self.env, device)

    def collect(self, agent, context, tasks, copies, phase, previous=None, deterministic=False):
        """Play a phase's episodes; return the rollout and the moved context."""
        return self.collector.collect(
            agent, context, tasks, copies, phase, self.streams, previous, deterministic
        )
