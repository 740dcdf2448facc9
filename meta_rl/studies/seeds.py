"""The seeds of a study, as flags give them."""

import re

from meta_rl.core.errors import UserError

MOST = 10_000
"""Seeds of a study, each of which is a process and a folder."""


def read_seeds(text: str) -> tuple[int, ...]:
    """Return seeds: `5` means the first five, `2:5` is 2, 3, 4, and `0,3,7` each of these.

    Raises:
        UserError: The text is none of these, names no seed, or one twice.
    """
    if found := re.fullmatch(r"(?:(\d+):)?(\d+)", text):
        first, end = int(found[1] or 0), int(found[2])
        named = range(first, end)
        if end - first > MOST:
            raise UserError(f"--seeds {text} names more than {MOST} seeds, a process each")
        seeds = tuple(named)
    elif re.fullmatch(r"\d+(,\d+)+", text):
        seeds = tuple(map(int, text.split(",")))
    else:
        raise UserError(f"--seeds must be like 5, 0:5 or 0,3,7, got {text!r}")
    if not seeds:
        raise UserError(f"--seeds {text} names no seed")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds {text} names a seed twice")
    return seeds
