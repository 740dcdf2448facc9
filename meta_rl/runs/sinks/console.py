"""The console: a bar on a terminal, lines elsewhere."""

import math
import time
from collections.abc import Mapping
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from meta_rl.core.output import Output
from meta_rl.runs.sinks.base import Beginning, Sink


class PlainConsole(Console):
    """A console whose reader may go away; rich's own would end the process."""

    def on_broken_pipe(self) -> None:
        """Let the error of the closed pipe go on to who prints."""
        raise


class ConsoleSink(Sink):
    """Shows a progress bar on a terminal; elsewhere prints a line every `interval_s` seconds.

    Args:
        interval_s: Time between printed lines; the first and the last iteration always have one.
    """

    name = "the console"

    def __init__(self, console: Console | None = None, interval_s: float = 10.0) -> None:
        self._console = console or PlainConsole()
        self._interval_s = interval_s
        self._progress: Progress | None = None

    def start(self, run: Beginning) -> None:
        """Begin to count the time."""
        self._run = run
        self._started_s = time.monotonic()
        self._printed_s = -math.inf
        self._printed = run.meta_iterations_before
        self._shown: dict[str, float] = {}
        if self._console.is_terminal and run.meta_iterations:
            self._progress = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[summary]}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar = self._progress.add_task(
                "", total=run.meta_iterations, completed=run.meta_iterations_before, summary=""
            )
            self._progress.start()
            self._complain()

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Show speed, adaptation and the time left."""
        self._shown |= metrics
        now_s = time.monotonic()
        elapsed_s = max(now_s - self._started_s, 1e-9)
        summary = self._summary((env_steps - self._run.env_steps_before) / elapsed_s)
        if self._progress is not None:
            self._progress.update(self._bar, completed=meta_iterations, summary=summary)
            self._complain()
            return
        end = self._run.meta_iterations
        waited = now_s - self._printed_s >= self._interval_s or meta_iterations >= end
        if waited and meta_iterations > self._printed:
            done = meta_iterations - self._run.meta_iterations_before
            left = timedelta(seconds=round(elapsed_s / done * (end - meta_iterations)))
            self.say(f"meta-iteration {meta_iterations}/{end}  {summary}  {left} left")
            self._printed_s, self._printed = now_s, meta_iterations

    def say(self, message: str) -> None:
        """Print a sentence, above the bar if there is one."""
        self._console.print(message, soft_wrap=True, highlight=False, markup=False)
        self._complain()

    def finish(self, succeeded: bool = True) -> None:
        """Leave the bar where it stands and give the terminal back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _summary(self, env_steps_per_s: float) -> str:
        parts = [f"{env_steps_per_s:,.0f} env steps/s"]
        for name in ("return", "success"):
            before, after = (self._shown.get(f"{name}/{side}") for side in ("before", "after"))
            if before is not None and after is not None:
                parts.append(f"{name} {before:.2f} -> {after:.2f}")
        return "  ".join(parts)

    def _complain(self) -> None:
        """Raise what went wrong where the command line's output bears it in silence."""
        if isinstance(self._console.file, Output) and self._console.file.failure is not None:
            raise self._console.file.failure
