"""`meta-rl sweep`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from meta_rl.commands._flags import experiment_of
from meta_rl.commands._vocabulary import check_at_least, parse_known
from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from meta_rl.experiment.config import Experiment
    from meta_rl.studies.launching import Launcher
    from meta_rl.studies.preparation import Cost
    from meta_rl.studies.search import Search
    from meta_rl.studies.settings import Setting, Varied
    from meta_rl.studies.sweep import Sweep

MOST_ENDS = 64
"""Largest number of settings, at the ends of the varied ranges, that are checked before a TPE
search."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Trains a config with several settings, and chooses the best on the validation split.

    Each setting is a trial, with one run for every seed: an ordinary run folder in runs/NAME/, and
    a W&B run in the group NAME. The test split is not used until the choice is made. The same
    command continues a sweep that was stopped or killed. Any field of the config is a flag too, as
    in `meta-rl train`, except `trials`.

    At the end it prints a table and writes it to runs/NAME/table.md, with a picture of the settings
    in runs/NAME/settings.png.
    """

    config: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG")]
    """YAML file, or the name of a config in configs/."""
    vary: Annotated[
        tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="SETTING=VALUES")
    ] = ()
    """Setting to vary and its values, such as agent.inner_lr=0.01,0.03,0.1 or
    meta_batch_size=10,20. It must affect learning. The searches random and tpe also take ranges:
    agent.inner_lr=log:1e-3:1, or agent.epochs=linear:1:10, which draws whole numbers. Give --vary
    several times to vary several settings."""
    search: Literal["grid", "random", "tpe"] = "grid"
    """How settings are chosen: `grid` takes all combinations of values, `random` draws them, and
    `tpe`, Optuna's, learns from earlier trials (pip install -e '.[sweep]')."""
    trials: int | None = None
    """Trials of a random or TPE search, at least 1."""
    search_seed: int = 0
    """Seed of the search, at least 0."""
    seeds: str = "1"
    """Seeds of every trial: 3 means 0, 1, 2. A range such as 2:5 or a list such as 0,3,7 also
    works."""
    early_stopping: Literal["off", "asha"] = "off"
    """`asha` stops trials that are not among the best on the validation split. It judges after
    evaluation.every meta-iterations, after --reduction times as many, and so on. The first seed
    decides."""
    reduction: int = 3
    """Reduction factor of ASHA, at least 2: of this many trials, one goes on."""
    processes: int = 0
    """Runs at a time, at least 0; 0 means as many as the cores allow, or one on a GPU."""
    backend: Literal["local", "ray"] = "local"
    """Where runs are trained: `local`, on this machine, or `ray`, on the machines of a Ray cluster,
    which must share the run folders (needs the extra `cluster`)."""
    address: str = ""
    """Ray cluster to join, as in `rollouts.address`."""
    name: str | None = None
    """Name of the sweep and of its folder. Without it, CONFIG-sweep."""
    dry_run: bool = False
    """Print the runs and an estimate of their time, and train nothing."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "trials")
        check_at_least(0, self, "processes", "search_seed")
        check_at_least(2, self, "reduction")
        for flag, is_read, reader in (
            ("search_seed", self.search != "grid", "--search random or tpe"),
            ("reduction", self.early_stopping == "asha", "--early-stopping asha"),
            ("address", self.backend == "ray", "--backend ray"),
        ):
            if getattr(self, flag) != getattr(type(self), flag) and not is_read:
                raise UserError(f"--{flag.replace('_', '-')} is for {reader}: give both")


def main(arguments: list[str]) -> int:
    """Run a sweep, or the rest of it."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        raise UserError("the config comes first: meta-rl sweep CONFIG --vary SETTING=VALUES")
    given, flags = parse_known(Arguments, arguments, "sweep")
    if any(word.partition("=")[0] == "--seed" for word in flags):
        raise UserError("a sweep trains several seeds: give --seeds instead of --seed")
    base = experiment_of(given.config, flags, "meta-rl sweep CONFIG")
    from meta_rl.studies.launching import launcher_of
    from meta_rl.studies.outcome import sweep_table
    from meta_rl.studies.processes import carry_out

    with launcher_of(given.backend, given.address) as launcher:
        varied, search, sweep = _planned(base, given, launcher)
        settings = _known_settings(varied, search)
        costs, protocol = _prepare(sweep, settings)
        sweep.check_protocol(protocol)
        if given.dry_run:
            _tell_plan(sweep, settings, costs)
            return 0
        with sweep.held():
            try:
                carry_out(sweep, sweep.places)
            except UserError:
                sweep_table(sweep).print()
                raise
            return _conclude(sweep)


def _planned(
    base: "Experiment[Any, Any]", given: Arguments, launcher: "Launcher"
) -> "tuple[list[Varied], Search, Sweep]":
    """Return what is varied, the search, and the sweep."""
    from meta_rl.studies.processes import Places
    from meta_rl.studies.search import make_search
    from meta_rl.studies.seeds import read_seeds
    from meta_rl.studies.settings import read_varied
    from meta_rl.studies.sweep import Sweep, judged_on_validation, judging_of

    name = given.name or f"{base.name.removesuffix(f'-seed{base.seed}')}-sweep"
    base = replace(
        judged_on_validation(base),
        name=name,
        seed=0,
        runs=str(Path(base.runs) / name),
        tracking=replace(base.tracking, group=base.tracking.group or name),
    )
    judging = judging_of(base, given.early_stopping, given.reduction)
    varied = read_varied(given.vary, base)
    if judging.rungs and "meta_iterations" in [each.name for each in varied]:
        raise UserError("--early-stopping compares trials of equal meta_iterations; do not vary it")
    search = make_search(given.search, varied, given.trials, given.search_seed)
    seeds = read_seeds(given.seeds)
    places = Places.of(launcher, given.processes, base, search.count * len(seeds))
    asked = {
        **{name: getattr(given, name) for name in ("search", "trials", "search_seed")},
        **{name: getattr(given, name) for name in ("early_stopping", "reduction")},
        "vary": list(given.vary),
        "seeds": list(seeds),
    }
    names = [each.name for each in varied]
    return varied, search, Sweep(base, names, search, seeds, judging, places, asked)


