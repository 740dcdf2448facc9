"""The job script does with a pretended Slurm what it says."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[1]
FAKES = {
    # Runs a job at once, under the variables that Slurm sets; of an array the one task of the test.
    "sbatch": """
export SLURM_JOB_ID=7
while [[ $1 == --* ]]; do
    [[ $1 == --array=* ]] && export SLURM_ARRAY_TASK_ID=${1#--array=}
    [[ $1 == --nodes=* ]] && export SLURM_JOB_NUM_NODES=${1#--nodes=} SLURM_JOB_NODELIST=nodes
    shift
done
exec bash "$@"
""",
    "srun": """
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=* ]] && export NODE=${1#--nodelist=}
    shift
done
exec "$@"
""",
    "scontrol": """
if [[ $1 == show ]]; then
    printf 'alpha\\nbeta\\n'
else
    echo "$*" >> calls
fi
""",
    "ray": """
if [[ $1 == status ]]; then
    sed 's/^/ node_/' nodes
else
    echo "$NODE: $*" >> nodes
    exec sleep 60
fi
""",
}


@pytest.fixture
def slurm(tmp_path, environment):
    """Submit a job to the pretended Slurm, with `meta-rl` as given or the real one."""
    programs = tmp_path / "programs"
    programs.mkdir()

    def write(name, content):
        (programs / name).write_text(f"#!/usr/bin/env bash\n{content}")
        (programs / name).chmod(0o755)

    for name, content in FAKES.items():
        write(name, content)
    submitted = []

    def submit(*words, meta_rl=f'exec "{sys.executable}" -m meta_rl "$@"'):
        write("meta-rl", meta_rl)
        command = [words[0]] if words[0].startswith("--") else []
        job = subprocess.Popen(
            ["sbatch", *command, ROOT / "scripts/slurm/job.sbatch", *words[len(command) :]],
            cwd=tmp_path,
            env=environment | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        submitted.append(job)
        return job

    yield submit
    for job in submitted:
        if job.poll() is None:  # of a test that failed: nothing of it may train on for ever
            os.killpg(job.pid, signal.SIGKILL)
        job.communicate(timeout=PATIENCE_S)


def test_a_task_of_an_array_trains_its_seed(slurm, tmp_path):
    job = slurm("--array=3", "train", "CONFIG", "--copies", "4", meta_rl="echo $*; exit 5")
    told, _ = job.communicate(timeout=PATIENCE_S)
    assert told.strip() == "train CONFIG --copies 4 --seeds 3:4"
    assert job.returncode == 5 and not (tmp_path / "calls").exists()


def test_several_nodes_are_a_ray_cluster(slurm, tmp_path):
    job = slurm("--nodes=2", "train", "CONFIG", meta_rl="echo joins $RAY_ADDRESS")
    told, _ = job.communicate(timeout=PATIENCE_S)
    assert "joins alpha:6379" in told and job.returncode == 0
    assert sorted((tmp_path / "nodes").read_text().splitlines()) == [
        "alpha: start --head --port=6379 --include-dashboard=false --num-cpus=1 --block",
        "beta: start --address=alpha:6379 --num-cpus=1 --block",
    ]


@pytest.mark.thorough
def test_a_job_survives_a_kill_and_is_requeued_before_its_time_is_up(
    slurm, small_config, tmp_path, run_at
):
    config = small_config("maml_ppo", meta_iterations=10**6, checkpoint_every=10**6)
    run = run_at(tmp_path / "runs" / "small-seed2")

    job = slurm("train", config, "--seeds", "2:3")
    wait_for(lambda: run.told > 2, job)
    os.kill(_child_of(job.pid), signal.SIGKILL)
    job.communicate(timeout=PATIENCE_S)
    assert job.returncode != 0 and not (tmp_path / "calls").exists()

    job = slurm("train", config, "--seeds", "2:3")  # which waits until the one before has saved
    wait_for(lambda: run.latest["meta_iterations"] > 0, job)
    killed_at = run.latest["meta_iterations"]
    wait_for(lambda: run.told > killed_at + 2, job)
    job.send_signal(signal.SIGUSR1)
    told, _ = job.communicate(timeout=PATIENCE_S)

    assert "small-seed2 starts" in told and "stopped; the same command goes on" in told
    assert (tmp_path / "calls").read_text() == "requeue 7\n"
    made = run.latest["meta_iterations"]
    assert made > killed_at
    assert [row["meta_iterations"] for row in run.rows] == [*range(1, made + 1)]


def _child_of(pid):
    """Return the process that a process has started."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
