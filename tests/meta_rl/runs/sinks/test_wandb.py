import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from patience import PATIENCE_S
from wandb_files import records

from meta_rl.experiment.config import TrackingConfig
from meta_rl.runs.sinks.base import Beginning, Sink, Sinks
from meta_rl.runs.sinks.wandb import CONNECTING_S, WandbSink

OFFLINE = TrackingConfig(mode="offline", project="sinks", group="seeds", tags=("test",))


@pytest.fixture(autouse=True)
def _wandb_stays_in_the_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    for kind in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{kind}_DIR", str(tmp_path / "wandb-home"))


class Listener(Sink):
    def __init__(self):
        self.heard = []

    def say(self, message):
        self.heard.append(message)


def started(folder, tracking=OFFLINE, run_id=None, **config):
    """A sink that has begun a run."""
    sink = WandbSink(tracking)
    sink.load_state_dict({} if run_id is None else {"run_id": run_id})
    sink.start(Beginning(folder, "reach", config))
    return sink


def test_wandb_records_a_run_that_resumes_under_the_same_id(tmp_path, capfd):
    checkpoint = tmp_path / "latest.pt"
    checkpoint.write_bytes(b"weights")

    first = started(tmp_path / "run", agent={"inner_lr": 0.1})
    first.log({"return/after": 1.0}, env_steps=100, meta_iterations=1)
    first.log({"return/after": 2.0}, env_steps=200, meta_iterations=2)
    first.finish(succeeded=False)
    second = started(tmp_path / "run", run_id=first.run_id)
    second.log({"return/after": 3.0}, env_steps=300, meta_iterations=3)
    second.log_table("evaluation", ["task", "success"], [["reach:0", 0.5]])
    second.log_artifact(checkpoint, name="reach + ü = checkpoint" + "s" * 200, type="model")
    second.finish()

    folders = sorted((tmp_path / "run/wandb").glob("offline-run-*"), key=lambda path: path.name)
    begun, resumed = map(records, folders)

    assert first.run_id is not None and second.run_id == first.run_id
    (run,), (resumed_run,) = begun["run"], resumed["run"]
    assert run["run_id"] == resumed_run["run_id"] == first.run_id
    assert (run["project"], run["run_group"], run["tags"]) == ("sinks", "seeds", ["test"])
    assert run["config"]["update"]["agent"] == {"inner_lr": 0.1}
    (metric,) = begun["metric"]
    assert (metric["glob_name"], metric["step_metric"]) == ("*", "env_steps")
    rows = [record["item"] for record in begun["history"]]
    assert [(row["env_steps"], row["return/after"]) for row in rows] == [(100, 1.0), (200, 2.0)]
    (row,) = (record["item"] for record in resumed["history"])
    assert (row["_step"], row["env_steps"], row["meta_iterations"]) == (3, 300, 3)
    assert row["evaluation.nrows"] == 1
    allowed = ("reach-checkpoint" + "s" * 200)[:128]
    assert allowed in {record["name"] for record in resumed["artifact"]}
    assert [record.get("exit_code", 0) for record in begun["exit"]] == [1]
    assert [record.get("exit_code", 0) for record in resumed["exit"]] == [0]
    assert capfd.readouterr() == ("", "")


def test_wandb_shows_a_picture(tmp_path):
    from matplotlib.figure import Figure

    sink = started(tmp_path)
    sink.log_figure("curve", Figure(figsize=(1, 1)))
    sink.finish()

    (folder,) = tmp_path.glob("wandb/offline-run-*")
    (row,) = (record["item"] for record in records(folder)["history"])
    assert (folder / "files" / row["curve.path"]).is_file()


