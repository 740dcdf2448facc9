"""Runs read back from their folders, each with the evaluation that speaks for it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.evaluation.comparison import Run
from meta_rl.evaluation.protocol import fingerprint
from meta_rl.evaluation.result import EvalResult, read_summary
from meta_rl.runs.folder import RunFolder


@dataclass(frozen=True)
class Wanted:
    """Which evaluations of a run are of interest."""

    split: str = "test"
    """Split of the tasks."""
    actions: str = "sampled"
    """Kind of actions, `sampled` or `deterministic`."""
    checkpoint: str | None = None
    """Which checkpoint was measured, `latest` or `best`; None takes either."""

    @property
    def words(self) -> str:
        """What they measure."""
        of = "" if self.checkpoint is None else f" of the {self.checkpoint} checkpoint"
        return f"on {self.split} tasks with {self.actions} actions{of}"

    @property
    def flags(self) -> str:
        """How `meta-rl evaluate` makes one."""
        of = "" if self.checkpoint is None else f" --checkpoint {self.checkpoint}"
        return f"--split {self.split} --actions {self.actions}{of}"


@dataclass(frozen=True)
class _Candidate:
    """An evaluation that is wanted, by what it says of itself."""

    path: Path
    summary: dict[str, Any]

    @property
    def env_steps(self) -> int:
        return int(self.summary["env_steps"])

    @property
    def made_at(self) -> datetime:
        """When it was made, in UTC; by its file's time where it is older than the field."""
        told = self.summary.get("made_at")
        if told is None:
            return datetime.fromtimestamp(self.path.stat().st_mtime, UTC)
        made = datetime.fromisoformat(told)
        return made if made.tzinfo else made.replace(tzinfo=UTC)

    @property
    def checkpoint(self) -> str:
        """Which checkpoint was measured."""
        return str(self.summary.get("checkpoint", "latest"))

    @property
    def order(self) -> tuple[int, bool, datetime, str]:
        """The last in order speaks for the run."""
        return self.env_steps, self.checkpoint == "latest", self.made_at, self.path.name


def load_runs(
    paths: Iterable[Path], wanted: Wanted, skip_broken: bool = False
) -> tuple[list[Run], list[str]]:
    """Read runs with one evaluation each, and say what was left out.

    Of several paths, those that exist but are no run folders are left out. A run that cannot be
    read, or has no such evaluation, is an error unless it may be skipped. Runs that were measured
    by one protocol are shown by it, whatever else some were measured by later.

    Returns:
        The runs in the order given, each once, and a sentence for each path that was left out.
    """
    named: dict[Path, Path] = {}
    for path in paths:
        named.setdefault(path.resolve(), path)
    runs, skipped, broken = [], [], []
    protocol = _shared_protocol(named.values(), wanted)
    for path in named.values():
        try:
            if len(named) > 1 and path.exists() and not looks_like_run(path):
                skipped.append(f"skipped {path}: it is not a run folder{_inside(path)}")
            else:
                runs.append(load_run(path, wanted, protocol))
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


def looks_like_run(path: Path) -> bool:
    """Return whether a path is a run's folder, be it a damaged one."""
    parts = ("config.yaml", "checkpoints", "evaluations")
    return path.is_dir() and any((path / part).exists() for part in parts)


def _inside(path: Path) -> str:
    """Say how to name the runs in a folder, if there are any."""
    holds = path.is_dir() and any(looks_like_run(other) for other in path.iterdir())
    return f", but holds some; name them: {path}/*" if holds else ""


def _shared_protocol(paths: Iterable[Path], wanted: Wanted) -> str | None:
    """Return the fingerprint that all runs have an evaluation of, at their most env steps.

    Of several, it is that of the last one in the first run; None if there is none.
    """
    found: list[dict[str, datetime]] = []
    for path in paths:
        try:
            if not looks_like_run(path):
                continue
            fitting = _candidates(path, wanted)
        except (UserError, OSError):
            continue  # told when it is read
        if not fitting:
            continue  # likewise
        most = max(each.env_steps for each in fitting)
        last = [each for each in fitting if each.env_steps == most]
        found.append({each.summary["fingerprint"]: each.made_at for each in last})
    shared = set(found[0]).intersection(*found) if found else set()
    return max(shared, key=lambda each: found[0][each], default=None)


