"""Tells whether an agent plans in the two-step task: how often it repeats which choices.

    python scripts/two_step_index.py OUTPUT.json RUN RUN ... [--checkpoint latest]

Runs play the test split, and so do a planner that infers which second state is better (the
optimum) and a learner of the choices' values, which knows no transitions. The index is that of
`envs.two_step.Stays`. A planner's is well above that of the learner of values, which is not 0.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from _entry import run_script, write_figures
from bandit_references import mean_and_interval
from torch import Tensor

from envs import two_step
from meta_rl.core.distributions import one_hot
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Noise, TaskStreams
from meta_rl.core.types import Phase, Tasks, TimeStep
from meta_rl.rollouts.adaptation import rollout_of
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trained import load_trained

CPU = torch.device("cpu")
Context = dict[str, Tensor]


@dataclass(frozen=True)
class Args:
    """Measure how often agents repeat which choices in the two-step task."""

    output: Annotated[Path, tyro.conf.Positional]
    """JSON file to write."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of RL²."""
    checkpoint: str = "latest"
    """Checkpoint of the runs: latest, best or a .pt file."""
    copies: int = 10
    """Episodes of each schedule, at least 1."""
    seed: int = 0
    """Seed of all chance in worlds and agents."""


class Planner:
    """Infers which second state is better by Bayes' rule, and goes there: the optimum.

    Both second states tell as much, so there is nothing to explore.
    """

    def __init__(self, config: two_step.Config) -> None:
        self.config = config

    def begin(self, tasks: Tasks, copies: int, training: bool) -> Context:
        """Believe nothing."""
        none = torch.zeros(len(tasks), copies)
        return {"first_is_better": none + 0.5, "second": none}

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Tensor, Tensor, Context]:
        """Choose the likely better state."""
        state, high, swap = timestep.obs.argmax(-1), self.config.high, self.config.swap
        belief, second = context["first_is_better"], context["second"]
        paid = torch.where(timestep.prev_reward > 0, high, 1 - high)
        of_first = torch.where(second == 0, paid, 1 - paid)  # how likely, if the first is better
        posterior = belief * of_first / (belief * of_first + (1 - belief) * (1 - of_first))
        prior = posterior * (1 - swap) + (1 - posterior) * swap
        belief = torch.where((state == 0) & ~timestep.first, prior, belief)
        second = torch.where(state > 0, state - 1, second)
        action = one_hot(torch.stack([belief, 1 - belief], dim=-1))
        return action, torch.zeros_like(belief), {"first_is_better": belief, "second": second}


class ValueLearner:
    """Learns what each choice has paid, whatever lay between: model-free."""

    rate, sharpness = 0.5, 5.0

    def begin(self, tasks: Tasks, copies: int, training: bool) -> Context:
        """Expect nothing."""
        return {"value": torch.zeros(len(tasks), copies, 2)}

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Tensor, Tensor, Context]:
        """Move the last choice's value to its reward, and choose by a softmax of the values."""
        state = timestep.obs.argmax(-1)
        error = (timestep.prev_reward.unsqueeze(-1) - context["value"]) * timestep.prev_action
        learns = ((state == 0) & ~timestep.first).unsqueeze(-1)
        value = context["value"] + torch.where(learns, self.rate * error, 0.0)
        if noise is None:
            action = one_hot(value)
        else:
            gumbel = -(-noise.uniform(value.shape).clamp(1e-30, 1 - 1e-7).log()).log()
            action = one_hot(self.sharpness * value + gumbel)
        # In a second state the choice is the action before; it is repeated, to be known after it.
        action = torch.where((state > 0).unsqueeze(-1), timestep.prev_action, action)
        return action, torch.zeros_like(timestep.prev_reward), {"value": value}


def measure(agent: Any, family: two_step.TwoStep, args: Args) -> dict[str, Any]:
    """Return an agent's stays and return on the test split."""
    tasks = family.tasks("test")
    collector = family.make_collector(CPU, 1)
    streams = TaskStreams(args.seed, CPU, "evaluation/0/learning")
    context = agent.begin(tasks, args.copies, False)
    played, _ = collector.collect(agent, context, tasks, args.copies, Phase(1), streams)
    rollout = rollout_of(played)
    counted = two_step.stays(rollout)
    (rare_lost, common_lost), (rare_won, common_won) = counted.probability.tolist()
    return {
        "return": mean_and_interval(rollout.reward.sum(0).double().numpy()),
        "stay_probability": {
            "common_rewarded": round(common_won, 3),
            "rare_rewarded": round(rare_won, 3),
            "common_unrewarded": round(common_lost, 3),
            "rare_unrewarded": round(rare_lost, 3),
        },
        "model_based_index": round(counted.model_based_index, 3),
        "model_free_index": round(counted.model_free_index, 3),
    }


def main(args: Args) -> None:
    """Write the file and print its rows."""
    found: dict[str, Any] = {}
    configs = set()
    if args.copies < 1:
        raise UserError(f"--copies must be at least 1, got {args.copies}")
    for run in args.runs:
        trained = load_trained(RunFolder(run), args.checkpoint, "cpu")
        if not isinstance(trained.distribution, two_step.TwoStep):
            raise UserError(f"{run} was trained on {trained.distribution.family}, not on two_step")
        family = trained.distribution
        configs.add(family.config)
        if len(configs) > 1:
            raise UserError(f"{run} has another task than {args.runs[0]}; measure it apart")
        found[str(run)] = measure(trained.agent, family, args) | {"env_steps": trained.env_steps}
    found["planner"] = measure(Planner(family.config), family, args)
    found["value_learner"] = measure(ValueLearner(), family, args)
    for name, row in found.items():
        print(name, row)
    write_figures(found, args.output)


if __name__ == "__main__":
    run_script(main, Args, __doc__)
