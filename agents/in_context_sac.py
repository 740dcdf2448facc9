"""In-context soft actor-critic: a memory of the trial, learned off-policy from stored trials."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import pad

from agents._memory import MemoryAgent
from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.distributions import TanhGaussian
from meta_rl.core.errors import UserError
from meta_rl.core.ranks import dealt, sum_over_ranks
from meta_rl.core.seeding import SharedOutNoise, make_generator, seeded
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Rollout, TimeStep
from meta_rl.learning.descent import descend
from meta_rl.learning.discounts import DiscountedActorCritic
from meta_rl.learning.memory import MemoryConfig, State, build_memory
from meta_rl.learning.metrics import mean_of
from meta_rl.learning.networks import layers
from meta_rl.learning.replay import KeepsReplay, Replay
from meta_rl.learning.sac import ActorCriticConfig
from meta_rl.learning.trials import History, TrialLength, last_of_trial, packed


@dataclass(frozen=True)
class Config(ActorCriticConfig, TrialLength, MemoryConfig):
    """In-context actor-critic on replayed trials (AMAGO, Grigsby et al. 2024; Ni et al. 2022)."""

    gammas: tuple[float, ...] = (0.9, 0.97, 0.99)
    """Discounts per environment step (γ), each at least 0 and below 1. They run across the episodes
    of a trial. Each discount has its own policy and values. The policy of the last one acts."""
    temperature: float = 0.1
    """Weight of the policy's entropy (α), above 0, relative to values divided by their running
    standard deviation. With learn_temperature, this is the initial weight."""
    learn_temperature: bool = True
    """Adjust the temperatures so that the policies' entropies approach target_entropy."""
    hidden_sizes: tuple[int, ...] = (128, 128)
    """Units of each hidden layer of the actor and of each critic, each at least 1."""
    encoder_sizes: tuple[int, ...] = (128,)
    """Units of each layer before the memory, each at least 1."""
    max_gradient_norm: float = 1.0
    """Largest norm of a gradient, above 0. Longer gradients are scaled down to it."""
    normalize_inputs: bool = True
    """Scale observations and remembered rewards by their running moments."""
    replay_trials: int = 2000
    """Size of the replay in trials, at least 1. The oldest trials are dropped."""
    gradient_steps: int = 100
    """Gradient steps of each meta-update, at least 1."""
    update_trials: int = 32
    """Trials that a gradient step draws from the replay, at least 1."""
    piece_steps: int = 100
    """Consecutive steps of each drawn trial that a gradient step learns from, at least 1. Earlier
    steps only set the memory, without gradients."""

    def __post_init__(self) -> None:
        for part in (ActorCriticConfig, TrialLength, MemoryConfig):
            part.__post_init__(self)
        counts = ("replay_trials", "gradient_steps", "update_trials", "piece_steps")
        check_at_least(1, self, *counts)
        check_above_zero(self, "max_gradient_norm")
        if not self.gammas or not all(0 <= gamma < 1 for gamma in self.gammas):
            raise UserError(
                f"agent.gammas must be one or more numbers in [0, 1), got {self.gammas}"
            )
        for name in ("hidden_sizes", "encoder_sizes"):
            sizes = getattr(self, name)
            if not sizes or any(size < 1 for size in sizes):
                raise UserError(
                    f"agent.{name} must be one or more numbers of at least 1, got {sizes}"
                )


class TrialNetwork(nn.Module):
    """Encoder, memory, and an actor and critics on the memory's output and the inputs.

    One memory learns by the losses of actor and critics together, as in AMAGO.
    """

    def __init__(self, config: Config, spec: EnvSpec) -> None:
        super().__init__()
        inputs = spec.observation_size + spec.action_size + 2
        self.encoder = layers([inputs, *config.encoder_sizes])
        states = config.episodes_per_trial * spec.horizon + 1  # of every step, and after the last
        self.memory = build_memory(config, config.encoder_sizes[-1], states)
        state_size = config.memory_size + inputs
        self.heads = DiscountedActorCritic(config, state_size, config.gammas, spec)

    def states(self, inputs: Float[Tensor, "T B I"], start: int) -> Float[Tensor, "P B S"]:
        """Return the states of trials from `start` on; the steps before it only set the memory.

        No gradient flows into the steps before.
        """
        memory = self.memory.empty(inputs.shape[1])
        if start:
            with torch.no_grad():
                _, memory = self.memory.sequence(self.encoder(inputs[:start]), memory)
        remembered, _ = self.memory.sequence(self.encoder(inputs[start:]), memory)
        return torch.cat([remembered, inputs[start:]], dim=-1)

    def step(
        self, inputs: Float[Tensor, "B I"], memory: State, valid: Bool[Tensor, "B"]
    ) -> tuple[Float[Tensor, "B S"], State]:
        """Return the states of one step, and the memory with it; see `Memory.step`."""
        remembered, memory = self.memory.step(self.encoder(inputs), memory, valid)
        return torch.cat([remembered, inputs], dim=-1), memory


