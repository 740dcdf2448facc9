"""What a sweep varies: settings of a config, each with values or a range."""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeAlias

from meta_rl.core.errors import UserError
from meta_rl.experiment import strict_yaml
from meta_rl.experiment.config import Experiment, experiment_from_dict, to_dict
from meta_rl.experiment.identity import NOT_LEARNING

Setting: TypeAlias = Mapping[str, Any]
"""Values of the settings that are varied, by their dotted names."""

MEASURED_BY = ("envs", "change")
"""Sections that say what is measured: their trials could not be compared."""
RANGE = re.compile(r"(log|linear):([^:]+):([^:]+)")


@dataclass(frozen=True)
class Choice:
    """A setting that takes one of some values."""

    name: str
    values: tuple[Any, ...]

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all are allowed."""
        return self.values


@dataclass(frozen=True)
class Range:
    """A setting that takes any number between two, both included."""

    name: str
    low: int | float
    high: int | float
    log: bool
    """Whether numbers are drawn evenly by their logarithm."""

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that show whether all are allowed."""
        return self.low, self.high


Varied: TypeAlias = Choice | Range


def read_varied(texts: Sequence[str], base: Experiment[Any, Any]) -> list[Varied]:
    """Return what `--vary SETTING=VALUES ...` says.

    Values are YAML between commas; a range is `log:LOW:HIGH` or `linear:LOW:HIGH`.

    Raises:
        UserError: A setting does not exist or cannot be varied, or a value is not one of its own.
    """
    if not texts:
        raise UserError("say what to vary: --vary agent.inner_lr=0.01,0.03,0.1")
    varied = [_read(text, base) for text in texts]
    names = [each.name for each in varied]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"--vary names {', '.join(twice)} twice; give all values at once")
    for name in names:
        if part := next((other for other in names if other.startswith(f"{name}.")), None):
            raise UserError(f"--vary {part} is a part of {name}, which is varied too; vary one")
    return [_as_configs_have_it(each, base) for each in varied]


def _as_configs_have_it(varied: Varied, base: Experiment[Any, Any]) -> Varied:
    """Return the same, with every value as a trial's config would hold it."""
    name = varied.name
    read = tuple(value_of(with_setting(base, {name: value}), name) for value in varied.ends)
    if isinstance(varied, Range):
        return varied
    if any(read.count(value) > 1 for value in read):
        told = ", ".join(map(told_value, varied.values))
        raise UserError(f"--vary {name}: a value is given twice, got {told}")
    return Choice(name, read)


def _read(text: str, base: Experiment[Any, Any]) -> Varied:
    name, equals, words = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name:
        raise UserError(f"--vary needs SETTING=VALUE,VALUE, got {text!r}")
    section, _, field = name.partition(".")
    if section in NOT_LEARNING or field == "name":
        raise UserError(f"--vary {name}: it cannot be varied, only what an agent learns by")
    if section in MEASURED_BY:
        raise UserError(
            f"--vary {name}: it changes what is measured, so that trials could not be compared"
        )
    source = f"--vary {text}"
    if found := RANGE.fullmatch(words.strip()):
        kind, *ends = found.groups()
        return _range(name, kind == "log", [strict_yaml.parse(end, source) for end in ends], base)
    values = strict_yaml.parse(f"[{words}]", source)
    if not values:
        raise UserError(f"--vary {name}: there are no values; give some, such as {name}=1,2")
    return Choice(name, tuple(values))


def _range(name: str, log: bool, ends: list[Any], base: Experiment[Any, Any]) -> Range:
    if any(isinstance(end, bool) or not isinstance(end, int | float) for end in ends):
        raise UserError(f"--vary {name}: a range lies between two numbers, got {ends}")
    low, high = ends
    if low >= high:
        raise UserError(f"--vary {name}: a range begins below its end, got {low} to {high}")
    if log and low <= 0:
        raise UserError(f"--vary {name}: the range of a logarithm begins above 0, got {low}")
    if isinstance(value_of(with_setting(base, {name: low}), name), float):  # as it would be read
        low, high = float(low), float(high)
    return Range(name, low, high, log)


def value_of(experiment: Experiment[Any, Any], name: str) -> Any:
    """Return the value of a setting as plain data; none if there is no such setting."""
    found: Any = to_dict(experiment)
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def with_setting(base: Experiment[Any, Any], setting: Setting) -> Experiment[Any, Any]:
    """Return an experiment with other values of some settings.

    Raises:
        UserError: A setting does not exist, or a value is of the wrong type or out of range.
    """
    data = deepcopy(to_dict(base))
    for name, value in setting.items():
        *sections, last = name.split(".")
        inner = data
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise UserError(f"--vary {name}: {section} is a single value, not a section")
        inner[last] = value
    return experiment_from_dict(data, f"--vary {', '.join(setting)}")


def told(setting: Setting) -> str:
    """Return a setting as text."""
    return ", ".join(f"{name} {told_value(value)}" for name, value in setting.items())


def told_value(value: Any) -> str:
    """Return a value as text; numbers of many digits, which were drawn, with four of them."""
    if isinstance(value, float) and len(repr(value)) > 12:
        return f"{value:.4g}"
    return strict_yaml.write_line(value)
