"""Waiting for other processes, however slow or busy the machine is."""

import time

PATIENCE_S = 600.0
"""After so long a process hangs: no test may fail because one is slow."""


def wait_for(condition, process=None, pause_s=0.005):
    """Wait until a condition holds, while a process runs; return what it found."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        # Asked before the condition: it may come true in the last moment of the process.
        ended = process is not None and process.poll() is not None
        if found := condition():
            return found
        if ended or time.monotonic() > deadline:
            if not ended and process is not None:
                process.kill()  # else its output would have no end
            told = process.communicate() if process is not None else ""
            raise AssertionError(f"{'it ended' if ended else 'nothing came'}: {told}")
        time.sleep(pause_s)
