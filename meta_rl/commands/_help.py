"""Help texts of flags: each field's docstring as one paragraph, without `None` for a default."""

import ast
import inspect
import textwrap
import types
import typing
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal

import tyro


def explain(kind: type, hidden: tuple[str, ...] = ("None", "False", "")) -> str:
    """Annotate a dataclass's fields, inherited ones too, with help texts for tyro.

    tyro keeps the line breaks of docstrings under fields as they stand in the source, and shows
    `{None}|INT ... (default: None)` for what may be left out.

    Args:
        hidden: Defaults that are not shown, because the help texts explain them.

    Returns:
        The class's docstring, each paragraph in one line.
    """
    for cls in kind.__mro__:
        if is_dataclass(cls):
            _explain_own_fields(cls, hidden)
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


@cache
def _explain_own_fields(cls: type, hidden: tuple[str, ...]) -> None:
    def told(default: str) -> str:
        return "" if default in hidden else f"(default: {default})"

    for name, text in texts(cls).items():
        hint = cls.__annotations__[name]
        if isinstance(hint, typing.TypeVar):
            continue  # a section of flags of its own
        if isinstance(hint, type) and is_dataclass(hint):
            explain(hint, hidden)
        flag = tyro.conf.arg(help=text, metavar=_metavar(hint), help_behavior_hint=told)
        cls.__annotations__[name] = Annotated[hint, flag]


def texts(cls: type) -> dict[str, str]:
    """Return the strings under the fields of a class."""
    try:
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except OSError:  # a plugin without its source
        return {}
    assert isinstance(definition, ast.ClassDef)
    return {
        entry.target.id: " ".join(text.value.value.split())
        for entry, text in pairwise(definition.body)
        if isinstance(entry, ast.AnnAssign)
        and isinstance(entry.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def _metavar(hint: Any) -> str | None:
    """Return the placeholder of an optional flag's value; None leaves it to tyro."""
    if typing.get_origin(hint) not in (types.UnionType, typing.Union):
        return None
    kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    if len(kinds) == 1 and typing.get_origin(kinds[0]) is Literal:
        return f"{{{','.join(typing.get_args(kinds[0]))}}}"
    return "|".join(kind.__name__.upper() for kind in kinds if isinstance(kind, type)) or None
