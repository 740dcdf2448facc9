"""Reads experiments off command lines: a config and flags for its fields."""

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from meta_rl.core.errors import UserError

if TYPE_CHECKING:
    from meta_rl.experiment.config import Experiment


def experiment_of(source: str, flags: list[str], prog: str) -> "Experiment[Any, Any]":
    """Return the experiment of a config file, or of a name in configs/, with flags applied.

    `--from RUN` is short for `--start-from RUN`.
    """
    from meta_rl.experiment.config import load_experiment

    flags, origin = take(flags, "--from")
    if origin == "" or flags[-1:] == ["--from"]:
        raise UserError("--from needs a run folder, got nothing")
    if origin is not None:
        if take(flags, "--start-from")[1] is not None:
            raise UserError("--from is short for --start-from; give one of them")
        flags = [*flags, "--start-from", origin]
    chosen = {}
    for section in ("agent", "envs"):
        flags, chosen[section] = take(flags, f"--{section}.name")
    loaded = load_experiment(source, chosen["agent"], chosen["envs"])
    experiment = with_flags(loaded, flags, prog)
    if not experiment.name:  # such as an empty variable of the shell
        experiment = replace(experiment, name=loaded.name)
    if experiment.name == loaded.name and experiment.seed != loaded.seed:
        # The default name tells the seed, also when a flag changes it.
        suffix = f"-seed{loaded.seed}"
        if loaded.name.endswith(suffix):
            name = loaded.name.removesuffix(suffix) + f"-seed{experiment.seed}"
            experiment = replace(experiment, name=name)
    return experiment


def take(flags: list[str], name: str) -> tuple[list[str], str | None]:
    """Split `name value` or `name=value` off the flags."""
    for at, word in enumerate(flags):
        if word == name and at + 1 < len(flags):
            return flags[:at] + flags[at + 2 :], flags[at + 1]
        if word.startswith(f"{name}="):
            return flags[:at] + flags[at + 1 :], word.partition("=")[2]
    return flags, None


def with_flags(
    experiment: "Experiment[Any, Any]", flags: list[str], prog: str
) -> "Experiment[Any, Any]":
    """Return the experiment with flags applied; every field is one.

    Args:
        prog: The command, as its help and its errors call it.
    """
    if not flags:
        return experiment
    _refuse_old_words(experiment, flags)
    import tyro

    from meta_rl.commands._help import explain
    from meta_rl.experiment.config import Experiment

    for section in (experiment, *filter(is_dataclass, vars(experiment).values())):
        explain(type(section), hidden=("None", ""))

    # tyro reads the flags off the concrete sections; type checkers see only their placeholders.
    kind: Any = Experiment[type(experiment.agent), type(experiment.envs)]  # type: ignore[misc]
    changed: Experiment[Any, Any] = tyro.cli(
        kind,
        args=list(_with_none(experiment, flags)),
        default=experiment,
        prog=prog,
        description="Fields of the config, with the config's values.",
    )
    return changed


def _with_none(experiment: "Experiment[Any, Any]", flags: list[str]) -> Iterator[str]:
    """Yield the flags, with `None` for `none` or `null` where a field may be None."""
    flag = ""
    for word in flags:
        name, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        flag = name or flag
        none = value.lower() in ("none", "null") and _may_be_none(experiment, flag)
        yield f"{name}{equals}None" if none else word


def _may_be_none(experiment: "Experiment[Any, Any]", flag: str) -> bool:
    *sections, field = flag.removeprefix("--").replace("-", "_").split(".")
    section: Any = experiment
    for name in sections:
        section = getattr(section, name, None)
    return NoneType in get_args(get_type_hints(type(section)).get(field))


def _refuse_old_words(experiment: "Experiment[Any, Any]", flags: list[str]) -> None:
    """Raise a UserError for flags of config version 1; it names the new flags."""
    given = {word.partition("=")[0].replace("_", "-") for word in flags}
    renamed = {"--envs-per-task": "--copies"}
    if not hasattr(experiment.agent, "learning_rate"):
        renamed["--agent.learning-rate"] = "--agent.outer-lr"
    for old, new in renamed.items():
        if old in given:
            raise UserError(f"{old} is now called {new}")
