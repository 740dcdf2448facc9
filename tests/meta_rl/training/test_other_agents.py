"""Agents and families that the catalog does not have go the whole way without a kernel edit."""

import json
import os
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from cases import quick
from patience import PATIENCE_S, wait_for

SUPPORT = Path(__file__).parents[2] / "support"
PAIRS = {
    "off-policy with replay": ("toys.q_learning", "toys.arms"),
    "discrete": ("toys.softmax", "toys.arms"),
    "writes into its context": ("toys.counting", "toys.arms"),
    "supervised": ("toys.ridge", "toys.lines"),
    "trpo, discrete": ("maml_trpo", "toys.arms"),
    "rl2, discrete": ("rl2_ppo", "toys.arms"),
}
SMALL = {
    "maml_trpo": {"hidden_sizes": [8]},
    "rl2_ppo": {"encoder_sizes": [8], "memory_size": 8, "epochs": 2},
}


@pytest.fixture
def environment(environment):
    paths = os.pathsep.join([str(SUPPORT), environment["PYTHONPATH"]])
    return environment | {"PYTHONPATH": paths}


@pytest.fixture
def config(tmp_path):
    def write(agent, envs, iterations):
        path = tmp_path / "toy.yaml"
        own = json.dumps({"name": agent} | SMALL.get(agent, {}))
        path.write_text(
            f"agent: {own}\nenvs: {{name: {envs}}}\nmeta_iterations: {iterations}\n"
            f"meta_batch_size: 6\ncopies: 4\ncheckpoint_every: 3\nthreads: 1\nworkers: 1\n"
            f"evaluation: {{every: 10}}\ntracking: {{mode: 'off'}}\n"
        )
        return path

    return write


def plugins(*names):
    return [word for name in names if "." in name for word in ("--plugin", name)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", quick(PAIRS, ("off-policy with replay", "supervised", "writes into its context"))
)
def test_train_kill_resume_evaluate_compare(
    pair, config, meta_rl, meta_rl_process, run_at, tmp_path
):
    agent, envs = PAIRS[pair]
    path, allowed = config(agent, envs, 10**6), plugins(agent, envs)  # no signal comes too late
    process = meta_rl_process("train", path, "--name", "killed", *allowed)
    killed = run_at(tmp_path / "runs" / "killed")
    wait_for(lambda: killed.told >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)

    end = ("--meta-iterations", max(15, killed.latest["meta_iterations"] + 1))
    meta_rl("train", "--resume", killed.path, *end, *allowed).succeeds()
    meta_rl("train", path, "--name", "whole", *end, *allowed).succeeds()
    whole = run_at(tmp_path / "runs" / "whole")
    killed.equals(whole)

    score = "loss" if envs == "toys.lines" else "return"
    before, after = (
        [row[f"{score}/{label}"] for row in whole.rows if f"{score}/{label}" in row][-5:]
        for label in ("before", "after")
    )
    better = sum(before) - sum(after) if score == "loss" else sum(after) - sum(before)
    assert better > 0 or "." not in agent  # the toys adapt at once, the others need longer

    for run in (whole.path, killed.path):
        told = meta_rl("evaluate", run, "--evaluation-episodes", "3", *allowed).succeeds()
        assert score in told.out
    compared = meta_rl("compare", whole.path, killed.path, *allowed).succeeds()
    assert score in compared.out


def test_a_replay_is_written_once_and_bounded(config, meta_rl, tmp_path):
    path, allowed = (
        config("toys.q_learning", "toys.arms", 30),
        plugins("toys.q_learning", "toys.arms"),
    )
    meta_rl("train", path, "--name", "whole", *allowed).succeeds()
    segments = sorted(path.name for path in (tmp_path / "runs" / "whole" / "replay").iterdir())
    bounds = [tuple(int(part) for part in name.removesuffix(".pt").split("-")) for name in segments]
    assert all(end == start for (_, end), (start, _) in pairwise(bounds))
    steps = 30 * 2 * 6 * 4 * 6  # iterations, phases, tasks, copies, pulls
    assert bounds[-1][1] == steps
    written_a_checkpoint = 3 * 2 * 6 * 4 * 6
    assert steps - bounds[0][0] <= 400 + 2 * written_a_checkpoint
    size = (tmp_path / "runs" / "whole" / "checkpoints" / "latest.pt").stat().st_size
    assert size < 30_000
