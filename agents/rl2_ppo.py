"""RL²: a policy that learns within its memory, trained by PPO."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from math import atanh, ceil, log
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from agents._memory import MemoryAgent
from meta_rl.core.checks import check_above_zero, check_at_least, check_layers
from meta_rl.core.distributions import Distribution, Gaussian
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Surrogate
from meta_rl.core.ranks import part_of, sum_over_ranks, world
from meta_rl.core.seeding import make_generator, seeded
from meta_rl.core.spaces import choices
from meta_rl.core.threads import side_by_side
from meta_rl.core.types import (
    EnvSpec,
    MetaBatch,
    Metrics,
    Params,
    Rollout,
    TimeStep,
    map_tensors,
)
from meta_rl.learning.critic import ValueHead
from meta_rl.learning.memory import MemoryConfig, State, build_memory, by_world, in_a_row
from meta_rl.learning.networks import layers
from meta_rl.learning.policy import choice_of
from meta_rl.learning.ppo import EntropyPPOConfig, clipped_loss_with_entropy, run_epochs
from meta_rl.learning.trials import (
    TrialConfig,
    cut,
    handed_on,
    in_order,
    packed,
    to_go,
    trial_advantage,
)


@dataclass(frozen=True)
class Config(EntropyPPOConfig, TrialConfig, MemoryConfig):
    """RL²: a policy with a memory of several episodes, trained by PPO (Duan et al. 2016)."""

    outer_lr: float = 5e-4
    """Step size of Adam, above 0."""
    bptt_steps: int = 250
    """Largest number of steps that gradients flow back through, at least 1. Trials are cut into
    pieces of equal length, at most this."""
    critic: bool = False
    """Learn a value head on the memory, in place of the linear baseline. The head predicts the
    return of the rest of the trial. The baseline is fitted to each task's own episodes."""
    value_coefficient: float = 0.5
    """Weight of the critic's squared error in the objective, above 0."""
    normalize_inputs: bool = True
    """Scale observations and remembered rewards by their running moments."""
    encoder_sizes: tuple[int, ...] = (128, 128)
    """Units of each layer before the memory, each at least 1."""
    initial_std: float = 1.0
    """Initial standard deviation of continuous actions (σ), in the actions' unit, between min_std
    and max_std. It then depends on the memory."""
    min_std: float = 0.05
    """Smallest standard deviation of continuous actions, in the actions' unit, above 0."""
    max_std: float = 1.5
    """Largest standard deviation of continuous actions, in the actions' unit, at least min_std."""

    def __post_init__(self) -> None:
        for part in (EntropyPPOConfig, TrialConfig, MemoryConfig):
            part.__post_init__(self)
        check_at_least(1, self, "bptt_steps")
        check_layers(self, "encoder_sizes")
        check_above_zero(self, "min_std", "value_coefficient")
        if not self.min_std <= self.initial_std <= self.max_std:
            raise UserError(
                f"agent.initial_std must lie between min_std {self.min_std} and max_std "
                f"{self.max_std}, got {self.initial_std}"
            )
        if self.critic and self.bootstrap_at_horizon:
            raise UserError(
                "agent.critic learns the return of a trial that ends at its horizon, so "
                "agent.bootstrap_at_horizon must be false"
            )


STEPS_AT_ONCE = 2**13
"""Steps that a thread backpropagates at a time on a CPU, at least those of one piece."""


