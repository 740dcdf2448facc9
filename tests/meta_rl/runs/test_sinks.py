import io
import json
import math
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from rich.console import Console

from meta_rl.experiment.config import TrackingConfig
from meta_rl.runs.sinks import ConsoleSink, JsonlSink, WandbSink

OFFLINE = TrackingConfig(mode="offline", project="sinks", group="seeds", tags=("test",))


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _wandb_stays_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "wandb-home"))


def records(run_folder: Path) -> dict[str, list[dict]]:
    """What W&B's own reader finds in a run's log, by kind of record."""
    printed = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_folder)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    found = defaultdict(list)
    for record in map(json.loads, printed.splitlines()):
        found[record["type"]].append(record.get(record["type"], {}))
    return found


def test_a_line_holds_counters_time_and_metrics_and_no_invalid_json(tmp_path):
    sink = JsonlSink(tmp_path / "metrics.jsonl")
    sink.log({"loss": 0.5, "kl": math.nan, "ratio": math.inf}, env_steps=100, meta_iterations=1)

    (row,) = rows_of(tmp_path / "metrics.jsonl")
    assert row.pop("wall_time_s") >= 0
    assert row == {"env_steps": 100, "meta_iterations": 1, "loss": 0.5, "kl": None, "ratio": None}


def test_a_resumed_run_drops_what_was_written_after_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    killed = JsonlSink(path)
    for iteration in (1, 2, 3):
        killed.log({"loss": float(iteration)}, env_steps=10 * iteration, meta_iterations=iteration)
    with path.open("a") as file:
        file.write('{"env_steps": 40, "meta_iter')

    resumed = JsonlSink(path)
    resumed.truncate_after(2)
    resumed.log({"loss": 33.0}, env_steps=30, meta_iterations=3)

    assert [row["loss"] for row in rows_of(path)] == [1.0, 2.0, 33.0]
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_wall_time_goes_on_where_the_checkpoint_was(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"env_steps": 1, "meta_iterations": 1, "wall_time_s": 1000.0}\n')

    resumed = JsonlSink(path)
    resumed.truncate_after(1)
    resumed.log({}, env_steps=2, meta_iterations=2)

    assert 1000 <= rows_of(path)[-1]["wall_time_s"] < 1060


def test_truncating_before_anything_was_written_is_fine(tmp_path):
    JsonlSink(tmp_path / "metrics.jsonl").truncate_after(0)

    assert list(tmp_path.iterdir()) == []


def test_wandb_records_a_run_that_resumes_under_the_same_id(tmp_path, capfd):
    checkpoint = tmp_path / "latest.pt"
    checkpoint.write_bytes(b"weights")

    first = WandbSink(OFFLINE, tmp_path / "run", "reach", {"agent": {"inner_lr": 0.1}})
    first.log({"return/after": 1.0}, env_steps=100, meta_iterations=1)
    first.log({"return/after": 2.0}, env_steps=200, meta_iterations=2)
    first.finish(succeeded=False)
    second = WandbSink(OFFLINE, tmp_path / "run", "reach", {}, run_id=first.run_id)
    second.log({"return/after": 3.0}, env_steps=300, meta_iterations=3)
    second.log_table("evaluation", ["task", "success"], [["reach:0", 0.5]])
    second.log_artifact(checkpoint, name="reach-checkpoint", type="model")
    second.finish()

    folders = sorted((tmp_path / "run/wandb").glob("offline-run-*"), key=lambda path: path.name)
    started, resumed = map(records, folders)

    assert first.run_id is not None and second.run_id == first.run_id
    (run,), (resumed_run,) = started["run"], resumed["run"]
    assert run["run_id"] == resumed_run["run_id"] == first.run_id
    assert (run["project"], run["run_group"], run["tags"]) == ("sinks", "seeds", ["test"])
    assert run["config"]["update"]["agent"] == {"inner_lr": 0.1}
    (metric,) = started["metric"]
    assert (metric["glob_name"], metric["step_metric"]) == ("*", "env_steps")
    rows = [record["item"] for record in started["history"]]
    assert [(row["env_steps"], row["return/after"]) for row in rows] == [(100, 1.0), (200, 2.0)]
    (row,) = (record["item"] for record in resumed["history"])
    assert (row["_step"], row["env_steps"], row["meta_iterations"]) == (3, 300, 3)
    assert row["evaluation.nrows"] == 1
    assert "reach-checkpoint" in {record["name"] for record in resumed["artifact"]}
    assert [record.get("exit_code", 0) for record in started["exit"]] == [1]
    assert [record.get("exit_code", 0) for record in resumed["exit"]] == [0]
    assert capfd.readouterr() == ("", "")


