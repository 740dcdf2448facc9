"""Experiments: frozen dataclasses, read from strict YAML, changed by typed flags."""

import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

import tyro

from meta_rl.core.change import ChangeConfig
from meta_rl.core.errors import UserError, what_there_is
from meta_rl.core.outputs import write
from meta_rl.experiment import catalog, strict_yaml
from meta_rl.experiment.versions import VERSION, translated

AgentT = TypeVar("AgentT")
EnvsT = TypeVar("EnvsT")
ConfigT = TypeVar("ConfigT")


TrackingMode: TypeAlias = Literal["auto", "online", "offline", "off"]


@dataclass(frozen=True)
class TrackingConfig:
    """Records of the run besides its own files: Weights & Biases and TensorBoard."""

    mode: TrackingMode = "auto"
    """How W&B records the run: `online` uploads while training, `offline` writes files for a later
    `wandb sync`, `off` does neither. `auto` is `online` for logged-in users, else `offline`.
    WANDB_MODE=offline or disabled overrides `auto` and `online`."""
    project: str = "meta-rl"
    """W&B project of the run."""
    entity: str | None = None
    """W&B user or team that owns the project. Without it, your own default."""
    group: str | None = None
    """W&B group of the run. Without it, seeds of one experiment share a group, named by the config
    and a hash of all settings that affect learning."""
    tags: tuple[str, ...] = ()
    """W&B tags of the run."""
    tensorboard: bool = False
    """Also write TensorBoard event files, to `tensorboard/` in the run folder."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How adaptation to held-out tasks is measured."""

    every: int = 0
    """Meta-iterations between evaluations during training, at least 0. 0 evaluates only at the
    end."""
    choose_on: Literal["train", "validation", "test"] = "validation"
    """Split that evaluations during training measure: train, validation or test. best.pt is the
    checkpoint with the best result on it."""
    split: Literal["train", "validation", "test"] = "test"
    """Split that `meta-rl evaluate` measures by default: train, validation or test. Training always
    ends with an evaluation of the test split."""
    goals: int | None = None
    """Goals to measure for each task name, at least 1, in the split's order. Without it, all."""
    adaptation_steps: int = 1
    """Number of times the agent adapts to each task, at least 0. Every stage is measured: before
    adaptation, and after each step."""
    copies: int | None = None
    """Copies of each task's environment (N), at least 1. Without it, as many as in training."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Actions while measuring: `sampled` from the policy, or `deterministic`, its mode. Adaptation
    always samples."""
    evaluation_episodes: int | None = None
    """Episodes that only measure each stage of a task, at least 1; the agent does not learn from
    them. Without it, sampled actions are measured on the episodes that the agent adapts from."""
    changes: int = 4
    """With tasks that change: number of changes that each task is followed through, at least 1."""
    relearn: Literal["after_a_drop", "always"] = "after_a_drop"
    """With tasks that change, for agents that adapt by gradients. `after_a_drop`: learn from
    adaptation_steps rounds, then only play. When the return drops, start again from the
    meta-trained parameters. `always`: learn from every round."""
    seed: int = 0
    """Seed of the evaluation's action noise, at least 0. It is independent of the run's seed."""

    def __post_init__(self) -> None:
        _at_least("evaluation.every", self.every, 0)
        _at_least("evaluation.adaptation_steps", self.adaptation_steps, 0)
        _at_least("evaluation.seed", self.seed, 0)
        _at_least("evaluation.changes", self.changes, 1)
        for name in ("goals", "copies", "evaluation_episodes"):
            if (value := getattr(self, name)) is not None:
                _at_least(f"evaluation.{name}", value, 1)

    @property
    def measures_apart(self) -> bool:
        """Whether each stage is measured by episodes of its own, which nothing is learned from."""
        return self.evaluation_episodes is not None or self.actions == "deterministic"


