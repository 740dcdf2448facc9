"""What this process may use of the machine: cores and memory, also within a container."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")


def usable_cores() -> int:
    """Return on how many cores this process may run: its affinity, within the cgroup's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min(allowed or 1, _cpu_quota())))


def _cpu_quota() -> float:
    """Return how many cores' time the cgroup grants, infinity without a limit."""
    limits = [math.inf]
    if words := _words(CGROUPS / "cpu.max"):  # version 2: `max 100000`, or microseconds
        limits.append(_ratio(*words[:2]) if len(words) > 1 else math.inf)
    quota = _words(CGROUPS / "cpu" / "cpu.cfs_quota_us")  # version 1: -1 is no limit
    period = _words(CGROUPS / "cpu" / "cpu.cfs_period_us")
    if quota and period:
        limits.append(_ratio(quota[0], period[0]))
    return min(limits)


def _ratio(quota: str, period: str) -> float:
    try:
        granted, span = float(quota), float(period)
    except ValueError:  # `max`
        return math.inf
    return granted / span if granted > 0 and span > 0 else math.inf


def available_memory() -> int | None:
    """Return the bytes that this process may still take, or None if the system does not say."""
    limits = []
    for line in _lines(MEMINFO):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            limits.append(int(rest.split()[0]) * 1024)
    for limit, used in (
        (CGROUPS / "memory.max", CGROUPS / "memory.current"),
        (
            CGROUPS / "memory" / "memory.limit_in_bytes",
            CGROUPS / "memory" / "memory.usage_in_bytes",
        ),
    ):
        most, taken = _words(limit), _words(used)
        if most and taken and most[0].isdigit() and taken[0].isdigit():
            limits.append(max(0, int(most[0]) - int(taken[0])))
    return min(limits, default=None)


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
