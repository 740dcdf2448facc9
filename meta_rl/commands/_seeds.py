"""`meta-rl train CONFIG --seeds 0:5`."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.commands._flags import experiment_of, take
from meta_rl.core.errors import UserError
from meta_rl.core.outputs import check_folder

if TYPE_CHECKING:
    from meta_rl.experiment.config import Experiment
    from meta_rl.studies.launching import Launcher


def main(arguments: list[str]) -> int:
    """Train the seeds of a config, some at a time, and show them as one group."""
    words, seeds_text = take(arguments, "--seeds")
    words, processes_text = take(words, "--processes")
    words, backend = take(words, "--backend")
    words, address = take(words, "--address")
    _check(words, seeds_text, processes_text, backend, address)
    from meta_rl.studies.launching import launcher_of
    from meta_rl.studies.seeds import read_seeds

    seeds = read_seeds(seeds_text or "")
    experiments = [_experiment(words, seed) for seed in seeds]
    with launcher_of("ray" if backend == "ray" else "local", address or "") as launcher:
        return _train(experiments, words, launcher, int(processes_text or 0))


def _train(
    experiments: "list[Experiment[Any, Any]]",
    words: list[str],
    launcher: "Launcher",
    processes: int,
) -> int:
    """Train the missing runs; show all."""
    from meta_rl.evaluation.comparison import group_runs
    from meta_rl.evaluation.finished import load_runs
    from meta_rl.evaluation.folder import Wanted
    from meta_rl.studies import processes as study

    first = experiments[0]
    check_folder(Path(first.runs), "choose another --runs")
    places = study.Places.of(launcher, processes, first, len(experiments))
    trainings = [places.training_of(each, words) for each in experiments]
    missing = [
        training
        for training, each in zip(trainings, experiments, strict=True)
        if not study.is_finished(training.run, each.meta_iterations)
    ]
    if len(missing) < len(trainings):
        print(f"{len(trainings) - len(missing)} of {len(trainings)} runs are finished already")
    plan = study.InTurn(missing)
    study.carry_out(plan, places)
    failed = [training.name for training in plan.failed]
    folders = [training.run.path for training in trainings if training.name not in failed]
    if folders:
        from meta_rl.commands._show import show_groups

        runs, _ = load_runs(folders, Wanted(actions=first.evaluation.actions))
        show_groups(group_runs(runs))
        print(f"run folders: {', '.join(map(str, folders))}")
    if failed:
        print(f"failed: {', '.join(failed)}; the same command tries again")
    return 1 if failed else 0


def _check(
    words: list[str],
    seeds: str | None,
    processes: str | None,
    backend: str | None,
    address: str | None,
) -> None:
    """Refuse flags of a single run."""
    if seeds is None:
        raise UserError("--seeds must be like 5, 0:5 or 0,3,7")
    if processes is not None and not processes.isdecimal():
        raise UserError(f"--processes must be a whole number, at least 0, got {processes!r}")
    if backend not in (None, "local", "ray"):
        raise UserError(f"--backend must be local or ray, got {backend!r}")
    if address is not None and backend != "ray":
        raise UserError("--address is for --backend ray: give both")
    if not words or words[0].startswith("-"):
        raise UserError("the config comes first: meta-rl train CONFIG --seeds 0:5")
    given = {word.partition("=")[0] for word in words}
    for flag, advice in {
        "--seed": "give all seeds by --seeds",
        "--resume": "the same command continues runs that were stopped",
        "--overwrite": "remove the run folders, or choose another --name",
    }.items():
        if flag in given:
            raise UserError(f"--seeds and {flag} do not go together: {advice}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("--seeds starts processes of its own: use it without torchrun")


def _experiment(words: list[str], seed: int) -> "Experiment[Any, Any]":
    """Return the experiment of a seed, with the seed in its name."""
    flags = [*words[1:], "--seed", str(seed)]
    experiment = experiment_of(words[0], flags, "meta-rl train CONFIG --seeds 0:5")
    suffix = f"-seed{seed}"
    if experiment.name.endswith(suffix):
        return experiment
    return replace(experiment, name=experiment.name + suffix)
