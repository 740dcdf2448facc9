"""Where metrics go: always a JSON-lines file, beside it Weights & Biases and the console."""

import io
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meta_rl.core.errors import UserError
from meta_rl.experiment.config import TrackingConfig, TrackingMode

if TYPE_CHECKING:
    import wandb
    from matplotlib.figure import Figure


class Sink(Protocol):
    """Takes metrics as plain numbers; never raises because of where they go."""

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Record what is known after so many environment steps and meta-iterations."""
        ...

    def finish(self, succeeded: bool = True) -> None:
        """Complete what was recorded; nothing is logged afterwards."""
        ...


class JsonlSink:
    """Appends one JSON object a line, complete on disk before `log` returns.

    The JSON is strict: NaN and infinities, which it cannot express, are written as null.
    `wall_time_s` counts the time that the run was alive, over all of its resumptions.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._started_s = time.monotonic()

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Append one line."""
        row = {
            "env_steps": env_steps,
            "meta_iterations": meta_iterations,
            "wall_time_s": round(time.monotonic() - self._started_s, 3),
        } | {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self._path}: {error}; free space, then resume the run"
            ) from error

    def truncate_after(self, meta_iterations: int) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint.

        A last line that the kill cut short goes too. The file is replaced in one step.
        """
        if not self._path.exists():
            return
        kept = []
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    break
                row = json.loads(line)
                if row["meta_iterations"] <= meta_iterations:
                    kept.append(line)
                    self._started_s = time.monotonic() - row["wall_time_s"]
        rewritten = self._path.with_name(self._path.name + ".tmp")
        rewritten.write_text("".join(kept), encoding="utf-8")
        os.replace(rewritten, self._path)

    def finish(self, succeeded: bool = True) -> None:
        """Do nothing: every line is already on disk."""


def effective_mode(mode: TrackingMode) -> TrackingMode:
    """Return `online`, `offline` or `off`, without asking the user or the network."""
    if mode == "off":
        return mode
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if mode == "offline":
        return mode
    if settings.mode == "disabled":
        return "off"
    # False without credentials, and also where WANDB_MODE or `wandb offline` says so.
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


class WandbSink:
    """Records one run in Weights & Biases. Its failures are warned of once, and never raised.

    Charts have `env_steps` as x-axis. W&B's own step counts meta-iterations, so the steps that a
    resumed run repeats are not recorded twice.

    Args:
        folder: The run folder; W&B writes to `wandb/` in it.
        name: What W&B calls the run.
        config: The run's configuration, as plain data.
        run_id: Continue this W&B run; none begins a new one.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        run_id: str | None = None,
    ) -> None:
        self.run_id = run_id
        """Identifies the run to W&B: keep it in the checkpoint."""
        self.url: str | None = None
        """Where to watch the run; none unless it is online."""
        self._run: wandb.Run | None = None
        self._last_step: int | None = None
        self._warned = False

        try:
            self._start(tracking, folder, name, config)
        except Exception as error:
            self._warn(str(error))

    @property
    def recording(self) -> bool:
        """Whether there is a run in W&B, for which figures are worth drawing."""
        return self._run is not None

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Add a point to every metric's chart."""
        self._last_step = meta_iterations
        row = {**metrics, "env_steps": env_steps, "meta_iterations": meta_iterations}
        self._attempt(lambda run: run.log(row, step=meta_iterations))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table, such as the final evaluation."""
        self._show(name, "Table", columns=list(columns), data=[list(row) for row in rows])

    def log_figure(self, name: str, figure: "Figure") -> None:
        """Show a figure of matplotlib's."""
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
        self._show(name, "Image", Image.open(drawn))

    def log_video(self, name: str, path: Path, caption: str) -> None:
        """Show a film in mp4."""
        self._show(name, "Video", str(path), caption=caption)

    def log_html(self, name: str, path: Path) -> None:
        """Show a page as it is, without style sheets of W&B's."""
        self._show(name, "Html", str(path), inject=False)

    def log_artifact(self, path: Path, name: str, type: str) -> None:
        """Keep a file, such as a checkpoint, as a version of the artifact `name`."""
        self._attempt(lambda run: run.log_artifact(path, name=name, type=type))

    def finish(self, succeeded: bool = True) -> None:
        """End the run in W&B, as failed if training did not succeed."""
        self._attempt(lambda run: run.finish(exit_code=0 if succeeded else 1))
        self._run = None

    def _start(
        self, tracking: TrackingConfig, folder: Path, name: str, config: Mapping[str, Any]
    ) -> None:
        mode = effective_mode(tracking.mode)
        if mode == "off":
            return
        if mode == "offline" and tracking.mode == "online":
            self._warn("nobody is logged in, or WANDB_MODE forbids it: recording offline")
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        run = wandb.init(
            dir=folder.resolve(),  # W&B's own process may have begun in another directory
            id=self.run_id,
            resume="allow",
            mode="online" if mode == "online" else "offline",
            name=name,
            config=dict(config),
            project=tracking.project,
            entity=tracking.entity,
            group=tracking.group,
            tags=tracking.tags,
            reinit="create_new",
            # A finish that waits for a lost network gives up; `wandb sync` uploads the rest.
            settings=wandb.Settings(silent=True, console="off", finish_timeout=600),
        )
        self._run, self.run_id, self.url = run, run.id, run.url
        run.define_metric("*", step_metric="env_steps")

    def _show(self, name: str, kind: str, *content: object, **options: object) -> None:
        def show(run: "wandb.Run") -> None:
            import wandb

            run.log({name: getattr(wandb, kind)(*content, **options)}, step=self._last_step)

        self._attempt(show)

    def _attempt(self, call: Callable[["wandb.Run"], object]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._warn(str(error))

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"W&B: {message} (all else goes on; the plain files are complete)",
                RuntimeWarning,
                stacklevel=4,
            )