class RecurrentPolicy(nn.Module):
    """Encoder, memory, and a head: a Gaussian's mean and deviation, or the logits of choices.

    With a critic, a second head predicts the return of the rest of the trial.
    """

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        super().__init__()
        sizes = [spec.observation_size + spec.action_size + 2, *config.encoder_sizes]
        self.encoder = layers(sizes, nn.Tanh)
        self.memory = build_memory(config, sizes[-1], config.episodes_per_trial * spec.horizon)
        self.choices = choices(spec.action_space)
        outputs = spec.action_size if self.choices else 2 * spec.action_size
        self.head = nn.Linear(config.memory_size, outputs)
        with torch.no_grad():  # begin with the same wide distribution everywhere
            self.head.weight.mul_(0.01)
            self.head.bias[: spec.action_size] = 0.0
            self.head.bias[spec.action_size :] = self.unbounded(log(config.initial_std), config)
        self.log_std_bounds = (log(config.min_std), log(config.max_std))
        self.critic = ValueHead(config.memory_size) if config.critic else None

    @staticmethod
    def unbounded(log_std: float, config: Config) -> float:
        """Return the input for which `bounded` gives this log deviation, or nearly, at a bound."""
        low, high = log(config.min_std), log(config.max_std)
        if low == high:
            return 0.0
        return atanh(min(max(2 * (log_std - low) / (high - low) - 1, -0.999), 0.999))

    def bounded(self, raw: Float[Tensor, "*B"]) -> Float[Tensor, "*B"]:
        """Bound log deviations smoothly: beyond a hard bound, nothing is learned."""
        low, high = self.log_std_bounds
        return low + (high - low) / 2 * (1 + raw.tanh())

    def forward(
        self, inputs: Float[Tensor, "T B I"], state: State
    ) -> tuple[Distribution, Float[Tensor, "T B"] | None, State]:
        """Return the action distributions along time, the critic's values, and the last state.

        The values are scaled, as `ValueHead` has them. Without a critic there are none.
        """
        remembered, last = self.memory.sequence(self.encoder(inputs), state)
        value = None if self.critic is None else self.critic(remembered)
        return self.distribution(remembered), value, last

    def step(
        self, inputs: Float[Tensor, "B I"], state: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B H"], State]:
        """Return the memory's output at one step, and its new state; see `Memory.step`."""
        return self.memory.step(self.encoder(inputs), state, valid)

    def distribution(self, remembered: Float[Tensor, "*B H"]) -> Distribution:
        """Return the distributions of actions, given the memory's output."""
        if self.choices:
            return choice_of(self.head(remembered), self.choices)
        mean, log_std = self.head(remembered).chunk(2, dim=-1)
        return Gaussian(mean, self.bounded(log_std))


@dataclass(frozen=True)
class Trials:
    """Trials as the update sees them: B columns of T steps without padding between episodes.

    `pieces` cuts T into C pieces of L steps, (L, C, B), for the policy to play side by side.
    """

    inputs: Float[Tensor, "*T B I"]
    action: Float[Tensor, "*T B A"]
    log_prob: Float[Tensor, "*T B"]
    advantage: Float[Tensor, "*T B"]
    target: Float[Tensor, "*T B"]
    """Return of the rest of the trial, in the critic's scale; 0 without a critic."""
    valid: Bool[Tensor, "*T B"]

    def pieces(self, longest: int) -> "Trials":
        """Cut the trials into as few pieces of equal length as have at most `longest` steps."""
        return map_tensors(lambda column: cut(column, longest), self)

    def of(self, which: Int[Tensor, "D"]) -> "Trials":
        """Return the pieces of some of the trials."""
        return map_tensors(lambda column: column[:, :, which], self)


class RL2PPO(MemoryAgent):
    """Adapts by a memory of the trial, which it trains by PPO."""

    learns_over_ranks = True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config.normalize_inputs, spec, device)
        self.config = config
        self.phases = config.phases
        with seeded(seed, "init"):
            self.policy = RecurrentPolicy(config, spec).to(device)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=config.outer_lr, eps=1e-5)
        self.generator = make_generator(seed, "update")

    @property
    def remembering(self) -> RecurrentPolicy:
        """The network with the memory of the trial."""
        return self.policy

    def policy_of(self, known: Float[Tensor, "M N H"], timestep: TimeStep) -> Distribution:
        """Return the policy, given the memory's output."""
        return self.policy.distribution(known)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Take epochs of clipped policy-gradient steps on whole trials, with memories recomputed.

        Trials are cut into pieces that are played side by side, because a long trial of few
        columns keeps no processor busy. A piece starts from the last memory of the piece before it.
        In the first epoch that is from the policy that collected, later from the epoch before.

        A minibatch holds the same trials as in a single process; each rank differentiates those
        that it has played.
        """
        rollout = Rollout.concatenate(batch.rollouts)
        self.scale_critic(rollout, self.policy)
        trials = self.prepare(rollout, self.policy).pieces(self.config.bptt_steps)
        memory = self.memories(trials, self.policy)
        count = trials.valid.shape[-1]

        def step(which: Int[Tensor, "D"]) -> Metrics:
            part = part_of(which, count)
            rows = part.rows.to(self.device)
            some = trials.of(rows)
            if not part.share:
                some = replace(some, valid=torch.zeros_like(some.valid))
            metrics, after = self.step(some, tree_map(lambda column: column[:, rows], memory))
            if part.share:
                tree_map(lambda column, own: column.index_copy_(1, rows, own), memory, after)
            return metrics

        metrics = run_epochs(
            step,
            count * world().size,
            self.config,
            self.generator,
        )
        self.see(rollout)  # only now: the trials were played with the old moments
        return metrics

    def step(self, trials: Trials, memory: State) -> tuple[Metrics, State]:
        """Take one Adam step on a minibatch of trials; return the memories for the next epoch.

        Pieces do not wait for one another. So on a CPU they are differentiated in lots of a few,
        several lots side by side. Backpropagation keeps kilobytes of every step, and a GRU's own
        operations are too small to be shared out.

        Args:
            memory: The memory at the start of each piece, (C, B, ...).
        """
        parameters = list(self.policy.parameters())
        flat = map_tensors(lambda column: column.flatten(1, 2), trials)  # (L, C * B)
        starts, steps = in_a_row(memory), sum_over_ranks(flat.valid.sum())

        @torch.enable_grad()
        def differentiate(which: Int[Tensor, "P"]) -> tuple[Metrics, State, list[Tensor]]:
            some = map_tensors(lambda column: column[:, which], flat)
            start = tree_map(lambda part: part[which], starts)
            policy, value, last = self.policy(some.inputs, start)
            loss, metrics = self.loss(some, policy, value, steps)
            return metrics, last, list(torch.autograd.grad(loss, parameters))

        lots = self.lots(*trials.valid.shape)
        found, ends, gradients = zip(*side_by_side(differentiate, lots), strict=True)
        gradient = [torch.stack(each).sum(0) for each in zip(*gradients, strict=True)]
        total = {name: torch.stack([each[name] for each in found]).sum() for name in found[0]}
        gradient, total = sum_over_ranks((gradient, total))
        for parameter, slope in zip(parameters, gradient, strict=True):
            parameter.grad = slope
        norm = nn.utils.clip_grad_norm_(parameters, self.config.max_gradient_norm)
        self.optimizer.step()
        last = tree_map(lambda *parts: torch.cat(parts), *ends)
        last = by_world(last, trials.valid.shape[1:])
        return total | {"outer/gradient_norm": norm}, handed_on(memory, last)

    def lots(self, length: int, pieces: int, trials: int) -> list[Int[Tensor, "P"]]:
        """Return which pieces of which trials are differentiated together, of (C * B)."""
        every = torch.arange(pieces * trials, device=self.device)
        if self.device.type != "cpu":
            return [every]
        # Later pieces of a trial have more to attend to, so no lot mixes them with earlier ones.
        together = every.split(trials) if self.policy.memory.costs_its_past else [every]
        fitting = max(1, STEPS_AT_ONCE // length)
        lots: list[Tensor] = []
        for some in together:
            busy = min(ceil(torch.get_num_threads() / len(together)), len(some))
            lots += some.tensor_split(max(ceil(len(some) / fitting), busy))
        return lots

    @torch.no_grad()
    def memories(self, trials: Trials, policy: RecurrentPolicy) -> State:
        """Return a policy's memory at the start of each piece, (C, B, ...)."""
        memory = [policy.memory.empty(trials.valid.shape[-1])]
        for inputs in trials.inputs.unbind(1)[:-1]:
            memory.append(policy(inputs, memory[-1])[2])
        return tree_map(lambda *parts: torch.stack(parts), *memory)

    def play(
        self,
        trials: Trials,
        memory: State,
        policy: Callable[[Tensor, State], tuple[Distribution, Tensor | None, State]],
    ) -> tuple[Distribution, Float[Tensor, "L C B"] | None, State]:
        """Play all pieces at once, each from its memory.

        Returns the policy and the values in them, and the memories for the next time.
        """
        shape = trials.valid.shape[1:]
        acting, value, last = policy(trials.inputs.flatten(1, 2), in_a_row(memory))
        acting = tree_map(lambda part: part.unflatten(1, shape), acting)
        value = None if value is None else value.unflatten(1, shape)
        return acting, value, handed_on(memory, by_world(last, shape))

    def loss(
        self,
        trials: Trials,
        policy: Distribution,
        value: Float[Tensor, "*T B"] | None,
        steps: Int[Tensor, ""],
    ) -> tuple[Float[Tensor, ""], Metrics]:
        """Return these trials' part of the mean loss over `steps` steps, and its metrics."""
        weight = trials.valid / steps
        log_ratio = policy.log_prob(trials.action) - trials.log_prob
        loss, metrics = clipped_loss_with_entropy(
            policy, log_ratio, trials.advantage, weight, self.config
        )
        if value is not None:
            error = (weight * (value - trials.target) ** 2 / 2).sum()
            metrics["critic/error"] = error.detach()
            loss = loss + self.config.value_coefficient * error
        return loss, metrics

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the objective of the first epoch, on all trials at once, for inspection."""
        rollout = packed(Rollout.concatenate(batch.rollouts))
        # A copy in the precision of the meta-batch, because a GRU keeps the parameters of its last
        # call.
        policy = deepcopy(self.policy).to(rollout.reward.dtype)
        self.scale_critic(rollout, policy)
        trials = self.prepare(rollout, policy)
        pieces = trials.pieces(self.config.bptt_steps)
        memory = self.memories(pieces, policy)

        def play(theta: Params) -> tuple[Distribution, Tensor | None]:
            acting, value, _ = self.play(
                pieces, memory, lambda *given: functional_call(policy, theta, given)
            )
            return acting, value

        def log_ratio(theta: Params) -> Tensor:
            log_prob = play(theta)[0].log_prob(pieces.action) - pieces.log_prob
            return in_order(log_prob, len(trials.valid)).reshape(rollout.reward.shape)

        return Surrogate(
            theta={name: value.detach() for name, value in policy.named_parameters()},
            loss=lambda theta: self.loss(pieces, *play(theta), pieces.valid.sum())[0],
            log_ratio=log_ratio,
            advantage=trials.advantage.unflatten(1, rollout.reward.shape[1:]),
            rollout=rollout,
            gamma=self.config.gamma,
            across_episodes=True,
            approximation=None,
        )

    def prepare(self, rollout: Rollout, policy: RecurrentPolicy) -> Trials:
        """Compute advantages across the trial and close the gaps that padding left.

        Args:
            policy: The policy that collected; its critic gives the values, if it has one.
        """
        rollout = packed(rollout).masked()
        with torch.no_grad():
            inputs = self.inputs(rollout)
        none = torch.zeros_like(rollout.reward)
        columns = (inputs, rollout.action, rollout.log_prob, none, none, rollout.valid)
        trials = Trials(*(column.flatten(1, 2) for column in columns))
        value, target = None, none
        if policy.critic is not None:
            value = policy.critic.unscaled(self.values(trials, policy))
            value = value.unflatten(1, rollout.valid.shape[1:])
            target = policy.critic.scaled(to_go(rollout, self.config.gamma))
        advantage = trial_advantage(rollout, self.config, value)
        return replace(trials, advantage=advantage.flatten(1, 2), target=target.flatten(1, 2))

    @torch.no_grad()
    def values(self, trials: Trials, policy: RecurrentPolicy) -> Float[Tensor, "T B"]:
        """Return the scaled values of a policy's critic at each step of whole trials."""
        memory, values = policy.memory.empty(trials.valid.shape[-1]), []
        for inputs in cut(trials.inputs, self.config.bptt_steps).unbind(1):
            _, value, memory = policy(inputs, memory)
            values.append(value)
        return torch.cat(values)[: len(trials.valid)]

    def scale_critic(self, rollout: Rollout, policy: RecurrentPolicy) -> None:
        """Update the scale of a policy's critic, if it has one, with the returns to go."""
        if policy.critic is not None:
            rollout = packed(rollout).masked()
            policy.critic.rescale(to_go(rollout, self.config.gamma), rollout.valid)

    def state_dict(self) -> dict[str, Any]:
        """Return the policy, Adam's moments, the running moments and the shuffling's state."""
        return {
            "log_std": "bounded by tanh",
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            **self.moments_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if "log_std" not in state:
            raise UserError(
                "the checkpoint is of an earlier rl2_ppo, which clipped the standard deviation at "
                "its bounds. This one bounds it smoothly, so the parameters mean something else: "
                "train a new run"
            )
        self.policy.load_state_dict(state["policy"])
        if "optimizer" in state:  # a trimmed state is not trained on
            self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # Adam keeps the tensors
            self.generator.set_state(state["generator"].cpu())
        self.load_moments(state)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> RL2PPO:
    """Make the agent with its initial parameters."""
    return RL2PPO(config, spec, device, seed)
