import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from meta_rl.core import resources
from meta_rl.core.resources import available_memory, usable_cores
from meta_rl.experiment import building
from meta_rl.experiment.config import load_experiment

V1 = """\
30 24 0:26 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
31 24 0:27 {top} /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory
"""
V2 = "29 23 0:25 {top} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
FREE = 64 * 1024


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 16 cores with 64 kB of free memory, whose limits a test writes."""
    monkeypatch.setattr(resources, "ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable: 64 kB\n")

    def write(groups, mounts, files):
        (tmp_path / "proc/self/cgroup").write_text(groups)
        (tmp_path / "proc/self/mountinfo").write_text(mounts)
        for where, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / where
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")

    return write


def test_without_control_groups_affinity_and_free_memory_count(machine):
    assert usable_cores() == 16
    assert available_memory() == FREE


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000", 16),
        ("250000 100000", 3),
        ("10000 100000", 1),
        ("3200000 100000", 16),
        ("nonsense", 16),
        ("", 16),
    ],
)
def test_cores_are_those_of_the_affinity_within_the_quota(machine, quota, cores):
    machine("0::/\n", V2.format(top="/"), {"cpu.max": quota})
    assert usable_cores() == cores


def test_the_least_quota_of_all_groups_around_the_process_counts(machine):
    quotas = {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000", "c/cpu.max": "1 1"}
    machine("0::/a/b\n", V2.format(top="/"), quotas)
    assert usable_cores() == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("200000", 4)])
@pytest.mark.parametrize("top", ["/", "/docker/f00"])
def test_a_container_sees_its_own_group_of_version_1(machine, top, quota, cores):
    # with a mount of the whole hierarchy, the group's folder lies in it; else it is the mount
    inside = "/docker/f00" if top == "/" else ""
    cpu = f"cpu,cpuacct{inside}"
    files = {f"{cpu}/cpu.cfs_quota_us": quota, f"{cpu}/cpu.cfs_period_us": "50000"}
    memory = f"memory{inside}/memory"
    files |= {f"{memory}.limit_in_bytes": "6000", f"{memory}.usage_in_bytes": "5000"}
    groups = "4:cpu,cpuacct:/docker/f00\n3:memory:/docker/f00\n1:name=systemd:/\n0::/docker/f00\n"
    machine(groups, V1.format(top=top), files)
    assert usable_cores() == cores
    assert available_memory() == 1000


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs Linux")
def test_a_process_that_is_kept_on_one_core_counts_one_for_workers_and_torch(environment):
    core = min(os.sched_getaffinity(0))
    script = f"""
import os
os.sched_setaffinity(0, {{{core}}})
import torch
from meta_rl.experiment.building import set_threads, worker_count
from meta_rl.experiment.config import load_experiment
experiment = load_experiment("point_navigation_maml_trpo")
set_threads(experiment)
print(worker_count(experiment), torch.get_num_threads())
"""
    clean = {name: value for name, value in environment.items() if name != "OMP_NUM_THREADS"}
    told = subprocess.run(
        [sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["1", "1"]


def test_torch_gets_no_more_threads_than_the_quota(monkeypatch):
    monkeypatch.setattr(building, "usable_cores", lambda: 1)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        building.set_threads(load_experiment("point_navigation_maml_trpo"))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arithmetic", "device", "repeatable", "precision"),
    [
        ("plain", "cuda", False, "highest"),
        ("repeatable", "cuda", True, "highest"),
        ("tf32", "cuda", False, "high"),
        ("tf32", "cpu", False, "highest"),  # where nothing is changed
        ("repeatable", "cpu", False, "highest"),
    ],
)
def test_arithmetic_is_what_the_experiment_asks_for_on_a_gpu(
    arithmetic, device, repeatable, precision, monkeypatch
):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    experiment = load_experiment("point_navigation_maml_trpo")
    try:
        chosen = replace(experiment, gpu_arithmetic=arithmetic)
        building.set_gpu_arithmetic(chosen, torch.device(device))
        assert torch.are_deterministic_algorithms_enabled() == repeatable
        assert torch.get_float32_matmul_precision() == precision
        if device == "cuda":
            assert torch.backends.cudnn.allow_tf32 == (precision == "high")
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == repeatable
    finally:
        building.set_gpu_arithmetic(experiment, torch.device("cuda"))


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "max", "memory.current": "5"}, FREE),
        ({"memory.max": "3000", "memory.current": "1000"}, 2000),
        ({"memory.max": "1000", "memory.current": "3000"}, 0),
        # files in the cache, of which the kernel takes the inactive ones back
        (
            {
                "memory.max": "3000",
                "memory.current": "3000",
                "memory.stat": "anon 500\ninactive_file 1500\nactive_file 1000",
            },
            1500,
        ),
        ({"a/memory.max": "3000", "a/memory.current": "1000", "memory.max": "max"}, 2000),
    ],
)
def test_free_memory_is_the_machines_within_the_least_limit(machine, files, free):
    machine("0::/a/b\n", V2.format(top="/"), files)
    assert available_memory() == free
