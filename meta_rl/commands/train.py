"""`meta-rl train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.commands._flags import experiment_of, with_flags
from meta_rl.commands._standins import with_standins
from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from meta_rl.experiment.config import Experiment
    from meta_rl.runs.folder import RunFolder
    from meta_rl.training.trainer import Trainer

HELP = """\
usage: meta-rl train CONFIG [--field value ...] [--from RUN] [--overwrite]
       meta-rl train CONFIG [--field value ...] --seeds 0:5 [--processes N] [--backend ray]
       meta-rl train --resume RUN [--meta-iterations N]
       torchrun --nproc-per-node N -m meta_rl train ...

Trains a meta-policy and evaluates it at the end.

  CONFIG         a YAML file, or the name of one in configs/ (`meta-rl list configs`)
  --field value  changes any field of the config; `meta-rl train CONFIG --help` lists them with
                 the config's values, e.g. --seed 1 --meta-iterations 50 --agent.inner-lr 0.05.
                 --agent.name or --envs.name take another agent or family, with its defaults
  --from RUN     starts from the trained agent of another run, also of other tasks with the same
                 observations and actions
  --resume RUN   continues a run folder from its last checkpoint, as if it had never stopped;
                 --meta-iterations may move the end
  --overwrite    replaces a run folder that exists
  --seeds 0:5    trains the seeds 0 to 4, each in a process and a run folder of its own, and shows
                 them as one group; also 5 (as 0:5) or 0,3,7. The same command continues what was
                 stopped
  --processes N  seeds at a time; without it, as many as the cores allow, or one on a GPU
  --backend ray  with --seeds: trains on the machines of a Ray cluster, which must share the run
                 folders; --address HOST:PORT names its head

Everything goes to runs/NAME/: config.yaml, metrics.jsonl, checkpoints/, evaluations/. Warnings and
notes, if any, go to log.txt there. Weights & Biases records the run too: online if you are logged
in, else offline; --tracking.mode off switches it off. --tracking.tensorboard adds TensorBoard.
Ctrl-C stops cleanly, as do SIGTERM and a closed terminal; the run can be resumed.

With torchrun, N processes share the tasks of each meta-batch (--device cuda: one GPU each). They
learn what one process would learn.
"""


def main(arguments: list[str]) -> int:
    """Train, from a config or from a run folder."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else 2
    if any(word.partition("=")[0] == "--seeds" for word in arguments):
        from meta_rl.commands._seeds import main as train_seeds

        return train_seeds(arguments)
    overwrite = "--overwrite" in arguments
    arguments = [word for word in arguments if word != "--overwrite"]
    if not arguments:
        print(HELP)
        return 2
    if arguments[0].startswith("--resume="):
        arguments = [*arguments[0].split("=", 1), *arguments[1:]]
    resume = arguments[0] == "--resume"
    _check(arguments, resume and overwrite)
    if {"-h", "--help"} & set(arguments):  # which ends the process
        with_standins(lambda: _read(arguments, resume))
    from meta_rl.core.ranks import first_rank_first, joined

    with joined() as ranks:
        with first_rank_first():
            experiment, folder = _read(arguments, resume)
            trainer = _trainer(experiment, folder, resume, overwrite, ranks.is_first)
        result = trainer.run()
    if result is not None:
        from meta_rl.commands._show import show_result

        show_result(result, f"{experiment.name}: adaptation to {result.protocol['split']} tasks")
    if ranks.is_first:
        print(f"run folder: {folder.path}")
    return 0


def _check(arguments: list[str], resumed_and_replaced: bool) -> None:
    """Refuse flags that do not go together."""
    if resumed_and_replaced:
        raise UserError("--resume continues a run and --overwrite replaces it: give one of them")
    if "--resume" in (word.partition("=")[0] for word in arguments[1:]):
        raise UserError("--resume comes first and takes no config: meta-rl train --resume RUN")
    for flag in ("--processes", "--backend", "--address"):
        if flag in (word.partition("=")[0] for word in arguments):
            raise UserError(f"{flag} is for several trainings: add --seeds, such as --seeds 0:5")


def _trainer(
    experiment: "Experiment[Any, Any]",
    folder: "RunFolder",
    resume: bool,
    overwrite: bool,
    records: bool,
) -> "Trainer":
    """Prepare the training; `records` says whether this process writes records."""
    from meta_rl.reports.figures import adaptation_curves
    from meta_rl.runs.sinks.choosing import choose_sinks
    from meta_rl.training.trainer import Trainer

    sinks = choose_sinks(experiment, folder) if records else []
    return Trainer(experiment, folder, resume, overwrite, adaptation_curves, sinks)


def _read(arguments: list[str], resume: bool) -> "tuple[Experiment[Any, Any], RunFolder]":
    """Return the experiment and its run folder."""
    if resume:
        from meta_rl.experiment import catalog
        from meta_rl.runs.folder import RunFolder

        if len(arguments) < 2:
            raise UserError("--resume needs a run folder")
        folder = RunFolder(catalog.run_path(arguments[1]))
        stored = folder.experiment()
        experiment = with_flags(stored, arguments[2:], "meta-rl train --resume RUN")
        _check_resumable(stored, experiment)
        return experiment, folder
    if arguments[0].startswith("-"):
        raise UserError("the config comes first: meta-rl train CONFIG [--field value ...]")
    experiment = experiment_of(arguments[0], arguments[1:], "meta-rl train CONFIG")
    # Imported only now, because --help does not need it.
    from meta_rl.runs.folder import RunFolder

    return experiment, RunFolder(Path(experiment.runs) / experiment.name)


def _check_resumable(stored: "Experiment[Any, Any]", changed: "Experiment[Any, Any]") -> None:
    from meta_rl.experiment.identity import MAY_CHANGE

    names = [name for name in vars(stored) if getattr(stored, name) != getattr(changed, name)]
    if refused := [name for name in names if name not in MAY_CHANGE]:
        raise UserError(
            f"a resumed run keeps its {', '.join(refused)}; only {', '.join(sorted(MAY_CHANGE))} "
            f"may change. Start a new run to change more"
        )