@dataclass(frozen=True)
class RolloutsConfig:
    """Where training rollouts are played: in the training process, or on a Ray cluster."""

    backend: Literal["local", "ray"] = "local"
    """Where rollouts are played: `local`, in the training process's own simulator, or `ray`, by
    workers on a Ray cluster that share the tasks (needs the extra `cluster`)."""
    workers: int = 0
    """Ray workers (W), at least 0; 0 means as many as the cluster's CPU cores allow. Each reserves
    as many cores as `--workers` gives it threads or processes."""
    device: Literal["same", "cpu"] = "same"
    """Device of the worlds and of the acting policy in `local` rollouts: `same` as the run's, or
    `cpu` while updates use a GPU. With few worlds, a GPU mostly waits."""
    cuda_graph: bool = False
    """Record the policy's step as a CUDA graph once per rollout, and replay it. The GPU then need
    not wait for Python at each operation. Needs `device: cuda` and rollouts.device `same`."""
    gpus_per_worker: float = 0.0
    """GPUs that each Ray worker reserves, at least 0. Above 0, its simulator and its copy of the
    policy are on that GPU (needs `device: cuda`). A fraction lets workers share a GPU."""
    address: str = ""
    """Ray cluster to join: HOST:PORT of its head, or `auto` for the one on this machine. Without
    it, RAY_ADDRESS counts. Without that, the run starts its own Ray on this machine."""
    deadline_s: float = 600.0
    """Seconds that a Ray worker may take to start, or to play a phase, above 0. After that it is
    ended, and its tasks are played elsewhere."""

    def __post_init__(self) -> None:
        _at_least("rollouts.workers", self.workers, 0)
        if not 0 <= self.gpus_per_worker < math.inf:
            raise UserError(
                f"rollouts.gpus_per_worker must be at least 0, got {self.gpus_per_worker}"
            )
        if not 0 < self.deadline_s < math.inf:
            raise UserError(f"rollouts.deadline_s must be above 0, got {self.deadline_s}")


