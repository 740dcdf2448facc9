"""What lies where in a run's folder."""

import json
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.core.outputs import is_unfinished, to_json, write
from meta_rl.core.resources import processor, usable_cores
from meta_rl.experiment import catalog, strict_yaml
from meta_rl.experiment.config import Experiment, experiment_from_dict, save_experiment, to_dict
from meta_rl.experiment.versions import translated
from meta_rl.runs.lock import RunLock

THEN = ", then "
"""Between what a run was made with at first, and what it went on with."""


@dataclass(frozen=True)
class Origin:
    """The run whose agent another one began with, and how far it had come."""

    run: str
    env_steps: int
    meta_iterations: int


@dataclass(frozen=True)
class RunFolder:
    """A run's folder: `config.yaml`, `protocol.json`, `metrics.jsonl`, checkpoints, results."""

    path: Path

    @property
    def is_pretrained(self) -> bool:
        """Whether it came with the program, so that nothing is to be written there."""
        return self.path.resolve().parent == catalog.ROOT / "pretrained"

    @property
    def metrics(self) -> Path:
        """One JSON object for each meta-iteration."""
        return self.path / "metrics.jsonl"

    @property
    def journal(self) -> Path:
        """What was said while training, with the time; not there if nothing was."""
        return self.path / "log.txt"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """`latest.pt`, and `best.pt` by evaluation."""
        return self.path / "checkpoints"

    def checkpoint(self, which: str) -> Path:
        """Return the file of the `latest` or `best` checkpoint, or the file that is named."""
        if which in ("latest", "best"):
            return self.checkpoints / f"{which}.pt"
        if not which.endswith(".pt"):
            hint = did_you_mean(which, ["latest", "best"]).strip()
            raise UserError(
                f"checkpoint must be latest, best or a .pt file, got {which!r}; {hint}".rstrip("; ")
            )
        return Path(which)

    @property
    def is_begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return (self.checkpoints / "latest.pt").is_file()

    @property
    def evaluations(self) -> Path:
        """One JSON summary and one npz of all cells for each evaluation."""
        return self.path / "evaluations"

    @property
    def other_counts(self) -> Path:
        """Evaluations counted by the code of others, apart from ours: nothing else reads them."""
        return self._own / "other_counts"

    @property
    def replay(self) -> Path:
        """Experience that the agent stores, in files that checkpoints name."""
        return self.path / "replay"

    @property
    def rejected(self) -> Path:
        """Meta-batches whose update was rejected, for inspection."""
        return self.path / "rejected"

    @property
    def adapted(self) -> Path:
        """Policies adapted to single tasks; of a pretrained run, in the runs here."""
        return self._own / "adapted"

    @property
    def videos(self) -> Path:
        """What policies do before and after they adapt to single tasks; likewise."""
        return self._own / "videos"

    @property
    def _own(self) -> Path:
        return Path("runs", self.path.name) if self.is_pretrained else self.path

    @property
    def origin(self) -> Origin | None:
        """Where the run's agent came from; none if it began with its initial parameters."""
        path = self.path / "origin.json"
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text())
            return Origin(str(found["run"]), int(found["env_steps"]), int(found["meta_iterations"]))
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} is damaged ({error!r}); remove it, or put it back") from error

    def create(
        self,
        experiment: Experiment[Any, Any],
        protocol: Mapping[str, Any],
        overwrite: bool,
        origin: Origin | None = None,
    ) -> RunLock:
        """Make the folder, write what describes the run, and keep other processes away from it."""
        if self.path.exists() and not overwrite:
            raise UserError(
                f"{self.path} exists already; continue it with `meta-rl train --resume "
                f"{self.path}`, choose another --name, or replace it with --overwrite"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=overwrite)
            is_run = (self.path / "config.yaml").is_file() and self.checkpoints.is_dir()
            if not is_run and any(map(_holds_something, self.path.iterdir())):
                raise UserError(f"{self.path} is not a run folder, so it is not overwritten")
        except OSError as error:
            raise self._unwritable(error) from error
        lock = RunLock(self.path)
        try:
            # What tells a run folder stays, so that one half emptied can be overwritten, too.
            kept = (self.checkpoints.name, "config.yaml", RunLock.NAME)
            entries = [entry for entry in self.path.iterdir() if entry.name not in kept]
            if self.checkpoints.is_dir():
                entries += self.checkpoints.iterdir()
            for entry in entries:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            self.checkpoints.mkdir(exist_ok=True)
            self.evaluations.mkdir()
            save_experiment(experiment, self.path / "config.yaml")
            self.save_protocol(protocol)
            text = describe_environment()
            write(text.encode(), self.path / "environment.txt", "what the run is made with")
            if origin is not None:
                text = json.dumps(asdict(origin)) + "\n"
                write(text.encode(), self.path / "origin.json", "where the agent came from")
        except (OSError, UserError) as error:
            lock.release()
            raise self._unwritable(error) from error
        return lock

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write the run folder {self.path}: {error}; choose another with --runs"
        )

    def protocol(self) -> dict[str, Any]:
        """Read what the run's evaluation depends on."""
        path = self.path / "protocol.json"
        try:
            protocol: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}") from error
        return protocol

    def save_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Write what the run's evaluation depends on."""
        text = to_json(protocol, indent=2) + "\n"
        write(text.encode(), self.path / "protocol.json", "the protocol")

    def save_experiment(self, experiment: Experiment[Any, Any]) -> None:
        """Write `config.yaml`, whole or not at all."""
        save_experiment(experiment, self.path / "config.yaml")

    def experiment(self) -> Experiment[Any, Any]:
        """Read the run's experiment."""
        return experiment_from_dict(self._config(), str(self.path / "config.yaml"))

    def description(self) -> dict[str, Any]:
        """Read the run's experiment as plain data, also where its agent is not one of ours.

        Results of other programs, and of plugins, can so be compared: nothing is loaded for it.
        """
        data = self._config()
        agent = data.get("agent")
        if isinstance(agent, dict) and not catalog.has("agents", str(agent.get("name"))):
            if missing := {"name", "seed", "envs"} - data.keys():
                raise UserError(f"{self.path / 'config.yaml'} lacks {', '.join(sorted(missing))}")
            return translated(data, str(self.path / "config.yaml"), lambda name: (), quiet=True)
        return to_dict(self.experiment())

    def _config(self) -> dict[str, Any]:
        path = self.path / "config.yaml"
        try:
            if not self.path.exists():
                beside = sorted(self.path.parent.iterdir()) if self.path.parent.is_dir() else []
                runs = [other.name for other in beside if looks_like_run(other)]
                hint = did_you_mean(self.path.name, runs)
                raise UserError(f"no run folder {self.path}; {hint}".rstrip("; "))
            if not path.is_file():
                raise UserError(f"{self.path} is not a run folder: it has no config.yaml")
            data = strict_yaml.read(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error}") from error
        if not isinstance(data, dict):
            raise UserError(f"{path} is damaged: it must hold `key: value` lines")
        return data

    def environment(self) -> dict[str, str]:
        """Read what the run was made with: the command, the commit, and each package's version.

        What was another when it was resumed is told with both: `1.0, then 1.1`. Empty if the folder
        does not say.
        """
        path = self.path / "environment.txt"
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read {path}: {error}") from error
        found: dict[str, str] = {}
        for key, value in map(_pair, lines):
            found[key] = f"{found[key]}{THEN}{value}" if found.get(key) else value
        return {key: value for key, value in found.items() if value}  # a line may be cut short

    def renew_environment(self, meta_iterations: int) -> None:
        """Add to environment.txt what a run that is resumed is made with, where that is another."""
        before = self.environment()
        changed = [
            line
            for line in describe_environment().splitlines()
            if (pair := _pair(line))[0] != "command"
            and before.get(pair[0], "").rpartition(THEN)[2] != pair[1]
        ]
        if changed:
            path = self.path / "environment.txt"
            kept = path.read_text(encoding="utf-8") if path.is_file() else ""
            text = "\n".join([f"resumed after {meta_iterations} meta-iterations", *changed])
            write(f"{kept}{text}\n".encode(), path, "what the run is made with")


