"""One policy for all tasks by PPO: the common base of `multitask_ppo` and `fine_tune`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from agents._policy import PolicyAgent, PolicyConfig
from meta_rl.core.protocols import Surrogate
from meta_rl.core.ranks import sum_over_ranks
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import MetaBatch, Metrics, Params, map_tensors
from meta_rl.learning.descent import Descent
from meta_rl.learning.differentiation import grad_and_value
from meta_rl.learning.inner_loop import InnerLoop
from meta_rl.learning.policy import MLPPolicy, for_each_task, from_by_task
from meta_rl.learning.ppo import PPOConfig, clipped_loss, run_epochs
from meta_rl.learning.samples import Samples
from meta_rl.learning.trust_region import ravel


@dataclass(frozen=True)
class JointPPOConfig(PolicyConfig, PPOConfig):
    """One policy for all tasks by PPO (Schulman et al. 2017)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        PPOConfig.__post_init__(self)


class JointPPO(PolicyAgent):
    """Trains one θ on all tasks at once."""

    config: JointPPOConfig
    descent: Descent
    generator: torch.Generator

    def __init__(
        self,
        config: JointPPOConfig,
        policy: MLPPolicy,
        device: torch.device,
        seed: int,
        inner: InnerLoop | None = None,
    ) -> None:
        super().__init__(config, policy, device, seed, inner)
        self.descent = Descent(torch.optim.Adam, self.theta, lr=config.outer_lr)
        self.generator = make_generator(seed, "update")

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Take epochs of clipped policy-gradient steps on minibatches."""
        (rollout,) = batch.rollouts
        samples = self.samples(rollout)
        metrics = run_epochs(
            lambda which: self.step(self.some(samples, which.to(self.device))),
            samples.obs.shape[1],
            self.config,
            self.generator,
        )
        self.count(batch)
        return metrics | self.spread()

    def some(self, samples: Samples, which: Tensor) -> Samples:
        """Return some of every task's steps."""
        return map_tensors(lambda column: column[:, which], samples)

    def step(self, samples: Samples) -> Metrics:
        """One Adam step on a minibatch."""
        gradient, _, metrics = sum_over_ranks(
            grad_and_value(lambda theta: self.loss(theta, samples), self.theta)
        )
        self.descent.step(self.theta, gradient)
        return metrics | {"outer/gradient_norm": ravel(gradient).norm()}

    def loss(self, theta: Params, samples: Samples) -> tuple[Tensor, Metrics]:
        """Return minus PPO's objective, a mean over steps, and how far the policy has moved.

        Both are this rank's part of the mean. All ranks take the same steps of their own tasks.
        """
        policy = self.policy.in_pieces(for_each_task(theta, len(samples.obs)), samples.obs)
        total = sum_over_ranks(samples.weight.sum())
        weight = samples.weight / torch.where(total > 0, total, 1.0)  # it may be all padding
        return clipped_loss(samples.log_ratio(policy), samples.advantage, weight, self.config.clip)

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the first epoch, on all steps at once, for inspection."""
        (rollout,) = batch.rollouts
        samples = self.samples(rollout)

        def log_ratio(theta: Params) -> Tensor:
            policy = self.policy.in_pieces(for_each_task(theta, len(samples.obs)), samples.obs)
            return from_by_task(samples.log_ratio(policy), samples.copies)

        return Surrogate(
            theta=self.theta,
            loss=lambda theta: self.loss(theta, samples)[0],
            log_ratio=log_ratio,
            advantage=from_by_task(samples.advantage, samples.copies),
            rollout=rollout,
            gamma=self.config.gamma,
            across_episodes=False,
            approximation=None,
        )
