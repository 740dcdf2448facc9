"""The common base of MAML and its relatives: settings, inner loop, and data of an outer step."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from agents._policy import PolicyAgent, PolicyConfig
from meta_rl.core.checks import check_above_zero, check_at_least, check_within_unit
from meta_rl.core.distributions import Distribution
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Surrogate
from meta_rl.core.ranks import Part, world
from meta_rl.core.types import MetaBatch, Metrics, Params, Phase, Rollout, map_tensors
from meta_rl.learning.exploration import credit_before_adaptation
from meta_rl.learning.inner_loop import (
    LEARNED,
    InnerLoop,
    initial_step_sizes,
    learned,
    scheduled,
)
from meta_rl.learning.policy import MLPPolicy, from_by_task
from meta_rl.learning.ppo import TaskLoss, clipped_loss
from meta_rl.learning.samples import Samples
from meta_rl.learning.task_gradient import InnerLoss


@dataclass(frozen=True)
class PolicyGradientConfig(PolicyConfig):
    """A policy that takes policy-gradient steps on each task."""

    inner_lr: float = 0.1
    """Step size of adaptation (α), above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "inner_lr")

    def step_size(self, steps: Int[Tensor, "K"]) -> Float[Tensor, "K"]:
        """Return α for tasks that have adapted so many times."""
        return torch.full_like(steps, self.inner_lr, dtype=torch.float32)


@dataclass(frozen=True)
class AdaptationConfig(PolicyGradientConfig):
    """Adaptation by policy-gradient steps from a learned initialization."""

    later_inner_lr: float | None = None
    """Step size of every adaptation step after the first, above 0. Without it, inner_lr."""
    adaptation_steps: int = 1
    """Inner gradient steps (K), at least 1; each needs fresh episodes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "later_inner_lr")
        check_at_least(1, self, "adaptation_steps")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """One rollout before adaptation, and one after each inner step."""
        return super().phases * (self.adaptation_steps + 1)

    def step_size(self, steps: Int[Tensor, "K"]) -> Float[Tensor, "K"]:
        """Return α for tasks that have adapted so many times."""
        later = self.inner_lr if self.later_inner_lr is None else self.later_inner_lr
        return torch.where(steps == 0, self.inner_lr, later)


@dataclass(frozen=True)
class MAMLConfig(AdaptationConfig):
    """Settings of MAML and its extensions, whose outer step differentiates the adaptation."""

    first_order: bool = False
    """Drop the second derivatives from the meta-gradient (FOMAML)."""
    first_order_updates: int = 0
    """Initial meta-updates that drop the second derivatives, at least 0 (MAML++, derivative-order
    annealing)."""
    adapt: Literal["all", "head"] = "all"
    """Parameters that adapt: `all`, or `head`, which is the last layer and log_std (ANIL)."""
    step_sizes: Literal["fixed", "per_layer", "per_parameter"] = "fixed"
    """Step sizes of the inner steps: `fixed`, or learned as part of θ, with separate ones for each
    inner step. `per_layer` learns one for each weight matrix and bias vector (MAML++),
    `per_parameter` one for each parameter (Meta-SGD). Learned step sizes start at inner_lr."""
    before_weight: float = 0.0
    """Weight of the return before adaptation in the objective, in [0, 1]. The return after
    adaptation has the rest. Above 0, the outer step learns from all episodes."""
    multi_step_updates: int = 0
    """Meta-updates over which the objective moves from all inner steps to the last one, at least 0
    (MAML++, multi-step loss). At first, all inner steps have equal weight. 0 counts only the
    last."""
    exploration_weight: float = 0.0
    """Weight of E-MAML's term in the objective, at least 0. The term credits the episodes before
    adaptation with the return after it. 0 leaves it out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(0, self, "first_order_updates", "multi_step_updates", "exploration_weight")
        check_within_unit(self, "before_weight")
        if self.step_sizes != "fixed" and self.adaptation_steps == 1 and self.later_inner_lr:
            raise UserError(
                "agent.later_inner_lr has no effect where the size of a single inner step is "
                "learned, since later steps take it, too; leave it out, or raise "
                "agent.adaptation_steps"
            )
        if self.multi_step_updates and self.adaptation_steps == 1:
            raise UserError(
                "agent.multi_step_updates counts losses after several inner steps, but "
                "agent.adaptation_steps is 1; raise it, or leave multi_step_updates at 0"
            )

    def inner_loop(self, policy: MLPPolicy, loss: InnerLoss) -> InnerLoop:
        """Make the inner loop of these settings.

        If only the head adapts (ANIL, Raghu et al. 2020), log_std adapts, too: it is for the
        deviation what the last layer's bias is for the mean.
        """
        moving = policy.head if self.adapt == "head" else ("",)
        return InnerLoop(
            policy,
            loss,
            scheduled(self.step_size) if self.step_sizes == "fixed" else learned,
            adapts=lambda name: name.startswith(moving) and not name.startswith(LEARNED),
        )

    def learned_step_sizes(self, theta: Params, inner: InnerLoop) -> Params:
        """Return the step sizes that are a part of θ; none if they are fixed."""
        if self.step_sizes == "fixed":
            return {}
        device = next(iter(theta.values())).device
        alpha = self.step_size(torch.arange(self.adaptation_steps, device=device))
        each_parameter = self.step_sizes == "per_parameter"
        return initial_step_sizes(theta, alpha, inner.adapts, each_parameter)

    def is_first_order(self, meta_updates: int) -> bool:
        """Return whether the next meta-update takes the inner gradients for constants."""
        return self.first_order or meta_updates < self.first_order_updates

    def stage_weights(self, meta_updates: int) -> dict[int, float]:
        """Return the weight of each stage that the objective counts.

        Multi-step loss (Antoniou et al. 2019, §4): at first all stages count alike, in the end the
        last one alone.
        """
        last, fading = self.adaptation_steps, self.multi_step_updates
        spread = max(0.0, 1 - meta_updates / fading) if fading else 0.0
        weights = {k: spread / last for k in range(1, last + 1) if spread > 0}
        weights |= {last: spread / last + 1 - spread}
        if self.before_weight == 0:
            return weights
        after = {k: (1 - self.before_weight) * share for k, share in weights.items()}
        return {0: self.before_weight, **after}