def test_a_failing_start_of_wandb_is_one_warning(tmp_path):
    listener = Listener()
    sinks = Sinks([WandbSink(TrackingConfig(mode="offline", project="a/b")), listener])
    sinks.start(Beginning(tmp_path, "run", {}))
    sinks.log({"loss": 1.0}, env_steps=1, meta_iterations=1)
    sinks.finish()

    (told,) = listener.heard
    assert told.startswith("warning: W&B is switched off: ") and "project" in told


def test_failures_of_wandb_while_training_are_one_warning(tmp_path):
    listener = Listener()
    sinks = Sinks([WandbSink(OFFLINE), listener])
    sinks.start(Beginning(tmp_path, "run", {}))
    sinks.log_artifact(tmp_path / "missing.pt", name="checkpoint", type="model")
    sinks.log_artifact(tmp_path / "missing.pt", name="checkpoint", type="model")
    sinks.finish()

    (told,) = listener.heard
    assert told.startswith("warning: W&B is switched off: ") and "path must be a file" in told


def test_switched_off_wandb_leaves_nothing_and_keeps_the_id(tmp_path):
    sink = started(tmp_path, TrackingConfig(mode="off"), run_id="abc")
    sink.log({"loss": 1.0}, env_steps=1, meta_iterations=1)
    sink.log_table("evaluation", ["task"], [["reach"]])
    sink.finish()

    assert sink.state_dict() == {"run_id": "abc"} and not sink.wants_figures
    assert list(tmp_path.iterdir()) == []


class Refuses(BaseHTTPRequestHandler):
    """A server that answers everything by an error."""

    def do_GET(self):
        self.send_error(403)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *words):
        pass


@pytest.fixture
def server(request):
    """Yield the address of a server that is no help."""
    if request.param == "nobody":
        yield "http://127.0.0.1:9"
    elif request.param == "silent":
        with socket.create_server(("127.0.0.1", 0)) as silent:
            yield f"http://127.0.0.1:{silent.getsockname()[1]}"
    else:
        with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as refusing:
            threading.Thread(target=refusing.serve_forever).start()
            yield f"http://127.0.0.1:{refusing.server_port}"
            refusing.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("server", ["nobody", "silent", "refuses"], indirect=True)
def test_without_wandbs_server_training_begins_at_once_and_is_recorded_offline(server, tmp_path):
    script = """
import sys, time
from pathlib import Path
import wandb
from meta_rl.experiment.config import TrackingConfig
from meta_rl.runs.sinks.base import Beginning, Sink, Sinks
from meta_rl.runs.sinks.wandb import WandbSink

class Listener(Sink):
    def say(self, message):
        print(message)

begun = time.monotonic()
sinks = Sinks([WandbSink(TrackingConfig()), Listener()])
sinks.start(Beginning(Path("run"), "reach", {}))
for n in (1, 2):
    sinks.log({"loss": 1.0}, env_steps=n, meta_iterations=n)
print(time.monotonic() - begun)
sinks.finish()
print(time.monotonic() - begun)
"""
    printed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(Path(__file__).parents[4]),
            "HOME": str(tmp_path),
            "WANDB_API_KEY": "0" * 40,
            "WANDB_BASE_URL": server,
            "WANDB_ERROR_REPORTING": "false",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert printed.stderr == ""
    lines = printed.stdout.splitlines()
    (notice,) = (line for line in lines if line.startswith("W&B: "))
    to_log, in_all = (float(line) for line in lines if line != notice)
    assert to_log < CONNECTING_S  # which a silent server takes, and no training waits for
    assert notice.startswith("W&B: cannot connect (") and "recording offline" in notice
    (folder,) = (tmp_path / "run/wandb").glob("offline-run-*")
    assert notice.endswith(f"`wandb sync {folder}`")
    rows = [record["item"] for record in records(folder)["history"]]
    assert [row["env_steps"] for row in rows] == [1, 2]
    assert in_all < 10 * CONNECTING_S


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
    code = f"from meta_rl.runs.sinks.wandb import effective_mode; print(effective_mode({wanted!r}))"
    finished = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[4],
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
