"""What a sink is, and all sinks of a run as one."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Beginning:
    """What sinks are told when a run begins or goes on."""

    folder: Path
    """The run folder."""
    name: str
    config: Mapping[str, Any]
    """The run's configuration and protocol, as plain data."""
    meta_iterations: int = 0
    """Where the run ends; 0 for what is no training."""
    meta_iterations_before: int = 0
    """Where the run begins: above 0 when it is resumed."""
    env_steps_before: int = 0
    """Environment steps made before."""


class Sink:
    """Takes what a run has to tell. Every method does nothing until a sink overrides it.

    A method may raise: `Sinks` then switches the sink off. It must not wait for a network.
    """

    name = "sink"
    """What messages and checkpoints call it."""
    is_the_record = False
    """Whether a run must stop when this sink fails. Only metrics.jsonl is the run's record."""
    together: "Sink | None" = None
    """All sinks of the run, this one included, once `Sinks` has it."""

    def notify(self, message: str) -> None:
        """Tell all sinks of the run a sentence about this one."""
        if self.together is not None:
            self.together.say(message)

    def tidy(self, run: Beginning) -> None:
        """Put in order what an earlier process left: before `start`, or of a finished run."""

    def start(self, run: Beginning) -> None:
        """Prepare for a run, once, before anything is logged."""

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Record what is known after so many environment steps and meta-iterations."""

    def say(self, message: str) -> None:
        """Tell whoever watches a sentence."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table, such as the final evaluation."""

    def log_figure(self, name: str, figure: "Figure") -> None:
        """Show a figure of matplotlib's."""

    def log_video(self, name: str, path: Path, caption: str) -> None:
        """Show a film in mp4."""

    def log_html(self, name: str, path: Path) -> None:
        """Show a page."""

    def log_artifact(self, path: Path, name: str, type: str) -> None:
        """Keep a file, such as a checkpoint, as a version of the artifact `name`."""

    def finish(self, succeeded: bool = True) -> None:
        """Complete what was recorded; nothing is logged afterwards."""

    @property
    def wants_figures(self) -> bool:
        """Whether figures are worth drawing for this sink."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Return plain data that a resumed run gives back, such as the run's id elsewhere."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned, before `start`."""


class Sinks(Sink):
    """Several sinks as one. A sink that fails is switched off with one warning.

    Only the failure of the run's record is raised.
    """

    name = "sinks"

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._all = tuple(sinks)
        self._on = list(sinks)
        for sink in sinks:
            sink.together = self
        # Of sinks that this process does not have, too, so that a later one may use it.
        self._state: dict[str, Any] = {}

    def tidy(self, run: Beginning) -> None:
        """Let all sinks put in order what is theirs."""
        self._each(lambda sink: sink.tidy(run))

    def start(self, run: Beginning) -> None:
        """Prepare all sinks."""
        self._each(lambda sink: sink.start(run))

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Give numbers to all sinks."""
        self._each(lambda sink: sink.log(metrics, env_steps, meta_iterations))

    def say(self, message: str) -> None:
        """Give a sentence to all sinks."""
        self._each(lambda sink: sink.say(message))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Give a table to all sinks."""
        self._each(lambda sink: sink.log_table(name, columns, rows))

    def log_figure(self, name: str, figure: "Figure") -> None:
        """Give a figure to all sinks."""
        self._each(lambda sink: sink.log_figure(name, figure))

    def log_video(self, name: str, path: Path, caption: str) -> None:
        """Give a film to all sinks."""
        self._each(lambda sink: sink.log_video(name, path, caption))

    def log_html(self, name: str, path: Path) -> None:
        """Give a page to all sinks."""
        self._each(lambda sink: sink.log_html(name, path))

    def log_artifact(self, path: Path, name: str, type: str) -> None:
        """Give a file to all sinks."""
        self._each(lambda sink: sink.log_artifact(path, name, type))

    def finish(self, succeeded: bool = True) -> None:
        """Complete all sinks, the last first: what others say while they finish is still shown."""
        for sink in reversed(self._all):
            if sink in self._on:
                self._attempt(sink, lambda sink: sink.finish(succeeded))
            else:  # what is left of it, such as a terminal's hidden cursor
                with contextlib.suppress(Exception):
                    sink.finish(succeeded)

    @property
    def wants_figures(self) -> bool:
        """Whether any sink shows figures."""
        return any(sink.wants_figures for sink in self._on)

    def state_dict(self) -> dict[str, Any]:
        """Return each sink's state under its name."""
        return self._state | {
            sink.name: state for sink in self._all if (state := sink.state_dict())
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Give each sink its own."""
        self._state = dict(state)
        for sink in self._all:
            sink.load_state_dict(state.get(sink.name, {}))

    def _each(self, call: Callable[[Sink], None]) -> None:
        for sink in tuple(self._on):
            self._attempt(sink, call)

    def _attempt(self, sink: Sink, call: Callable[[Sink], None]) -> None:
        try:
            call(sink)
        except Exception as error:
            if sink.is_the_record:
                raise
            if sink in self._on:  # and not switched off by what it said itself
                self._on.remove(sink)
                reason = str(error) or type(error).__name__
                self.say(
                    f"warning: {sink.name} is switched off: {reason} "
                    f"(the run goes on; its own files are complete)"
                )
