"""Weights & Biases."""

import functools
import http.client
import io
import re
import secrets
import ssl
import string
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.core.outputs import png
from meta_rl.experiment.config import TrackingConfig, TrackingMode
from meta_rl.runs.sinks.base import Beginning, Sink

if TYPE_CHECKING:
    import wandb
    from matplotlib.figure import Figure

CONNECTING_S = 8.0
"""Seconds to wait for W&B's server; then the run is recorded offline."""


def effective_mode(mode: TrackingMode) -> TrackingMode:
    """Return `online`, `offline` or `off` without asking the user."""
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


def unreachable(url: str) -> str | None:
    """Return why no server answers at an address; none if one does, whatever it answers."""
    try:
        with urllib.request.urlopen(url, timeout=CONNECTING_S):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except urllib.error.URLError as error:
        # W&B has certificates of its own.
        return None if isinstance(error.reason, ssl.SSLError) else str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__


class WandbSink(Sink):
    """Records one run in Weights & Biases.

    One thread does all that W&B is asked for, in order, so that training waits for no network: it
    begins while W&B still connects. A failure is raised by the next call. Charts have `env_steps`
    as x-axis. W&B's own step counts meta-iterations, so that a server does not take twice the steps
    that a resumed run repeats. (Offline records of both go to it as they are.)
    """

    name = "W&B"

    def __init__(self, tracking: TrackingConfig) -> None:
        self._tracking = tracking
        self.run_id: str | None = None
        """Identifies the run to W&B."""
        self._thread: ThreadPoolExecutor | None = None
        self._started: Future[wandb.Run | None] | None = None
        self._asked: list[Future[Any]] = []
        self._notices: list[str] = []
        self._logged = 0
        """Meta-iterations that a row was logged of, here or before the run was resumed."""
        self._logs_here = False
        """Whether the last of these was logged by this process."""
        self._is_resumed = False

    def start(self, run: Beginning) -> None:
        """Begin a run in W&B, or continue the one of `load_state_dict`."""
        if self._tracking.mode == "off":
            return
        self._is_resumed = self.run_id is not None
        self._logged = run.meta_iterations_before
        self.run_id = self.run_id or _new_id()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="wandb")
        self._started = self._thread.submit(self._connect, run)
        self._asked = [self._started]

    @property
    def url(self) -> str | None:
        """Where to watch the run, once it is connected; none unless it is online."""
        started = self._started
        run = started.result() if started and started.done() and not started.exception() else None
        return run.url if run is not None else None

    @property
    def wants_figures(self) -> bool:
        """Whether there may be a run in W&B."""
        return self._thread is not None

    def log(self, metrics: Mapping[str, float], env_steps: int, meta_iterations: int) -> None:
        """Add a point to every metric's chart."""
        row = {**metrics, "env_steps": env_steps, "meta_iterations": meta_iterations}
        self._logs_here |= meta_iterations > self._logged
        self._logged = max(self._logged, meta_iterations)
        logs_here = self._logs_here
        self._ask(lambda run: run.log(row, step=_step(run, meta_iterations, logs_here)))

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show a table, such as the final evaluation."""
        self._show(name, "Table", columns=list(columns), data=[list(row) for row in rows])

    def log_figure(self, name: str, figure: "Figure") -> None:
        """Show a figure of matplotlib's, drawn now."""
        from PIL import Image

        self._show(name, "Image", Image.open(io.BytesIO(png(figure))))

    def log_video(self, name: str, path: Path, caption: str) -> None:
        """Show a film in mp4."""
        self._show(name, "Video", str(path), caption=caption)

    def log_html(self, name: str, path: Path) -> None:
        """Show a page as it is, without style sheets of W&B's."""
        self._show(name, "Html", str(path), inject=False)

    def log_artifact(self, path: Path, name: str, type: str) -> None:
        """Keep a file, such as a checkpoint, as a version of the artifact `name`.

        W&B takes letters without accents, digits and `-_.`, and 128 of them at most.
        """
        allowed = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:128]
        self._ask(lambda run: run.log_artifact(path, name=allowed, type=type))

    def finish(self, succeeded: bool = True) -> None:
        """Wait for all that was asked, and end the run in W&B; `succeeded` is its verdict."""
        if (thread := self._thread) is None:
            return
        self._asked.append(self._submit(lambda run: run.finish(exit_code=0 if succeeded else 1)))
        self._thread = None
        thread.shutdown()
        self._report()

    def state_dict(self) -> dict[str, Any]:
        """Return the run's id."""
        return {} if self.run_id is None else {"run_id": self.run_id}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the id of the run to continue; none begins a new one."""
        self.run_id = state.get("run_id")

    def _connect(self, run: Beginning) -> "wandb.Run | None":
        """Begin the run in W&B, offline if its server does not answer; none if W&B is off."""
        mode = effective_mode(self._tracking.mode)
        if mode == "off":
            return None
        if mode == "offline" and self._tracking.mode == "online":
            self._notices.append(
                "W&B: nobody is logged in, or WANDB_MODE forbids it: recording offline"
            )
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        begin = functools.partial(
            wandb.init,
            dir=run.folder.resolve(),  # W&B's own process may have begun in another directory
            resume="allow",
            name=run.name,
            config=dict(run.config),
            project=self._tracking.project,
            entity=self._tracking.entity,
            group=self._tracking.group,
            tags=self._tracking.tags,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=CONNECTING_S,
                # A finish that waits for a lost network gives up; `wandb sync` uploads the rest.
                finish_timeout=600,
            ),
        )
        if mode == "offline":
            begun = begin(mode="offline", id=self.run_id)
        elif problem := unreachable(wandb.setup().settings.base_url):
            begun = begin(mode="offline", id=self.run_id)
            self._tell_offline(problem, begun)
        else:
            try:
                begun = begin(mode="online", id=self.run_id)
            except Exception as error:  # W&B keeps the id of what it could not begin
                other_id = _new_id()
                begun = begin(mode="offline", id=other_id)
                self._tell_offline(str(error), begun)
                if self._is_resumed:  # the next time it goes on under its own
                    self._notices.append(f"W&B: this part is a run of its own, {other_id}")
                else:
                    self.run_id = other_id
        begun.define_metric("*", step_metric="env_steps")
        return begun

    def _tell_offline(self, problem: str, begun: "wandb.Run") -> None:
        reason = (problem.strip().splitlines() or ["no answer"])[0]
        self._notices.append(
            f"W&B: cannot connect ({reason}): recording offline; "
            f"upload later with `wandb sync {Path(begun.dir).parent}`"
        )

    def _show(self, name: str, kind: str, *content: object, **options: object) -> None:
        last, logs_here = self._logged, self._logs_here

        def show(run: "wandb.Run") -> None:
            import wandb

            shown = {name: getattr(wandb, kind)(*content, **options)}
            run.log(shown, step=_step(run, last, logs_here))

        self._ask(show)

    def _ask(self, call: Callable[["wandb.Run"], object]) -> None:
        """Have the thread do it after all that it was asked before."""
        if self._thread is not None:
            self._report()
            self._asked.append(self._submit(call))

    def _submit(self, call: Callable[["wandb.Run"], object]) -> Future[None]:
        assert self._thread is not None and self._started is not None
        started = self._started

        def answer() -> None:
            if started.exception() is None and (run := started.result()) is not None:
                call(run)

        return self._thread.submit(answer)

    def _report(self) -> None:
        """Say what the thread has to say, and raise its first failure."""
        while self._notices:
            self.notify(self._notices.pop(0))
        done = [future for future in self._asked if future.done()]
        self._asked = [future for future in self._asked if not future.done()]
        for future in done:
            future.result()


def _step(run: "wandb.Run", meta_iterations: int, logs_here: bool) -> int | None:
    """Return W&B's step for what is logged.

    What comes after the row of a meta-iteration belongs to it. A server takes it at no step that is
    over, and of a run that was resumed all steps are, until a row is logged: before that, it goes
    to the next step, whichever that is.
    """
    return meta_iterations if logs_here or run.offline else None


def _new_id() -> str:
    """Return an id as W&B makes them."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
