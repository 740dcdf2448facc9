"""How much memory a meta-iteration will take, told before anything is made."""

from collections.abc import Callable, Sequence

from meta_rl.core.errors import UserError
from meta_rl.core.resources import available_memory
from meta_rl.core.types import EnvSpec, Phase

NOTABLE_SHARE = 0.25
"""Of the memory that is free: from here on the estimate is told."""


def meta_iteration_bytes(
    spec: EnvSpec, phases: Sequence[Phase], meta_batch_size: int, copies: int
) -> int:
    """Return the bytes of one meta-batch's rollouts, the least that a meta-iteration holds.

    A step has its observation and action twice, four single numbers and the metrics in four bytes
    each, and four marks.
    """
    numbers = 2 * (spec.observation_size + spec.action_size) + 4 + len(spec.metrics)
    steps = sum(phase.episodes for phase in phases) * spec.horizon
    return meta_batch_size * copies * steps * (4 * numbers + 4)


def check_memory(
    spec: EnvSpec,
    phases: Sequence[Phase],
    meta_batch_size: int,
    copies: int,
    say: Callable[[str], None],
) -> None:
    """Raise a UserError if a meta-batch cannot fit in memory; say how large a large one is."""
    needed = meta_iteration_bytes(spec, phases, meta_batch_size, copies)
    free = available_memory()
    if free is None or needed < NOTABLE_SHARE * free:
        return
    episodes = sum(phase.episodes for phase in phases)
    told = (
        f"the rollouts of one meta-iteration take {needed / 1e9:,.1f} GB: meta_batch_size "
        f"{meta_batch_size:,} x copies {copies:,} x {episodes:,} episodes x "
        f"envs.horizon {spec.horizon:,}, and the machine has {free / 1e9:,.1f} GB free"
    )
    if needed > free:
        raise UserError(f"{told}; lower one of them")
    say(told)