class InContextSAC(MemoryAgent, KeepsReplay):
    """Adapts by a memory of the trial, and learns from all trials in its replay.

    The memory's inputs and the returns are RL²'s. A return counts the rewards of all episodes from
    now on, so exploration is worth its effect on later episodes. After the last step of a trial,
    the value of a failure is 0; beyond a truncation the values go on.

    The replay holds whole trials. A gradient step learns from a piece of each drawn trial. The
    memory at the piece's start is recomputed from the trial's first step with the present weights.
    A stored memory would come from old weights, and some steps of burn-in only ease that
    (Kapturowski et al. 2019). Recomputing needs no gradient, so it takes a third of the time.
    """

    learns_over_ranks = True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config.normalize_inputs, spec, device)
        self.config = config
        self.phases = config.phases
        self.trial_steps = config.episodes_per_trial * spec.horizon
        with seeded(seed, "init"):
            self.network = TrialNetwork(config, spec).to(device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.outer_lr)
        self.generator = make_generator(seed, "update")
        rows = History.none(spec).rows(self.trial_steps)
        failed = torch.zeros(0, dtype=torch.bool)
        self.replay = Replay(config.replay_trials, rows | {"failed": failed})

    @property
    def remembering(self) -> TrialNetwork:
        """The network with the memory of the trial."""
        return self.network

    def policy_of(self, known: Float[Tensor, "M N S"], timestep: TimeStep) -> TanhGaussian:
        """Return the policy of the last discount, which acts."""
        return self.network.heads.policy(known)

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Store the meta-batch's trials, and take gradient steps on trials of the replay."""
        rollout = packed(Rollout.concatenate(batch.rollouts)).masked()
        self.see(rollout)
        failed = (last_of_trial(rollout.valid) & rollout.terminated).any(0).flatten()
        self.keep(History.played(rollout).rows(self.trial_steps) | {"failed": failed})
        taken = []
        for _ in range(self.config.gradient_steps):
            rows = self.replay.sample(self.config.update_trials, self.generator)
            failed = rows.pop("failed").to(self.device)
            history = History.from_rows(rows, self.device)
            taken.append(self.gradient_step(history, failed, self.piece(history.valid)))
        return mean_of(taken) | {"replay/trials": torch.tensor(float(len(self.replay)))}

    def piece(self, valid: Bool[Tensor, "T B"]) -> slice:
        """Draw a piece of some trials, with a probability proportional to the steps in it.

        A gradient step learns from the mean over these steps. So each step counts the same: at the
        ends of a trial and in the middle, in long trials and in short ones.
        """
        steps = len(valid)
        longest = min(self.config.piece_steps, steps)
        each = pad(valid.sum(1).double().cpu(), (longest - 1, longest - 1))
        within = each.unfold(0, longest, 1).sum(1)
        start = int(torch.multinomial(within, 1, generator=self.generator)) + 1 - longest
        return slice(max(start, 0), min(start + longest, steps))

    def gradient_step(self, history: History, failed: Bool[Tensor, "B"], piece: slice) -> Metrics:
        """Take one step on the losses of critics and actor in a piece of some trials.

        Every rank has all of the trials, and differentiates its share of them.

        Args:
            failed: Whether a trial's last step was a failure, so that the value after it is 0.
        """
        count, steps = len(failed), history.valid[piece].sum()
        part, heads = dealt(count), self.network.heads
        own = part.rows.to(self.device)
        noise = SharedOutNoise(self.generator, part.rows, count, axis=1, device=self.device)
        history, failed = history.of(own), failed[own]
        seen = self.inputs(history.seen()).flatten(1, 2)[: piece.stop + 1]
        state = self.network.states(seen, piece.start)
        before, valid = state[:-1], history.valid[piece] & (part.share > 0)
        ended = last_of_trial(history.valid.unsqueeze(-1)).squeeze(-1)[piece] & failed
        target = heads.target(history.reward[piece], ended, state[1:].detach(), noise)
        heads.rescale(target, valid)
        weight = valid / steps
        critic_loss = heads.critic_loss(before, history.action[piece], target, weight)
        actor_loss, entropy = heads.actor_loss(before, weight, noise)
        norm = descend(
            self.optimizer,
            critic_loss + actor_loss,
            self.config.max_gradient_norm,
            clipped=self.all_but_temperatures,
        )
        heads.follow()
        # critic/error is half the squared error of one critic, and two were added up.
        summed = {"policy/entropy": entropy, "critic/error": critic_loss.detach() / 4}
        return sum_over_ranks(summed) | {
            "outer/gradient_norm": norm,
            "policy/temperature": heads.temperature[-1],
            "critic/mean": heads.mean[-1].clone(),
            "critic/std": heads.moments.std[-1].clone(),
        }

    @property
    def all_but_temperatures(self) -> list[nn.Parameter]:
        """The parameters that `max_gradient_norm` is for: all but the temperatures."""
        temperature = self.network.heads.log_temperature
        return [each for each in self.network.parameters() if each is not temperature]

    def state_dict(self) -> dict[str, Any]:
        """Return the network, the moments of Adam and of the inputs, and the generator's state."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            **self.moments_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        if "optimizer" in state:  # a trimmed state is not trained on
            self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # Adam keeps the tensors
            self.generator.set_state(state["generator"].cpu())
        self.load_moments(state)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> InContextSAC:
    """Make the agent with its initial parameters."""
    return InContextSAC(config, spec, device, seed)
