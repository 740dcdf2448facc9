"""Which experiments are the same agent on the same tasks, whatever their seed."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from meta_rl.experiment.config import Experiment, to_dict

NOT_LEARNING = {
    *("seed", "name", "runs", "tracking", "version"),
    *("device", "threads", "workers", "checkpoint_every", "max_rejected", "evaluation"),
}
"""Fields of an experiment that do not change what an agent learns. How it is evaluated is in the
protocol of its result."""


def learning_part(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, as plain data, that seeds of one agent have in common."""
    learning = {name: value for name, value in experiment.items() if name not in NOT_LEARNING}
    if learning.get("train_tasks") is None:  # which older runs do not know
        learning.pop("train_tasks", None)
    if origin := learning.pop("start_from", ""):  # nor this
        # Seeds of one agent start from seeds of another.
        learning["start_from"] = re.sub(r"-seed\d+$", "", origin)
    return learning


def shared_name(experiment: Experiment[Any, Any]) -> str:
    """Return the name of a run without its seed, and a hash of what its agent learns from."""
    learning = json.dumps(learning_part(to_dict(experiment)), sort_keys=True)
    name = experiment.name.removesuffix(f"-seed{experiment.seed}")
    return f"{name}-{hashlib.sha256(learning.encode()).hexdigest()[:8]}"
