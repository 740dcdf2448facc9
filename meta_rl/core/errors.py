"""The one error that reaches a user without a traceback."""

from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: says what was given, what was expected and what to do."""

    exit_code = 1


class Interrupted(UserError):  # noqa: N818
    """The user, or the cluster, asked to stop; what was done so far is kept."""

    exit_code = 130


class Silent(UserError):  # noqa: N818
    """Ends a process that has nothing to say of its own: rank 0 of its run says all."""

    def __init__(self, reason: str, exit_code: int = 1) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class NonFiniteAction(UserError):  # noqa: N818
    """The agent's actions contain NaN or infinity, so a simulator refuses to be stepped."""


class WorkerDied(UserError):  # noqa: N818
    """A worker process ended, by an exception or by a signal, while it was needed."""


def did_you_mean(given: str, known: list[str]) -> str:
    """Return `did you mean 'x'? ` for the nearest of the known names, or nothing.

    Names that begin with what was given come first.
    """
    import difflib

    begun = [name for name in known if given and name.startswith(given)]
    nearest = begun[:1] or difflib.get_close_matches(given, known, n=1, cutoff=0.6)
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def what_there_is(given: str, known: Iterable[str], between: str = ", ") -> str:
    """Return what there is instead of the name that was given, the nearest of it first.

    It ends a sentence: `no agent 'pormp'; did you mean 'promp'? There are: ...`.
    """
    names = list(known)
    hint = did_you_mean(given, names)
    return f"{hint}{'There' if hint else 'there'} are: {between.join(names)}"