def load_run(path: Path, wanted: Wanted, protocol: str | None = None) -> Run:
    """Read a run's experiment and the evaluation that speaks for it.

    Args:
        protocol: Fingerprint of the evaluation; None takes any.
    """
    if not path.exists():
        beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
        hint = did_you_mean(path.name, [other.name for other in beside if looks_like_run(other)])
        raise UserError(f"no run folder {path}; {hint}".rstrip("; "))
    if not looks_like_run(path):
        raise UserError(f"{path} is not a run folder: it has no config.yaml{_inside(path)}")
    experiment = RunFolder(path).description()
    result, remark = choose_evaluation(path, wanted, protocol)
    run = Run(path, experiment, result)
    remarks = [f"{run.name}: {remark}"] if remark else []
    if (origin := RunFolder(path).origin) is not None:
        remarks.append(
            f"{run.name} began with the agent of {origin.run}, trained for {origin.env_steps:,} "
            f"env steps that are not counted here"
        )
    return replace(run, remarks=tuple(remarks))


def choose_evaluation(
    run: Path, wanted: Wanted, protocol: str | None = None
) -> tuple[EvalResult, str | None]:
    """Read the evaluation with the most env steps of training.

    Of equals, the latest checkpoint's, and of several the one made last.

    Args:
        protocol: Fingerprint of the evaluation; None takes any.

    Returns:
        The evaluation, and a sentence on which it is if there are several.
    """
    fitting = _candidates(run, wanted)
    if not fitting:
        found = _candidates(run)
        others = dict.fromkeys(
            f"--split {protocol.get('split')} --actions {protocol.get('actions')}"
            for protocol in (candidate.summary["protocol"] for candidate in found)
            if (protocol.get("split"), protocol.get("actions")) != (wanted.split, wanted.actions)
        )
        has = f" It has: {', '.join(others)}" if others else ""
        raise UserError(
            f"{run} has no evaluation {wanted.words}; make one with `meta-rl evaluate {run} "
            f"{wanted.flags}`.{has}".removesuffix(".")
        )
    preferred = [each for each in fitting if each.summary["fingerprint"] == protocol] or fitting
    taken = max(preferred, key=lambda each: each.order)
    return EvalResult.load(taken.path), _told(taken, fitting)


def _candidates(run: Path, wanted: Wanted | None = None) -> list[_Candidate]:
    """Return a run's evaluations, or those that are wanted."""
    written = sorted(RunFolder(run).evaluations.glob("*.json"))
    found = [_Candidate(path, read_summary(path)) for path in written]
    return [each for each in found if wanted is None or _fits(each.summary, wanted)]


def _fits(summary: dict[str, Any], wanted: Wanted) -> bool:
    protocol = summary["protocol"]
    return (
        protocol.get("split") == wanted.split
        and protocol.get("actions") == wanted.actions
        and wanted.checkpoint in (None, summary.get("checkpoint", "latest"))
    )


def _told(taken: _Candidate, fitting: list[_Candidate]) -> str | None:
    """Say which of several evaluations was taken, and whether that rests on a file's time."""
    if len(fitting) == 1:
        return None
    equals = [each for each in fitting if each.env_steps == taken.env_steps]
    undated = [each.path.name for each in equals if each.summary.get("made_at") is None]
    note = ""
    if len(equals) > 1 and undated:
        note = f"; by the file's time for {', '.join(undated)}, older than the field made_at"
    return (
        f"of {len(fitting)} evaluations takes {taken.path.name}, {taken.env_steps:,} env steps, "
        f"checkpoint {taken.checkpoint}, made {taken.made_at:%Y-%m-%d %H:%M:%S} UTC{note}"
    )


def evaluation_of(
    folder: RunFolder, meta_iterations: int, protocol: Mapping[str, Any], seed: int
) -> EvalResult | None:
    """Return a readable evaluation of the latest checkpoint; none if there is not this one.

    Args:
        meta_iterations: Where the checkpoint is.
        seed: Of the actions' noise.
    """
    for path in sorted(folder.evaluations.glob("*.json")):
        try:
            found = EvalResult.load(path)
        except UserError:
            continue
        if (
            found.meta_iterations == meta_iterations
            and found.fingerprint == fingerprint(protocol)
            and found.checkpoint == "latest"
            and found.seed == seed
        ):
            return found
    return None
