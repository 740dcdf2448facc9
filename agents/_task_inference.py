"""The common base of agents that infer the task: a memory infers it, and a policy acts on that.

The memory learns by a loss of its own. The policy learns by PPO over whole trials. The inferred
task is a part of its state, and no gradient of the policy reaches the memory.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from agents._memory import MemoryAgent
from meta_rl.core.checks import check_above_zero, check_at_least, check_layers
from meta_rl.core.distributions import Distribution
from meta_rl.core.protocols import Surrogate
from meta_rl.core.ranks import part_at, places_in_order, sum_over_ranks, world
from meta_rl.core.seeding import make_generator, seeded
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Params, Rollout, Tasks, TimeStep
from meta_rl.learning.descent import descend
from meta_rl.learning.memory import MemoryConfig
from meta_rl.learning.normalization import RunningMoments
from meta_rl.learning.policy import MLPPolicyConfig
from meta_rl.learning.ppo import EntropyPPOConfig, clipped_loss_with_entropy, run_epochs
from meta_rl.learning.task_encoder import TaskEncoder
from meta_rl.learning.trials import (
    History,
    TrialConfig,
    packed,
    trial_advantage,
)


@dataclass(frozen=True)
class TaskInferenceConfig(EntropyPPOConfig, MLPPolicyConfig, TrialConfig, MemoryConfig):
    """Settings of a memory that infers the task, and of a PPO policy on state and inferred task."""

    outer_lr: float = 7e-4
    """Step size of the policy's Adam, above 0."""
    max_gradient_norm: float = 1.0
    """Largest norm of a gradient of the policy or the encoder, above 0. Longer gradients are scaled
    down to it."""
    normalize_inputs: bool = True
    """Scale observations, rewards and the task variable by their running moments."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Units of each hidden layer of the policy, each at least 1."""
    min_std: float = 0.05
    """Smallest standard deviation of continuous actions, in the actions' unit, above 0."""
    encoder_sizes: tuple[int, ...] = (64,)
    """Units of each layer of the encoder before its memory, each at least 1."""
    memory_size: int = 64
    """Units of the encoder's memory (H), at least 1."""
    task_size: int = 5
    """Dimensions of the latent space of tasks (L), at least 1."""
    encoder_lr: float = 3e-3
    """Step size of the encoder's Adam, above 0."""
    encoder_updates: int = 40
    """Gradient steps of the encoder in each meta-update, at least 1."""
    encoder_trials: int = 20
    """Trials that each gradient step of the encoder learns from, at least 2."""

    def __post_init__(self) -> None:
        for part in (EntropyPPOConfig, MLPPolicyConfig, TrialConfig, MemoryConfig):
            part.__post_init__(self)
        check_at_least(1, self, "task_size", "encoder_updates")
        check_at_least(2, self, "encoder_trials")
        check_above_zero(self, "encoder_lr")
        check_layers(self, "encoder_sizes")


