"""Configs of earlier versions, read as the present one's.

From version 1 to 2 `envs_per_task` became `copies`, `learning_rate` of agents became `outer_lr`,
and `evaluation.split`, on which the checkpoint was chosen, became `evaluation.choose_on`. Within
version 2 the settings of T-mazes that told nothing were left out.

A file without a version may be of either. Run folders, checkpoints and exported policies hold
configs, too, and are read the same way.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from meta_rl.core.errors import UserError

VERSION = 2
"""Version of the config format that this code reads and writes."""
READABLE = (1, 2)
OF_T_MAZES = {"test_tasks", "validation_tasks", "task_seed"}
"""Settings that the family t_maze had while its two mazes passed for many."""

_told: set[tuple[str, str]] = set()


def translated(
    data: Mapping[str, Any],
    source: str,
    agent_fields: Callable[[str], Collection[str]],
    quiet: bool = False,
) -> dict[str, Any]:
    """Return a config in the words of this version; say once, on stderr, which are new.

    Args:
        data: A whole config, as plain data.
        source: Where it is from, for messages.
        agent_fields: Returns the settings that an agent of some name has: an agent of the user's
            own may still call one as ours was called.
        quiet: Say nothing, for what was said of the run folder already.
    """
    changed = dict(data)
    version = changed.get("version", VERSION)
    if type(version) is not int or version not in READABLE:
        raise UserError(
            f"{source} is a config of version {version!r}, but this is meta-rl for versions "
            f"{' and '.join(map(str, READABLE))}; see docs/architecture.md for what changed, or "
            f"install the other"
        )
    words: list[str] = []
    if "envs_per_task" in changed and "copies" not in changed:
        changed["copies"] = changed.pop("envs_per_task")
        words.append("envs_per_task is now copies")
    agent = changed.get("agent")
    if isinstance(agent, Mapping) and "learning_rate" in agent and "outer_lr" not in agent:
        known = agent_fields(str(agent.get("name")))
        if "learning_rate" not in known and "outer_lr" in known:
            changed["agent"] = renamed(agent)
            words.append("agent.learning_rate is now agent.outer_lr")
    evaluation = changed.get("evaluation")
    if (
        isinstance(evaluation, Mapping)
        and "split" in evaluation
        and "choose_on" not in evaluation
        and data.get("version") != VERSION  # which has a split of its own
    ):
        changed["evaluation"] = {"choose_on": evaluation["split"], **evaluation}
        words.append("the split that best.pt is chosen on is now evaluation.choose_on")
    envs = changed.get("envs")
    if isinstance(envs, Mapping) and envs.get("name") == "t_maze" and envs.keys() & OF_T_MAZES:
        changed["envs"] = {key: each for key, each in envs.items() if key not in OF_T_MAZES}
        words.append("both T-mazes are in every split, so their counts and seed are left out")
    changed["version"] = VERSION
    told = (source, "; ".join(words))
    if words and not quiet and told not in _told:
        _told.add(told)
        print(f"{source} is read as version {VERSION}: {told[1]}", file=sys.stderr)
    return changed


def renamed(agent: Mapping[str, Any]) -> dict[str, Any]:
    """Return an agent's settings of version 1 with the names of version 2."""
    return {("outer_lr" if key == "learning_rate" else key): each for key, each in agent.items()}
