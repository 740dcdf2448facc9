import resource
import signal
import warnings

import pytest
import torch
import yaml
from cases import quick
from patience import PATIENCE_S, wait_for

from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.experiment import catalog
from meta_rl.experiment.config import load_experiment
from meta_rl.experiment.identity import shared_name
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.sinks.console import ConsoleSink
from meta_rl.runs.sinks.jsonl import JsonlSink
from meta_rl.studies.processes import is_finished
from meta_rl.training.trainer import Trainer

AGENTS = sorted(set(catalog.names("agents")) - {"random", "scripted"})
"""Those that learn: the others are at their end before a signal can come."""
ITERATIONS = 12
"""Where runs end, but for those that a late signal has let come farther."""
ENDLESS = ("--meta-iterations", 10**6)
"""So that no signal comes too late."""
# Checkpoints at 3, 6, 9 and 12; evaluations, which must not disturb the run, at 5 and 10.
SETTINGS = {
    "meta_iterations": ITERATIONS,
    "checkpoint_every": 3,
    "evaluation": {"every": 5, "goals": 2},
}


@pytest.fixture(scope="module")
def uninterrupted(small_config, tmp_path_factory, run_at):
    """Train agents to an end, each once, and return their runs."""
    from meta_rl.commands.cli import main

    runs = {}

    def train(agent, end=ITERATIONS):
        if (agent, end) not in runs:
            folder = tmp_path_factory.mktemp("uninterrupted")
            config = small_config(agent, **SETTINGS | {"meta_iterations": end})
            assert main(["train", str(config), "--runs", str(folder)]) == 0
            runs[agent, end] = run_at(folder / "small")
        return runs[agent, end]

    return train


def send_mid_run(process, run, number):
    """Send a signal when some iterations beyond a checkpoint are made; return what was printed."""
    wait_for(lambda: run.told >= 5, process, pause_s=0.002)
    process.send_signal(number)
    return process.communicate(timeout=PATIENCE_S)


@pytest.mark.parametrize("agent", quick(AGENTS))
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    agent, meta_rl, meta_rl_process, small_config, uninterrupted, run_at, tmp_path
):
    process = meta_rl_process("train", small_config(agent, **SETTINGS), *ENDLESS)
    run = run_at(tmp_path / "runs" / "small")
    send_mid_run(process, run, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    made = run.latest["meta_iterations"]
    assert made >= 3 and made % 3 == 0
    end = max(ITERATIONS, made + 1)

    meta_rl("train", "--resume", "runs/small", "--meta-iterations", end).succeeds()

    run.equals(uninterrupted(agent, end))


@pytest.mark.parametrize(
    "number",
    quick([signal.SIGINT, signal.SIGTERM], [signal.SIGINT]),
    ids=lambda number: number.name,
)
def test_a_run_that_is_asked_to_stop_says_how_to_go_on(
    number, meta_rl, meta_rl_process, small_config, uninterrupted, run_at, tmp_path
):
    process = meta_rl_process("train", small_config("rl2_ppo", **SETTINGS), *ENDLESS)
    run = run_at(tmp_path / "runs" / "small")
    _, message = send_mid_run(process, run, number)

    made = run.latest["meta_iterations"]
    assert process.returncode == 130
    assert message == (
        f"meta-rl: stopped after {made} meta-iterations; continue with "
        f"`meta-rl train --resume runs/small`\n"
    )
    # Of the last whole meta-iteration, not of the last checkpoint; it is told before it is whole.
    assert run.rows[-1]["meta_iterations"] - made in (0, 1)
    end = max(ITERATIONS, made + 1)
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", end).succeeds()
    run.equals(uninterrupted("rl2_ppo", end))


def test_the_end_of_a_run_may_be_moved_and_stays_moved(
    meta_rl, small_config, uninterrupted, run_at, tmp_path
):
    run, longer = run_at(tmp_path / "runs" / "small"), str(ITERATIONS)
    settings = SETTINGS | {"meta_iterations": 6}
    meta_rl("train", small_config("maml_ppo", **settings)).succeeds()
    assert run.latest["meta_iterations"] == 6

    meta_rl("train", "--resume", "runs/small", "--meta-iterations", longer).succeeds()

    # The run that ended at 6 has evaluated itself there, on a line of its own.
    lines = (run.path / "metrics.jsonl").read_text().splitlines(keepends=True)
    extra = [at for at, row in enumerate(run.rows) if row["meta_iterations"] == 6][1:]
    assert len(extra) == 1 and "outer/loss_after" not in run.rows[extra[0]]
    del lines[extra[0]]
    (run.path / "metrics.jsonl").write_text("".join(lines))
    whole = uninterrupted("maml_ppo")
    run.equals(whole, but="best")
    assert run.latest["best"] >= whole.latest["best"], "of its first end, or as good"
    assert yaml.safe_load((run.path / "config.yaml").read_text())["meta_iterations"] == ITERATIONS


def test_a_finished_run_only_says_so(meta_rl, small_config, run_at, tmp_path):
    run = run_at(tmp_path / "runs" / "small")
    meta_rl("train", small_config("maml_trpo")).succeeds()
    kept = [
        *(run.path / "evaluations").iterdir(),
        *(run.path / "checkpoints").iterdir(),
        run.path / "metrics.jsonl",
    ]
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept}

    outcome = meta_rl("train", "--resume", "runs/small").succeeds()

    assert "runs/small is finished: 2 meta-iterations, evaluated" in outcome.out
    assert "small: adaptation to test tasks" in outcome.out
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in kept} == before