@dataclass(frozen=True)
class Experiment(Generic[AgentT, EnvsT]):
    """One training run: an agent, a task distribution and a budget."""

    agent_name: Annotated[str, tyro.conf.Suppress]
    """Name of the agent's module in the catalog. Configs write it as `agent: {name: ...}`."""
    envs_name: Annotated[str, tyro.conf.Suppress]
    """Name of the family's module in the catalog. Configs write it as `envs: {name: ...}`."""
    agent: AgentT
    """The learning algorithm."""
    envs: EnvsT
    """The task distribution."""
    meta_iterations: int = 100
    """Meta-updates of the whole run, at least 1."""
    meta_batch_size: int = 20
    """Tasks drawn for each meta-batch, at least 1."""
    train_tasks: int | None = None
    """Number of fixed training tasks that meta-batches are drawn from, at least meta_batch_size.
    The run's seed draws them. Without it, meta-batches are drawn from all tasks of the family, and
    a task may never come again."""
    trials: int = 1
    """Times that each drawn task is in the meta-batch, at least 1; M is meta_batch_size times this.
    Each time, it adapts on its own, from its own copies. Values above 1 fill a GPU with worlds.
    More copies would do so too, but training would then adapt from more episodes than
    evaluation."""
    copies: int = 10
    """Copies of each task's environment that are stepped together (N), at least 1."""
    seed: int = 0
    """Seed of all randomness in the run, at least 0. Held-out goals do not depend on it."""
    device: str = "cpu"
    """Device of the policy and its updates: cpu, cuda or cuda:N."""
    gpu_arithmetic: Literal["plain", "repeatable", "tf32"] = "plain"
    """Arithmetic on a GPU; it has no effect on the CPU. `plain`: single precision. `repeatable`:
    slower, but the same bits each time, so a resumed run equals one that never stopped. `tf32`:
    faster, but rounds the factors of matrix products to 10 bits."""
    threads: int = 0
    """CPU threads of torch, at least 0. 0 means torch's default, but at most the cores that the
    process may use."""
    workers: int = 0
    """Threads (native simulator) or processes (Gymnasium) that step environments, at least 0. 0
    means one for each CPU core that the process may use. Each Ray worker has this many; for it, 0
    means 1."""
    checkpoint_every: int = 10
    """Meta-iterations between checkpoints, at least 1. A killed run loses at most these."""
    max_rejected: int = 3
    """Abort the run after this many rejected meta-updates in a row, at least 0. 0 acts like 1."""
    name: str = ""
    """Name of the run and of its folder. Without it, the config's name and the seed."""
    runs: str = "runs"
    """Folder that holds the run folders."""
    start_from: str = ""
    """Run whose trained agent this one starts from (short: `--from`). That run's env steps are not
    counted. Without it, the agent starts from its initial parameters."""
    change: ChangeConfig = field(default_factory=ChangeConfig)
    """How tasks change while the policy acts. By default they do not."""
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    """Where training rollouts are played."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """How adaptation to a split's tasks is measured."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases and TensorBoard, besides the run's own files."""
    version: int = VERSION
    """Version of the config format."""

    def __post_init__(self) -> None:
        for name in (
            "meta_iterations",
            "meta_batch_size",
            "trials",
            "copies",
            "checkpoint_every",
        ):
            _at_least(name, getattr(self, name), 1)
        for name in ("threads", "workers", "max_rejected", "seed"):
            _at_least(name, getattr(self, name), 0)
        if self.train_tasks is not None and self.train_tasks < self.meta_batch_size:
            raise UserError(
                f"train_tasks must be at least meta_batch_size, which is {self.meta_batch_size}, "
                f"got {self.train_tasks}"
            )
        check_device(self.device)
        acts_on_gpu = self.rollouts.backend == "local" and self.rollouts.device == "same"
        if self.rollouts.cuda_graph and (self.device == "cpu" or not acts_on_gpu):
            raise UserError(
                "rollouts.cuda_graph is for a policy that acts on a GPU: it needs device cuda, "
                f"rollouts.backend local and rollouts.device same, got {self.device}, "
                f"{self.rollouts.backend} and {self.rollouts.device}"
            )
        if "/" in self.name or self.name.startswith(".") or self.name != self.name.strip():
            raise UserError(
                f"name must be a plain folder name, without blanks at its ends, got "
                f"{self.name!r}; the field runs names the folder around it"
            )
        if self.version != VERSION:
            raise UserError(
                f"the config is of version {self.version}, but this is meta-rl for version "
                f"{VERSION}; see docs/architecture.md for the changes, or install the other meta-rl"
            )

    @property
    def evaluation_copies(self) -> int:
        """Copies of each task's environment in evaluations (N)."""
        return self.evaluation.copies or self.copies


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name} must be at least {least}, got {value}")


def load_experiment(
    source: str,
    agent_name: str | None = None,
    envs_name: str | None = None,
) -> Experiment[Any, Any]:
    """Read an experiment from a file or from configs/.

    Args:
        agent_name: Take this agent with its defaults if the file names another.
        envs_name: Take this family with its defaults if the file names another.
    """
    path = catalog.config_path(source)
    data = strict_yaml.read(path)
    if not isinstance(data, dict):
        raise UserError(f"{path} must hold `key: value` lines such as `agent: {{name: maml_trpo}}`")
    for section, name in (("agent", agent_name), ("envs", envs_name)):
        if name is not None and _section_name(data.get(section), section, path) != name:
            data[section] = {"name": name}
    data.setdefault("name", "")
    experiment = experiment_from_dict(data, str(path))
    if not experiment.name:
        others = [name for name in (agent_name, envs_name) if name is not None]
        data["name"] = "-".join([path.stem, *others, f"seed{experiment.seed}"])
        experiment = experiment_from_dict(data, str(path))
    return experiment


