"""What one check found."""

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What one check measured, and what that means."""

    check: str
    healthy: str
    """The healthy range, in words."""
    measured: float | None = None
    interval: tuple[float, float] | None = None
    status: Literal["healthy", "note", "alarm", "skipped"] = "healthy"
    problem: str = ""
    """What is wrong, or worth knowing, in one sentence; or why the check was skipped."""
    advice: str = ""
    """What to try."""

    def alarm(self, problem: str, advice: str) -> "Finding":
        """Say what is wrong."""
        return replace(self, status="alarm", problem=problem, advice=advice)

    def note(self, problem: str, advice: str = "") -> "Finding":
        """Say what is worth knowing, though nothing need be wrong."""
        return replace(self, status="note", problem=problem, advice=advice)

    def skipped(self, why: str) -> "Finding":
        """Say why there is nothing to judge."""
        return replace(self, status="skipped", problem=why)
