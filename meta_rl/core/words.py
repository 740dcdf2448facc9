"""Numbers in sentences."""


def counted(number: int, thing: str) -> str:
    """Return a number and its noun: `1 episode`, `2 episodes`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
