"""How much memory rollouts take, known before any is played."""

import math
from collections.abc import Mapping

import torch

from meta_rl.core.errors import UserError
from meta_rl.core.resources import available_memory
from meta_rl.core.types import EnvSpec

WORTH_TELLING = 0.25
"""Share of the free memory from which on a word is said: learning takes more than the rollouts."""


def step_bytes(spec: EnvSpec) -> int:
    """Return the bytes that one step of one world takes in a rollout."""
    # observation and action twice, reward twice, log-probability, four marks, metrics
    numbers = 2 * (spec.observation_size + spec.action_size) + 3 + 1 + len(spec.metrics)
    return 4 * numbers


def rollout_bytes(factors: Mapping[str, int], spec: EnvSpec) -> int:
    """Return the bytes of rollouts; the product of the factors is the number of their steps."""
    return math.prod(factors.values()) * step_bytes(spec)


def check_memory(
    what: str,
    factors: Mapping[str, int],
    spec: EnvSpec,
    device: torch.device,
    memory: tuple[int | None, str] | None = None,
) -> str | None:
    """Refuse rollouts that take more memory than there is; return a note if they take much of it.

    Args:
        what: What plays the rollouts, as in "one meta-iteration".
        factors: Settings whose product is the number of steps, by name.
        device: Where the rollouts will live.
        memory: The bytes that are free for them, and whose they are; without it, the device's.

    Raises:
        UserError: They do not fit; it tells each factor, and the largest as what to lower.
    """
    free, owner = memory or _memory_of(device)
    needed = rollout_bytes(factors, spec)
    if free is None or needed <= WORTH_TELLING * free:
        return None
    product = " × ".join(f"{name} {value}" for name, value in factors.items())
    told = (
        f"the rollouts of {what} take {_readable(needed)} ({product} × {step_bytes(spec)} bytes a "
        f"step)"
    )
    if needed <= free:
        return (
            f"note: {told}; {owner} has {_readable(free)} free, and learning from them takes more"
        )
    largest = max(factors, key=lambda name: factors[name])
    raise UserError(f"{told}, but {owner} has {_readable(free)} free; lower {largest} first")


WHILE_ADDING = 1.5
"""Factor of a store's memory while rows are added: one column after the other is there twice."""


def check_store(room: int, processes: int) -> str:
    """Refuse a store of experience that takes more memory than there is; return how much it takes.

    Args:
        room: Bytes of a full store, which lives in the machine's memory on any device.
        processes: Of this machine, each of which keeps one.

    Raises:
        UserError: It does not fit.
    """
    memory, owner = _memory_of(torch.device("cpu"))
    told = f"the replayed experience grows to {_readable(room)} of memory"
    told += f" in each of {processes} processes" if processes > 1 else ""
    told += ", half as much again while rows are added"
    if memory is None or processes * WHILE_ADDING * room <= memory:
        return f"note: {told}, and about as much in the run folder"
    raise UserError(
        f"{told}, but {owner} has {_readable(memory)} free; lower agent.replay_steps, or "
        f"agent.replay_trials where the agent has that"
    )


def _memory_of(device: torch.device) -> tuple[int | None, str]:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free, f"the GPU {device}"
    return available_memory(), "this machine"


def _readable(size: int) -> str:
    """Return a size in the largest decimal unit that it reaches."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
    power = min((len(str(size)) - 1) // 3, len(units) - 1)
    return f"{round(size / 1000**power, 1):,g} {units[power]}"
