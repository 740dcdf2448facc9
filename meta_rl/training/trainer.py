"""The one training loop, for every agent."""

import contextlib
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.episodes import episode_scores
from meta_rl.core.errors import Interrupted, UserError
from meta_rl.core.protocols import MetaAgent, Split
from meta_rl.core.seeding import Streams
from meta_rl.core.types import MetaBatch, Metrics, Rollout, Score, all_finite, map_tensors
from meta_rl.evaluation.comparison import Group, Run
from meta_rl.evaluation.measuring import evaluate
from meta_rl.evaluation.protocol import BEST_IS_CHOSEN_ON, check_choosing, make_protocol
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.building import (
    build_agent,
    build_distribution,
    resolve_device,
    set_threads,
    worker_count,
)
from meta_rl.experiment.config import Experiment, to_dict
from meta_rl.experiment.identity import shared_name
from meta_rl.rollouts.adaptation import Adaptation, NotFinite, episodes_in
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.sinks import ConsoleSink, JsonlSink, Sink, WandbSink
from meta_rl.runs.trained import check_same_sections

if TYPE_CHECKING:
    from matplotlib.figure import Figure


OBJECTIVE = ("outer/loss", "outer/loss_after", "outer/kl")
"""Metrics by which agents tell what the update led to: if one is not finite, neither is that."""


class Rejected(Exception):  # noqa: N818
    """A meta-update that must not count: something in it is not finite."""

    def __init__(self, reason: str, batch: MetaBatch) -> None:
        super().__init__(reason)
        self.batch = batch


@dataclass
class Counters:
    """How far a run has come."""

    meta_iterations: int = 0
    env_steps: int = 0
    rejected_in_a_row: int = 0
    best: tuple[float, ...] | None = None