def _known_settings(varied: "Sequence[Varied]", search: "Search") -> "list[Setting]":
    """Return the settings of all trials; for a TPE search, those at the ends of ranges."""
    if not search.learns:
        return [search.propose(number, ()) for number in range(search.count)]
    ends = itertools.islice(itertools.product(*(each.ends for each in varied)), MOST_ENDS)
    return [dict(zip([each.name for each in varied], row, strict=True)) for row in ends]


def _prepare(sweep: "Sweep", settings: "Sequence[Setting]") -> "tuple[list[Cost], dict[str, Any]]":
    """Build all trials, so that mistakes show before any starts."""
    from meta_rl.studies.preparation import prepare
    from meta_rl.studies.settings import with_setting

    return prepare(with_setting(sweep.base, setting) for setting in settings)


def _tell_plan(sweep: "Sweep", settings: "Sequence[Setting]", costs: "Sequence[Cost]") -> None:
    """Print the runs and an estimate of their time."""
    from meta_rl.reports.tables import TextTable
    from meta_rl.runs.folder import RunFolder
    from meta_rl.studies.estimate import probed_speed, recorded_speed, told_duration
    from meta_rl.studies.processes import is_finished
    from meta_rl.studies.settings import told_value, with_setting

    count, runs = sweep.search.count, sweep.search.count * len(sweep.seeds)
    learns = sweep.search.learns
    TextTable(
        "examples of trials; TPE chooses them as it learns" if learns else "trials",
        ["trial", *sweep.names, "env steps of training", "of evaluations"],
        [
            [
                "-" if learns else f"{number:03}",
                *(told_value(value) for value in setting.values()),
                f"{cost.training:,}",
                f"{cost.evaluations:,}",
            ]
            for number, (setting, cost) in enumerate(zip(settings, costs, strict=True))
        ],
    ).print()
    print(f"trials {count} × seeds {len(sweep.seeds)} = runs {runs}, in {sweep.folder}")
    folders = {
        (number, seed): RunFolder(sweep.folder / sweep.run_name(number, seed))
        for number in range(count)
        for seed in sweep.seeds
    }
    speed = recorded_speed(run.path for run in folders.values()) or probed_speed(
        replace(
            with_setting(sweep.base, settings[0]),
            threads=sweep.base.threads or 1,
            workers=sweep.base.workers or sweep.places.cores_each,
        )
    )
    seconds = []
    for (number, _), run in folders.items():
        cost = costs[number % len(costs)]
        steps = cost.training + (0 if speed.with_evaluations else cost.evaluations)
        setting = settings[number % len(settings)]
        if not is_finished(run, with_setting(sweep.base, setting).meta_iterations):
            seconds.append(steps / speed.steps_per_s)
    if len(seconds) < runs:
        print(f"{runs - len(seconds)} of them are finished already")
    at_a_time = sweep.places.at_a_time
    most = "at most about" if sweep.judging.rungs else "about"
    print(
        f"{most} {told_duration(seconds, at_a_time)} with {at_a_time} at a time, by "
        f"{speed.source}: {speed.steps_per_s:,.0f} env steps/s a run"
    )


def _conclude(sweep: "Sweep") -> int:
    """Show and write the results; return the exit code."""
    from meta_rl.commands._show import show_groups
    from meta_rl.core.outputs import png, write
    from meta_rl.evaluation.comparison import group_runs
    from meta_rl.evaluation.finished import load_runs
    from meta_rl.evaluation.folder import Wanted
    from meta_rl.studies.outcome import sweep_picture, sweep_table

    table = sweep_table(sweep)
    table.print()
    write(table.text("markdown").encode(), sweep.folder / "table.md", "the table")
    if (picture := sweep_picture(sweep)) is not None:
        path = sweep.folder / "settings.png"
        try:
            write(png(picture), path, "the picture")
            print(f"picture: {path}")
        except UserError as error:  # the choice matters more than its picture
            print(f"warning: {error}")
    if (best := sweep.best()) is not None:
        print(f"chosen on the validation split: {best.label}")
        print(f"train it again: meta-rl train {sweep.config_of(best.number)}")
        print("its result on the test split, which nothing was chosen on:")
        wanted = Wanted(actions=sweep.base.evaluation.actions)
        runs, _ = load_runs([each.run.path for each in best.trainings.values()], wanted)
        show_groups(group_runs(runs))
    else:
        print("nothing is chosen: no trial has ended with an evaluation")
    if failed := sweep.failed:
        numbers = ", ".join(f"{trial.number:03}" for trial in failed)
        print(f"failed: {numbers}; the same command tries again")
    return 1 if failed or best is None else 0
