"""What was said while a run trained, kept in log.txt."""

from datetime import datetime
from pathlib import Path

from meta_rl.runs.sinks.base import Sink


class JournalSink(Sink):
    """Appends each sentence with the local time; the file begins with the first sentence."""

    name = "log.txt"

    def __init__(self, path: Path) -> None:
        self._path = path

    def say(self, message: str) -> None:
        """Append one line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {message}\n")
