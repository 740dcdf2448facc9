"""The one training loop, for every agent."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.continual import sample_to_train, training_pool
from meta_rl.core.errors import Interrupted, UserError, WorkerDied
from meta_rl.core.lives import Changing
from meta_rl.core.outputs import remove_unfinished
from meta_rl.core.protocols import MetaAgent, Split, Stored, TellingCollector
from meta_rl.core.ranks import LostRank, check_alike, first_rank_alone, gathered, use, world
from meta_rl.core.seeding import Streams
from meta_rl.core.types import MetaBatch, Metrics, all_finite
from meta_rl.evaluation.comparison import (
    Group,
    Run,
    differing_fields,
    told_differences,
)
from meta_rl.evaluation.folder import Evaluations
from meta_rl.evaluation.measuring import evaluate
from meta_rl.evaluation.protocol import (
    BEST_IS_CHOSEN_ON,
    check_choosing,
    fingerprint,
    make_protocol,
)
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.building import (
    build_agent,
    build_distribution,
    resolve_device,
    set_gpu_arithmetic,
    set_threads,
)
from meta_rl.experiment.config import Experiment, experiment_from_dict, to_dict
from meta_rl.experiment.identity import check_same_run
from meta_rl.rollouts.adaptation import Adaptation, NotFinite
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import Origin, RunFolder
from meta_rl.runs.lock import RunLock
from meta_rl.runs.metrics import read_metrics
from meta_rl.runs.sinks.base import Beginning, Sink, Sinks
from meta_rl.runs.trained import check_same_sections, restore
from meta_rl.training.collecting import acting_device, make_collector, unread_settings
from meta_rl.training.interruption import Interruption
from meta_rl.training.memory import check_run_memory
from meta_rl.training.origin import start_from
from meta_rl.training.rejected import Rejected
from meta_rl.training.summary import fetch, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OBJECTIVE = ("outer/loss", "outer/loss_after", "outer/kl")
"""Metrics by which agents tell what the update led to: if one is not finite, neither is that."""


@dataclass
class Counters:
    """How far a run has come."""

    meta_iterations: int = 0
    env_steps: int = 0
    rejected_in_a_row: int = 0
    best: tuple[float, ...] | None = None


class Trainer:
    """Runs an experiment in its folder, from the beginning or from a checkpoint.

    While it exists, no other process can train in the folder: end it by `run` or `close`. Of
    several ranks, each makes one, the first before the others. They learn in step; rank 0 alone
    writes, evaluates and speaks.

    Args:
        draw: Draws the final evaluation for sinks that show figures; none leaves the picture out.
        sinks: Take what the run has to tell; `choose_sinks` lists those of the experiment.
    """

    def __init__(
        self,
        experiment: Experiment[Any, Any],
        folder: RunFolder,
        resume: bool = False,
        overwrite: bool = False,
        draw: "Callable[[Sequence[Group]], Figure] | None" = None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.experiment = experiment
        self.draw = draw
        self.folder = folder
        self.sinks = Sinks(sinks)
        self.ranks = world()
        own = self.ranks.share(experiment.meta_batch_size)
        self.share = slice(own.start * experiment.trials, own.stop * experiment.trials)
        set_threads(experiment)
        self.device = resolve_device(self.ranks.device(experiment.device))
        set_gpu_arithmetic(experiment, self.device)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            if resume and self.ranks.is_first:
                self.lock = RunLock(folder.path)
                for place in (folder.path, folder.checkpoints, folder.replay):
                    remove_unfinished(place)
            state = checkpoint.load(folder.checkpoints / "latest.pt") if resume else None
            self.distribution = build_distribution(experiment)
            self.agent: MetaAgent = build_agent(experiment, self.distribution.spec, self.device)
            self._check_ranks()
            self._check_changes()
            origin: Origin | None = None
            notes: list[str] = []
            if state is None and experiment.start_from:
                spec = self.distribution.spec
                origin, notes = start_from(experiment.start_from, self.agent, spec, self.device)
            self.streams = Streams(experiment.seed, acting_device(experiment.rollouts, self.device))
            # What is too large is refused before anything is made.
            notes += unread_settings(experiment)
            notes += check_run_memory(experiment, self.agent, self.distribution, self.device)
            self.pool = training_pool(
                self.distribution,
                experiment.meta_batch_size,
                experiment.train_tasks,
                experiment.seed,
            )
            if experiment.evaluation.every:
                check_choosing(self.distribution, experiment.evaluation.choose_on)
            self.protocol = self._protocol()
            self.counters = Counters()
            if state is not None:
                self._restore(state)
            self.collector = make_collector(
                experiment, self.agent, self.distribution, self.device, self.sinks.say
            )
            if self.ranks.is_first:
                if state is None:
                    self.lock = folder.create(experiment, self.protocol, overwrite, origin)
                else:
                    folder.save_experiment(experiment)  # whose end may have moved
            for note in notes:  # which log.txt takes from now on
                self.sinks.say(note)
            # Each rank counts its own steps, and rank 0 also those that were made before.
            self.collector.env_steps = self.counters.env_steps if self.ranks.is_first else 0
            if state is None:  # so that a run can be resumed from its very beginning
                self.save(self._state())
            undo.pop_all()

    def run(self) -> EvalResult | None:
        """Train to the end, evaluate, and return the final evaluation.

        A run that is interrupted, or that an error ends, leaves a checkpoint of the last whole
        meta-iteration. A run that is finished already only says so. Other ranks than the first
        return None.
        """
        use(self.device)
        check_alike(self._what_all_hold(), "the run")
        with Interruption() as interruption, contextlib.ExitStack() as closing:
            closing.callback(self.close)
            self.sinks.tidy(self._beginning())
            finished = self._finished() if self.ranks.is_first else None
            if gathered(finished is not None)[0]:
                if finished is not None and not self._is_recorded(finished):
                    self._record_what_a_kill_left_out(finished)
                self.sinks.say(
                    f"{self.folder.path} is finished: {self.counters.meta_iterations} "
                    f"meta-iterations, evaluated; move its end with --meta-iterations"
                )
                return finished
            return self._run(interruption)

    def close(self) -> None:
        """Release simulators and the folder, also of a trainer that was never run."""
        if hasattr(self, "collector"):
            self.collector.close()
        if hasattr(self, "lock"):
            self.lock.release()

    def _run(self, interruption: Interruption) -> EvalResult | None:
        """Train and evaluate; whatever breaks it off, save the last whole meta-iteration."""
        succeeded = False
        self._whole = self._state()
        """The state after the last whole meta-iteration."""
        try:
            result = self._train()
            succeeded = True
            return result
        except KeyboardInterrupt:
            interruption.answer("the checkpoint is being written", " and loses it")
            self.save(self._whole)
            stopped = Interrupted(f"stopped {self._how_far()}")
            if self.ranks.size > 1:  # torchrun ends all processes when one has ended
                stopped.args = (f"{stopped}; if no one stopped it, torchrun tells what failed",)
            raise self.ranks.told_once(stopped) from None
        except (LostRank, WorkerDied) as lost:
            interruption.answer("the checkpoint is being written", " and loses it")
            self.save(self._whole)
            lost.args = (f"{lost}; stopped {self._how_far()}",)
            raise
        except Exception:  # which counts, not what saving makes of it
            interruption.answer("the checkpoint is being written", " and loses it")
            try:
                self.save(self._whole)
            except UserError as problem:
                self.sinks.say(str(problem))
            raise
        finally:
            interruption.answer("what was recorded is being completed")
            self.sinks.finish(succeeded)

    def _train(self) -> EvalResult | None:
        """Go through the meta-iterations that are left; evaluate on the way and at the end."""
        if self.ranks.is_first:
            self.sinks.start(self._beginning())
            self._renew_protocol()
            if self.counters.meta_iterations:
                self.folder.renew_environment(self.counters.meta_iterations)
        if self.sinks.state_dict() != self._whole["sinks"]:
            self.save(self._state())
        watched: EvalResult | None = None
        for _ in range(self.counters.meta_iterations, self.experiment.meta_iterations):
            self._whole = self._state()
            values = self._fetch(self.meta_iteration(self._whole))
            watched = None
            if self._due(self.experiment.evaluation.every):
                with first_rank_alone():
                    watched = self._watch_or_warn() if self.ranks.is_first else None
                values |= watched.metrics() if watched else {}
            self._log(values)
            if self._due(self.experiment.checkpoint_every):
                self._save_whole()
        self._save_whole()
        with first_rank_alone():
            return self._conclude(watched) if self.ranks.is_first else None

    def _save_whole(self) -> None:
        """Write a checkpoint of now, when a meta-iteration is whole."""
        self._whole = self._state()
        self.save(self._whole)

    def _conclude(self, watched: EvalResult | None) -> EvalResult:
        """Evaluate, and record it."""
        result, values = self._finish(watched)
        if values:
            self._log(values)
        self._record_final(result)
        return result

    def _how_far(self) -> str:
        return (
            f"after {self._whole['meta_iterations']} meta-iterations; continue with `meta-rl train "
            f"--resume {self.folder.path}`"
        )

    def _beginning(self) -> Beginning:
        return Beginning(
            self.folder.path,
            self.experiment.name,
            {**to_dict(self.experiment), "protocol": self.protocol},
            self.experiment.meta_iterations,
            self.counters.meta_iterations,
            self.counters.env_steps,
        )

    def _log(self, values: Mapping[str, float]) -> None:
        self.sinks.log(values, self.counters.env_steps, self.counters.meta_iterations)

    def _finished(self) -> EvalResult | None:
        """Return the final evaluation of a run that has nothing left to do.

        It may be by the versions of packages that the run was made with.
        """
        if self.counters.meta_iterations < self.experiment.meta_iterations:
            return None
        if not self._has_chosen():
            return None
        return self._evaluated("test") or self._own(self.folder.protocol())

    def _has_chosen(self) -> bool:
        """Return whether this very state was measured where the best checkpoint is chosen."""
        config = self.experiment.evaluation
        if not config.every or config.choose_on == "test":
            return True
        made, place = Evaluations(self.folder.evaluations).readable(), self.counters.meta_iterations
        return any((each.split, each.meta_iterations) == (config.choose_on, place) for each in made)

    def _is_recorded(self, result: EvalResult) -> bool:
        """Return whether metrics.jsonl has the scores of an evaluation."""
        wanted = result.metrics().keys()
        rows = read_metrics(self.folder.metrics, ("meta_iterations",)).rows
        at_the_end = [row for row in rows if row["meta_iterations"] == result.meta_iterations]
        return any(wanted <= row.keys() for row in at_the_end)

    def _record_what_a_kill_left_out(self, result: EvalResult) -> None:
        """Give all sinks a final evaluation that was written, but not yet told."""
        self.sinks.start(self._beginning())
        watched = self._watched_before() if self.experiment.evaluation.every else None
        chosen_by = {} if watched is None else self._unrecorded(watched)
        self._log(chosen_by | result.metrics())
        self._record_final(result)
        self.sinks.finish()

    def meta_iteration(self, before: Mapping[str, Any]) -> Metrics:
        """Collect one meta-batch and improve the agent by it, or reject the batch whole.

        Args:
            before: The state to go back to if something is not finite.
        """
        try:
            batch = self.collect()
            metrics = self.update(batch) | summarize(batch, self.distribution.spec.scores)
            self.counters.rejected_in_a_row = 0
        except Rejected as problem:
            self.agent.load_state_dict(before["agent"])
            if isinstance(self.agent, Stored):
                self.agent.rewind(before["stored"])
            metrics = self._reject(problem, before)
        self.counters.meta_iterations += 1
        self.counters.env_steps = sum(gathered(self.collector.env_steps))
        told = self.collector.tell() if isinstance(self.collector, TellingCollector) else {}
        return (
            metrics
            | told
            | {"train/rejected_in_a_row": torch.tensor(float(self.counters.rejected_in_a_row))}
        )

    def collect(self) -> MetaBatch:
        """Let the agent act, and adapt, through its phases on freshly drawn tasks.

        All ranks draw the same tasks, and each plays its share of them.
        """
        experiment, streams = self.experiment, self.streams
        tasks = sample_to_train(
            self.distribution,
            self.counters.meta_iterations,
            experiment.meta_batch_size,
            experiment.trials,
            streams.tasks,
            self.pool,
        )
        if self.ranks.size > 1:
            tasks = tasks.part(self.share)
        adaptation = Adaptation(
            self.agent, self.collector, tasks, experiment.copies, streams, training=True
        )
        try:
            return adaptation.complete()
        except NotFinite as problem:
            raise Rejected(str(problem), problem.batch) from problem

    def update(self, batch: MetaBatch) -> Metrics:
        """Let the agent learn, and make sure that it is finite, and the same on all ranks."""
        metrics = self.agent.meta_update(batch)
        check_alike(self.agent.state_dict(), "what was learned")
        objective = {name: metrics[name] for name in OBJECTIVE if name in metrics}
        if not all_finite((self.agent.state_dict(), objective)):
            raise Rejected(
                "the meta-update made parameters, or the objective under them, not finite", batch
            )
        return metrics

    def evaluate(self, split: Split) -> EvalResult:
        """Measure adaptation to the tasks of a split, and write the result."""
        experiment, env_steps = self.experiment, self.collector.env_steps
        try:
            result = evaluate(
                self.agent,
                self.distribution,
                self.collector,
                self.device,
                replace(experiment.evaluation, split=split),
                experiment.evaluation_copies,
                experiment.meta_batch_size,
                self.counters.env_steps,
                self.counters.meta_iterations,
            )
        finally:
            self.collector.env_steps = env_steps  # the agent learns nothing from the others
        Evaluations(self.folder.evaluations).save(result)
        return result

    def watch(self) -> EvalResult:
        """Measure on the split to choose by, and keep the checkpoint if it is the best."""
        result = self.evaluate(self.experiment.evaluation.choose_on)
        self._keep_if_best(result)
        return result

    def _keep_if_best(self, result: EvalResult) -> None:
        rank = result.rank()
        if self.counters.best is None or rank > self.counters.best:
            best = self._state() | {"best": rank}
            checkpoint.save(best, self.folder.checkpoints / "best.pt")
            self.counters.best = rank

    def _finish(self, watched: EvalResult | None) -> tuple[EvalResult, dict[str, float]]:
        """Return the final evaluation, of the test split, and what is new in it to be logged.

        Args:
            watched: The evaluation while training of this very state, if there was one.
        """
        values: dict[str, float] = {}
        if self.experiment.evaluation.every == 0:  # nothing to choose from: the last is the best
            checkpoint.save(self._state(), self.folder.checkpoints / "best.pt")
        elif watched is None:
            watched = self._watched_before() or self.watch()
            values |= self._unrecorded(watched)
            self._save_whole()  # a later end must know which was the best
        if watched is not None and watched.protocol["split"] == "test":
            return watched, values
        result = self.evaluate("test")
        return result, values | result.metrics()

    def _unrecorded(self, result: EvalResult) -> dict[str, float]:
        """Return what of an evaluation of this very state is to be logged: all of it or nothing."""
        return {} if self._is_recorded(result) else result.metrics()

    def _watched_before(self) -> EvalResult | None:
        """Return the evaluation to choose by of this very state, if a stopped process made it."""
        choose_on = self.experiment.evaluation.choose_on
        if choose_on == "test":
            return None
        made = self._evaluated(choose_on)
        if made is not None:
            self._keep_if_best(made)
        return made

    def _evaluated(self, split: Split) -> EvalResult | None:
        """Return the run's own evaluation of this very state, if there is one."""
        return self._own(self._protocol(split))

    def _own(self, protocol: Mapping[str, Any]) -> EvalResult | None:
        evaluations = Evaluations(self.folder.evaluations)
        made, seed = self.counters.meta_iterations, self.experiment.evaluation.seed
        return evaluations.own(made, protocol, seed)

    def _renew_protocol(self) -> None:
        """Write down by what the run is measured from now on, if packages are others than before.

        Whether it is finished is told by that.
        """
        before = self.folder.protocol()
        if fingerprint(before) == fingerprint(self.protocol):
            return
        differing = told_differences(differing_fields([before, self.protocol]))
        self.sinks.say(
            f"note: evaluations from now on compare with none before, as they depend on what has "
            f"changed since: {differing}"
        )
        self.folder.save_protocol(self.protocol)

    def _watch_or_warn(self) -> EvalResult | None:
        """Evaluate while training, which goes on if there is nothing to measure."""
        try:
            result = self.evaluate(self.experiment.evaluation.choose_on)
        except UserError as error:
            self.sinks.say(f"no evaluation after {self.counters.meta_iterations}: {error}")
            return None
        self._keep_if_best(result)
        return result

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the latest checkpoint, on rank 0, and before it what it names."""
        if not self.ranks.is_first:
            return
        if isinstance(self.agent, Stored):
            self.folder.replay.mkdir(exist_ok=True)
            self.agent.write_stored(self.folder.replay, state["stored"])
        checkpoint.save(state, self.folder.checkpoints / "latest.pt")
        if isinstance(self.agent, Stored):
            self.agent.delete_stored(self.folder.replay, state["stored"])

    def _state(self) -> dict[str, Any]:
        """Return a copy of all that the rest of the run depends on."""
        state = {
            "config": to_dict(self.experiment),
            "protocol": self.protocol,
            "agent": self.agent.state_dict(),
            "stored": self.agent.mark() if isinstance(self.agent, Stored) else None,
            "streams": self.streams.state_dict(),
            "sinks": self.sinks.state_dict(),
            **vars(self.counters),
        }
        copy: dict[str, Any] = pytree.tree_map(
            lambda x: x.clone() if isinstance(x, Tensor) else x, state
        )
        return copy

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same agent and family, which is not beyond the end."""
        if state.get("trimmed"):
            raise UserError(
                f"{self.folder.path} is trimmed to what adaptation needs, so it cannot be trained "
                f"on; begin anew with `meta-rl train {self.folder.path / 'config.yaml'}`"
            )
        check_same_sections(state, self.experiment)
        stored = experiment_from_dict(state["config"], "the checkpoint")
        advice = "put its config.yaml back as it was, or begin another run"
        check_same_run(stored, self.experiment, self.folder.path, advice)
        acted_on = acting_device(stored.rollouts, torch.device(stored.device)).type
        acts_on = self.streams.acting.device.type
        if acted_on != acts_on:  # their random numbers cannot continue each other's
            raise UserError(
                f"the run has acted on {acted_on}, so it cannot go on on {acts_on}; resume it with "
                f"the --device, rollouts.device and rollouts.gpus_per_worker that it had"
            )
        restore(self.agent, state["agent"], self.experiment.agent_name)
        if isinstance(self.agent, Stored):
            self.agent.read_stored(self.folder.replay, state["stored"])
        self.streams.load_state_dict(state["streams"])
        self.counters = Counters(**{name: state[name] for name in vars(Counters())})
        self.sinks.load_state_dict(state["sinks"])
        if self.experiment.meta_iterations < (done := self.counters.meta_iterations):
            raise UserError(
                f"{self.folder.path} has done {done} meta-iterations already, so that it cannot "
                f"end with {self.experiment.meta_iterations}; leave out --meta-iterations, or "
                f"give more"
            )

    def _check_ranks(self) -> None:
        """Refuse agents that cannot learn from tasks that other processes have played."""
        knows = getattr(self.agent, "learns_over_ranks", False)
        if self.ranks.size > 1 and not knows:
            raise UserError(
                f"{self.experiment.agent_name} learns in a single process, but torchrun has "
                f"started {self.ranks.size}: use `meta-rl train` without it, or an agent whose "
                f"learns_over_ranks is true"
            )

    def _check_changes(self) -> None:
        """Refuse tasks that change under agents that hold experience against its task."""
        changing = isinstance(self.distribution, Changing)
        if changing and getattr(self.agent, "learns_by_task", False):
            raise UserError(
                f"{self.experiment.agent_name} learns by which experience is of the same task, so "
                f"its training tasks must stay; leave out change.every, and measure the run in "
                f"changing tasks by `meta-rl evaluate RUN --change-every ...`"
            )

    def _what_all_hold(self) -> dict[str, Any]:
        """Return what ranks that learn in step have in common."""
        state = self._state()
        names = ("config", "agent", "stored", "streams", "meta_iterations")
        return {name: state[name] for name in names}

    def _protocol(self, split: Split = "test") -> dict[str, Any]:
        """Return the protocol of an evaluation, and by which split `best` is chosen."""
        config = self.experiment.evaluation
        of_split, copies = replace(config, split=split), self.experiment.evaluation_copies
        protocol = make_protocol(self.agent, self.distribution, of_split, copies)
        return {**protocol, BEST_IS_CHOSEN_ON: config.choose_on if config.every else None}

    def _due(self, every: int) -> bool:
        return every > 0 and self.counters.meta_iterations % every == 0

    def _reject(self, problem: Rejected, before: Mapping[str, Any]) -> Metrics:
        """Save what cannot be learned from, to be repeated; stop if there are many in a row."""
        self.counters.rejected_in_a_row += 1
        iteration = self.counters.meta_iterations + 1
        path = self.folder.rejected / f"{iteration}.pt"
        problem.save(path, before["agent"])
        message = f"meta-update {iteration} was rejected: {problem}; its batch is in {path}"
        if self.counters.rejected_in_a_row >= self.experiment.max_rejected:
            error = UserError(
                f"{message}. That is {self.counters.rejected_in_a_row} in a row, so the run stops; "
                f"look at the batch, or lower the step sizes and start again"
            )
            raise self.ranks.told_once(error) from problem
        self.sinks.say(message)
        return {}

    def _fetch(self, metrics: Metrics) -> dict[str, float]:
        """Bring all metrics to the host at once; leave out, with a word, those not finite."""
        values = fetch(metrics, self.device)
        if wrong := [name for name, value in values.items() if not isfinite(value)]:
            self.sinks.say(
                f"not finite after {self.counters.meta_iterations} meta-iterations, and left out: "
                f"{', '.join(wrong)}"
            )
        return {name: value for name, value in values.items() if name not in wrong}

    def _record_final(self, result: EvalResult) -> None:
        self.sinks.log_table("evaluation/final", *result.table())
        if self.draw is not None and self.sinks.wants_figures:
            run = Run(self.folder.path, to_dict(self.experiment), result)
            curves = self.draw([Group(self.experiment.name, (run,))])
            self.sinks.log_figure("evaluation/adaptation", curves)
        path = self.folder.checkpoints / "latest.pt"
        self.sinks.log_artifact(
            path, f"{self.experiment.agent_name}-{self.experiment.name}", "checkpoint"
        )
