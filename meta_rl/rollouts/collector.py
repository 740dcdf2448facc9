"""The rollout collector: lets an agent act in a simulator and records what happened."""

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.lives import CHANGED, Changes, Clock, Life
from meta_rl.core.protocols import ChangingTaskEnv, Collector, MetaAgent, Noises, TaskEnv
from meta_rl.core.threads import one_thread
from meta_rl.core.types import (
    Context,
    EnvSpec,
    Experience,
    Phase,
    Rollout,
    Step,
    Tasks,
    TimeStep,
    map_tensors,
)
from meta_rl.rollouts.acting_graph import ActingGraph

MANY_WORLDS = 2000
"""Worlds from which on a policy's step is shared out over torch's threads: fewer are too little
work. 20 worlds of RL2 act for 9 s on one thread and for 15 s on two: results/README.md, Speed."""


class SimulatedFamily:
    """The part of a task distribution that turns its simulator into a collector."""

    spec: EnvSpec

    def make_env(self, device: torch.device, workers: int) -> TaskEnv:
        """Make a simulator with tensors on `device`, in `workers` processes if it uses any."""
        raise NotImplementedError(f"{type(self).__name__} must say how its simulator is made")

    def make_collector(self, device: torch.device, workers: int) -> Collector:
        """Make a collector of rollouts in the family's simulator."""
        return RolloutCollector(self.spec, self.make_env(device, workers), device)


class RolloutCollector:
    """Collects rollouts in one simulator; counts the environment steps it took.

    Args:
        device: Where policies and rollouts live.
        changes: How the tasks change; without it, they stay.

    Attributes:
        cuda_graph: Whether a GPU replays the policy's step as a graph.
    """

    def __init__(
        self,
        spec: EnvSpec,
        env: TaskEnv,
        device: torch.device,
        changes: Changes | None = None,
    ) -> None:
        self.spec = spec
        self.env = env
        self.device = device
        self.env_steps = 0
        self.cuda_graph = False
        self.changes = changes
        if changes is not None:
            changes.check(self.changes_within_episodes)

    @property
    def most_worlds(self) -> int | None:
        """Most worlds to hold together, for memory's sake; none knows no limit."""
        limit: int | None = getattr(self.env, "most_worlds", None)
        return limit

    @property
    def changes_within_episodes(self) -> bool:
        """Whether a task can change while an episode goes on."""
        return isinstance(self.env, ChangingTaskEnv) and self.env.changes_within_episodes

    @torch.no_grad()
    def collect(
        self,
        agent: MetaAgent,
        context: Context,
        tasks: Tasks,
        copies: int,
        phase: Phase,
        streams: Noises,
        previous: Experience | None = None,
        deterministic: bool = False,
        life: Life | None = None,
    ) -> tuple[Rollout, Context]:
        """Let every copy of every task play the phase's episodes.

        A rollout ends at an action that is not finite if the simulator refuses it, as those of
        MuJoCo and of worker processes do. It is the last that the rollout holds. On padding, zeros
        take its place.

        Args:
            streams: The actions' noise, and the simulator's seed.
            previous: The rollout of the same worlds that this one continues: its last action and
                reward are the first that the agent remembers.
            deterministic: Act by the mode of the policy.
            life: How long the worlds have lived, if their tasks change.
        """
        env = self.env
        context = pytree.tree_map_only(Tensor, torch.clone, context)
        noise = None if deterministic else streams.noise(tasks)
        act = ActingGraph(agent).act if self.cuda_graph else agent.act
        steps = phase.episodes * self.spec.horizon
        obs = env.start(tasks, copies, streams.env_seed())
        worlds = obs.shape[:2]
        clock = None if life is None else Clock(life, phase, env)
        if clock is not None:
            moved, changed = clock.begin()
            obs = env.reset_ended() if moved else obs
        acting = one_thread if worlds.numel() < MANY_WORLDS else nullcontext
        prev_action, prev_reward = last_action_and_reward(previous, self.spec, worlds, self.device)
        first = torch.ones(worlds, dtype=torch.bool, device=self.device)
        played = torch.zeros(worlds, dtype=torch.long, device=self.device)
        record = _Record(steps, self.device)
        broken = False
        for t in range(steps):
            valid = played < phase.episodes
            # A rollout never synchronizes with a GPU, so only the CPU stops early.
            if broken or (self.device.type == "cpu" and not valid.any()):
                break
            timestep = TimeStep(obs, prev_action, prev_reward, first, valid)
            with acting():
                action, log_prob, context = act(context, timestep, noise)
            try:
                step = env.step(action)
            except NonFiniteAction:
                # What padding would do is no reason to end the others' episodes.
                action = action.where(valid.unsqueeze(-1), 0.0)
                step, broken = self._nothing(obs), True
                with suppress(NonFiniteAction):
                    step, broken = env.step(action), False
            if clock is not None:
                step = replace(step, metrics={**step.metrics, CHANGED: changed.float()})
            record.add(**vars(timestep), action=action, log_prob=log_prob, **vars(step))
            first = step.terminated | step.truncated
            played = played + first
            prev_action, prev_reward = action, step.reward
            if clock is not None and not broken:
                changed = clock.tick(first)
            if t + 1 < steps and not broken:
                obs = env.reset_ended()
        rollout = record.rollout()
        self.env_steps += int(rollout.valid.sum())
        return rollout, context

    def _nothing(self, obs: Tensor) -> Step:
        """What a step brings that the simulator refused: the end, where the world was."""
        none = torch.zeros(obs.shape[:2], device=obs.device)
        return Step(
            next_obs=obs,
            reward=none,
            terminated=none > 0,
            truncated=none == 0,
            metrics=dict.fromkeys(self.spec.metrics, none),
        )

    def close(self) -> None:
        """Close the simulator."""
        self.env.close()


