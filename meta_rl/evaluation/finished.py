"""Runs read back from their folders, each with the evaluation that speaks for it."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from meta_rl.core.errors import UserError
from meta_rl.evaluation.comparison import Run
from meta_rl.evaluation.folder import Evaluations, Wanted
from meta_rl.evaluation.life_plan import LEARNING
from meta_rl.experiment.identity import learning_hash
from meta_rl.runs.folder import RunFolder, looks_like_run


def load_runs(
    paths: Iterable[Path], wanted: Wanted, skip_broken: bool = False
) -> tuple[list[Run], list[str]]:
    """Read runs with one evaluation each, and say what was left out.

    Of several paths, those that exist but are no run folders are left out. A run that cannot be
    read, or has no such evaluation, is an error unless it may be skipped. Runs that were measured
    by one protocol are shown by it, whatever else some were measured by later. If not all share
    one, seeds of one agent are shown by theirs.

    Returns:
        The runs in the order given, each once, and a sentence for each path that was left out.
    """
    named: dict[Path, Path] = {}
    for path in paths:
        named.setdefault(path.resolve(), path)
    runs, skipped, broken = [], [], []
    protocols = shared_protocols(named.values(), wanted)
    for path in named.values():
        try:
            if len(named) > 1 and path.exists() and not looks_like_run(path):
                skipped.append(f"skipped {path}: it is not a run folder{_inside(path)}")
            else:
                runs.append(load_run(path, wanted, protocols.get(path)))
        except UserError as error:
            broken.append(str(error))
        except OSError as error:
            broken.append(f"cannot read {path}: {error.strerror or error}")
    if broken and len(named) == 1:
        raise UserError(broken[0])
    if broken and not skip_broken:
        rest = f"; the other {len(runs)} can: --skip-broken leaves out what cannot" if runs else ""
        raise UserError(
            f"{len(broken)} of {len(runs) + len(broken)} runs cannot be read: "
            f"{' | '.join(broken)}{rest}"
        )
    skipped += [f"warning: left out a broken run: {told}" for told in broken]
    if not runs:
        raise UserError(f"none of the paths named is a run that can be read: {'; '.join(skipped)}")
    return runs, skipped


def _inside(path: Path) -> str:
    """Say how to name the runs in a folder, if there are any."""
    holds = path.is_dir() and any(looks_like_run(other) for other in path.iterdir())
    return f", but holds some; name them: {path}/*" if holds else ""


def shared_protocols(paths: Iterable[Path], wanted: Wanted) -> dict[Path, str]:
    """Return the fingerprint of the evaluation that each run is to be shown by.

    It is that of an evaluation which all runs have, at their most env steps; of several, the one
    that speaks for the first run (`Evaluation.precedence`). If there is none, it is the one that
    seeds of one agent share. Runs that share none are left out.
    """
    found: dict[Path, dict[str, tuple[Any, ...]]] = {}
    seeds: dict[str, list[Path]] = {}
    for path in paths:
        try:
            if not looks_like_run(path):
                continue
            folder = RunFolder(path)
            fitting = Evaluations(folder.evaluations).fitting(wanted)
            agent = learning_hash(folder.description())
        except (UserError, OSError):
            continue  # told when it is read
        if not fitting:
            continue  # likewise
        most = max(each.env_steps for each in fitting)
        last = [each for each in fitting if each.env_steps == most]
        learning = _learning_of(folder)
        in_order = sorted(last, key=lambda each: each.precedence(learning))
        found[path] = {each.fingerprint: each.precedence(learning) for each in in_order}
        seeds.setdefault(agent, []).append(path)

    def shown_by(runs: list[Path]) -> dict[Path, str]:
        first, *others = (found[run] for run in runs)
        shared = set(first).intersection(*others)
        return dict.fromkeys(runs, max(shared, key=lambda each: first[each])) if shared else {}

    if not found:
        return {}
    of_seeds = (shown_by(runs) for runs in seeds.values())
    return shown_by(list(found)) or {run: name for each in of_seeds for run, name in each.items()}


def load_run(path: Path, wanted: Wanted, protocol: str | None = None) -> Run:
    """Read a run's experiment and the evaluation that speaks for it.

    Args:
        protocol: Fingerprint of the evaluation; None takes any.
    """
    if path.exists() and not looks_like_run(path):
        raise UserError(f"{path} is not a run folder: it has no config.yaml{_inside(path)}")
    folder = RunFolder(path)
    if folder.is_pretrained:
        raise UserError(
            f"{path} came without the episodes that were measured, so it cannot be compared; copy "
            f"the folder to runs/, `meta-rl evaluate` the copy, and name that"
        )
    experiment = folder.description()
    evaluations = Evaluations(folder.evaluations)
    result, remark = evaluations.choose(wanted, protocol, _learning_of(folder))
    run = Run(path, experiment, result)
    remarks = [f"{run.name}: {remark}"] if remark else []
    if (origin := folder.origin) is not None:
        remarks.append(
            f"{run.name} began with the agent of {origin.run}, trained for {origin.env_steps:,} "
            f"env steps that are not counted here"
        )
    return replace(run, remarks=tuple(remarks))


def _learning_of(folder: RunFolder) -> str | None:
    """Return how the run's agent learns where tasks change, by the run's own protocol."""
    with suppress(UserError):  # of other programs' runs
        return folder.protocol().get(LEARNING)
    return None