STEPS_AT_ONCE = 25_000
"""Env steps of each stage that are differentiated together on a CPU, at least those of one task."""


@dataclass(frozen=True)
class Stages:
    """A meta-batch as an outer step sees it: the episodes and policies of each stage."""

    inner: InnerLoop
    episodes: list[Samples]
    """Episodes of stage k = 0 ... K, played after k inner steps."""
    weights: dict[int, float]
    """Weight of each stage that the objective counts."""
    first_order: bool
    share: float = 1.0
    """This rank's share of all tasks. Losses and divergences have it as a factor, so their sums
    over ranks are means over all tasks."""
    credit: Mapping[int, Float[Tensor, "M"]] = field(default_factory=dict)
    """Credit of each stage's steps for the return of later stages (E-MAML); empty without that
    term."""
    credit_weight: float = 0.0

    def of(self, which: Part | None) -> "Stages":
        """Return the stages of some of the tasks; None is all of them."""
        if which is None:
            return self
        chosen = which.rows.to(self.episodes[0].obs.device)
        episodes = [map_tensors(lambda x: x[chosen], each) for each in self.episodes]
        credit = {k: each[chosen] for k, each in self.credit.items()}
        return replace(self, episodes=episodes, share=which.share, credit=credit)

    def parts(self) -> list["Stages"]:
        """Split into parts of some tasks each; results of the parts add up to the whole.

        A derivative takes many times the memory of its experience, so it is made part by part.
        """
        obs = self.episodes[0].obs
        tasks = len(obs)
        if obs.device.type != "cpu":
            return [self]
        at_once = max(STEPS_AT_ONCE // obs.shape[1], 1)
        chosen = torch.arange(tasks).split(at_once)
        return [self.of(Part(rows, self.share * len(rows) / tasks)) for rows in chosen]

    @property
    def counted(self) -> dict[int, float]:
        """The stages whose policies the outer step is meant to move, and the share of each."""
        if not self.credit:
            return self.weights
        both = self.weights.keys() | self.credit.keys()
        credited = dict.fromkeys(self.credit, self.credit_weight)
        return {
            k: (self.weights.get(k, 0.0) + credited.get(k, 0.0)) / self.total for k in sorted(both)
        }

    @property
    def total(self) -> float:
        """The sum of the weights of all gains, which is 1 without E-MAML's term."""
        return 1.0 + self.credit_weight * len(self.credit)

    def gains(self) -> Iterator[tuple[int, float, Float[Tensor, "M B"]]]:
        """Yield each stage with the weight and the gain of its steps.

        The gain is the advantage and, for E-MAML (Stadie et al. 2018), also the credit for the
        return after adaptation: θ also decides which episodes the inner steps learn from.
        """
        for k, weight in self.weights.items():
            yield k, weight, self.episodes[k].advantage
        for k, credit in self.credit.items():
            yield k, self.credit_weight, credit.unsqueeze(1).expand_as(self.episodes[k].advantage)

    @property
    def all(self) -> range:
        """The stages that were played."""
        return range(len(self.episodes))

    def policies(
        self, theta: Params, stages: Collection[int] | None = None
    ) -> dict[int, Distribution]:
        """Return each stage's policies on its own episodes, as functions of θ."""
        *supports, _ = self.episodes
        trajectory = self.inner.trajectory(theta, supports, self.first_order)
        return {
            k: self.inner.policy.in_pieces(phi, self.episodes[k].obs)
            for k, phi in enumerate(trajectory)
            if k in (self.counted if stages is None else stages)
        }

    @torch.no_grad()
    def acting_policies(
        self, theta: Params, stages: Collection[int] | None = None
    ) -> dict[int, Distribution]:
        """Return the policies that played the episodes, in the episodes' precision."""
        dtype = self.episodes[0].obs.dtype
        theta = {name: value.to(dtype) for name, value in theta.items()}
        return self.policies(theta, stages)

    def clipped_objective(self, theta: Params, clip: float) -> TaskLoss:
        """Return PPO's loss after adaptation, relative to this θ's policies."""
        old = self.acting_policies(theta)

        def loss(theta: Params, which: Part | None) -> tuple[Tensor, Metrics]:
            some = self.of(which)
            return some.clipped_loss(of_tasks(old, which), some.policies(theta), clip)

        return loss

    def importance_loss(self, new: Mapping[int, Distribution]) -> Float[Tensor, ""]:
        """Return minus the return after adaptation, by importance sampling."""
        losses = []
        for k, share, gain in self.gains():
            ratio = self.episodes[k].log_ratio(new[k]).exp()
            gained = self.episodes[k].mean_over_tasks(ratio * gain)
            losses.append(-self.share * share * gained)
        return torch.stack(losses).sum()

    def clipped_loss(
        self, old: Mapping[int, Distribution], new: Mapping[int, Distribution], clip: float
    ) -> tuple[Float[Tensor, ""], Metrics]:
        """Return minus PPO's objective after adaptation, and how far the policies moved."""
        losses, clipped_shares = [], []
        for k, share, gain in self.gains():
            samples = self.episodes[k]
            weight = self.share * samples.weight / len(samples.weight)
            each, measured = clipped_loss(samples.log_ratio(new[k]), gain, weight, clip)
            losses.append(share * each)
            clipped_shares.append(share / self.total * measured["outer/clipped_share"])
        return torch.stack(losses).sum(), {
            "outer/kl": self.divergence(old, new),
            "outer/clipped_share": torch.stack(clipped_shares).sum(),
        }

    def divergence(
        self, old: Mapping[int, Distribution], new: Mapping[int, Distribution]
    ) -> Float[Tensor, ""]:
        """Return the mean KL divergence of the counted stages' policies, in nats per step."""
        shares = [share * self.moved(old, new, k) for k, share in self.counted.items()]
        return torch.stack(shares).sum()

    def moved(
        self, old: Mapping[int, Distribution], new: Mapping[int, Distribution], stage: int
    ) -> Float[Tensor, ""]:
        """Return the mean KL divergence of one stage's policies, in nats per step."""
        return self.share * self.episodes[stage].mean_over_tasks(old[stage].kl(new[stage]))


def of_tasks(
    policies: Mapping[int, Distribution], which: Part | None
) -> Mapping[int, Distribution]:
    """Return the policies of some of the tasks; None is all of them."""
    if which is None:
        return policies
    found: dict[int, Distribution] = pytree.tree_map(lambda x: x[which.rows.to(x.device)], policies)
    return found


class MAML(PolicyAgent):
    """Learns the θ that is best after adaptation, by the gradient through the inner steps.

    θ holds the policy's parameters and the step sizes of the inner steps, if these are learned.
    Both are part of the same outer step, and of the context.

    Args:
        loss: The loss of an inner step.
    """

    config: MAMLConfig
    inner: InnerLoop

    def __init__(
        self,
        config: MAMLConfig,
        policy: MLPPolicy,
        loss: InnerLoss,
        device: torch.device,
        seed: int,
    ) -> None:
        super().__init__(config, policy, device, seed, config.inner_loop(policy, loss))
        self.theta |= config.learned_step_sizes(self.theta, self.inner)

    def stages(self, batch: MetaBatch) -> Stages:
        """Return a meta-batch as the next outer step sees it."""
        return Stages(
            self.inner,
            [self.samples(rollout) for rollout in batch.rollouts],
            self.config.stage_weights(self.meta_updates),
            self.config.is_first_order(self.meta_updates),
            1 / world().size,
            self.credit(batch.rollouts),
            self.config.exploration_weight,
        )

    def credit(self, rollouts: Sequence[Rollout]) -> Mapping[int, Float[Tensor, "M"]]:
        """Return the credit of steps before adaptation; empty without E-MAML's term."""
        config = self.config
        if config.exploration_weight == 0:
            return {}
        weights = config.stage_weights(self.meta_updates)
        return credit_before_adaptation(rollouts, weights, config.gamma, config.normalize_advantage)

    def open_surrogate(
        self, batch: MetaBatch, stages: Stages, loss: Callable[[Params], Tensor]
    ) -> Surrogate:
        """Show an outer step's objective, for inspection."""
        last, query = stages.all[-1], stages.episodes[-1]

        def log_ratio(theta: Params) -> Tensor:
            policy = stages.policies(theta, [last])[last]
            return from_by_task(query.log_ratio(policy), query.copies)

        return Surrogate(
            theta=self.theta,
            loss=loss,
            log_ratio=log_ratio,
            advantage=from_by_task(query.advantage, query.copies),
            rollout=batch.rollouts[-1],
            gamma=self.config.gamma,
            across_episodes=False,
            approximation="first-order bias" if stages.first_order else None,
        )
