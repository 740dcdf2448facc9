"""Studies whose trainings run on a Ray cluster: here two nodes of one machine."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_for
from process_trees import descendants, processes

ray = pytest.importorskip("ray", reason="Ray is not there: pip install -e '.[cluster]'")


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster(nodes=2)


@pytest.fixture
def on(cluster):
    """Flags that name the cluster."""
    return ("--backend", "ray", "--address", cluster.address)


@pytest.fixture
def config(small_config):
    return small_config("maml_ppo", meta_iterations=3, evaluation={"every": 1, "goals": 2})


def learned(folder, meta_iterations, run_at, name):
    run = run_at(folder / "runs" / name)
    assert run.latest["meta_iterations"] == meta_iterations
    return run.latest["agent"]


def test_a_sweep_on_a_cluster_ends_as_one_on_this_machine(on, config, meta_rl, tmp_path):
    few = ("--vary", "agent.inner_lr=0.01,0.1", "--seeds", 2)
    meta_rl("sweep", config, *few, "--name", "here", "--processes", 1).succeeds()
    meta_rl("sweep", config, *few, "--name", "there", *on).succeeds()
    here, there = (tmp_path / "runs" / name / "table.md" for name in ("here", "there"))
    assert here.read_text().replace("here", "there") == there.read_text()
    assert len(list(there.parent.glob("there-*-seed*/evaluations/*-test-*.json"))) == 4


def trainings(folder):
    """Return the processes that train in a folder, by their names: other tests have such too."""
    found = {}
    for pid, (_, command) in processes().items():
        if " meta_rl train " in command and "--name" in command:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cwd").readlink() == folder.resolve():
                    found[command.split("--name ")[-1].split()[0]] = pid
    return found


@pytest.mark.slow
def test_a_training_whose_machine_is_lost_goes_on_elsewhere(
    cluster, on, config, meta_rl_process, meta_rl, run_at, tmp_path, identical
):
    words = ("train", config, "--seeds", 1, "--meta-iterations", 120)
    meta_rl(*words, "--name", "here", "--processes", 1).succeeds()
    process = meta_rl_process(*words, "--name", "there", *on)
    metrics = tmp_path / "runs" / "there-seed0" / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.read_text().count("\n") > 10, process)
    training = trainings(tmp_path)["there-seed0"]
    os.kill(training, signal.SIGSTOP)  # so that it does not end before its machine
    with_training = [
        node
        for node in cluster.nodes
        if training in descendants(node.all_processes["raylet"][0].process.pid)
    ]
    for node in with_training:
        cluster.nodes.remove(node)
        cluster.remove_node(node, allow_graceful=False)
        cluster.nodes.append(cluster.add_node(num_cpus=2, object_store_memory=10**8))
    with contextlib.suppress(ProcessLookupError):
        os.kill(training, signal.SIGCONT)  # it has been told that its parent is dead
    told, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert "there-seed0 lost its machine" in told
    one, other = (learned(tmp_path, 120, run_at, f"{name}-seed0") for name in ("here", "there"))
    assert identical(one, other)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_ends_ends_its_trainings_too(
    ending, on, config, meta_rl_process, run_at, tmp_path
):
    endless = ("--meta-iterations", 10**6, "--evaluation.every", 0)
    process = meta_rl_process("train", config, "--seeds", 2, *endless, *on)
    folders = [tmp_path / "runs" / f"small-seed{seed}" for seed in (0, 1)]
    wait_for(lambda: all((folder / "metrics.jsonl").is_file() for folder in folders), process)
    before = [trainings(tmp_path)[f"small-seed{seed}"] for seed in (0, 1)]
    process.send_signal(ending)
    process.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    for folder in folders:
        run = run_at(folder)
        # A meta-iteration may be told before it is in a checkpoint.
        assert len(run.rows) - run.latest["meta_iterations"] in (0, 1)


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        (("--workers", 99), ["a training takes 99 CPUs", "the cluster has 4"]),
        (("--rollouts.backend", "ray"), ["do not go together"]),
    ],
)
def test_what_cannot_be_is_refused(on, words, phrases, config, meta_rl, tmp_path):
    meta_rl("train", config, "--seeds", 2, *words, *on).fails_with(*phrases)
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_the_folder_says_so(cluster, config, tmp_path, monkeypatch):
    from meta_rl.rollouts.ray.cluster import join
    from meta_rl.studies.launching import Needs
    from meta_rl.studies.on_ray import OnRay

    joined = join(cluster.address, 1, 10**8)
    monkeypatch.setattr(Path, "cwd", lambda: tmp_path / "elsewhere")
    try:
        process = OnRay(joined).launch([str(config)], tmp_path / "out", Needs())
        assert process.wait() == 1
    finally:
        joined.leave()
    assert "all machines must share the folder" in (tmp_path / "out").read_text()