class ConsoleSink:
    """Shows a progress bar on a terminal; elsewhere prints a line every `interval_s` seconds.

    Args:
        meta_iterations: Where the run ends.
        meta_iterations_before: Where a resumed run begins.
        env_steps_before: Environment steps made before a resumed run begins.
        interval_s: Time between printed lines; the first and the last iteration always have one.
    """

    def __init__(
        self,
        meta_iterations: int,
        meta_iterations_before: int = 0,
        env_steps_before: int = 0,
        console: Console | None = None,
        interval_s: float = 10.0,
    ) -> None:
        self._total = meta_iterations
        self._before = meta_iterations_before
        self._env_steps_before = env_steps_before
        self._console = console or Console()
        self._interval_s = interval_s
        self._started_s = time.monotonic()
        self._printed_s = -math.inf
        self._printed = meta_iterations_before
        self._shown: dict[str, float] = {}
        self._progress: Progress | None = None
        if self._console.is_terminal:
            self._progress = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[summary]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar = self._progress.add_task(
                "", total=meta_iterations, completed=meta_iterations_before, summary=""
            )
            self._progress.start()

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Show speed, adaptation and the time left."""
        self._shown |= metrics
        now_s = time.monotonic()
        elapsed_s = max(now_s - self._started_s, 1e-9)
        summary = self._summary((env_steps - self._env_steps_before) / elapsed_s)
        if self._progress is not None:
            self._progress.update(self._bar, completed=meta_iterations, summary=summary)
            return
        waited = now_s - self._printed_s >= self._interval_s or meta_iterations >= self._total
        if waited and meta_iterations > self._printed:
            done = meta_iterations - self._before
            left = timedelta(seconds=round(elapsed_s / done * (self._total - meta_iterations)))
            self._console.print(
                f"meta-iteration {meta_iterations}/{self._total}  {summary}  {left} left",
                soft_wrap=True,
                highlight=False,
                markup=False,
            )
            self._printed_s, self._printed = now_s, meta_iterations

    def finish(self, succeeded: bool = True) -> None:
        """Leave the bar where it stands and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()

    def _summary(self, env_steps_per_s: float) -> str:
        parts = [f"{env_steps_per_s:,.0f} env steps/s"]
        for name in ("return", "success"):
            before, after = (self._shown.get(f"{name}/{side}") for side in ("before", "after"))
            if before is not None and after is not None:
                parts.append(f"{name} {before:.2f} -> {after:.2f}")
        return "  ".join(parts)
