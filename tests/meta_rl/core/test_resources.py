import os
import subprocess
import sys

import pytest

from meta_rl.core import resources
from meta_rl.core.resources import available_memory, usable_cores


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose limits a test writes."""
    monkeypatch.setattr(resources, "CGROUPS", tmp_path)
    monkeypatch.setattr(resources, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 64 kB\n")

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("DOT", ".")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 16),
        ({"cpuDOTmax": "max 100000\n"}, 16),
        ({"cpuDOTmax": "250000 100000\n"}, 3),
        ({"cpuDOTmax": "10000 100000\n"}, 1),
        ({"cpu__cpuDOTcfs_quota_us": "-1", "cpu__cpuDOTcfs_period_us": "100000"}, 16),
        ({"cpu__cpuDOTcfs_quota_us": "400000", "cpu__cpuDOTcfs_period_us": "100000"}, 4),
        ({"cpuDOTmax": "nonsense"}, 16),
    ],
)
def test_cores_are_those_of_the_affinity_within_the_quota(machine, files, cores):
    machine(**files)
    assert usable_cores() == cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_process_that_is_kept_on_one_core_counts_one(environment):
    core = min(os.sched_getaffinity(0))
    script = f"""
import os
os.sched_setaffinity(0, {{{core}}})
from meta_rl.core.resources import usable_cores
print(usable_cores())
"""
    told = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 64 * 1024),
        ({"memoryDOTmax": "max", "memoryDOTcurrent": "5"}, 64 * 1024),
        ({"memoryDOTmax": "3000", "memoryDOTcurrent": "1000"}, 2000),
        ({"memoryDOTmax": "1000", "memoryDOTcurrent": "3000"}, 0),
    ],
)
def test_free_memory_is_the_machines_within_the_cgroup(machine, files, free):
    machine(**files)
    assert available_memory() == free
