"""How scripts begin and end."""

import sys
from collections.abc import Callable
from typing import NoReturn, TypeVar

import tyro

from meta_rl.core.errors import UserError

ArgsT = TypeVar("ArgsT")


def run_script(
    main: Callable[[ArgsT], object], kind: type[ArgsT], description: str | None
) -> NoReturn:
    """Read the arguments, run a script and end the process, in a sentence if the user erred.

    Args:
        main: May return an exit code.
    """
    try:
        code = main(tyro.cli(kind, description=description))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
