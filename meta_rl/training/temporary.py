"""Trainers that leave nothing behind."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from meta_rl.experiment.config import Experiment
from meta_rl.runs.folder import RunFolder
from meta_rl.training.trainer import Trainer


@contextmanager
def temporary_trainer(experiment: Experiment[Any, Any]) -> Iterator[Trainer]:
    """Make a trainer whose run folder is a temporary one."""
    untracked = replace(experiment, tracking=replace(experiment.tracking, mode="off"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(untracked, RunFolder(Path(folder) / "run"))
        try:
            yield trainer
        finally:
            trainer.close()
