"""Which sinks a run has."""

from dataclasses import replace
from typing import Any

from meta_rl.experiment.config import Experiment
from meta_rl.experiment.identity import shared_name
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.sinks.base import Sink
from meta_rl.runs.sinks.console import ConsoleSink
from meta_rl.runs.sinks.journal import JournalSink
from meta_rl.runs.sinks.jsonl import JsonlSink
from meta_rl.runs.sinks.wandb import WandbSink


def choose_sinks(experiment: Experiment[Any, Any], folder: RunFolder) -> list[Sink]:
    """Return what an experiment's `tracking` asks for, and what every run has.

    Raises:
        UserError: A package is missing.
    """
    tracking = experiment.tracking
    group = tracking.group or shared_name(experiment)
    sinks: list[Sink] = [JsonlSink(folder.metrics), JournalSink(folder.journal), ConsoleSink()]
    # Also where it is off: it keeps the run's id for a resumption that records again.
    sinks.append(WandbSink(replace(tracking, group=group)))
    if tracking.tensorboard:
        from meta_rl.runs.sinks.tensorboard import TensorBoardSink

        sinks.append(TensorBoardSink(folder.tensorboard))
    return sinks