def test_wandb_shows_a_picture(tmp_path):
    from matplotlib.figure import Figure

    sink = WandbSink(OFFLINE, tmp_path, "picture", {})
    sink.log_figure("curve", Figure(figsize=(1, 1)))
    sink.finish()

    (folder,) = tmp_path.glob("wandb/offline-run-*")
    (row,) = (record["item"] for record in records(folder)["history"])
    assert (folder / "files" / row["curve.path"]).is_file()


def test_a_failing_start_of_wandb_is_a_warning(tmp_path):
    with pytest.warns(RuntimeWarning, match=r"W&B: .*project.*all else goes on"):
        sink = WandbSink(TrackingConfig(mode="offline", project="a/b"), tmp_path, "run", {})

    sink.log({"loss": 1.0}, env_steps=1, meta_iterations=1)
    sink.finish()
    assert sink.run_id is None


def test_failures_of_wandb_while_training_are_warned_of_once(tmp_path):
    sink = WandbSink(OFFLINE, tmp_path, "run", {})

    with pytest.warns(RuntimeWarning, match="W&B: ") as caught:
        sink.log_artifact(tmp_path / "missing.pt", name="checkpoint", type="model")
        sink.log_artifact(tmp_path / "missing.pt", name="checkpoint", type="model")
    sink.finish()

    assert len(caught) == 1


def test_switched_off_wandb_leaves_nothing_and_keeps_the_id(tmp_path):
    sink = WandbSink(TrackingConfig(mode="off"), tmp_path, "run", {}, run_id="abc")
    sink.log({"loss": 1.0}, env_steps=1, meta_iterations=1)
    sink.log_table("evaluation", ["task"], [["reach"]])
    sink.finish()

    assert sink.run_id == "abc"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wanted", "environment", "netrc", "mode"),
    [
        ("auto", {}, "", "offline"),
        ("auto", {"WANDB_API_KEY": "0" * 40}, "", "online"),
        ("auto", {}, f"machine localhost login user password {'0' * 40}", "online"),
        ("auto", {"WANDB_API_KEY": "0" * 40, "WANDB_MODE": "offline"}, "", "offline"),
        ("auto", {"WANDB_MODE": "disabled"}, "", "off"),
        ("online", {}, "", "offline"),
    ],
)
def test_who_is_logged_in_decides_the_mode(tmp_path, wanted, environment, netrc, mode):
    # In a process of its own: W&B keeps what it learns of credentials for as long as one lives.
    (tmp_path / "netrc").write_text(netrc)
    code = f"from meta_rl.runs.sinks import effective_mode; print(effective_mode({wanted!r}))"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={
            "HOME": str(tmp_path),
            "NETRC": str(tmp_path / "netrc"),
            "WANDB_BASE_URL": "http://localhost",
            "WANDB_ERROR_REPORTING": "false",
        }
        | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
    )

    assert (finished.stdout, finished.stderr) == (f"{mode}\n", "")


def test_without_a_terminal_the_first_and_last_iterations_have_a_line():
    output = io.StringIO()
    sink = ConsoleSink(meta_iterations=3, console=Console(file=output, width=200))
    adaptation = {"return/before": 1.0, "return/after": 2.5, "success/before": 0.0}
    for iteration in (1, 2, 3):
        sink.log(adaptation, env_steps=10 * iteration, meta_iterations=iteration)
    sink.log({"success/after": 0.5}, env_steps=30, meta_iterations=3)
    sink.finish()

    first, last = output.getvalue().splitlines()
    assert first.startswith("meta-iteration 1/3  ") and last.startswith("meta-iteration 3/3  ")
    assert "return 1.00 -> 2.50" in first and "success" not in first
    assert "env steps/s" in first and last.endswith("0:00:00 left")


def test_on_a_terminal_a_bar_shows_adaptation():
    output = io.StringIO()
    sink = ConsoleSink(
        meta_iterations=10,
        meta_iterations_before=4,
        console=Console(file=output, force_terminal=True, width=200),
    )
    sink.log({"success/before": 0.1, "success/after": 0.4}, env_steps=50, meta_iterations=5)
    sink.finish()

    assert "5/10" in output.getvalue()
    assert "success 0.10 -> 0.40" in output.getvalue()
