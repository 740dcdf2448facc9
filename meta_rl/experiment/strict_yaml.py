"""Reads and writes YAML in which every line counts and every number means one thing.

PyYAML reads YAML 1.1: of two equal keys the later one wins, `010` is 8 and `off` is false. This
reader refuses repeated keys and takes the core schema of YAML 1.2: only `true` and `false` are
booleans, `1e-3` is a number, dates are text. What YAML 1.1 and 1.2 read as different numbers is
refused.
"""

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from meta_rl.core.errors import UserError

INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
NULL = re.compile(r"null|Null|NULL|~|")
AMBIGUOUS = re.compile(
    r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+"
    r"|[0-9][0-9_]*(?::[0-5]?[0-9])*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9_]+)?"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9_]+)?)"
)
"""Numbers of any version of YAML; those of the core schema are recognized before."""

PREFIX = "tag:yaml.org,2002:"
REFUSED = "!number"
"""Tag of numbers that are refused."""


def read(path: Path) -> Any:
    """Return the plain data of a YAML file.

    Raises:
        UserError: The file cannot be read, is not YAML, repeats a key or holds a number that is
            none in YAML 1.2; one sentence with the file and the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"cannot read {path}, line {line}: {error}; save the file as UTF-8"
        ) from error
    return parse(text, str(path))


def parse(text: str, source: str) -> Any:
    """Return the plain data of YAML text; `source` is named in errors."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        parts = [part for part in (error.context, error.problem) if part]
        raise UserError(f"cannot read {source}, line {line}: {', '.join(parts)}") from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(
            f"cannot read {source}, line {line}: it holds the control character "
            f"#x{error.character:02x}; remove it"
        ) from error
    except RecursionError as error:
        line = loader.line + 1 if loader else 1
        raise UserError(f"cannot read {source}, line {line}: too many nested brackets") from error


def write(data: Any) -> str:
    """Return plain data as YAML that readers of versions 1.1 and 1.2 understand alike."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False)
    return text


def write_line(data: Any) -> str:
    """Return plain data as YAML in one line."""
    text: str = yaml.dump(data, Dumper=_Dumper, default_flow_style=True, width=math.inf)
    return text.strip().removesuffix("...").strip()  # a bare word ends with the document's end


class _Loader(yaml.SafeLoader):
    """Composes YAML without repeated keys, and constructs the core schema alone."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; refuse keys that stand in it twice, or that are no single values."""
        node = super().compose_mapping_node(anchor)
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _problem(key_node, "a key must be a single word, not a list or a mapping")
            # A key of merging is no value of its own: `<<` in quotes is.
            merges = key_node.tag == f"{PREFIX}merge"
            key = (merges, key_node.value if merges else self.construct_object(key_node))
            line = key_node.start_mark.line + 1
            if key in lines:
                advice = "merge them as `<<: [*one, *other]`" if merges else "remove one of them"
                raise _problem(
                    key_node,
                    f"the key {key_node.value!r} is given twice, on line {lines[key]} and on "
                    f"line {line}; {advice}",
                )
            lines[key] = line
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes whatever any version of YAML takes for more than text."""


def _problem(node: yaml.Node, words: str) -> ConstructorError:
    return ConstructorError(None, None, words, node.start_mark)


def _scalar(loader: _Loader, node: yaml.Node, pattern: re.Pattern[str], kind: str) -> str:
    """Return a scalar's text, which is not checked yet where its tag is written out."""
    if not isinstance(node, yaml.ScalarNode):
        raise _problem(node, f"a {kind} is wanted, not a list or a mapping")
    text = str(node.value)
    if not pattern.fullmatch(text):
        raise _problem(node, f"{text!r} is no {kind}")
    return text


def _int(loader: _Loader, node: yaml.Node) -> int:
    text = _scalar(loader, node, INT, "whole number")
    try:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    except ValueError as error:  # Python converts 4300 digits at most
        raise _problem(node, f"a number of {len(text)} digits is too long") from error


def _float(loader: _Loader, node: yaml.Node) -> float:
    text = _scalar(loader, node, FLOAT, "number").lower()
    value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    if math.isinf(value) and "inf" not in text:
        raise _problem(node, f"{text} is too large for a number; write .inf if it means infinity")
    return value


def _bool(loader: _Loader, node: yaml.Node) -> bool:
    return _scalar(loader, node, BOOL, "boolean").lower() == "true"


def _null(loader: _Loader, node: yaml.Node) -> None:
    _scalar(loader, node, NULL, "null")


def _unknown(loader: _Loader, node: yaml.Node) -> None:
    raise _problem(node, f"the tag {node.tag} is not allowed; write plain values without tags")


def _refused(loader: _Loader, node: yaml.Node) -> None:
    text = str(node.value)
    digits = text.lstrip("+-").lower()
    if digits.startswith("0b"):
        reason = "YAML 1.2 has no binary numbers"
        advice = "write it in base 10"
    elif ":" in text:
        reason = "YAML 1.1 counts it in sixties and YAML 1.2 takes it for text"
        advice = f"write one number, or '{text}' in quotes for text"
    elif "_" in text:
        reason = "numbers of YAML 1.2 have no underscores"
        advice = "leave them out"
    elif digits.startswith(("0o", "0x")):
        reason = "numbers of YAML 1.2 in base 8 or 16 have no sign"
        advice = f"write {int(text, 0)}"
    else:
        reason = "YAML 1.1 takes the leading zero for base 8 and YAML 1.2 for nothing"
        advice = f"write {text.replace(digits, re.sub('^0+(?=[0-9])', '', digits))}"
        if set(digits) <= set("01234567") and int(digits):
            advice += f", or {int(text, 8)} if base 8 is meant"
    raise _problem(node, f"{text} is not taken as a number, for {reason}; {advice}")


_Loader.yaml_constructors = {
    f"{PREFIX}map": yaml.SafeLoader.construct_yaml_map,
    f"{PREFIX}seq": yaml.SafeLoader.construct_yaml_seq,
    f"{PREFIX}str": yaml.SafeLoader.construct_yaml_str,
    f"{PREFIX}int": _int,
    f"{PREFIX}float": _float,
    f"{PREFIX}bool": _bool,
    f"{PREFIX}null": _null,
    REFUSED: _refused,
    None: _unknown,
}
_Loader.yaml_implicit_resolvers = {}
for _class in (_Loader, _Dumper):
    for _tag, _pattern, _first in (
        (f"{PREFIX}bool", BOOL, "tTfF"),
        (f"{PREFIX}int", INT, "-+0123456789"),
        (f"{PREFIX}float", FLOAT, "-+.0123456789"),
        (f"{PREFIX}null", NULL, ["n", "N", "~", ""]),
        (f"{PREFIX}merge", re.compile("<<"), "<"),
        (REFUSED, AMBIGUOUS, "-+.0123456789"),
    ):
        # PyYAML asks whether a pattern matches at the beginning of the text.
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern.pattern})$"), list(_first))
