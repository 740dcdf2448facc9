"""Runs whose workers live on a Ray cluster: here several nodes on this machine."""

import os
from pathlib import Path

import pytest

from meta_rl.rollouts.ray.presence import prepare_ray

ray = pytest.importorskip("ray", reason="Ray is not there: pip install '.[cluster]'")
SUPPORT = Path(__file__).parents[2] / "support"
QUIET = ("--tracking.mode", "off", "--threads", 1, "--workers", 1)


@pytest.fixture(scope="module")
def make_cluster():
    """Start Ray clusters on this machine: a node without workers' cores, and others with two."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        patch.setenv("PYTHONPATH", paths.rstrip(os.pathsep))
        prepare_ray("here")
        from ray.cluster_utils import Cluster

        made = []

        def make(nodes):
            head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8}
            made.append(Cluster(initialize_head=True, head_node_args=head))
            made[-1].nodes = [
                made[-1].add_node(num_cpus=2, object_store_memory=10**8) for _ in range(nodes)
            ]
            return made[-1]

        yield make
        for cluster in made:
            cluster.shutdown()


@pytest.fixture(scope="module")
def cluster(make_cluster):
    """Two nodes for two workers each."""
    return make_cluster(nodes=2)


@pytest.fixture
def train(meta_rl, run_at, tmp_path):
    """Train locally, or on a cluster; return the run."""

    def run(name, config, *flags, cluster=None, workers=4):
        rollouts = ()
        if cluster is not None:
            address = ("--rollouts.address", cluster.address)
            rollouts = ("--rollouts.backend", "ray", "--rollouts.workers", workers, *address)
        named = ("--name", name, *QUIET)
        meta_rl("train", config, *named, *rollouts, *flags).succeeds()
        return run_at(tmp_path / "runs" / name)

    return run


@pytest.fixture
def agree(identical):
    """Assert that two runs learned and recorded the same, but for what workers tell."""

    def check(one, other):
        for part in ("agent", "streams", "env_steps", "best"):
            assert identical(one.latest[part], other.latest[part])
        assert numbers(one) == numbers(other)

    return check


def numbers(run):
    return [
        {key: value for key, value in row.items() if not key.startswith("rollouts/")}
        for row in run.rows
    ]


def told(run, name):
    return sum(row.get(f"rollouts/{name}", 0) for row in run.rows)


def plugins(*names):
    return [word for name in names if "." in name for word in ("--plugin", name)]


NAVIGATION = {"name": "point_navigation", "horizon": 20, "test_goals": 4}
REACH = {"name": "metaworld", "benchmark": "ML1", "task": "reach-v3", "horizon": 20}
PAIRS = [
    ("maml_trpo", NAVIGATION),
    ("rl2_ppo", NAVIGATION),
    ("toys.q_learning", {"name": "toys.arms"}),
    pytest.param("maml_trpo", REACH, marks=pytest.mark.slow),
    pytest.param("rl2_ppo", REACH, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("agent", "envs"), PAIRS, ids=lambda each: str(each)[:15])
def test_four_workers_on_two_nodes_learn_what_one_process_does(
    agent, envs, cluster, train, agree, small_config
):
    config = small_config(agent, envs=envs, meta_iterations=5, meta_batch_size=6, copies=3)
    allowed = plugins(agent, envs["name"])
    local = train("local", config, *allowed)
    shared = train("shared", config, *allowed, cluster=cluster)
    agree(local, shared)
    assert all(row["rollouts/received_mb_a_phase"] > 0 for row in shared.rows[:5])
    assert told(shared, "lost_workers") == 0


@pytest.fixture
def mishaps(small_config, tmp_path):
    """Write an experiment in which a worker has mishaps."""

    def write(kind, times):
        envs = {"name": "toys.mishaps", "horizon": 6, "test_goals": 2, "validation_goals": 2}
        envs |= {"kind": kind, "times": times, "folder": str(tmp_path)}
        return small_config(envs=envs, meta_iterations=2, meta_batch_size=6, copies=2)

    return write


@pytest.mark.parametrize(("kind", "lost"), [("raise", 0), ("die", 1), ("hang", 1)])
def test_what_a_worker_loses_is_played_elsewhere(kind, lost, mishaps, cluster, train, agree):
    allowed = plugins("toys.mishaps")
    whole = train("whole", mishaps(kind, 0), *allowed)
    deadline = ("--rollouts.deadline-s", 20)
    shared = train("shared", mishaps(kind, 1), *allowed, *deadline, cluster=cluster, workers=2)
    agree(whole, shared)
    assert told(shared, "lost_workers") == lost
    assert told(shared, "tasks_played_again") == 3  # the part of one worker
    log = (shared.path / "log.txt").read_text()
    assert "Ray worker" in log and "playing point:" in log
    assert {"raise": "the arm is stuck", "hang": "no answer within 20 s"}.get(kind, "lost (") in log


def test_what_always_fails_ends_the_run_and_says_where(mishaps, cluster, meta_rl, tmp_path, run_at):
    address = ("--rollouts.address", cluster.address)
    flags = ("--rollouts.backend", "ray", "--rollouts.workers", 2, *address)
    told = meta_rl("train", mishaps("raise", 1000), *flags, *QUIET, *plugins("toys.mishaps"))
    assert told.code == 1
    for phrase in ("could not be played in 3 tries", "point:", "seed", "Traceback", "mishaps.py"):
        assert phrase in told.err
    assert told.err.rstrip().endswith("RuntimeError: the arm is stuck")
    assert run_at(tmp_path / "runs" / "small").latest["meta_iterations"] == 0
    assert len(list(tmp_path.glob("[0-9]*"))) >= 3


@pytest.mark.parametrize(
    ("flags", "phrases"),
    [
        (("--rollouts.workers", 99), ["need 99 CPUs", "the cluster has 4", "lower rollouts.work"]),
        (("--rollouts.gpus-per-worker", 1), ["GPUs, but the cluster has 0"]),
        (("--copies", 10**6), ["one phase take", "object store on this machine", "lower copies"]),
    ],
)
def test_what_does_not_fit_is_refused_before_it_starts(
    flags, phrases, cluster, meta_rl, small_config, tmp_path, monkeypatch
):
    monkeypatch.setattr("meta_rl.rollouts.footprint.available_memory", lambda: None)
    address = ("--rollouts.backend", "ray", "--rollouts.address", cluster.address)
    meta_rl("train", small_config(), *QUIET, *address, *flags).fails_with(*phrases)
    assert not (tmp_path / "runs").exists()


def test_where_nobody_answers_it_says_so(meta_rl, small_config, monkeypatch):
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "1")
    flags = ("--rollouts.backend", "ray", "--rollouts.address", "127.0.0.1:1")
    meta_rl("train", small_config(), *QUIET, *flags).fails_with("cannot join Ray at 127.0.0.1:1")
