"""Standard output and error that a closed pipe or a full disk cannot turn into a failure."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


class Output:
    """A text stream that drops everything after its first failure, and keeps the failure.

    Args:
        stream: What `sys.stdout` is, or what stands in for it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    @property
    def reader_left(self) -> bool:
        """Whether it failed because whoever read it has gone: `meta-rl list configs | head`."""
        return isinstance(self.failure, BrokenPipeError)

    def write(self, text: str) -> int:
        """Write what can be written."""
        self._attempt(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Pass on what is buffered."""
        self._attempt(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _attempt(self, call: Callable[[], object]) -> None:
        if self.failure is not None:
            return
        try:
            call()
        except OSError as error:
            self.failure = error
            # What is buffered goes nowhere, instead of failing again when the process ends.
            with contextlib.suppress(OSError, ValueError):
                _redirect_to_nowhere(self._stream.fileno())


@contextlib.contextmanager
def bearing_output() -> Iterator[tuple[Output, Output]]:
    """Let `sys.stdout` and `sys.stderr` survive whatever happens to their readers.

    Yields:
        Both streams, whose `failure` can be asked for.
    """
    _fill_closed_descriptors()
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:

        def bearing(stream: Any) -> Output:
            nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            opened.callback(nowhere.close)
            return Output(nowhere if stream is None else stream)

        out, err = map(bearing, before)
        sys.stdout, sys.stderr = out, err
        try:
            yield out, err
        finally:
            out.flush()
            err.flush()
            sys.stdout, sys.stderr = before


def _fill_closed_descriptors() -> None:
    """Keep files that are opened later from becoming standard output or error (`>&-`)."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one


def _redirect_to_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