class _Record:
    """The columns of a rollout as they are written; its first step tells their shapes."""

    def __init__(self, most_steps: int, device: torch.device) -> None:
        self._most_steps, self._device = most_steps, device
        self._steps = 0
        self._columns: dict[str, Tensor] = {}
        self._metrics: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor], **columns: Tensor) -> None:
        """Write one more step: every field of a `Rollout`, without the axis T."""
        for written, values in ((self._columns, columns), (self._metrics, metrics)):
            for name, value in values.items():
                if name not in written:
                    shape = (self._most_steps, *value.shape)
                    written[name] = torch.empty(shape, dtype=value.dtype, device=self._device)
                written[name][self._steps].copy_(value)
        self._steps += 1

    def rollout(self) -> Rollout:
        """Return the steps that were written."""
        columns = {name: column[: self._steps] for name, column in self._columns.items()}
        metrics = {name: column[: self._steps] for name, column in self._metrics.items()}
        return Rollout(**columns, metrics=metrics)


def ending(experience: Experience) -> Experience:
    """Return what a continuation must know of experience: of a rollout, the last step."""
    if not isinstance(experience, Rollout):
        return experience
    end = (experience.valid.sum(0) - 1).unsqueeze(0)

    def last(column: Tensor) -> Tensor:
        index = end.view(*end.shape, *[1] * (column.dim() - end.dim()))
        return column.gather(0, index.expand(-1, -1, -1, *column.shape[3:]))

    return map_tensors(last, experience)


def last_action_and_reward(
    previous: Experience | None, spec: EnvSpec, worlds: torch.Size, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return what every world did and earned last, or zeros if nothing came before."""
    if previous is None:
        action = torch.zeros(*worlds, spec.action_size, device=device)
        return action, torch.zeros(worlds, device=device)
    last = ending(previous)
    if not isinstance(last, Rollout):
        raise UserError("a rollout can continue another rollout only, not examples")
    return last.action[0], last.reward[0]
