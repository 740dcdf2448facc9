"""One process at a time trains in a run folder."""

import contextlib
import errno
import fcntl
import os
import socket
import time
import weakref
from datetime import datetime
from pathlib import Path

from meta_rl.core.errors import UserError

LOOKING_S = 0.5
"""Seconds for which a folder must be held to be refused: others hold it while they look at it."""
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems answer that cannot lock, such as some parallel ones of clusters."""


class RunLock:
    """Holds a run folder until `release`, or until this process ends, however it ends.

    The system's lock on a file is what counts. The file's text only tells who holds it, so what a
    killed process leaves behind is no obstacle.

    Args:
        folder: Must exist.

    Raises:
        UserError: Another process holds the folder, or it cannot be written.
    """

    NAME = "lock"

    def __init__(self, folder: Path) -> None:
        self._path = folder / self.NAME
        try:
            descriptor = self._take()
            os.ftruncate(descriptor, 0)
            since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
            holder = f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
            os.pwrite(descriptor, holder.encode(), 0)
        except OSError as error:
            raise UserError(f"cannot write the run folder {folder}: {error}") from error
        self._close = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Let others train here, and leave nothing behind."""
        if self._close.alive:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._close()

    def _take(self) -> int:
        due = time.monotonic() + LOOKING_S
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < due:  # it may only be looked at, by `is_held`
                    os.close(descriptor)
                    time.sleep(0.01)
                    continue
                holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise UserError(
                    f"{self._path.parent} is being trained by {holder or 'another process'}; wait "
                    f"for it, or stop it first"
                ) from None
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    os.close(descriptor)
                    raise
            # Whoever held it before may have removed the file that was opened here.
            try:
                if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                    return descriptor
            except FileNotFoundError:
                pass
            os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Return whether a process trains in a run folder; False if its file system cannot lock."""
    try:
        descriptor = os.open(folder / RunLock.NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False
