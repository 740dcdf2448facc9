"""A sweep: trials of settings, each a run for every seed, judged on the validation split alone.

All that a sweep knows is in its folder: `sweep.yaml` says what was asked, `NNN.yaml` is the config
of a trial, and the run folders tell the rest. So it goes on from whatever a kill has left, and who
is stopped depends on scores and numbers of trials, never on which came first.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from meta_rl.core.errors import UserError
from meta_rl.core.outputs import check_folder, to_json, write
from meta_rl.evaluation.comparison import Group, Run, differing_fields, told_differences
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment import strict_yaml
from meta_rl.experiment.config import (
    Experiment,
    experiment_from_dict,
    load_experiment,
    to_dict,
)
from meta_rl.experiment.identity import MAY_CHANGE, changed_flags, flat
from meta_rl.runs.lock import RunLock
from meta_rl.studies.halving import Rank, goes_on, rungs
from meta_rl.studies.processes import Places, Training, is_finished, say, say_how_it_ended
from meta_rl.studies.search import Search, Tried
from meta_rl.studies.settings import Setting, told, value_of, with_setting

EarlyStopping: TypeAlias = Literal["off", "asha"]
State: TypeAlias = Literal["waits", "runs", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class Judging:
    """When trials are judged, and how many go on."""

    rungs: Sequence[int] = ()
    """Meta-iterations at which trials may be stopped; none if they never are."""
    reduction: int = 3
    """Of all trials at a rung, one in so many goes on."""


def judging_of(base: Experiment[Any, Any], stopping: EarlyStopping, reduction: int) -> Judging:
    """Return when the trials of an experiment are judged.

    Raises:
        UserError: They could not be.
    """
    if stopping == "off":
        return Judging()
    found = rungs(base.evaluation.every, base.meta_iterations, reduction)
    if not found:
        raise UserError(
            f"--early-stopping asha judges trials after --evaluation.every meta-iterations, and "
            f"{reduction} times as many, and so on: give fewer than --meta-iterations "
            f"{base.meta_iterations}, got {base.evaluation.every}"
        )
    return Judging(found, reduction)


def judged_on_validation(base: Experiment[Any, Any]) -> Experiment[Any, Any]:
    """Return the experiment with the evaluations that a sweep chooses by.

    Raises:
        UserError: It is set to choose on other tasks.
    """
    evaluation = base.evaluation
    if evaluation.choose_on != "validation":
        raise UserError(
            f"a sweep chooses on the validation split, but evaluation.choose_on is "
            f"{evaluation.choose_on}; give --evaluation.choose-on validation"
        )
    every = evaluation.every or base.meta_iterations  # else at the end alone
    return replace(base, evaluation=replace(evaluation, every=every))


class Trial:
    """One setting: its runs, a seed each, and what they achieved on the validation split."""

    def __init__(
        self, number: int, setting: Setting, trainings: Mapping[int, Training], last: int
    ) -> None:
        self.number = number
        self.setting = setting
        self.trainings = trainings
        """By their seed."""
        self.last = last
        """Meta-iterations of a whole run."""
        self._begun: set[int] = set()
        self._finished: set[int] = set()

    @property
    def label(self) -> str:
        """Number and setting."""
        return f"{self.number:03} ({told(self.setting)})"

    @property
    def first(self) -> Training:
        """The training of the first seed, by which a trial is stopped early."""
        return next(iter(self.trainings.values()))

    @property
    def failed(self) -> bool:
        """Whether a run has ended with an error, as far as this process knows."""
        return any(each.failed for each in self.trainings.values())

    @property
    def is_running(self) -> bool:
        """Whether a process trains."""
        return any(each.is_running for each in self.trainings.values())

    @property
    def is_finished(self) -> bool:
        """Whether all runs are at their end."""
        return all(map(self._is_finished, self.trainings))

    def next(self, all_seeds: bool) -> Training | None:
        """Return a run to start, each once: of the first seed alone unless all may."""
        for seed, training in self.trainings.items():
            if training is not self.first and not all_seeds:
                return None
            measured = self._is_finished(seed) and self.result(training, self.last) is not None
            if seed not in self._begun and not measured:
                self._begun.add(seed)
                return training
        return None

    def result(self, training: Training, meta_iterations: int) -> EvalResult | None:
        """Return the run's own evaluation on the validation split after so many meta-iterations.

        It is the earliest: others may have been made by hand since, by other protocols.
        """
        asked = "validation", meta_iterations, "latest"
        found = [
            each
            for each in training.evaluations.readable()
            if (each.split, each.meta_iterations, each.checkpoint) == asked
        ]
        # Files that do not say when they were made are older than those that do.
        first = min(found, key=lambda each: (each.is_dated, each.made_at), default=None)
        return None if first is None else first.result

    def rank(self, meta_iterations: int) -> Rank | None:
        """Return what the first seed is judged by at a rung; none if it is not there yet.

        Where it could not be evaluated, it is judged as the worst once it has gone on.
        """
        found = self.result(self.first, meta_iterations)
        if found is None and self._has_passed(meta_iterations):
            return (-math.inf,)
        return None if found is None else found.rank()

    def _has_passed(self, meta_iterations: int) -> bool:
        """Return whether the first seed is at its end, or was evaluated later."""
        later = any(
            each.split == "validation" and each.meta_iterations > meta_iterations
            for each in self.first.evaluations.readable()
        )
        return later or self._is_finished(next(iter(self.trainings)))

    def _is_finished(self, seed: int) -> bool:
        if seed not in self._finished and is_finished(self.trainings[seed].run, self.last):
            self._finished.add(seed)
        return seed in self._finished


class Sweep:
    """A plan of trials, lower numbers first.

    With early stopping, a trial is judged at each rung by its first seed: it goes on if it is among
    the best of those with lower numbers that have got there, and it trains on until these have.
    Its other seeds are trained when it has passed all rungs.

    Args:
        base: What trials have in common; its runs are in the sweep's folder.
        names: The settings that are varied.
        places: Where runs are trained.
        asked: What else the user asked for, as plain data: a sweep of the same folder must have
            been asked for the same.
    """

    def __init__(
        self,
        base: Experiment[Any, Any],
        names: Sequence[str],
        search: Search,
        seeds: Sequence[int],
        judging: Judging,
        places: Places,
        asked: Mapping[str, Any],
    ) -> None:
        self.base, self.names, self.search = base, names, search
        self.seeds, self.judging, self.places = seeds, judging, places
        self.folder = Path(base.runs)
        self.trials: list[Trial] = []
        self._passed: dict[tuple[int, int], bool] = {}
        self._asked = _same_sweep(self.folder / "sweep.yaml", asked, base)
        # Trials that may run while another is proposed.
        ahead = self._asked.setdefault("ahead", max(1, places.at_a_time // len(seeds)))
        self._ahead: int = ahead
        # Its folder may be called otherwise by now, but not the runs in it.
        self.name: str = self._asked.setdefault("name", base.name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes away from the sweep, and write down what it is."""
        check_folder(self.folder, "choose another --runs")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = RunLock(self.folder)
        try:
            text = strict_yaml.write(self._asked)
            write(text.encode(), self.folder / "sweep.yaml", "what the sweep is")
            yield
        finally:
            lock.release()

    def check_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Refuse to choose between trials that were measured by different protocols.

        They are if a package that decides what tasks are was upgraded between them.

        Args:
            protocol: What the validation scores of trials depend on, here and now.
        """
        now = json.loads(to_json(protocol))  # as the file has it
        before = self._asked.setdefault("protocol", now)
        if differing := differing_fields([before, now]):
            raise UserError(
                f"{self.folder} holds trials that were measured otherwise "
                f"({told_differences(differing)}), so that these could not be compared with them; "
                f"put the old version back, or choose another --name"
            )

    def run_name(self, number: int, seed: int) -> str:
        """Return the name of a trial's run."""
        return f"{self.name}-{number:03}-seed{seed}"

    def config_of(self, number: int) -> Path:
        """Return the file of a trial's config."""
        return self.folder / f"{number:03}.yaml"

    @property
    def failed(self) -> list[Trial]:
        """Trials of which a run has ended with an error."""
        return [trial for trial in self.trials if trial.failed]

    def next(self) -> Training | None:
        """Return a run of the first trial that has one to start."""
        while True:
            for trial in self.trials:
                if self.stopped_at(trial) is None and (found := trial.next(self._passes(trial))):
                    return found
            if not self._may_propose():
                return None
            self._propose()

    def ended(self, training: Training) -> None:
        """Tell how."""
        say_how_it_ended(training)

    def look(self) -> None:
        """Stop the trials that are not among the best."""
        for trial in self.trials:
            rung = self.stopped_at(trial)
            if rung is not None and trial.first.is_running and not trial.first.was_stopped:
                say(f"{trial.first.name} is not among the best after {rung} meta-iterations")
                trial.first.stop()

    def stopped_at(self, trial: Trial) -> int | None:
        """Return the rung at which a trial was judged too bad to go on; none if at no one yet."""
        for place, rung in enumerate(self.judging.rungs):
            if not (passed := self._passed_rung(trial, place)):
                return None if passed is None else rung
        return None

    def state(self, trial: Trial) -> State:
        """Return what has become of a trial."""
        if self.stopped_at(trial) is not None:
            return "stopped"
        if trial.failed:
            return "failed"
        if trial.is_finished and self._passes(trial):
            return "finished"
        return "runs" if trial.is_running else "waits"

    def group(self, trial: Trial) -> Group | None:
        """Return the runs of a trial with what they achieved on the validation split.

        They are judged at their end, or at the rung at which the trial was stopped. None if nothing
        is known yet.
        """
        at = self.stopped_at(trial) or trial.last
        runs = [
            Run(training.run.path, training.run.description(), result)
            for training in trial.trainings.values()
            if (result := trial.result(training, at)) is not None
        ]
        return Group(f"{trial.number:03}", tuple(runs)) if runs else None

    def rank(self, trial: Trial) -> Rank | None:
        """Return what a trial is chosen by: the mean over its seeds; none if it is not known.

        Of a trial at its end that is the mean over all its seeds, or none.
        """
        group = self.group(trial)
        at_the_end = self.state(trial) == "finished"
        if group is None or (at_the_end and len(group.runs) < len(trial.trainings)):
            return None
        return tuple(np.mean([run.result.rank() for run in group.runs], axis=0).tolist())

    def best(self) -> Trial | None:
        """Return the finished trial that is best on the validation split; of equals the first."""
        finished = [trial for trial in self.trials if self.state(trial) == "finished"]
        return max(finished, key=lambda trial: self.rank(trial) or (), default=None)

    def in_order(self) -> list[Trial]:
        """Return the trials, the best first: those at their end before those that were stopped."""

        def place(trial: Trial) -> tuple[bool, float, Rank]:
            rung = self.stopped_at(trial)
            # Trials that may be of different lengths are compared at their own ends.
            at = math.inf if rung is None else float(rung)
            return self.state(trial) == "finished", at, self.rank(trial) or ()

        return sorted(self.trials, key=place, reverse=True)

    def _may_propose(self) -> bool:
        """Return whether another trial may be proposed now."""
        number = len(self.trials)
        known = self.trials[: max(0, number - self._ahead + 1)] if self.search.learns else []
        settled = ("stopped", "failed", "finished")
        return number < self.search.count and all(self.state(each) in settled for each in known)

    def _propose(self) -> None:
        """Make the next trial, as its file has it if there is one."""
        number = len(self.trials)
        path = self.config_of(number)
        if not path.is_file():
            proposed = self.search.propose(number, self._tried() if self.search.learns else ())
            made = replace(with_setting(self.base, proposed), name="")
            write(strict_yaml.write(to_dict(made)).encode(), path, "the trial's config")
        stored = load_experiment(str(path))
        # What the same sweep may be given anew, such as a device.
        own = {name.partition(".")[0] for name in self.names} | {"meta_iterations"}
        anew = {name: getattr(self.base, name) for name in MAY_CHANGE - own}
        experiment = replace(stored, runs=self.base.runs, **anew)
        words = [str(path), *changed_flags(stored, experiment)]
        trainings = {
            seed: self.places.training_of(
                replace(experiment, seed=seed, name=self.run_name(number, seed)), words
            )
            for seed in self.seeds
        }
        setting = {name: value_of(experiment, name) for name in self.names}
        self.trials.append(Trial(number, setting, trainings, experiment.meta_iterations))

    def _tried(self) -> list[Tried]:
        """Return what a proposal may know: the same, whatever else has ended by now."""
        number = len(self.trials)
        known = max(0, number - self._ahead + 1)
        found = []
        for trial in self.trials:
            rank = self.rank(trial) if trial.number < known else None
            value = None if rank is None else rank[0]
            found.append(Tried(trial.setting, value, runs=trial.number >= known))
        return found

    def _passes(self, trial: Trial) -> bool:
        """Return whether a trial has passed all rungs."""
        return all(self._passed_rung(trial, place) for place in range(len(self.judging.rungs)))

    def _passed_rung(self, trial: Trial, place: int) -> bool | None:
        """Return whether a trial goes on from a rung; none if that is not known yet."""
        key = trial.number, place
        if key not in self._passed:
            rung = self.judging.rungs[place]
            rank = trial.rank(rung)
            if rank is None or (place and not self._passed_rung(trial, place - 1)):
                return None
            earlier = []
            for other in self.trials[: trial.number]:
                if place and self._passed_rung(other, place - 1) is False:
                    continue
                if (theirs := other.rank(rung)) is not None:
                    earlier.append(theirs)
                elif not other.failed:
                    return None
            self._passed[key] = goes_on(rank, earlier, self.judging.reduction)
        return self._passed[key]


def _same_sweep(path: Path, asked: Mapping[str, Any], base: Experiment[Any, Any]) -> dict[str, Any]:
    """Return what a sweep is, as its file has it if there is one.

    Raises:
        UserError: The file tells of another sweep.
    """
    changing = MAY_CHANGE - {"meta_iterations"} | {"name", "runs"}
    common = {name: value for name, value in to_dict(base).items() if name not in changing}
    wanted = {**asked, "config": common}
    if not path.is_file():
        return wanted
    stored = strict_yaml.read(path)
    if not isinstance(stored, dict) or not isinstance(stored.get("config"), dict):
        raise UserError(f"{path} is damaged: it must hold `config` and what was asked for")
    # As this version reads it, which may know settings that it did not when it was written.
    known = to_dict(experiment_from_dict(stored["config"], str(path)))
    config = {name: value for name, value in known.items() if name in common}
    before, now = flat({**stored, "config": config}), flat(wanted)
    differing = [name for name in now if before.get(name) != now[name]]
    if differing:
        told_all = ", ".join(f"{name} {before.get(name)}, not {now[name]}" for name in differing)
        raise UserError(
            f"{path.parent} holds another sweep ({told_all}); choose another --name, or remove the "
            f"folder"
        )
    return stored
