"""Trials: the episodes that one copy of a task's environment plays with one memory.

Memories learn from trials without gaps, cut into pieces that are played together: one long trial
after another keeps no processor busy. T steps of B trials become C pieces of L steps each,
(L, C, B). A piece goes on from the memory of the piece before it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import ceil

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from torch.utils._pytree import tree_map

from meta_rl.core.checks import check_at_least, check_within_unit
from meta_rl.core.episodes import episode_step
from meta_rl.core.ranks import gathered
from meta_rl.core.types import EnvSpec, Phase, Rollout, TimeStep, map_tensors
from meta_rl.learning.baseline import baseline_advantage, normalize_by_task, returns_vary
from meta_rl.learning.memory import State
from meta_rl.learning.normalization import RunningMoments
from meta_rl.learning.returns import discounted_return, gae


@dataclass(frozen=True)
class TrialLength:
    """How long a trial is."""

    episodes_per_trial: int = 2
    """Episodes of a trial, at least 1. The memory lasts for one trial."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "episodes_per_trial")

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The rollouts of a trial: one for each episode."""
        return (Phase(episodes=1),) * self.episodes_per_trial


@dataclass(frozen=True)
class TrialConfig(TrialLength):
    """Settings of a trial's length and of its advantages."""

    gamma: float = 0.99
    """Discount per environment step (γ), across the episodes of a trial, in [0, 1]."""
    gae_lambda: float = 0.95
    """Weight of longer backups in the advantages (λ), in [0, 1]; 1 is Monte Carlo."""
    bootstrap_at_horizon: bool = False
    """Add the baseline's value at the end of a trial; otherwise returns stop there. The effect is
    small, because the baseline knows the time and is fitted to returns that stop there."""
    normalize_advantage: bool = True
    """Shift and scale each task's advantages to mean 0 and standard deviation 1."""

    def __post_init__(self) -> None:
        TrialLength.__post_init__(self)
        check_within_unit(self, "gamma", "gae_lambda")


def without_gaps(valid: Bool[Tensor, "T M N"]) -> Callable[[Tensor], Tensor]:
    """Return a function that puts each world's valid steps first, and all padding at the end."""
    order = (~valid).to(torch.uint8).argsort(dim=0, stable=True)
    longest = max(gathered(int(valid.sum(0).max())))
    order = order[:longest]  # no memory needs the padding at the end

    def pack(column: Tensor) -> Tensor:
        extra = column.dim() - order.dim()
        index = order.view(*order.shape, *[1] * extra).expand(*order.shape, *column.shape[3:])
        return column.gather(0, index)

    return pack


def packed(rollout: Rollout) -> Rollout:
    """Close the gaps between episodes: each world's steps in order, and all padding at the end."""
    return map_tensors(without_gaps(rollout.valid), rollout)


def last_of_trial(valid: Bool[Tensor, "T M N"]) -> Bool[Tensor, "T M N"]:
    """Return the last step of each world; all after it is padding."""
    return valid & (valid.sum(0) == valid.cumsum(0))


def clock(valid: Bool[Tensor, "T M N"]) -> Int[Tensor, "T M N"]:
    """Return the number of steps of the trial before each step."""
    steps = torch.arange(len(valid), device=valid.device)
    return steps.view(-1, 1, 1).expand(valid.shape)


def cut(column: Shaped[Tensor, "T *B"], longest: int) -> Shaped[Tensor, "L C *B"]:
    """Cut time into as few pieces of equal length as have at most `longest` steps.

    Zeros fill the end of the last piece.
    """
    count = ceil(len(column) / longest)
    length = ceil(len(column) / count)
    padding = column.new_zeros(count * length - len(column), *column.shape[1:])
    padded = torch.cat([column, padding])
    return padded.view(count, length, *column.shape[1:]).transpose(0, 1)


def in_order(pieces: Shaped[Tensor, "L C *B"], steps: int) -> Shaped[Tensor, "T *B"]:
    """Join pieces in time again, without the zeros at the end of the last one."""
    return pieces.transpose(0, 1).flatten(0, 1)[:steps]


def handed_on(memory: State, last: State) -> State:
    """Return each piece's memory to start from next time: the last one of the piece before.

    No gradient flows through it: truncated backpropagation through time.

    Args:
        memory: Memory at the start of each piece, (C, B, ...).
        last: Memory at the end of each piece, (C, B, ...).
    """
    return tree_map(lambda begun, ended: torch.cat([begun[:1], ended[:-1]]), memory, last)


def trial_advantage(
    rollout: Rollout, config: TrialConfig, value: Float[Tensor, "T M N"] | None = None
) -> Float[Tensor, "T M N"]:
    """Return the advantages of packed trials, whose returns run on over their episodes.

    Args:
        rollout: What `packed` returned, without numbers in its padding.
        value: A critic's values of each step. Without it, a linear baseline is fitted to each
            task's own trials.
    """
    if value is None:
        advantage = _beyond_baseline(rollout, config)
    else:
        advantage = _beyond_value(rollout, config, value)
    return normalize_by_task(advantage, rollout.valid) if config.normalize_advantage else advantage


