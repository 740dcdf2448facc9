"""What tests of whole runs share: small experiments, and the real command line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
import yaml
from in_process import trained_in_process
from patience import PATIENCE_S
from torch.utils import _pytree as pytree

from meta_rl.experiment import catalog
from meta_rl.runs import checkpoint

ROOT = Path(__file__).parents[1]

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell's background jobs have it,
    signal.signal(signal.SIGINT, signal.default_int_handler)  # and their children would


def pytest_collection_modifyitems(items):
    """Run what is slow first: then no process is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


OF_TENSORS = ("agents", "envs", "meta_rl/core", "meta_rl/learning")
"""Folders of the tests in which every call's shapes are checked against its annotations."""


@pytest.fixture(autouse=True, scope="module")
def shapes_are_checked(request):
    """Check shapes where tests are of tensors; elsewhere the checks would only take time."""
    checked = any(request.path.is_relative_to(Path(__file__).parent / name) for name in OF_TENSORS)
    jaxtyping.config.update("jaxtyping_disable", not checked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


SMALL = {
    "hidden_sizes": [8],
    "encoder_sizes": [8],
    "memory_size": 8,
    "epochs": 2,
    "minibatches": 2,
    "encoder_updates": 2,
    "encoder_trials": 8,
    "prior_episodes": 1,
    "posterior_episodes": 1,
    "gradient_steps": 2,
    "batch_size": 8,
    "context_size": 8,
    "update_trials": 4,
    "piece_steps": 4,
    "past_steps": 4,
    "future_steps": 3,
    "moments_per_trial": 4,
    "candidates": 8,
    "elites": 3,
    "planning_horizon": 3,
}
"""Settings that make an agent quick, where its Config has them."""


@dataclass
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    def fails_with(self, *phrases: str) -> None:
        """Assert that the user got one message, with these phrases, and no traceback."""
        assert self.code != 0
        assert self.err.count("meta-rl: ") == 1 and self.err.startswith("meta-rl: "), self.err
        assert "Traceback" not in self.err + self.out
        for phrase in phrases:
            assert phrase in self.err

    def succeeds(self) -> "Outcome":
        """Assert that it did."""
        assert self.code == 0, self.err
        return self


@dataclass
class Run:
    """A run folder, read back."""

    path: Path

    @property
    def latest(self) -> dict[str, Any]:
        return checkpoint.load(self.path / "checkpoints" / "latest.pt")

    @property
    def told(self) -> int:
        """How many whole lines metrics.jsonl has so far: for runs that are writing it."""
        metrics = self.path / "metrics.jsonl"
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without the time they took."""
        lines = (self.path / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [{k: v for k, v in row.items() if k != "wall_time_s"} for row in rows]

    def equals(self, other: "Run", but: str | None = None) -> None:
        """Assert that parameters, generators, counters and metrics are the other's, bit for bit.

        Args:
            but: A counter that may be another.
        """
        ours, theirs = self.latest, other.latest
        assert identical(ours["agent"], theirs["agent"])
        assert identical(ours["streams"], theirs["streams"])
        for name in ("meta_iterations", "env_steps", "rejected_in_a_row", "best"):
            assert ours[name] == theirs[name] or name == but
        assert self.rows == other.rows


def identical(ours: Any, theirs: Any) -> bool:
    """Whether two pytrees hold the same tensors, bit for bit, and the same values."""
    leaves, structure = pytree.tree_flatten(ours)
    others, other_structure = pytree.tree_flatten(theirs)
    return structure == other_structure and all(
        torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
        for ours, theirs in zip(leaves, others, strict=True)
    )


def small_settings(module: Any) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(module.Config)}
    return {name: value for name, value in SMALL.items() if name in known}


@pytest.fixture(name="identical", scope="session")
def _identical():
    return identical


@pytest.fixture(scope="session")
def run_at():
    """Read a run folder back."""
    return Run


@pytest.fixture(scope="session")
def build_agent():
    """Build a small agent of the catalog."""

    def build(name, spec, device="cpu", seed=0, **settings):
        module = catalog.load("agents", name)
        small = small_settings(module) | settings
        small = {k: tuple(v) if isinstance(v, list) else v for k, v in small.items()}
        return module.build(module.Config(**small), spec, torch.device(device), seed)

    return build


@pytest.fixture(scope="session")
def small_config(tmp_path_factory):
    """Write a small experiment as YAML and return its path.

    Sections are given as dictionaries, which are merged, or stand alone if they have a name; a
    value of None takes a key away.
    """

    def write(agent="maml_trpo", /, **changes):
        own = {} if "." in agent else small_settings(catalog.load("agents", agent))
        data = {
            "agent": {"name": agent} | own,
            "envs": {
                "name": "point_navigation",
                "horizon": 5,
                "test_goals": 3,
                "validation_goals": 3,
            },
            "meta_iterations": 2,
            "meta_batch_size": 2,
            "copies": 2,
            "checkpoint_every": 1,
            "threads": 1,
            "workers": 1,
            "name": "small",
            "tracking": {"mode": "off"},
        }
        for key, value in changes.items():
            merged = isinstance(value, dict) and "name" not in value
            data[key] = data.get(key, {}) | value if merged else value
        data = {key: value for key, value in data.items() if value is not None}
        path = tmp_path_factory.mktemp("config") / "small.yaml"
        path.write_text(yaml.safe_dump(data))
        return path

    return write


@pytest.fixture(scope="session")
def can_draw(environment):
    """Skip where MuJoCo cannot draw; asked in a process of its own, for OpenGL may end one."""
    script = """
from meta_rl.rollouts.opengl import choose_opengl
choose_opengl()
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
mujoco.Renderer(model).close()
"""
    outcome = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    if outcome.returncode != 0:
        pytest.skip(f"MuJoCo cannot draw here: {(outcome.stderr.splitlines() or ['it died'])[-1]}")


@pytest.fixture
def meta_rl(tmp_path, monkeypatch, capsys):
    """Run `meta-rl WORDS ...` in a temporary folder, in this process."""
    from meta_rl.commands.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(catalog, "_plugins", set())  # every command has to allow its own
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:  # tyro's own complaints
            code = int(stop.code)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture
def in_process():
    """Let the trainings of studies run in this process."""
    with trained_in_process() as found:
        yield found


@pytest.fixture(scope="session")
def environment():
    """Variables for processes of their own, which have nothing of pytest's about them."""
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def python_process(tmp_path, environment):
    """Start Python on some words; what still runs at the end of a test is killed."""
    started = []

    def start(*words, variables=None, **options):
        started.append(
            subprocess.Popen(
                [sys.executable, *map(str, words)],
                cwd=tmp_path,
                env=environment | (variables or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                **options,
            )
        )
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def meta_rl_process(python_process):
    """Start `meta-rl WORDS ...` in a process of its own."""

    def start(*words, **options):
        return python_process("-m", "meta_rl", *words, **options)

    return start


@pytest.fixture
def with_threads():
    """Call a function while torch has so many threads."""
    before = torch.get_num_threads()

    def call(threads, function):
        torch.set_num_threads(threads)
        result = function()
        assert torch.get_num_threads() == threads
        return result

    yield call
    torch.set_num_threads(before)