class TaskInference(MemoryAgent):
    """Infers the task, and acts on the state and the inferred task.

    The context is the encoder's `memory`, and its latest `output` (M, N, V). An agent adds
    `improve_encoder`, and `variable` if its task variable is not the output itself.

    Args:
        outputs: Numbers in the encoder's output (V).
    """

    config: TaskInferenceConfig

    def __init__(
        self,
        config: TaskInferenceConfig,
        spec: EnvSpec,
        device: torch.device,
        seed: int,
        outputs: int,
    ) -> None:
        super().__init__(config.normalize_inputs, spec, device)
        self.config = config
        self.phases = config.phases
        with seeded(seed, "init"):
            self.inference = nn.ModuleDict(self.make_inference(outputs)).to(device)
            self.policy = config.policy(spec, beside=outputs).to(device)
        self.optimizers = {
            "policy": torch.optim.Adam(self.policy.parameters(), lr=config.outer_lr, eps=1e-5),
            "encoder": torch.optim.Adam(self.inference.parameters(), lr=config.encoder_lr),
        }
        self.generator = make_generator(seed, "update")
        self.variable_moments = RunningMoments.empty((outputs,), device)

    def make_inference(self, outputs: int) -> dict[str, nn.Module]:
        """Make the modules that learn by the encoder's loss, including the encoder."""
        config, spec = self.config, self.spec
        inputs = spec.observation_size + spec.action_size + 2
        steps = config.episodes_per_trial * spec.horizon + 1  # and after the last one
        return {"encoder": TaskEncoder(config, inputs, config.encoder_sizes, outputs, steps)}

    @property
    def encoder(self) -> TaskEncoder:
        """The encoder, which infers the task."""
        encoder = self.inference["encoder"]
        assert isinstance(encoder, TaskEncoder)
        return encoder

    def variable(self, output: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
        """Return the task variable of an output of the encoder."""
        return output

    @property
    def remembering(self) -> TaskEncoder:
        """The network with the memory of the trial."""
        return self.encoder

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Any]:
        """Start with an empty memory, and the encoder's output for it."""
        nothing = torch.zeros(len(tasks), copies, self.config.memory_size, device=self.device)
        memory = super().begin(tasks, copies, training)
        return {"memory": memory, "output": self.encoder.head(nothing).detach()}

    def remember(
        self, context: dict[str, Any], timestep: TimeStep
    ) -> tuple[Float[Tensor, "M N V"], dict[str, Any]]:
        """Return the encoder's output after a step, and the new context."""
        output, memory = super().remember(context["memory"], timestep)
        kept = torch.where(timestep.valid.unsqueeze(-1), output, context["output"])
        return output, {"memory": memory, "output": kept}

    def policy_of(self, known: Float[Tensor, "M N V"], timestep: TimeStep) -> Distribution:
        """Return the policy in a state, given the encoder's output."""
        policy: Distribution = self.policy(self.shown(timestep.obs, self.variable(known)))
        return policy

    def shown(
        self, obs: Float[Tensor, "*B O"], variable: Float[Tensor, "*B V"]
    ) -> Float[Tensor, "*B OV"]:
        """Return the policy's input: the state and the task variable."""
        if self.config.normalize_inputs:
            obs = self.obs_moments.normalize(obs)
            variable = self.variable_moments.normalize(variable)
        return torch.cat([obs, variable.to(obs.dtype)], dim=-1)

    def outputs(self, history: History) -> Float[Tensor, "T1 B V"]:
        """Return the encoder's outputs before each step of trials, and after the last."""
        inputs = self.inputs(history.seen()).flatten(1, 2).to(self.encoder.head.weight.dtype)
        output: Tensor = self.encoder(inputs, self.encoder.memory.empty(inputs.shape[1]))[0]
        return output

    @torch.no_grad()
    def variables(self, rollout: Rollout) -> Float[Tensor, "T M N V"]:
        """Return the task variables that packed trials were played with."""
        found = self.variable(self.outputs(History.played(rollout))[:-1])
        by_world: Tensor = found.unflatten(1, rollout.reward.shape[1:])
        return by_world

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Improve the policy by the trials as they were played, and then the encoder."""
        rollout = packed(Rollout.concatenate(batch.rollouts)).masked()
        variable = self.variables(rollout)
        metrics = self.improve_policy(rollout, variable)
        metrics |= self.improve_encoder(History.played(rollout), batch.tasks)
        self.see(rollout)  # only now: the trials were played with the old moments
        if self.config.normalize_inputs:
            self.variable_moments = self.variable_moments.merge(variable, rollout.valid)
        return metrics

    def improve_encoder(self, history: History, tasks: Tasks) -> Metrics:
        """Let the encoder learn from trials that were played just now, of M tasks."""
        raise NotImplementedError(f"{type(self).__name__} must say how its encoder learns")

    def rewarded(self, rollout: Rollout) -> Rollout:
        """Return packed trials with the rewards that the policy learns from: here, unchanged."""
        return rollout

    def improve_policy(self, rollout: Rollout, variable: Float[Tensor, "T M N V"]) -> Metrics:
        """Take epochs of clipped policy-gradient steps on the steps of whole trials.

        A minibatch holds the same steps as in a single process. Each rank differentiates the steps
        that it has played.
        """
        valid = rollout.valid
        state = self.shown(rollout.obs, variable)[valid]
        advantage = trial_advantage(self.rewarded(rollout), self.config)
        columns = (rollout.action, rollout.log_prob, advantage)
        action, log_prob, advantage = (column[valid] for column in columns)
        time, column = valid.flatten(1).nonzero().cpu().unbind(1)
        worlds = valid[0].numel()
        number = (time * world().size + world().rank) * worlds + column
        places = places_in_order(number)

        def step(which: Int[Tensor, "D"]) -> Metrics:
            part = part_at(places[which])
            rows = part.rows.to(self.device)
            policy = self.policy(state[rows])
            weight = torch.full_like(log_prob[rows], 1 / len(which) if part.share else 0.0)
            log_ratio = policy.log_prob(action[rows]) - log_prob[rows]
            loss, metrics = clipped_loss_with_entropy(
                policy, log_ratio, advantage[rows], weight, self.config
            )
            norm = self.descend("policy", loss)
            self.policy.keep_floor(dict(self.policy.named_parameters()))
            return sum_over_ranks(metrics) | {"outer/gradient_norm": norm}

        return run_epochs(step, len(places), self.config, self.generator)

    def descend(self, name: str, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Take a step of one of the optimizers against a loss; return the gradient's norm."""
        return descend(self.optimizers[name], loss, self.config.max_gradient_norm)

    def surrogate(self, batch: MetaBatch) -> Surrogate:
        """Open the policy's objective on all trials for inspection."""
        rollout = packed(Rollout.concatenate(batch.rollouts)).masked()
        state = self.shown(rollout.obs, self.variables(rollout))
        rollout = self.rewarded(rollout)
        advantage = trial_advantage(rollout, self.config).to(state.dtype)
        weight = (rollout.valid / rollout.valid.sum()).to(state.dtype)
        policy = deepcopy(self.policy).to(state.dtype)  # in the precision of the meta-batch

        def played(theta: Params) -> tuple[Tensor, Distribution]:
            acting: Distribution = functional_call(policy, theta, (state,))
            return acting.log_prob(rollout.action) - rollout.log_prob, acting

        def loss(theta: Params) -> Tensor:
            log_ratio, acting = played(theta)
            return clipped_loss_with_entropy(acting, log_ratio, advantage, weight, self.config)[0]

        return Surrogate(
            theta={name: value.detach() for name, value in policy.named_parameters()},
            loss=loss,
            log_ratio=lambda theta: played(theta)[0],
            advantage=advantage,
            rollout=rollout,
            gamma=self.config.gamma,
            across_episodes=True,
            approximation=None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all modules, the moments of Adam and of the inputs, and the shuffling's state."""
        return {
            "policy": self.policy.state_dict(),
            "inference": self.inference.state_dict(),
            "optimizer": {name: each.state_dict() for name, each in self.optimizers.items()},
            "generator": self.generator.get_state(),
            **self.moments_state(),
            "variable_moments": vars(self.variable_moments),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.policy.load_state_dict(state["policy"])
        self.inference.load_state_dict(state["inference"])
        if "optimizer" in state:  # a trimmed state is not trained on
            for name, optimizer in self.optimizers.items():
                optimizer.load_state_dict(deepcopy(state["optimizer"][name]))  # Adam keeps tensors
            self.generator.set_state(state["generator"].cpu())
        if "moments" in state:  # as earlier versions wrote them
            state = {f"{name}_moments": each for name, each in state["moments"].items()}
        self.load_moments(state)
        self.variable_moments = RunningMoments.loaded(state["variable_moments"], self.device)
