"""What a run does when it is asked to stop."""

import contextlib
import os
import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Ctrl-C; the end of a cluster's job; a closed terminal or a lost SSH connection; a cluster's
warning before the end."""
EXIT_CODE = 130


class Interruption:
    """Stops a run by its first signal, and lets it save in peace.

    The first signal raises KeyboardInterrupt. After `answer`, Ctrl-C only shows what is being done,
    and once more ends the process at once. The other signals never do: they may come several times
    from one closed terminal, and who means it sends SIGKILL. Signals that the process was started
    to ignore, as by nohup, stay ignored.
    """

    def __enter__(self) -> "Interruption":
        self._message: bytes | None = None
        self._raised = False
        self._repeated = 0
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def answer(self, doing: str, loss: str = "") -> None:
        """From now on, answer signals by what is being done, instead of raising.

        Args:
            loss: What an end at once would mean.
        """
        self._message = f"meta-rl: {doing}; Ctrl-C once more ends at once{loss}\n".encode()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._message is None:
            # A scheduler may signal a process and its parent, which passes it on: once is enough.
            if number == signal.SIGINT or not self._raised:
                self._raised = True
                raise KeyboardInterrupt
            return
        if number != signal.SIGINT:
            return
        self._repeated += 1
        if self._repeated > 1:
            os._exit(EXIT_CODE)
        with contextlib.suppress(OSError):
            os.write(2, self._message)  # print() must not be entered twice
