"""Runs whose workers live on a Ray cluster: here several nodes on this machine."""

import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_for
from process_trees import descendants, processes

ray = pytest.importorskip("ray", reason="Ray is not there: pip install -e '.[cluster]'")
SUPPORT = Path(__file__).parents[2] / "support"
QUIET = ("--tracking.mode", "off", "--threads", 1, "--workers", 1)


@pytest.fixture
def environment(environment):
    paths = os.pathsep.join([str(SUPPORT), environment["PYTHONPATH"]])
    return environment | {"PYTHONPATH": paths}


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
    ("pearl", NAVIGATION),
    pytest.param("maml_trpo", REACH, marks=pytest.mark.slow),
    pytest.param("rl2_ppo", REACH, marks=pytest.mark.slow),
    pytest.param("pearl", REACH, marks=pytest.mark.slow),
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
    # It holds for the beginning of a worker, too, which takes many seconds on a busy machine.
    deadline = ("--rollouts.deadline-s", 60) if kind == "hang" else ()
    shared = train("shared", mishaps(kind, 1), *allowed, *deadline, cluster=cluster, workers=2)
    agree(whole, shared)
    assert told(shared, "lost_workers") == lost
    assert told(shared, "tasks_played_again") == 3  # the part of one worker
    log = (shared.path / "log.txt").read_text()
    assert "Ray worker" in log and "playing point:" in log
    assert {"raise": "the arm is stuck", "hang": "no answer within 60 s"}.get(kind, "lost (") in log


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
        (
            ("--rollouts.workers", 99),
            ["need 99 CPUs", "the cluster has 4", "lower rollouts.w"],
        ),
        (("--rollouts.gpus-per-worker", 1), ["gpus_per_worker 1 needs --device cuda"]),
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


def test_where_nobody_answers_it_says_so(meta_rl, small_config):
    flags = ("--rollouts.backend", "ray", "--rollouts.address", "127.0.0.1:1")
    meta_rl("train", small_config(), *QUIET, *flags).fails_with("cannot join Ray at 127.0.0.1:1")


def segments():
    return {path.name for path in Path("/dev/shm").iterdir()}


@pytest.mark.parametrize(
    "ending", ["finished", "interrupted", pytest.param("killed", marks=pytest.mark.slow)]
)
def test_nothing_is_left_of_a_ray_of_the_run_s_own(
    ending, meta_rl_process, meta_rl, small_config, run_at, tmp_path, monkeypatch
):
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    shared_before = segments()
    iterations = 2 if ending == "finished" else 10_000
    config = small_config("toys.q_learning", envs={"name": "toys.arms"}, checkpoint_every=1)
    flags = ("--meta-iterations", iterations, *plugins("toys.q_learning", "toys.arms"), *QUIET)
    rollouts = ("--rollouts.backend", "ray", "--rollouts.workers", 2)
    process = meta_rl_process("train", config, *flags, *rollouts)
    run = run_at(tmp_path / "runs" / "small")
    left, commands = {}, set()
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        left |= descendants(process.pid)
        commands |= set(left.values())  # those of processes that are ending are empty
        if ending != "finished" and run.told:
            break
        time.sleep(0.05)
    if process.poll() not in (None, 0):
        raise AssertionError(process.communicate()[1])
    assert any("raylet" in command for command in commands)
    assert any("spawn_main" in command for command in commands)  # arms have processes
    if ending != "finished":
        left |= descendants(process.pid)
        process.send_signal(signal.SIGKILL if ending == "killed" else signal.SIGTERM)
    assert process.wait(PATIENCE_S) == {"finished": 0, "interrupted": 130, "killed": -9}[ending]
    # Of a driver that was killed, Ray's agents take up to a minute to notice.
    deadline = time.monotonic() + PATIENCE_S
    while (alive := left.keys() & processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive, [left[pid] for pid in alive]
    wait_for(lambda: segments() <= shared_before)  # others have some for moments
    if ending == "killed":
        made = run.latest["meta_iterations"]
        local = ("--rollouts.backend", "local", "--meta-iterations", made + 1)
        allowed = plugins("toys.q_learning", "toys.arms")
        meta_rl("train", "--resume", run.path, *local, *allowed).succeeds()


def workers_of(node):
    """Return the processes of the workers on a node, and the raylet that they belong to."""
    raylet = node.all_processes["raylet"][0].process.pid
    found = descendants(raylet)
    return [pid for pid, command in found.items() if command.startswith("ray::RolloutWorker")]


class Saboteur:
    """Kills a worker, or removes a node and adds another, at random moments of a run."""

    def __init__(self, cluster, metrics, seed=0):
        self.cluster, self.metrics, self.random = cluster, metrics, random.Random(seed)
        self.done = Counter()

    def lines(self):
        return self.metrics.read_text().count("\n") if self.metrics.exists() else 0

    def wait_for_an_iteration(self, process):
        before, deadline = self.lines(), time.monotonic() + PATIENCE_S
        while self.lines() == before:
            assert process.poll() is None, "the run has ended"
            assert time.monotonic() < deadline, "the run does not go on"
            time.sleep(0.01)

    def disturb(self, what):
        time.sleep(self.random.uniform(0, 1.5))
        nodes = self.cluster.nodes
        if what == "worker":
            alive = [pid for node in nodes for pid in workers_of(node)]
            os.kill(self.random.choice(alive), signal.SIGKILL)
        else:
            node = nodes.pop(self.random.randrange(len(nodes)))
            self.cluster.remove_node(node, allow_graceful=False)
            nodes.append(self.cluster.add_node(num_cpus=2, object_store_memory=10**8))
        self.done[what] += 1


@pytest.mark.slow
def test_twenty_workers_and_nodes_lost_at_random_change_nothing(
    make_cluster, train, agree, small_config, meta_rl_process, meta_rl, run_at, tmp_path
):
    cluster = make_cluster(nodes=2)
    reach = REACH | {"horizon": 100}
    config = small_config(envs=reach, meta_iterations=10**6, meta_batch_size=6, copies=10)
    rollouts = ("--rollouts.backend", "ray", "--rollouts.workers", 4)
    address = ("--rollouts.address", cluster.address)
    process = meta_rl_process("train", config, "--name", "shared", *QUIET, *rollouts, *address)
    said = ThreadPoolExecutor(1).submit(process.communicate)  # Ray says too much for a pipe
    shared = run_at(tmp_path / "runs" / "shared")
    saboteur = Saboteur(cluster, shared.path / "metrics.jsonl")
    for number in range(20):
        saboteur.wait_for_an_iteration(process)
        saboteur.disturb("worker" if number % 2 == 0 else "node")
    process.send_signal(signal.SIGTERM)  # however many meta-iterations that has taken
    assert not said.result(PATIENCE_S)[1].count("Traceback") and process.returncode == 130
    end = ("--meta-iterations", shared.latest["meta_iterations"] + 1)
    resumed = ("train", "--resume", shared.path, "--rollouts.backend", "local", *end)
    meta_rl(*resumed).succeeds()
    whole = train("whole", config, *end)
    assert saboteur.done == {"worker": 10, "node": 10}
    agree(whole, shared)
    lost, again = told(shared, "lost_workers"), told(shared, "tasks_played_again")
    print(f"lost workers {lost:g}, tasks played again {again:g}")
    assert lost >= 10 and again >= 10
