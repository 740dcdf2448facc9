"""The rollout worker: lets an agent act in a simulator and records what happened."""

from dataclasses import fields

import torch
from torch import Tensor

from meta_rl.core.errors import NonFiniteAction
from meta_rl.core.protocols import MetaAgent, TaskDistribution, TaskEnv
from meta_rl.core.seeding import Streams, TaskStreams
from meta_rl.core.types import Context, Phase, Rollout, Tasks, TimeStep


class RolloutWorker:
    """Collects rollouts of one task distribution; counts the environment steps it took."""

    def __init__(
        self,
        distribution: TaskDistribution,
        env: TaskEnv,
        device: torch.device,
        streams: Streams | TaskStreams,
    ) -> None:
        self.distribution = distribution
        self.env = env
        self.device = device
        self.streams = streams
        self.env_steps = 0

    @torch.no_grad()
    def collect(
        self,
        agent: MetaAgent,
        context: Context,
        tasks: Tasks,
        copies: int,
        phase: Phase,
        previous: Rollout | None = None,
        deterministic: bool = False,
    ) -> tuple[Rollout, Context]:
        """Let every copy of every task play the phase's episodes.

        Args:
            previous: The rollout of the same worlds that this one continues: its last action and
                reward are the first that the agent remembers.
            deterministic: Act by the mode of the policy.
        """
        env, spec = self.env, self.distribution.spec
        generator = None if deterministic else self.streams.noise(tasks)
        steps = phase.episodes * spec.horizon
        obs = env.start(tasks, copies, self.streams.env_seed())
        worlds = obs.shape[:2]
        prev_action, prev_reward = self.memory(previous, worlds)
        first = torch.ones(worlds, dtype=torch.bool, device=self.device)
        played = torch.zeros(worlds, dtype=torch.long, device=self.device)
        record: dict[str, Tensor] = {}
        metrics: dict[str, Tensor] = {}

        def store(columns: dict[str, Tensor], name: str, t: int, value: Tensor) -> None:
            if name not in columns:
                columns[name] = torch.empty(
                    (steps, *value.shape), dtype=value.dtype, device=self.device
                )
            columns[name][t].copy_(value)

        def recorded() -> Rollout:
            return Rollout(
                **{name: column[:taken] for name, column in record.items()},
                metrics={name: column[:taken] for name, column in metrics.items()},
            )

        taken = 0
        for t in range(steps):
            valid = played < phase.episodes
            # A rollout never synchronizes with a GPU, so only the CPU stops early.
            if self.device.type == "cpu" and not valid.any():
                break
            timestep = TimeStep(obs, prev_action, prev_reward, first, valid)
            action, log_prob, context = agent.act(context, timestep, generator)
            try:
                step = env.step(action)
            except NonFiniteAction as error:
                error.rollout = recorded() if taken else None
                raise
            for field in fields(timestep):
                store(record, field.name, t, getattr(timestep, field.name))
            store(record, "action", t, action)
            store(record, "log_prob", t, log_prob)
            for name in ("reward", "terminated", "truncated", "next_obs"):
                store(record, name, t, getattr(step, name))
            for name, value in step.metrics.items():
                store(metrics, name, t, value)
            first = step.terminated | step.truncated
            played = played + first
            prev_action, prev_reward = action, step.reward
            taken = t + 1
            if taken < steps:
                obs = env.reset_ended()
        rollout = recorded()
        self.env_steps += int(rollout.valid.sum())
        return rollout, context

    def memory(self, previous: Rollout | None, worlds: torch.Size) -> tuple[Tensor, Tensor]:
        """Return the last action and reward of every world, or zeros if nothing came before."""
        if previous is None:
            size = self.distribution.spec.action_size
            action = torch.zeros(*worlds, size, device=self.device)
            return action, torch.zeros(worlds, device=self.device)
        end = (previous.valid.sum(0) - 1).unsqueeze(0)
        reward = previous.reward.gather(0, end)[0]
        index = end.unsqueeze(-1).expand(-1, -1, -1, previous.action.shape[-1])
        return previous.action.gather(0, index)[0], reward