class Trainer:
    """Runs an experiment in its folder, from the beginning or from a checkpoint.

    Args:
        draw: Draws the final evaluation for W&B; none leaves the picture out.
    """

    def __init__(
        self,
        experiment: Experiment[Any, Any],
        folder: RunFolder,
        resume: bool = False,
        overwrite: bool = False,
        draw: "Callable[[Sequence[Group]], Figure] | None" = None,
    ) -> None:
        self.experiment = experiment
        self.draw = draw
        self.folder = folder
        set_threads(experiment)
        self.device = resolve_device(experiment.device)
        state = checkpoint.load(folder.checkpoints / "latest.pt") if resume else None
        self.distribution = build_distribution(experiment)
        self.agent: MetaAgent = build_agent(experiment, self.distribution.spec, self.device)
        self.streams = Streams(experiment.seed, self.device)
        # Asks for a meta-batch once, so that one too large is refused before anything is made.
        scratch = torch.Generator().manual_seed(0)
        self.distribution.sample(experiment.meta_batch_size, "train", scratch)
        if experiment.evaluation.every:
            check_choosing(self.distribution, experiment.evaluation.choose_on)
        protocol = self._protocol()
        self.counters = Counters()
        self.wandb_run_id: str | None = None
        if state is None:
            folder.create(experiment, protocol, overwrite)
        else:
            self._restore(state)
            folder.save_experiment(experiment)  # whose end may have moved
        self.collector = self.distribution.make_collector(self.device, worker_count(experiment))
        self.collector.env_steps = self.counters.env_steps
        self.jsonl = JsonlSink(folder.metrics)
        if resume:
            self.jsonl.truncate_after(self.counters.meta_iterations)
        self.wandb = WandbSink(
            replace(
                experiment.tracking, group=experiment.tracking.group or shared_name(experiment)
            ),
            folder.path,
            experiment.name,
            {**to_dict(experiment), "protocol": protocol},
            self.wandb_run_id,
        )
        self.wandb_run_id = self.wandb.run_id
        if state is None:  # so that a run can be resumed from its very beginning
            self.save(self._state())

    def run(self) -> EvalResult | None:
        """Train to the end, evaluate, and return the final evaluation.

        A run that is interrupted, or that an error ends, leaves a checkpoint of the last whole
        meta-iteration.
        """
        console = ConsoleSink(
            self.experiment.meta_iterations,
            self.counters.meta_iterations,
            self.counters.env_steps,
        )
        sinks: tuple[Sink, ...] = (self.jsonl, self.wandb, console)
        succeeded = False
        before = self._state()
        try:
            with _interruptible():
                watched: EvalResult | None = None
                for _ in range(self.counters.meta_iterations, self.experiment.meta_iterations):
                    before = self._state()
                    metrics = self.meta_iteration(before)
                    values, watched = self._fetch(metrics), None
                    if self._due(self.experiment.evaluation.every):
                        watched = self._watch_or_warn()
                        values |= watched.metrics() if watched else {}
                    for sink in sinks:
                        sink.log(values, self.counters.env_steps, self.counters.meta_iterations)
                    if self._due(self.experiment.checkpoint_every):
                        self.save(self._state())
                before = self._state()
                self.save(before)
                result, values = self._finish(watched)
                if values:
                    for sink in (self.jsonl, self.wandb):
                        sink.log(values, self.counters.env_steps, self.counters.meta_iterations)
                self._record_final(result)
                succeeded = True
                return result
        except KeyboardInterrupt:
            self.save(before)
            raise Interrupted(
                f"stopped after {before['meta_iterations']} meta-iterations; continue with "
                f"`meta-rl train --resume {self.folder.path}`"
            ) from None
        except UserError:
            self.save(before)
            raise
        except Exception:  # out of memory, say: the error counts, not what saving makes of it
            with contextlib.suppress(UserError):
                self.save(before)
            raise
        finally:
            self.collector.close()
            for sink in sinks:
                sink.finish(succeeded)

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
            metrics = self._reject(problem, before)
        self.counters.meta_iterations += 1
        self.counters.env_steps = self.collector.env_steps
        return metrics | {
            "train/rejected_in_a_row": torch.tensor(float(self.counters.rejected_in_a_row))
        }

    def collect(self) -> MetaBatch:
        """Let the agent act, and adapt, through its phases on freshly drawn tasks."""
        experiment, streams = self.experiment, self.streams
        tasks = self.distribution.sample(experiment.meta_batch_size, "train", streams.tasks)
        adaptation = Adaptation(
            self.agent, self.collector, tasks, experiment.envs_per_task, streams, training=True
        )
        try:
            return adaptation.complete()
        except NotFinite as problem:
            raise Rejected(str(problem), problem.batch) from problem

    def update(self, batch: MetaBatch) -> Metrics:
        """Let the agent learn, and make sure that what it became is finite."""
        metrics = self.agent.meta_update(batch)
        objective = {name: metrics[name] for name in OBJECTIVE if name in metrics}
        if not all_finite((self.agent.state_dict(), objective)):
            raise Rejected(
                "the meta-update made parameters, or the objective under them, not finite", batch
            )
        return metrics

    def evaluate(self, split: Split) -> EvalResult:
        """Measure adaptation to the tasks of a split, and write the result."""
        experiment = self.experiment
        result = evaluate(
            self.agent,
            self.distribution,
            self.collector,
            self.device,
            replace(experiment.evaluation, split=split),
            experiment.evaluation.copies or experiment.envs_per_task,
            experiment.meta_batch_size,
            self.counters.env_steps,
            self.counters.meta_iterations,
        )
        result.save(self.folder.evaluations)
        return result

    def watch(self) -> EvalResult:
        """Measure on the split to choose by, and keep the checkpoint if it is the best."""
        result = self.evaluate(self.experiment.evaluation.choose_on)
        if self.counters.best is None or result.rank() > self.counters.best:
            self.counters.best = result.rank()
            checkpoint.save(self._state(), self.folder.checkpoints / "best.pt")
        return result

    def _finish(self, watched: EvalResult | None) -> tuple[EvalResult, dict[str, float]]:
        """Return the final evaluation, of the test split, and what is new in it to be logged.

        Args:
            watched: The evaluation while training of this very state, if there was one.
        """
        values: dict[str, float] = {}
        if self.experiment.evaluation.every == 0:  # nothing to choose from: the last is the best
            checkpoint.save(self._state(), self.folder.checkpoints / "best.pt")
        elif watched is None:
            watched = self.watch()
            values |= watched.metrics()
        if watched is not None and watched.protocol["split"] == "test":
            return watched, values
        result = self.evaluate("test")
        return result, values | result.metrics()

    def _watch_or_warn(self) -> EvalResult | None:
        """Evaluate while training, which goes on if there is nothing to measure."""
        try:
            return self.watch()
        except UserError as error:
            print(f"no evaluation after {self.counters.meta_iterations}: {error}", flush=True)
            return None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the latest checkpoint."""
        checkpoint.save(state, self.folder.checkpoints / "latest.pt")

    def _state(self) -> dict[str, Any]:
        """Return a copy of all that the rest of the run depends on."""
        state = {
            "config": to_dict(self.experiment),
            "protocol": self._protocol(),
            "agent": self.agent.state_dict(),
            "streams": self.streams.state_dict(),
            "wandb_run_id": self.wandb_run_id,
            **vars(self.counters),
        }
        copy: dict[str, Any] = pytree.tree_map(
            lambda x: x.clone() if isinstance(x, Tensor) else x, state
        )
        return copy

    def _restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint of the same agent and family."""
        check_same_sections(state, self.experiment)
        trained_on = torch.device(state["config"]["device"]).type
        if trained_on != self.device.type:  # their random numbers cannot continue each other's
            raise UserError(
                f"the run was trained on {trained_on}, so it cannot go on on {self.device.type}; "
                f"resume it with --device {trained_on}"
            )
        self.agent.load_state_dict(state["agent"])
        self.streams.load_state_dict(state["streams"])
        self.counters = Counters(**{name: state[name] for name in vars(Counters())})
        self.wandb_run_id = state["wandb_run_id"]

    def _protocol(self) -> dict[str, Any]:
        """Return the protocol of the final evaluation, and by which split `best` is chosen."""
        config = self.experiment.evaluation
        copies = config.copies or self.experiment.envs_per_task
        final = replace(config, split="test")
        protocol = make_protocol(self.agent, self.distribution, final, copies)
        return {**protocol, BEST_IS_CHOSEN_ON: config.choose_on if config.every else None}

    def _due(self, every: int) -> bool:
        return every > 0 and self.counters.meta_iterations % every == 0

    def _reject(self, problem: Rejected, before: Mapping[str, Any]) -> Metrics:
        """Save what cannot be learned from, to be repeated; stop if there are many in a row."""
        self.counters.rejected_in_a_row += 1
        iteration = self.counters.meta_iterations + 1
        path = self.folder.rejected / f"{iteration}.pt"
        experience = problem.batch.experience
        batch = {
            "reason": str(problem),
            "tasks": vars(problem.batch.tasks),
            "experience": [vars(map_tensors(lambda x: x.cpu(), each)) for each in experience],
            "agent": before["agent"],
        }
        checkpoint.save(batch, path)
        message = f"meta-update {iteration} was rejected: {problem}; its batch is in {path}"
        if self.counters.rejected_in_a_row >= self.experiment.max_rejected:
            raise UserError(
                f"{message}. That is {self.counters.rejected_in_a_row} in a row, so the run stops; "
                f"look at the batch, or lower the step sizes and start again"
            ) from problem
        print(message, flush=True)
        return {}

    def _fetch(self, metrics: Metrics) -> dict[str, float]:
        """Bring all metrics to the host at once; leave out, with a word, those not finite."""
        if not metrics:  # an agent that learns nothing may have nothing to say
            return {}
        stacked = torch.stack(
            [value.detach().float().to(self.device) for value in metrics.values()]
        )
        values = dict(zip(metrics, stacked.tolist(), strict=True))
        wrong = [name for name, value in values.items() if not isfinite(value)]
        if wrong:
            print(
                f"not finite after {self.counters.meta_iterations} meta-iterations, and left out: "
                f"{', '.join(wrong)}",
                flush=True,
            )
        return {name: value for name, value in values.items() if isfinite(value)}

    def _record_final(self, result: EvalResult) -> None:
        if not self.wandb.recording:
            return
        self.wandb.log_table("evaluation/final", *result.table())
        if self.draw is not None:
            run = Run(self.folder.path, to_dict(self.experiment), result)
            curves = self.draw([Group(self.experiment.name, (run,))])
            self.wandb.log_figure("evaluation/adaptation", curves)
        path = self.folder.checkpoints / "latest.pt"
        name = f"{self.experiment.agent_name}-{self.experiment.name}"
        self.wandb.log_artifact(path, name, "checkpoint")