def _beyond_baseline(rollout: Rollout, config: TrialConfig) -> Float[Tensor, "T M N"]:
    """Return advantages over the baseline.

    The baseline knows the time in the trial; the time in the episode is one more observation.
    """
    valid, end = rollout.valid, last_of_trial(rollout.valid)
    failed = end & rollout.terminated
    time = (episode_step(rollout.first) / 100).unsqueeze(-1)
    return baseline_advantage(
        torch.cat([rollout.obs, time], dim=-1),
        torch.cat([rollout.next_obs, time + 0.01], dim=-1),
        clock(valid),
        rollout.reward,
        failed,
        end & ~failed,
        valid,
        config.gamma,
        config.gae_lambda,
        config.bootstrap_at_horizon,
    )


def _beyond_value(
    rollout: Rollout, config: TrialConfig, value: Float[Tensor, "T M N"]
) -> Float[Tensor, "T M N"]:
    """Return advantages over values of each step; 0 where all trials have the same return."""
    valid, end = rollout.valid, last_of_trial(rollout.valid)
    next_value = torch.cat([value[1:], value[-1:]])  # the last step's does not count
    advantage = gae(rollout.reward, value, next_value, end, end, config.gamma, config.gae_lambda)
    varies = returns_vary(to_go(rollout, config.gamma), rollout.reward, clock(valid), valid)
    return torch.where(varies & valid, advantage, 0.0)


def to_go(rollout: Rollout, gamma: float) -> Float[Tensor, "T M N"]:
    """Return the discounted return of the rest of each packed trial, from each step on."""
    return discounted_return(rollout.reward, last_of_trial(rollout.valid), gamma)


def memory_inputs(
    timestep: TimeStep, obs_moments: RunningMoments | None, reward_moments: RunningMoments | None
) -> Float[Tensor, "*T M N I"]:
    """Return a memory's inputs: observation, last action, last reward, start of an episode.

    Args:
        obs_moments: Scale observations; without them, they stay as they are.
        reward_moments: Likewise for rewards, without a shift: 0 stays 0.
    """
    obs, reward = timestep.obs, timestep.prev_reward
    if obs_moments is not None:
        obs = obs_moments.normalize(obs)
    if reward_moments is not None:
        reward = reward_moments.scale(reward)
    first = timestep.first.to(obs.dtype)
    return torch.cat([obs, timestep.prev_action, reward.unsqueeze(-1), first.unsqueeze(-1)], dim=-1)


@dataclass(frozen=True)
class History:
    """What B trials observed, did and earned, without gaps; all padding is at the end."""

    obs: Float[Tensor, "T B O"]
    action: Float[Tensor, "T B A"]
    reward: Float[Tensor, "T B"]
    next_obs: Float[Tensor, "T B O"]
    first: Bool[Tensor, "T B"]
    valid: Bool[Tensor, "T B"]

    @classmethod
    def none(cls, spec: EnvSpec) -> "History":
        """Return no trials, of no steps."""
        obs, nothing = torch.zeros(0, 0, spec.observation_size), torch.zeros(0, 0)
        action, never = torch.zeros(0, 0, spec.action_size), torch.zeros(0, 0, dtype=torch.bool)
        return cls(obs, action, nothing, obs, never, never)

    @classmethod
    def played(cls, rollout: Rollout) -> "History":
        """Take the trials of what `packed` returned, without numbers in its padding."""
        columns = (getattr(rollout, field.name) for field in fields(cls))
        return cls(*(column.flatten(1, 2) for column in columns))

    def of(self, which: Int[Tensor, "D"]) -> "History":
        """Return some of the trials."""
        return map_tensors(lambda column: column[:, which], self)

    def rows(self, steps: int) -> dict[str, Tensor]:
        """Return one row a trial, of `steps` steps each, for a replay."""

        def row(column: Tensor) -> Tensor:
            missing = column.new_zeros(steps - len(column), *column.shape[1:])
            return torch.cat([column, missing]).transpose(0, 1)

        return {name: row(column) for name, column in vars(self).items()}

    @classmethod
    def from_rows(cls, rows: Mapping[str, Tensor], device: torch.device) -> "History":
        """Undo `rows`; steps that are padding in all trials are left out."""
        longest = int(rows["valid"].sum(1).max())
        return cls(
            **{name: each[:, :longest].transpose(0, 1).to(device) for name, each in rows.items()}
        )

    def seen(self) -> TimeStep:
        """Return the inputs of a memory before each step and after the last, (T + 1, B, 1).

        Each trial is a task with one copy. The observation after its last step is one more step of
        the same episode.
        """
        begun = self.first[1:].unsqueeze(-1)
        between = torch.where(begun, self.obs[1:], self.next_obs[:-1])
        step = TimeStep(
            obs=torch.cat([self.obs[:1], between, self.next_obs[-1:]]),
            prev_action=torch.cat([torch.zeros_like(self.action[:1]), self.action]),
            prev_reward=torch.cat([torch.zeros_like(self.reward[:1]), self.reward]),
            first=torch.cat([self.first, torch.zeros_like(self.first[:1])]),
            valid=torch.cat([torch.ones_like(self.valid[:1]), self.valid]),
        )
        return map_tensors(lambda column: column.unsqueeze(2), step)
