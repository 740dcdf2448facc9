"""`meta-rl evaluate`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Arguments:
    """Measures how a run's policy adapts: before, between and after adaptation.

    Every task, goal and copy counts. The result goes to the run's evaluations/. What is not given
    is as in the run's config.
    """

    run: Annotated[str, tyro.conf.Positional]
    """The run's folder."""
    checkpoint: Literal["latest", "best"] = "latest"
    """Which of the run's checkpoints: the newest, or the best by evaluation while training."""
    split: Literal["train", "test"] | None = None
    """Tasks trained on, or held-out ones."""
    goals: int | None = None
    """Take only the first so many goals of each task name."""
    adaptation_steps: int | None = None
    """Times the agent adapts; performance is measured before, between and after."""
    copies: int | None = None
    """Copies of each task's environment."""
    actions: Literal["sampled", "deterministic"] | None = None
    """Measure with actions drawn from the policy, or with its mode."""
    seed: int | None = None
    """Seed of the actions' noise."""
    device: str | None = None
    """Where the policy lives: cpu, cuda or cuda:N."""


def main(arguments: list[str]) -> int:
    """Evaluate a run."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl evaluate")
    from meta_rl.commands._show import show_result
    from meta_rl.evaluation import evaluate
    from meta_rl.experiment import load_trained, worker_count
    from meta_rl.run_folder import RunFolder

    folder = RunFolder(Path(given.run))
    trained = load_trained(folder, given.checkpoint, given.device)
    experiment = trained.experiment
    names = ("split", "goals", "adaptation_steps", "copies", "actions", "seed")
    chosen = {name: value for name in names if (value := getattr(given, name)) is not None}
    config = replace(experiment.evaluation, **chosen)
    env = trained.distribution.make_env(trained.device, worker_count(experiment))
    try:
        result = evaluate(
            trained.agent,
            trained.distribution,
            env,
            trained.device,
            config,
            config.copies or experiment.envs_per_task,
            experiment.meta_batch_size,
            trained.env_steps,
            trained.meta_iterations,
        )
    finally:
        env.close()
    result = replace(result, checkpoint=given.checkpoint)
    path = result.save(folder.evaluations)
    show_result(result, f"{experiment.name}: adaptation to {config.split} tasks")
    selected_here = experiment.evaluation.every > 0 and experiment.evaluation.split == config.split
    if given.checkpoint == "best" and selected_here:
        print(
            f"warning: this checkpoint was selected as the best on {config.split} tasks, the very "
            f"ones it is measured on, which flatters it; train with --evaluation.split train to "
            f"select on others"
        )
    print(f"written to {path}")
    return 0