def summarize(batch: MetaBatch, scores: Sequence[Score]) -> Metrics:
    """Return the mean of each score in each phase, in the first and in the last.

    Whatever else the simulator reports is counted over a phase.
    """
    metrics: Metrics = {}
    judged = {score.quantity for score in scores}
    for k, experience in enumerate(batch.experience):
        found = episode_scores(experience, scores, episodes_in(experience))
        ends = [("before", 0), ("after", len(batch.experience) - 1)]
        for label in [f"phase_{k}", *(name for name, which in ends if which == k)]:
            for score in scores:
                metrics[f"{score.label}/{label}"] = found[score.name].mean()
        for name, happened in experience.metrics.items():
            if name not in judged and isinstance(experience, Rollout):
                counted = torch.where(experience.valid, happened, 0.0)
                metrics[f"{name}/phase_{k}"] = counted.sum()
    return metrics


class _interruptible:  # noqa: N801
    """Lets SIGTERM, by which clusters end a job, stop a run as Ctrl-C does."""

    def __enter__(self) -> None:
        def interrupt(number: int, frame: FrameType | None) -> None:
            raise KeyboardInterrupt

        self.old: Callable[[int, FrameType | None], Any] | int | None = None
        if threading.current_thread() is threading.main_thread():
            self.old = signal.signal(signal.SIGTERM, interrupt)

    def __exit__(self, *exception: object) -> None:
        if self.old is not None:
            signal.signal(signal.SIGTERM, self.old)