def experiment_from_dict(data: Mapping[str, Any], source: str) -> Experiment[Any, Any]:
    """Make an experiment of plain data; `source` is named in errors."""
    data = translated(data, source, agent_fields)
    sections: dict[str, Any] = {}
    packages: tuple[tuple[str, catalog.Package], ...] = (("agent", "agents"), ("envs", "envs"))
    for section, package in packages:
        content = data.pop(section, None)
        name = _section_name(content, section, source)
        module = catalog.load(package, name)
        rest = {key: value for key, value in content.items() if key != "name"}
        sections[section] = from_dict(module.Config, rest, section, source)
        sections[f"{section}_name"] = name
    return from_dict(Experiment, data, "", source, sections)


def agent_fields(name: str) -> list[str]:
    """Return the settings of an agent."""
    return [entry.name for entry in fields(catalog.load("agents", name).Config)]


def _section_name(content: Any, section: str, source: object) -> str:
    if not isinstance(content, dict) or not isinstance(content.get("name"), str):
        example = "maml_trpo" if section == "agent" else "point_navigation"
        raise UserError(f"{source} must say `{section}: {{name: {example}}}` or the like")
    return str(content["name"])


def from_dict(
    cls: type[ConfigT],
    data: Any,
    where: str,
    source: str,
    given: Mapping[str, Any] | None = None,
) -> ConfigT:
    """Make a config dataclass of plain data, refusing unknown keys and wrong types.

    Args:
        where: Dotted path of the section, for errors.
        given: Fields that are made already, so that the data must not hold them.
    """
    if not isinstance(data, Mapping):
        raise UserError(f"{source}: {where} must hold `key: value` lines, got {data!r}")
    known = {entry.name: entry for entry in fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    values = dict(given or {})
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in known or key in (given or {}):
            free = [name for name in known if name not in (given or {})]
            raise UserError(f"{source}: unknown key {path!r}; {what_there_is(str(key), free)}")
        values[str(key)] = _convert(hints[key], value, path, source)
    missing = [
        name
        for name, entry in known.items()
        if name not in values and entry.default is entry.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{source}: {where or 'the config'} lacks {', '.join(missing)}")
    return cls(**values)


def _convert(hint: Any, value: Any, path: str, source: str) -> Any:
    """Return the value as its annotation wants it, or raise a UserError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:  # plain data, which its section checks
        return value
    if is_dataclass(hint):
        return from_dict(hint, value, path, source)  # type: ignore[arg-type]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (argument for argument in arguments if argument is not type(None))
        return _convert(hint, value, path, source)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(
            f"{source}: {path} must be one of {', '.join(map(str, arguments))}, got {value!r}"
        )
    if origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(_convert(arguments[0], item, path, source) for item in value)
    elif hint is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                pass
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    kind = "a list" if origin is tuple else f"{'an' if hint is int else 'a'} {hint.__name__}"
    kind += " (true or false)" if hint is bool else ""
    raise UserError(f"{source}: {path} must be {kind}, got {value!r}")


def to_dict(experiment: Experiment[Any, Any]) -> dict[str, Any]:
    """Return an experiment as plain data, with the names of its agent and family."""
    data: dict[str, Any] = {"version": experiment.version} | asdict(experiment)
    for section in ("agent", "envs"):
        data[section] = {"name": data.pop(f"{section}_name"), **data[section]}
    as_lists: dict[str, Any] = plain(data)
    return as_lists


def plain(value: Any) -> Any:
    """Return nested plain data with lists for tuples, as YAML and checkpoints hold it."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


def check_device(name: str) -> None:
    """Refuse a device that is neither the CPU nor an NVIDIA GPU."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"device must be cpu, cuda or cuda:N, got {name!r}")


def save_experiment(experiment: Experiment[Any, Any], path: Path) -> None:
    """Write the whole experiment, defaults included; whole or not at all."""
    write(strict_yaml.write(to_dict(experiment)).encode(), path, "the config")
