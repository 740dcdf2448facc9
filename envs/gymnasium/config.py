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
    """Any Gymnasium environment; what its tasks differ by is said here."""

    id: str
    """Environment: an id that Gymnasium knows, or `package.module:attribute` or
    `path/to/file.py:attribute`, a class or function that makes one."""
    vary: Plain = field(default_factory=list)
    """What tasks differ by, a list. Each entry has a target (`attribute`, `keyword`, `model` or
    `seed`) and its values (`uniform`, `log_uniform`, `integers`, `values`, `scale` or `log_scale`);
    docs/gymnasium.md tells all."""
    keywords: Plain = field(default_factory=dict)
    """Keywords that the environment is made with, in all tasks alike."""
    wrappers: Plain = field(default_factory=list)
    """Wrappers that it is put into, the innermost first: each `package.module:Class`, or that with
    its keywords, `{package.module:Class: {keyword: value}}`."""
    horizon: int | None = None
    """Steps after which an episode is truncated (T), at least 1. Without it, as the id is
    registered."""
    success: Plain = None
    """What counts as success: `terminated`, `survived` (to the horizon), `{info: KEY}` (above 0 on
    any step) or `{episode_return: NUMBER}` (at least that). Without it, episodes have a return
    alone."""
    train_tasks: int = 0
    """Training tasks, at least 0; 0 draws new ones for every meta-batch."""
    validation_tasks: int = 20
    """Validation tasks, at least 1: at most so many, where there are only few."""
    test_tasks: int = 40
    """Test tasks, at least 1: at most so many, where there are only few."""
    extrapolate: bool = False
    """Hold out the ends of ranges instead of parts within them."""
    task_seed: int = 0
    """Seed of the fixed tasks, at least 0, whatever the seed of the run."""

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
