"""Which experiments are the same agent on the same tasks, whatever their seed."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meta_rl.core.errors import UserError
from meta_rl.experiment.config import Experiment, to_dict

NOT_LEARNING = {
    *("seed", "name", "runs", "tracking", "version"),
    *("device", "gpu_arithmetic", "threads", "workers", "rollouts"),
    *("checkpoint_every", "max_rejected", "evaluation"),
}
"""Fields of an experiment that do not change what an agent learns. How it is evaluated is in the
protocol of its result."""

MAY_CHANGE = {
    *("meta_iterations", "device", "gpu_arithmetic", "threads", "workers", "rollouts"),
    *("checkpoint_every", "max_rejected", "tracking"),
}
"""Fields that may be other when a run is resumed: those that do not change what it learns from."""


def check_same_run(
    stored: Experiment[Any, Any],
    expected: Experiment[Any, Any],
    where: Path,
    advice: str = "choose another --name, or remove the folder",
) -> None:
    """Refuse to take a run for one of another experiment.

    Args:
        where: The run's folder, which may have moved: its path is not compared.
        advice: What to do if it is.
    """
    theirs, ours = flat(to_dict(stored)), flat(to_dict(expected))
    elsewhere = MAY_CHANGE | {"name", "runs"}
    differing = sorted(
        name
        for name in theirs.keys() | ours.keys()
        if theirs.get(name) != ours.get(name) and name.partition(".")[0] not in elsewhere
    )
    if differing:
        told = ", ".join(f"{name} {theirs.get(name)}, not {ours.get(name)}" for name in differing)
        raise UserError(f"{where} was begun with other settings ({told}); {advice}")


def changed_flags(stored: Experiment[Any, Any], wanted: Experiment[Any, Any]) -> list[str]:
    """Return the flags of `meta-rl train` that give a run what may be other when it is resumed.

    How far it trains, its threads and its workers are left out.
    """
    theirs = flat(to_dict(stored))
    words: list[str] = []
    for name, value in flat(to_dict(wanted)).items():
        section = name.partition(".")[0]
        told_apart = ("meta_iterations", "threads", "workers")
        if section not in MAY_CHANGE or section in told_apart or theirs.get(name) == value:
            continue
        *sections, last = name.replace("_", "-").split(".")
        if isinstance(value, bool):
            last = last if value else f"no-{last}"
        words.append(f"--{'.'.join([*sections, last])}")
        if not isinstance(value, bool):
            words += map(str, value) if isinstance(value, list | tuple) else [str(value)]
    return words


def learning_part(experiment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields, as plain data, that seeds of one agent have in common."""
    learning = {name: value for name, value in experiment.items() if name not in NOT_LEARNING}
    if learning.get("train_tasks") is None:  # which older runs do not know
        learning.pop("train_tasks", None)
    if origin := learning.pop("start_from", ""):  # nor this
        # Seeds of one agent start from seeds of another.
        learning["start_from"] = re.sub(r"-seed\d+$", "", str(Path(origin)))
    return learning


def learning_hash(experiment: Mapping[str, Any]) -> str:
    """Return eight digits that are the same for seeds of one agent, and others for others."""
    learning = json.dumps(learning_part(experiment), sort_keys=True, default=str)
    return hashlib.sha256(learning.encode()).hexdigest()[:8]


def shared_name(experiment: Experiment[Any, Any]) -> str:
    """Return the name of a run without its seed, and a hash of what its agent learns from."""
    name = experiment.name.removesuffix(f"-seed{experiment.seed}")
    return f"{name}-{learning_hash(to_dict(experiment))}"


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested plain data as one level, under dotted names."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