def test_a_run_goes_on_by_other_packages_and_says_so(
    meta_rl, small_config, run_at, tmp_path, monkeypatch
):
    meta_rl("train", small_config()).succeeds()
    run, protocol_of = run_at(tmp_path / "runs" / "small"), PointNavigation.protocol
    before = {path.name for path in run.path.glob("evaluations/*")}
    with monkeypatch.context() as patch:
        patch.setattr(PointNavigation, "protocol", lambda family: {**protocol_of(family), "n": 2})
        patch.setattr("meta_rl.runs.folder.describe_commit", lambda: "another")
        again = meta_rl("train", "--resume", run.path).succeeds()
        assert "is finished" in again.out + again.err
        assert {path.name for path in run.path.glob("evaluations/*")} == before

        longer = ("--resume", run.path, "--meta-iterations", 5)
        told = meta_rl("train", *longer).succeeds()
        assert "compare with none before" in told.out + told.err
    assert is_finished(RunFolder(run.path), 5)
    made_with = RunFolder(run.path).environment()
    assert made_with["commit"].endswith(", then another")
    assert made_with["resumed"] == "after 2 meta-iterations" and ", then" not in made_with["torch"]


def test_a_config_that_was_edited_is_refused(meta_rl, small_config, tmp_path):
    meta_rl("train", small_config()).succeeds()
    config = tmp_path / "runs" / "small" / "config.yaml"
    config.write_text(config.read_text().replace("choose_on: validation", "choose_on: test"))
    outcome = meta_rl("train", f"--resume={config.parent}")
    outcome.fails_with("evaluation.choose_on validation, not test", "put its config.yaml back")


@pytest.mark.parametrize("fate", ["missing", "damaged", "of another seed"])
def test_a_finished_run_without_its_final_evaluation_makes_it_again(
    fate, meta_rl, small_config, run_at, tmp_path
):
    run = run_at(tmp_path / "runs" / "small")
    meta_rl("train", small_config("maml_trpo")).succeeds()
    (cells,) = (run.path / "evaluations").glob("*.npz")
    if fate == "damaged":
        cells.write_bytes(b"")
    else:
        cells.unlink()
        cells.with_suffix(".json").unlink()
    if fate == "of another seed":
        meta_rl("evaluate", "runs/small", "--seed", 1).succeeds()

    outcome = meta_rl("train", "--resume", "runs/small").succeeds()

    assert "is finished" not in outcome.out and cells.stat().st_size > 0
    assert [row["meta_iterations"] for row in run.rows] == [1, 2, 2, 2]
    assert "is finished" in meta_rl("train", "--resume", "runs/small").succeeds().out


def test_a_damaged_record_costs_only_its_damaged_lines(meta_rl, small_config, run_at, tmp_path):
    run = run_at(tmp_path / "runs" / "small")
    meta_rl("train", small_config("maml_trpo")).succeeds()
    metrics = run.path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0] + lines[1][:40] + "\n\n" + lines[2])

    meta_rl("compare", "runs/small", "--metrics", "return/after", "--figures", "drawn").succeeds()
    outcome = meta_rl("train", "--resume", "runs/small").succeeds()

    assert "damaged lines of runs/small/metrics.jsonl were moved to" in outcome.out
    assert "is finished" in outcome.out and metrics.read_text() == lines[0] + lines[2]
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", 3).succeeds()
    assert [row["meta_iterations"] for row in run.rows] == [1, 2, 3, 3]
    assert (run.path / "metrics.jsonl.damaged").read_text() == lines[1][:40] + "\n"
    assert "damaged lines" in (run.path / "log.txt").read_text()


