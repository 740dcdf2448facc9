"""PEARL: a policy that acts on a posterior of its task, learned off-policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_rl.core.checks import check_at_least, check_layers
from meta_rl.core.distributions import Gaussian, TanhGaussian
from meta_rl.core.errors import UserError
from meta_rl.core.ranks import Part, dealt, mean_of_parts
from meta_rl.core.seeding import Noise, SharedOutNoise, make_generator, seeded
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Phase, Rollout, Tasks, TimeStep
from meta_rl.learning.metrics import mean_of
from meta_rl.learning.policy import by_task
from meta_rl.learning.replay import KeepsReplay, Replay, RowsByTask, task_keys
from meta_rl.learning.sac import SACConfig, SACOptimizer, SoftActorCritic
from meta_rl.learning.task_posterior import ContextEncoder, gaussian, prior


@dataclass(frozen=True)
class Config(SACConfig):
    """PEARL: soft actor-critic with a posterior of the task (Rakelly et al. 2019, Alg. 1 and 2)."""

    prior_episodes: int = 2
    """Episodes that each copy plays before the first adaptation, at least 1. Each draws its own z
    from the prior."""
    posterior_episodes: int = 3
    """Training episodes that each copy plays with z from the posterior, at least 0. Adaptation
    refines the posterior before each of them."""
    posterior_context: bool = False
    """Also train the encoder on episodes with z from the posterior. Each gradient step then draws a
    phase, and the encoder sees the episodes up to it. Otherwise the encoder sees only episodes with
    z from the prior."""
    encode_next_obs: bool = False
    """Also show the encoder the next observation of each step, for tasks that differ in
    dynamics."""
    latent_size: int = 5
    """Dimensions of the latent task variable z, at least 1."""
    encoder_sizes: tuple[int, ...] = (200, 200, 200)
    """Units of each hidden layer of the context encoder, each at least 1."""
    kl_weight: float = 1.6
    """Weight of the posterior's KL divergence from the prior (β), at least 0, relative to the
    critics' loss. Both are means over tasks."""
    replay_steps: int = 1_000_000
    """Size of the replay in env steps of all tasks, at least 1. The oldest steps are dropped."""
    initial_steps: int = 0
    """Env steps in the replay before the first gradient step, at least 0 and at most
    replay_steps."""
    gradient_steps: int = 2000
    """Gradient steps of each meta-update, at least 1."""
    update_tasks: int = 16
    """Tasks that a gradient step draws from the replay, at least 1."""
    batch_size: int = 256
    """Steps of each drawn task that the actor and the critics learn from, at least 1."""
    context_size: int = 100
    """Steps of each drawn task that the encoder sees, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("prior_episodes", "latent_size", "replay_steps", "gradient_steps")
        check_at_least(1, self, *positive, "update_tasks", "batch_size", "context_size")
        check_at_least(0, self, "posterior_episodes", "kl_weight", "initial_steps")
        check_layers(self, "encoder_sizes")
        if self.initial_steps > self.replay_steps:
            raise UserError(
                f"agent.initial_steps must be at most replay_steps, which is {self.replay_steps}, "
                f"got {self.initial_steps}: the replay never holds more"
            )
        if self.posterior_context and self.posterior_episodes == 0:
            raise UserError(
                "agent.posterior_context needs episodes with z from the posterior; set "
                "agent.posterior_episodes to 1 or more"
            )


class PEARL(KeepsReplay):
    """Draws the task variable z for each episode from its posterior, and acts on state and z.

    The context is `natural`, the posterior's natural parameters (M, 2, Z), and `z` (M, N, Z), each
    copy's draw. All copies of a task are experience of the same task.

    The replay knows tasks by their names and indices. The paper has 100 fixed training tasks. When
    one is played again, its experience grows and its context is replaced. For families that draw
    new tasks for each meta-batch, the setting `train_tasks` fixes that many. Otherwise each task is
    played once. Then the critics learn from little more than the episodes that z is inferred from,
    and z need not tell what would happen elsewhere.

    Differs from the authors' code (katerakelly/oyster): the critics have targets themselves, in
    place of a network for the state's value (Haarnoja et al. 2019), and the policy's outputs are
    not regularized.
    """

    copies_share_experience = True
    learns_by_task = True
    learns_over_ranks = True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        self.config = config
        self.device = device
        self.phases = (Phase(config.prior_episodes),) + (Phase(1),) * config.posterior_episodes
        self.generator = make_generator(seed, "update")
        with seeded(seed, "init"):
            step_size = spec.observation_size + spec.action_size + 1
            step_size += spec.observation_size * config.encode_next_obs
            encoder = ContextEncoder(step_size, config.encoder_sizes, config.latent_size)
            sac = SoftActorCritic(config, spec.observation_size + config.latent_size, spec)
        self.encoder, self.sac = encoder.to(device), sac.to(device)
        self.optimizer = SACOptimizer(self.sac, self.encoder)
        self.meta_updates = 0
        self.replay = Replay(
            config.replay_steps,
            {
                "task": torch.zeros(0, dtype=torch.long),
                "meta_update": torch.zeros(0, dtype=torch.long),
                "phase": torch.zeros(0, dtype=torch.long),
                "obs": torch.zeros(0, spec.observation_size),
                "action": torch.zeros(0, spec.action_size),
                "reward": torch.zeros(0),
                "terminated": torch.zeros(0, dtype=torch.bool),
                "next_obs": torch.zeros(0, spec.observation_size),
            },
        )

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Tensor]:
        """Start every task from the prior."""
        natural = prior(len(tasks), self.config.latent_size, self.device)
        return self.supposing(natural, copies)

    def supposing(self, natural: Float[Tensor, "M 2 Z"], copies: int) -> dict[str, Tensor]:
        """Return the context of a posterior; z is its mean until an episode begins."""
        z = gaussian(natural).mean.unsqueeze(1).repeat(1, copies, 1)
        return {"natural": natural, "z": z}

    def act(
        self, context: dict[str, Tensor], timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], dict[str, Tensor]]:
        """Draw z where an episode begins, and then actions given z."""
        policy, context = self.acting(context, timestep, noise)
        action = policy.sample(noise)
        return action, policy.log_prob(action), context

    def distribution(
        self, context: dict[str, Tensor], timestep: TimeStep
    ) -> tuple[TanhGaussian, dict[str, Tensor]]:
        """Return the policy given the most likely z."""
        return self.acting(context, timestep, None)

    def acting(
        self, context: dict[str, Tensor], timestep: TimeStep, noise: Noise | None
    ) -> tuple[TanhGaussian, dict[str, Tensor]]:
        """Return the policy given z, which is drawn (without noise, the mean) at each start."""
        posterior, z = gaussian(context["natural"]), context["z"]
        drawn = posterior.mean.unsqueeze(1).expand_as(z)
        if noise is not None:
            std = posterior.log_std.exp().unsqueeze(1)
            drawn = drawn + std * noise.latent(z.shape, z.dtype)
        z = torch.where(timestep.first.unsqueeze(-1), drawn, z)
        policy = self.sac.policy(torch.cat([timestep.obs, z], dim=-1))
        return policy, {"natural": context["natural"], "z": z}

    @torch.no_grad()
    def adapt(self, context: dict[str, Tensor], rollout: Rollout) -> dict[str, Tensor]:
        """Update each task's posterior with the steps of all its copies (Alg. 2)."""
        seen = rollout.masked()
        columns = {name: by_task(getattr(seen, name)) for name in STEP}
        natural = context["natural"] + self.encoded(columns, by_task(seen.valid))
        return self.supposing(natural, context["z"].shape[1])

    def encoded(
        self, step: Mapping[str, Tensor], valid: Bool[Tensor, "M B"]
    ) -> Float[Tensor, "M 2 Z"]:
        """Return what steps (M, B, ...) add to their tasks' posteriors."""
        columns = [step["obs"], step["action"], step["reward"].unsqueeze(-1)]
        if self.config.encode_next_obs:
            columns.append(step["next_obs"])
        added: Tensor = self.encoder(torch.cat(columns, dim=-1), valid)
        return added

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Store the meta-batch, and take gradient steps on tasks of the replay (Alg. 1)."""
        self.store(batch)
        self.meta_updates += 1
        metrics = {"replay/steps": torch.tensor(float(len(self.replay)))}
        if len(self.replay) < max(self.config.initial_steps, 1):
            return metrics
        stored = self.replay.last
        phases = len(self.phases) if self.config.posterior_context else 1
        contexts, every = drawing(stored, phases)
        if not len(every):
            raise UserError(
                f"agent.replay_steps {self.config.replay_steps} does not hold the steps of one "
                f"meta-batch, so the replay has no first phase of any task; raise it"
            )
        metrics["replay/tasks"] = torch.tensor(float(len(every)))
        own, taken = dealt(self.config.update_tasks), []
        for _ in range(self.config.gradient_steps):
            which = torch.randint(len(every), (self.config.update_tasks,), generator=self.generator)
            recent = contexts[int(torch.randint(phases, (), generator=self.generator))]
            seen = recent.sample(which, self.config.context_size, self.generator)
            rows = every.sample(which, self.config.batch_size, self.generator)
            context, steps = (self.columns(stored, each[own.rows]) for each in (seen, rows))
            taken.append(self.gradient_step(context, steps, own))
        return metrics | mean_of(taken)

    def gradient_step(
        self, context: dict[str, Tensor], steps: dict[str, Tensor], own: Part
    ) -> Metrics:
        """One step on the critics and the encoder, then on the actor (Alg. 1, lines 12-21).

        Args:
            context: What the encoder sees of each task, columns (M, C, ...).
            steps: What the actor and the critics learn from, columns (M, B, ...).
            own: The update's tasks that are this rank's.
        """
        noise = SharedOutNoise(
            self.generator, own.rows, self.config.update_tasks, device=self.device
        )
        everything = torch.ones_like(context["reward"], dtype=torch.bool)
        start = prior(len(everything), self.config.latent_size, self.device)
        posterior = gaussian(start + self.encoded(context, everything))
        z = posterior.sample(noise).unsqueeze(1).expand(-1, steps["obs"].shape[1], -1)
        state = torch.cat([steps["obs"], z], dim=-1)
        next_state = torch.cat([steps["next_obs"], z.detach()], dim=-1)
        critic_loss = self.sac.critic_loss(
            state, steps["action"], steps["reward"], steps["terminated"], next_state, noise
        )
        kl = posterior.kl(Gaussian(torch.zeros_like(z[:, 0]), torch.zeros_like(z[:, 0]))).mean()
        loss = critic_loss + self.config.kl_weight * kl
        metrics = self.optimizer.step(loss, state, noise, own.share)
        found = {
            "outer/loss": critic_loss.detach(),
            "posterior/kl": kl.detach(),
            "posterior/std": posterior.log_std.detach().exp().mean(),
        }
        return metrics | mean_of_parts(found, own.share)

    def store(self, batch: MetaBatch) -> None:
        """Put all steps of a meta-batch into the replay."""
        for phase, rollout in enumerate(batch.rollouts):
            # Task by task: the rows of several ranks then follow each other as those of one do.
            valid = by_task(rollout.valid)
            keys = task_keys(batch.tasks).to(valid.device).unsqueeze(1).expand_as(valid)
            count = int(valid.sum())
            marks = {
                "task": keys[valid],
                "meta_update": torch.full((count,), self.meta_updates),
                "phase": torch.full((count,), phase),
            }
            self.keep(marks | {name: by_task(getattr(rollout, name))[valid] for name in STEP})

    def columns(self, stored: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        """Return some of the stored steps, on the device."""
        return {name: stored[name][rows].to(self.device) for name in STEP}

    def state_dict(self) -> dict[str, Any]:
        """Return the networks, Adam's moments, the generator's state and the meta-update count."""
        return {
            "encoder": self.encoder.state_dict(),
            "sac": self.sac.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "meta_updates": self.meta_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.encoder.load_state_dict(state["encoder"])
        self.sac.load_state_dict(state["sac"])
        self.meta_updates = state["meta_updates"]
        if "optimizer" in state:  # a trimmed state is not trained on
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"].cpu())


STEP = ("obs", "action", "reward", "terminated", "next_obs")
"""Columns of a step that updates learn from."""


def drawing(stored: Mapping[str, Tensor], phases: int) -> tuple[list[RowsByTask], RowsByTask]:
    """Return samplers of the stored steps: of the context up to each phase, and of all steps.

    A task's context comes from its last meta-batch, so that it fits the present policy. Tasks that
    have lost the first phase of it are left out.
    """
    key, phase = stored["task"], stored["phase"]
    tasks, whose = torch.unique(key, return_inverse=True)
    newest = torch.zeros_like(tasks).scatter_reduce(0, whose, stored["meta_update"], "amax")
    recent = stored["meta_update"] == newest[whose]
    kept = torch.isin(key, key[recent & (phase == 0)])

    def rows(which: Bool[Tensor, "R"]) -> RowsByTask:
        return RowsByTask(key, (which & kept).nonzero().squeeze(1))

    return [rows(recent & (phase <= last)) for last in range(phases)], rows(kept)


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> PEARL:
    """Make the agent with its initial parameters."""
    return PEARL(config, spec, device, seed)
