"""Whole trainings by several processes, as torchrun starts them."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S, wait_for
from torch.utils import _pytree as pytree

from envs.point_navigation import PointEnv

pytestmark = pytest.mark.slow

REACHED = 0.25
"""Far goals count as reached, so that rollouts end at different times on different ranks."""
SCRIPT = f"""
import sys
from envs.point_navigation import PointEnv
from meta_rl.commands.cli import main
from meta_rl.core.ranks import joined

PointEnv.REACHED = {REACHED}
*configs, endless = sys.argv[1:]
with joined():
    for config in configs:
        assert main(["train", config]) == 0
    assert main(["train", "--resume", "two/ppo", "--meta-iterations", "3"]) == 0
    sys.exit(main(["train", endless]))
"""
TRUST_REGION = {"damping": 0.1, "cg_iterations": 4}
"""Conjugate gradients amplify rounding, the more the less damping there is."""
MODEL_BASED = {"gradient_steps": 2, "update_trials": 5, "candidates": 10, "plan_temperature": 10.0}
"""So do planners, the more the surer they are which candidate is the best."""
CASES = {
    "trpo": ("maml_trpo", {"outer_steps": 2, "trust_region": TRUST_REGION}),
    "ppo": ("maml_ppo", {"minibatches": 1, "exploration_weight": 0.5}),
    "ppo_minibatches": ("maml_ppo", {"minibatches": 3, "normalize_observations": True}),
    "promp": ("promp", {"adaptation_steps": 2}),
    "rl2": ("rl2_ppo", {"bptt_steps": 7, "minibatches": 5}),
    "rl2_transformer": (
        "rl2_ppo",
        {"memory": "transformer", "heads": 2, "critic": True, "bptt_steps": 7, "minibatches": 5},
    ),
    "fine_tune": ("fine_tune", {"normalize_observations": True}),
    "reptile": ("reptile", {}),
    "meta_gradient": ("meta_gradient", {"learn_step_size": True}),
    "metric": ("metric", {"minibatches": 3, "encoder_updates": 3, "encoder_trials": 4}),
    "in_context_sac": ("in_context_sac", {"gradient_steps": 3, "update_trials": 5}),
    "pearl": (
        "pearl",
        {"gradient_steps": 2, "update_tasks": 3, "learn_temperature": True, "initial_steps": 1},
    ),
    "grbal": ("mbrl", MODEL_BASED),
    "rebal": ("mbrl", MODEL_BASED | {"adaptation": "recurrence", "future": "trial"}),
    "varibad": ("varibad", {"minibatches": 3, "encoder_updates": 3, "encoder_trials": 5}),
}
"""Agents with what else is shared over ranks; three minibatches of four tasks lie unevenly."""


@pytest.fixture
def processes(tmp_path, environment):
    """Start Python on some words, with variables of its own; end what still runs at the end."""
    started = []

    def start(*words, **variables):
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=tmp_path,
            env=environment | {name: str(value) for name, value in variables.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()  # torchrun ends its own processes then
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def on_its_way(run_at, tmp_path):
    """Wait until a training by some processes has learned; return its run."""

    def wait(process):
        run = run_at(tmp_path / "runs" / "small")
        wait_for(lambda: run.told > 1, process)
        return run

    return wait


def ranks_of(process):
    """The processes of a torchrun, in the order of their ranks."""
    path = f"/proc/{process.pid}/task/{process.pid}/children"
    found = {}
    for child in Path(path).read_text().split():
        with open(f"/proc/{child}/environ", "rb") as file:
            variables = file.read().split(b"\0")
        found |= {int(each[5:]): int(child) for each in variables if each.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


def unused_port():
    """Return a port below those that the system gives away: none takes it before it is used."""
    while True:
        port = random.randrange(10_000, 32_000)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def farthest(ours, theirs):
    """The largest difference of two pytrees' numbers; their structure is the same."""
    (one, structure), (other, same) = pytree.tree_flatten(ours), pytree.tree_flatten(theirs)
    assert structure == same
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, torch.Tensor)]
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


def test_two_processes_learn_what_one_learns_and_stop_together(
    processes, on_its_way, small_config, run_at, tmp_path, meta_rl, monkeypatch
):
    def configs(where):
        return [
            small_config(
                agent,
                agent=settings,
                envs={"horizon": 20, "test_goals": 1},
                meta_batch_size=4,
                evaluation={"every": 1 if name == "reptile" else 0, "goals": 1},
                name=name,
                runs=where,
            )
            for name, (agent, settings) in CASES.items()
        ]

    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    endless = small_config(meta_iterations=10**6, checkpoint_every=10**6)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    process = processes(*torchrun, script, *configs("two"), endless)
    monkeypatch.setattr(PointEnv, "REACHED", REACHED)
    for config in configs("one"):
        meta_rl("train", config).succeeds()
    meta_rl("train", "--resume", "one/ppo", "--meta-iterations", 3).succeeds()

    run = on_its_way(process)
    ranks = ranks_of(process)
    process.send_signal(signal.SIGTERM)
    shown, told = process.communicate(timeout=PATIENCE_S)
    made = run.latest["meta_iterations"]
    assert made > 0 and told.count(f"meta-rl: stopped after {made} meta-iterations") == 1
    assert len(ranks) == 2 and not any(os.path.exists(f"/proc/{rank}") for rank in ranks)
    assert shown.count("run folder: ") == len(CASES) + 1  # one speaks for both

    for where in ("one", "two"):  # one process goes on with what two have learned
        meta_rl("train", "--resume", f"{where}/rl2", "--meta-iterations", 3).succeeds()

    ended_early = False
    for name in CASES:
        one, two = (run_at(tmp_path / where / name) for where in ("one", "two"))
        assert farthest(one.latest["agent"], two.latest["agent"]) < 1e-5, name
        assert farthest(one.latest["streams"], two.latest["streams"]) == 0, name
        assert len(one.rows) == len(two.rows)
        for row, other in zip(one.rows, two.rows, strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-4), name
        phases = {"fine_tune": 1, "meta_gradient": 1, "promp": 3}.get(name, 2)
        ended_early |= one.rows[0]["env_steps"] < 4 * 2 * phases * 20
    assert ended_early


def test_a_run_whose_rank_is_killed_ends_with_a_checkpoint(
    processes, on_its_way, small_config, meta_rl
):
    # Without torchrun, which would stop the others as soon as it sees that one has ended.
    shared = {"TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": unused_port()}
    shared |= {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    config = small_config(meta_iterations=10**6)
    first, second = (
        processes(*("-m", "meta_rl", "train", config), **shared, RANK=rank, LOCAL_RANK=rank)
        for rank in range(2)
    )
    run = on_its_way(first)
    second.kill()
    _, told = first.communicate(timeout=PATIENCE_S)

    made = run.latest["meta_iterations"]
    assert made > 0 and first.returncode == 1
    assert told.startswith("meta-rl: another process of the run has ended")
    assert f"stopped after {made} meta-iterations; continue with `meta-rl train --resume" in told
    assert not (run.path / "lock").exists()
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", made).succeeds()
