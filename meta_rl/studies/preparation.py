"""What is made before trainings start, so that mistakes are found and costs are known."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from meta_rl.core.continual import training_pool
from meta_rl.core.errors import UserError
from meta_rl.evaluation.comparison import differing_fields, told_differences
from meta_rl.evaluation.protocol import check_choosing, decisive, make_protocol
from meta_rl.experiment.building import build_agent, build_distribution
from meta_rl.experiment.config import Experiment
from meta_rl.studies.estimate import evaluation_steps, training_steps


@dataclass(frozen=True)
class Cost:
    """Env steps of one run, if no episode ends early."""

    training: int
    evaluations: int


def prepare(experiments: Iterable[Experiment[Any, Any]]) -> tuple[list[Cost], dict[str, Any]]:
    """Build the parts of experiments on the same tasks; return what each costs, and the protocol.

    Raises:
        UserError: A part cannot be built, or what they achieve on the validation split could not be
            compared.
    """
    costs: list[Cost] = []
    protocols: list[dict[str, Any]] = []
    distribution = None
    for experiment in experiments:
        if distribution is None:
            distribution = build_distribution(experiment)
            check_choosing(distribution, "validation")
        agent = build_agent(experiment, distribution.spec, torch.device("cpu"))
        training_pool(
            distribution, experiment.meta_batch_size, experiment.train_tasks, experiment.seed
        )
        config = replace(experiment.evaluation, split="validation")
        protocol = make_protocol(agent, distribution, config, experiment.evaluation_copies)
        protocols.append(decisive(protocol))
        costs.append(
            Cost(
                training_steps(experiment, agent, distribution),
                evaluation_steps(experiment, agent, distribution),
            )
        )
    _check_protocols(protocols)
    return costs, protocols[0]


def _check_protocols(protocols: Sequence[dict[str, Any]]) -> None:
    if differing := differing_fields(protocols):
        raise UserError(
            f"the trials would be measured differently ({told_differences(differing)}), so that "
            f"they could not be compared; fix it by --evaluation.copies or the like, or do not "
            f"vary it"
        )
