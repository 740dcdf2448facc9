"""Whether the rollouts of a run, and what its agent stores, fit into memory."""

from typing import Any

import torch

from meta_rl.core.protocols import MetaAgent, Stored, TaskDistribution
from meta_rl.core.ranks import world
from meta_rl.evaluation.measuring import check_evaluation_memory
from meta_rl.experiment.config import Experiment
from meta_rl.rollouts.footprint import check_memory, check_store
from meta_rl.training.collecting import iteration_factors


def check_run_memory(
    experiment: Experiment[Any, Any],
    agent: MetaAgent,
    distribution: TaskDistribution,
    device: torch.device,
) -> list[str]:
    """Refuse what does not fit; return what to say of large rollouts, and of every store.

    All phases of a meta-iteration are held together; evaluations play as many tasks as fit. What
    the simulator's worlds and the agent's gradients take comes on top. Ranks hold their own tasks
    alone, but those of one machine share its memory.

    Raises:
        UserError: A meta-iteration, or the evaluation of one task, needs more than there is.
    """
    ranks = world()
    together = ranks.local_size if device.type == "cpu" else 1
    factors = iteration_factors(experiment, agent, distribution)
    factors["meta_batch_size"] = experiment.meta_batch_size // ranks.size * together
    notes = (
        check_memory("one meta-iteration", factors, distribution.spec, device),
        check_evaluation_memory(
            agent, distribution, device, experiment.evaluation, experiment.evaluation_copies
        ),
        check_store(agent.room, ranks.local_size) if isinstance(agent, Stored) else None,
    )
    return [note for note in notes if note is not None]
