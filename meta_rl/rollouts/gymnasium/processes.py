"""Worker processes: how they start, and how they end."""

import contextlib
import os
import pickle
import signal
import sys
import time
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess

from meta_rl.core.errors import UserError
from meta_rl.rollouts.gymnasium.worker import FAREWELL_S, FOR_THE_PARENT, GymnasiumFamily

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass
class Worker:
    """A worker process as the parent sees it."""

    number: int
    process: SpawnProcess
    pipe: connection.Connection


def fate(exit_code: int | None) -> str:
    """Return what became of a process, in words."""
    if exit_code is None:
        return "closed its pipe"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"was killed by signal {-exit_code}"


def pickled(family: GymnasiumFamily) -> bytes:
    """Return a family as worker processes receive it."""
    try:
        return pickle.dumps(family)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UserError(
            f"{type(family).__name__} cannot be sent to worker processes: {error}; define it and "
            f"all it holds at the top level of a module"
        ) from error


@contextlib.contextmanager
def light_children(needs_main: bool) -> Iterator[None]:
    """Let processes that are spawned meanwhile start with little.

    They get one thread for linear algebra, and the signals of `FOR_THE_PARENT` blocked. Unless the
    family is defined in the main module, they do not import that one either: it would bring torch.
    """
    environment = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    main = sys.modules["__main__"]
    if not needs_main:
        sys.modules["__main__"] = types.ModuleType("__main__")
    resource_tracker.ensure_running()  # with the first process it would unblock signals again
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        sys.modules["__main__"] = main
        for name, value in environment.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def shut_down(workers: Sequence[Worker]) -> None:
    """Let workers exit because their pipes close; kill those that do not."""
    for worker in workers:
        worker.pipe.close()
    deadline = time.monotonic() + FAREWELL_S
    try:
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:  # also when Ctrl-C is pressed again: the program's end would wait for them
        for worker in workers:
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
            worker.process.close()