def _pair(line: str) -> tuple[str, str]:
    """Return what a line of environment.txt tells of, and what it tells."""
    key, *value = re.split("==| ", line, maxsplit=1)
    return key, "".join(value)


def describe_commit() -> str:
    """Return the project's commit, with `-dirty` if files differ from it; `unknown` outside git."""
    try:
        outcome = subprocess.run(
            ["git", "-C", str(catalog.ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return outcome.stdout.strip() or "unknown"


def describe_machine() -> str:
    """Return CPU, cores that may be used, and GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{processor()}, {usable_cores()} cores, {gpu}"


def looks_like_run(path: Path) -> bool:
    """Return whether a path is a run's folder, be it a damaged one."""
    parts = ("config.yaml", "checkpoints", "evaluations")
    return path.is_dir() and any((path / part).exists() for part in parts)


def _holds_something(entry: Path) -> bool:
    """Return whether a kill while a run folder was being made could not have left an entry."""
    if entry.is_dir() and not entry.is_symlink():
        return any(entry.iterdir())
    return entry.name != RunLock.NAME and not is_unfinished(entry)


def describe_environment(program: str = "meta-rl") -> str:
    """Return the command, the machine, the project's commit, and the version of each package."""
    packages = sorted({f"{entry.name}=={entry.version}" for entry in distributions()})
    head = [
        f"command {shlex.join([*program.split(), *sys.argv[1:]])}",
        f"python {platform.python_version()}",
        f"system {platform.system()} {platform.release()} {platform.machine()}",
        f"commit {describe_commit()}",
        f"machine {describe_machine()}",
    ]
    return "\n".join([*head, *packages]) + "\n"
