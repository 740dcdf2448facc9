"""How scripts begin, end, and write their figures."""

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import tyro

from meta_rl.core import outputs
from meta_rl.core.errors import UserError
from meta_rl.runs.folder import describe_commit, describe_machine

ArgsT = TypeVar("ArgsT")

QUIET_LOAD = 0.25
"""Load average per core above which other programs disturb the measurements."""


def run_script(
    main: Callable[[ArgsT], object], kind: type[ArgsT], description: str | None
) -> NoReturn:
    """Read the arguments, run a script and end the process, in a sentence if the user erred.

    Whether `output`, if there is such an argument, can be written is checked before any work.

    Args:
        main: May return an exit code.
    """

    def run() -> object:
        args = tyro.cli(kind, description=description)
        check_output(getattr(args, "output", None))
        return main(args)

    finish(run)


def finish(run: Callable[[], object]) -> NoReturn:
    """Run and end the process by the exit code that comes, in a sentence if the user erred."""
    try:
        code = run()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def check_output(path: Path | None) -> None:
    """Raise a UserError unless figures can be written to a file; None is fine."""
    if path is not None:
        outputs.check_file(path, "name another file for the figures")


def read_figures(path: Path) -> Any:
    """Read figures that a script has written."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the figures in {path}: {error}") from error


def write_figures(figures: object, path: Path) -> None:
    """Write figures as JSON, whole or not at all; make the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    outputs.write((outputs.to_json(figures, indent=1) + "\n").encode(), path, "the figures")


def is_quiet(load: tuple[float, float, float]) -> bool:
    """Return whether other programs were too few, by load averages, to disturb a measurement."""
    return load[0] <= QUIET_LOAD * len(os.sched_getaffinity(0))


def made_by() -> dict[str, str]:
    """Return what figures that are measured here and now name: command, commit and machine."""
    script, *words = sys.argv
    command = shlex.join(["python", f"scripts/{Path(script).name}", *words])
    return {"command": command, "commit": describe_commit(), "machine": describe_machine()}
