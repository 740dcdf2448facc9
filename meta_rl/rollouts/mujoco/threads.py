"""A thread that does the same work over and over."""

import contextlib
import threading
from collections.abc import Callable


class Helper:
    """A thread that does the same work whenever it is told to.

    Two locks hand over and back several times faster than an executor's queue and futures do,
    which counts where few worlds make a step short.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._begin, self._done = threading.Lock(), threading.Lock()
        self._begin.acquire()
        self._done.acquire()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="simulator", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Let the work begin; `wait` must follow."""
        self._begin.release()

    def wait(self) -> None:
        """Wait until the work is done."""
        self._done.acquire()

    def end(self) -> None:
        """End the thread, also where an interrupt came between `begin`, the work and `wait`."""
        self._ending = True
        with contextlib.suppress(RuntimeError):  # it is about to begin, and then ends
            self._begin.release()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._begin.acquire()
            if self._ending:
                return
            try:
                self._work()
            finally:
                self._done.release()
