"""TensorBoard, the extra `tensorboard`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.core.errors import UserError
from meta_rl.runs.sinks.base import Beginning, Sink

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardSink(Sink):
    """Writes event files, whose x-axis is `env_steps`.

    Args:
        folder: Where the files go: `tensorboard/` in the run folder.

    Raises:
        UserError: The package is not installed.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"tracking.tensorboard needs the package tensorboard ({error}); install it with "
                f"`pip install -e '.[tensorboard]'`, or leave tracking.tensorboard away"
            ) from error
        self._folder = folder
        self._writer: SummaryWriter | None = None
        self._env_steps = 0

    def start(self, run: Beginning) -> None:
        """Begin a file; points beyond a resumed run's checkpoint are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        self._env_steps = run.env_steps_before
        # TensorBoard drops what older files hold from this step on.
        self._writer = SummaryWriter(str(self._folder), purge_step=run.env_steps_before + 1)

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Add a point to every metric's chart."""
        self._env_steps = env_steps
        if self._writer is None:
            return
        for name, value in {**metrics, "meta_iterations": meta_iterations}.items():
            self._writer.add_scalar(name, value, env_steps)

    def say(self, message: str) -> None:
        """Add a sentence to the page of texts."""
        if self._writer is not None:
            self._writer.add_text("log", message, self._env_steps)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table as text."""
        if self._writer is not None:
            lines = [columns, ["---"] * len(columns), *rows]
            text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
            self._writer.add_text(name, text, self._env_steps)

    def log_figure(self, name: str, figure: "Figure") -> None:
        """Show a figure of matplotlib's."""
        if self._writer is not None:
            self._writer.add_figure(name, figure, self._env_steps, close=False)

    def finish(self, succeeded: bool = True) -> None:
        """Write what is still in memory."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    @property
    def wants_figures(self) -> bool:
        """Whether it is recording."""
        return self._writer is not None