def test_a_disk_that_is_full_spares_the_checkpoint_and_the_run_goes_on_later(
    meta_rl, meta_rl_process, small_config, run_at, tmp_path
):
    run = run_at(tmp_path / "runs" / "small")
    meta_rl("train", small_config("maml_trpo")).succeeds()
    latest = run.path / "checkpoints" / "latest.pt"
    before = latest.read_bytes()
    limit = 8_000  # bytes a file: enough for the config and the metrics alone
    assert len(before) > limit

    process = meta_rl_process(
        *("train", "--resume", "runs/small", "--meta-iterations", 4),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        # Python would keep modules' bytecode cut short at the limit, which later imports trip over.
        variables={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    _, message = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1
    assert message.startswith("meta-rl: cannot write the checkpoint") and "untouched" in message
    assert message.count("\n") == 1
    assert latest.read_bytes() == before
    assert not list(run.path.rglob("*.tmp"))
    meta_rl("train", "--resume", "runs/small").succeeds()
    assert run.latest["meta_iterations"] == 4


def test_metrics_that_cannot_be_written_stop_the_run_with_a_checkpoint(
    meta_rl, small_config, run_at, tmp_path
):
    run = run_at(tmp_path / "runs" / "small")
    (tmp_path / "full").symlink_to("/dev/full")
    sinks = [JsonlSink(tmp_path / "full"), ConsoleSink()]
    trainer = Trainer(load_experiment(str(small_config())), RunFolder(run.path), sinks=sinks)

    with pytest.raises(UserError, match=r"cannot write .*full: .*No space left .*resume the run"):
        trainer.run()

    assert run.latest["meta_iterations"] == 0  # the first is repeated, since it left no metrics
    meta_rl("train", "--resume", run.path).succeeds()
    assert [row["meta_iterations"] for row in run.rows] == [1, 2, 2]


def test_a_resumed_run_is_the_same_run_to_wandb(
    meta_rl, small_config, run_at, tmp_path, monkeypatch
):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "wandb-home"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # within W&B
        config = small_config("maml_ppo", tracking={"mode": "offline"})
        meta_rl("train", config).succeeds()
        run = run_at(tmp_path / "runs" / "small")
        run_id = run.latest["sinks"]["W&B"]["run_id"]
        meta_rl("train", "--resume", "runs/small", "--meta-iterations", 3).succeeds()

    assert run_id and run.latest["sinks"]["W&B"]["run_id"] == run_id
    # offline-run-<second>-<id>, and a number behind it if another began in the same second
    recorded = {path.name.split("-")[3] for path in run.path.glob("wandb/offline-run-*")}
    assert recorded == {run_id}
    group = shared_name(RunFolder(run.path).experiment())
    logs = run.path.glob("wandb/offline-run-*/*.wandb")
    assert sum(group.encode() in log.read_bytes() for log in logs) == 1  # it has another end now
    for media in run.path.glob("wandb/offline-run-*/files/media"):
        assert len(list(media.glob("table/evaluation/final*.json"))) == 1
        assert len(list(media.glob("images/evaluation/adaptation*.png"))) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_on_the_gpu_resumes_on_the_gpu(agent, meta_rl, small_config, run_at, tmp_path):
    run = run_at(tmp_path / "runs" / "small")
    meta_rl("train", small_config(agent), "--device", "cuda").succeeds()
    meta_rl("train", "--resume", "runs/small", "--meta-iterations", 4).succeeds()
    assert run.latest["meta_iterations"] == 4
    meta_rl("evaluate", "runs/small", "--device", "cpu").succeeds()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("played", ["same", "cpu"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_repeatable_run_on_the_gpu_resumes_bit_for_bit(
    agent, played, meta_rl, small_config, run_at, tmp_path, identical
):
    words = ("train", small_config(agent), "--device", "cuda", "--gpu-arithmetic", "repeatable")
    words += ("--rollouts.device", played)
    meta_rl(*words, "--meta-iterations", 4, "--name", "whole").succeeds()
    meta_rl(*words, "--meta-iterations", 2, "--name", "parted").succeeds()
    meta_rl("train", "--resume", "runs/parted", "--meta-iterations", 4).succeeds()
    whole, parted = (run_at(tmp_path / "runs" / name) for name in ("whole", "parted"))
    assert identical(whole.latest["agent"], parted.latest["agent"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_run_goes_on_where_it_has_acted(meta_rl, small_config):
    meta_rl("train", small_config(), "--device", "cuda", "--rollouts.device", "cpu").succeeds()
    told = meta_rl("train", "--resume", "runs/small", "--rollouts.device", "same")
    told.fails_with("the run has acted on cpu, so it cannot go on on cuda")
    meta_rl("train", "--resume", "runs/small", "--device", "cpu", "--meta-iterations", 3).succeeds()
