"""What there is to choose about a distribution of Gymnasium environments."""

from dataclasses import dataclass, field
from typing import Any

from envs.gymnasium.success import read as read_success
from envs.gymnasium.variation import read as read_variations
from envs.gymnasium.wrapping import read as read_wrappers
from meta_rl.core.checks import check_at_least
from meta_rl.core.errors import UserError
from meta_rl.experiment.plain import Plain


@dataclass(frozen=True)
class Config:
    """Any Gymnasium environment; `vary` says how its tasks differ."""

    id: str
    """Environment: an id that Gymnasium knows, or a class or function that makes one, as
    `package.module:attribute` or `path/to/file.py:attribute`."""
    vary: Plain = field(default_factory=list)
    """How tasks differ: a list of entries. Each has a target (`attribute`, `keyword`, `model` or
    `seed`) and its values (`uniform`, `log_uniform`, `integers`, `values`, `scale` or `log_scale`).
    See docs/gymnasium.md."""
    keywords: Plain = field(default_factory=dict)
    """Keyword arguments that make the environment, the same for all tasks."""
    wrappers: Plain = field(default_factory=list)
    """Wrappers around the environment, the innermost first. Each is `package.module:Class`, or
    `{package.module:Class: {keyword: value}}` with keywords."""
    horizon: int | None = None
    """Steps after which an episode is truncated (T), at least 1. Without it, the limit that the id
    is registered with."""
    success: Plain = None
    """What counts as success: `terminated`, `survived` (to the horizon), `{info: KEY}` (above 0 on
    any step) or `{episode_return: NUMBER}` (at least that). Without it, only returns are
    measured."""
    train_tasks: int = 0
    """Training tasks, at least 0; 0 draws new ones for every meta-batch."""
    validation_tasks: int = 20
    """Validation tasks, at least 1. If fewer exist, all of them."""
    test_tasks: int = 40
    """Test tasks, at least 1. If fewer exist, all of them."""
    extrapolate: bool = False
    """Hold out the ends of ranges for testing, instead of parts within them."""
    task_seed: int = 0
    """Seed of the fixed tasks, at least 0, independent of the run's seed."""

    def __post_init__(self) -> None:
        check_at_least(0, self, "train_tasks", "task_seed", where="envs")
        check_at_least(1, self, "validation_tasks", "test_tasks", where="envs")
        if self.horizon is not None:
            check_at_least(1, self, "horizon", where="envs")
        if not self.id:
            raise UserError("envs.id is empty; name an environment, such as CartPole-v1")
        if not isinstance(self.keywords, dict) or not all(map(_is_word, self.keywords)):
            raise UserError(f"envs.keywords must hold `name: value` lines, got {self.keywords!r}")
        read_wrappers(self.wrappers)
        varied = {
            name
            for each in read_variations(self.vary, self.extrapolate)
            if each.target == "keyword"
            for name in each.names
        }
        if both := sorted(varied & self.keywords.keys()):
            raise UserError(
                f"envs.keywords sets {both[0]}, which envs.vary varies; leave one of them out"
            )
        read_success(self.success)


def _is_word(name: Any) -> bool:
    return isinstance(name, str)
