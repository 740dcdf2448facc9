"""What this process may use of the machine: CPU cores and memory.

A scheduler gives a process less than the machine has by its CPU affinity (`taskset`, Slurm) or by
the limits of its control groups (containers, systemd, Kubernetes).
"""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
"""Where `/proc` and `/sys` are."""


def usable_cores() -> int:
    """Return on how many CPU cores this process may run, at least 1.

    A quota of 1.5 cores counts as 2: a thread more is throttled, a thread less wastes half a core.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, math.ceil(min([allowed or 1, *_cpu_quotas()])))


def processor() -> str:
    """Return the name of the CPU, or of its architecture where the system does not say."""
    for line in _lines(ROOT / "proc/cpuinfo"):
        name, _, rest = line.partition(":")
        if name.strip() == "model name":
            return rest.strip()
    return platform.machine()


def available_memory() -> int | None:
    """Return the bytes that this process may still take, or None if the system does not say."""
    limits = []
    for line in _lines(ROOT / "proc/meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            limits.append(int(rest.split()[0]) * 1024)
    limits += _memory_left("", "memory.max", "memory.current", "inactive_file")
    limits += _memory_left(
        "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )
    return min(limits, default=None)


def _cpu_quotas() -> Iterator[float]:
    """Yield the quotas, in cores, of the control groups around this process."""
    for group in _groups(""):
        quota, period, *_ = [*_words(group / "cpu.max"), "", ""]
        yield _ratio(quota, period)
    for group in _groups("cpu"):
        quota, period = (_word(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        yield _ratio(quota, period)


def _ratio(quota: str, period: str) -> float:
    """Return how many cores a quota grants; `max` and -1 are no limit."""
    if not (quota.isdigit() and period.isdigit()) or int(quota) * int(period) == 0:
        return math.inf
    return int(quota) / int(period)


def _memory_left(controller: str, limit: str, used: str, cached: str) -> Iterator[int]:
    """Yield the bytes that are left in each control group with a limit.

    What files left in the cache is counted as used, but given up as soon as memory is short.
    """
    for group in _groups(controller):
        most, taken = _word(group / limit), _word(group / used)
        if most.isdigit() and taken.isdigit():
            words = _words(group / "memory.stat")
            statistics = dict(zip(words[::2], words[1::2], strict=False))
            yield max(0, int(most) - int(taken) + int(statistics.get(cached, 0)))


def _groups(controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control group and of all groups around it.

    Args:
        controller: Of version 1, such as `cpu`; empty for the one hierarchy of version 2.
    """
    for line in _lines(ROOT / "proc/self/cgroup"):  # number:controllers:path
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            for top, mounted in _mounts(controller):
                # A container sees the hierarchy from a group of its own down: `top`.
                inside = Path(path).relative_to(top) if Path(path).is_relative_to(top) else Path()
                folder = ROOT / mounted.lstrip("/")
                for group in (folder / inside, *(folder / inside).parents):
                    if group.is_relative_to(folder):
                        yield group


def _mounts(controller: str) -> Iterator[tuple[str, str]]:
    """Yield the topmost group and the folder of each mount of a hierarchy (proc(5), mountinfo)."""
    for line in _lines(ROOT / "proc/self/mountinfo"):
        place, _, kind = line.partition(" - ")
        filesystem, _, options = [*kind.split(" ", 2), "", ""][:3]
        if filesystem != ("cgroup" if controller else "cgroup2"):
            continue
        if not controller or controller in options.replace(" ", ",").split(","):
            _, _, _, top, folder, *_ = place.split(" ")
            yield top, folder


def _word(path: Path) -> str:
    return next(iter(_words(path)), "")


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
