"""Metric-based meta-RL: acts on an embedding of the task, learned by contrast."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from agents._task_inference import TaskInference, TaskInferenceConfig
from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.protocols import Belief
from meta_rl.core.ranks import gathered, part_of, world
from meta_rl.core.types import EnvSpec, Metrics, Tasks
from meta_rl.learning.contrastive import info_nce, nearest_task
from meta_rl.learning.metrics import mean_of
from meta_rl.learning.replay import task_keys
from meta_rl.learning.trials import History


@dataclass(frozen=True)
class Config(TaskInferenceConfig):
    """Metric-based meta-RL: acts on a contrastive embedding (after CORRO, Yuan and Lu 2022)."""

    encoder_updates: int = 20
    """Gradient steps of the encoder in each meta-update, at least 1."""
    encoder_trials: int = 50
    """Trials that each gradient step of the encoder contrasts, at least 2. They are all copies of a
    few tasks: encoder_trials / copies tasks, but at least two."""
    temperature: float = 0.1
    """Temperature of the contrastive loss (τ), above 0. Lower values weigh the nearest other tasks
    more."""
    embeddings_per_trial: int = 4
    """Steps of each trial whose embeddings are contrasted, at least 1. They are drawn at random."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "temperature")
        check_at_least(1, self, "embeddings_per_trial")


class Metric(TaskInference):
    """Embeds a trial so far on the unit sphere, near trials of its own task and far from others.

    The task variable is the embedding, L numbers.
    """

    config: Config
    learns_by_task = True
    learns_over_ranks = True
    least: ClassVar = {"meta_batch_size": 2, "copies": 2}  # trials are compared with others

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed, outputs=config.task_size)

    def variable(self, output: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
        """Return the embedding: the direction of the encoder's output."""
        return normalize(output, dim=-1)

    def belief(self, context: Mapping[str, Any]) -> Belief:
        """Return the embedding of each copy's trial so far."""
        return Belief(self.variable(context["output"]), None)

    def improve_encoder(self, history: History, tasks: Tasks) -> Metrics:
        """Take steps on the contrastive loss of the newest trials, some tasks at a time.

        The tasks are drawn from those of all ranks.
        """
        copies = history.valid.shape[1] // len(tasks)
        keys = torch.cat(gathered(task_keys(tasks)))
        task = keys.to(self.device).repeat_interleave(copies)
        found = []
        for _ in range(self.config.encoder_updates):
            drawn = torch.randperm(len(keys), generator=self.generator)
            drawn = drawn[: max(2, self.config.encoder_trials // copies)].unsqueeze(1)
            loss = self.contrast(history, (drawn * copies + torch.arange(copies)).flatten(), task)
            norm = self.descend("encoder", loss)
            found.append({"encoder/loss": loss.detach(), "encoder/gradient_norm": norm})
        with torch.no_grad():
            embedding = self.variable(self.outputs(history))
            at_the_end = at(embedding, history.valid.sum(0, keepdim=True))
            accuracy = nearest_task(of_all_ranks(at_the_end).squeeze(0), task).float().mean()
        return mean_of(found) | {"encoder/nearest_task": accuracy}

    def contrast(
        self, history: History, which: Int[Tensor, "B"], task: Int[Tensor, "R"]
    ) -> Float[Tensor, ""]:
        """Return the contrastive loss of some trials' embeddings at a few random times each.

        Every rank embeds the trials that it has played; its gradient flows through these alone.

        Args:
            which: Places among the trials of all ranks.
            task: The task of each trial of all ranks.
        """
        times, own = self.config.embeddings_per_trial, history.valid.shape[1]
        chance = torch.rand(times, len(which), generator=self.generator)
        rank = which // own
        part = part_of(which, own)
        mine = history.of(part.rows.to(self.device))
        embedding = self.variable(self.outputs(mine))
        if part.share:
            chosen = chance[:, rank == world().rank].to(self.device)
            some = at(embedding, (chosen * (mine.valid.sum(0) + 1)).long())
        else:
            some = embedding[:1, :0].expand(times, -1, -1)  # trials may be shorter than `times`
        by_rank = which[rank.argsort(stable=True)].to(self.device)
        number = torch.arange(len(which), device=self.device).repeat(times)
        every = of_all_ranks(some).flatten(0, 1)
        return info_nce(every, task[by_rank].repeat(times), number, self.config.temperature)


def of_all_ranks(own: Float[Tensor, "K B E"]) -> Float[Tensor, "K R E"]:
    """Join the tensors of all ranks in their order; gradients reach this rank's own alone."""
    if world().size == 1:
        return own
    parts = [part.to(own.device) for part in gathered(own.detach())]
    parts[world().rank] = own
    return torch.cat(parts, dim=1)


def at(columns: Float[Tensor, "T B E"], time: Int[Tensor, "K B"]) -> Float[Tensor, "K B E"]:
    """Return each column's values at its own times."""
    return columns.gather(0, time.unsqueeze(-1).expand(-1, -1, columns.shape[-1]))


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> Metric:
    """Make the agent with its initial parameters."""
    return Metric(config, spec, device, seed)
