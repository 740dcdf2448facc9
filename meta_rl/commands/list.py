"""`meta-rl list`."""

import ast
from pathlib import Path

from meta_rl.core.errors import UserError, what_there_is
from meta_rl.experiment import catalog

HELP = """\
usage: meta-rl list [agents|envs|configs|pretrained]

Shows the learning algorithms (agents), the task families (envs), the experiments to start from
(configs) and the trained policies that come along (pretrained), one line each. Without a kind, it
shows all of them.
"""

KINDS = {
    "agents": "agents",
    "envs": "task families",
    "configs": "configs",
    "pretrained": "trained policies",
}


def main(arguments: list[str]) -> int:
    """Print names with one line each."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if len(arguments) > 1:
        raise UserError(f"name one kind, or none for all: {', '.join(KINDS)}")
    if arguments and arguments[0] not in KINDS:
        raise UserError(f"no list of {arguments[0]!r}; {what_there_is(arguments[0], KINDS)}")
    if arguments:
        _print(_rows(arguments[0]))
        return 0
    for number, (kind, title) in enumerate(KINDS.items()):
        print(f"{chr(10) * (number > 0)}{title}: `meta-rl list {kind}`")
        _print(_rows(kind), indent="  ")
    return 0


def _print(rows: list[tuple[str, str]], indent: str = "") -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{indent}{name:<{width}}  {text}")


def _rows(kind: str) -> list[tuple[str, str]]:
    """Return the names of a kind, each with its line."""
    if kind == "configs":
        return [
            (name, _first_comment(catalog.config_path(name))) for name in catalog.config_names()
        ]
    if kind == "pretrained":
        return [
            (name, _first_comment(catalog.ROOT / "pretrained" / name / "config.yaml"))
            for name in catalog.pretrained_names()
        ]
    package: catalog.Package = "agents" if kind == "agents" else "envs"
    return [(name, _config_help(package, name)) for name in catalog.names(package)]


def _first_comment(path: Path) -> str:
    first = path.read_text().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def _config_help(package: catalog.Package, name: str) -> str:
    """Return the first line of a Config's docstring, without importing the module."""
    module = f"{package}.{name}"
    while found := _source(module):
        next_module = ""
        for node in ast.parse(found.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name == "Config":
                return (ast.get_docstring(node) or "").partition("\n")[0]
            if isinstance(node, ast.ImportFrom) and "Config" in [each.name for each in node.names]:
                next_module = node.module or ""  # a package may keep its Config in a module
        module = next_module
    return ""


def _source(module: str) -> Path | None:
    """Return the file of one of the tree's modules or packages, if there is one."""
    path = catalog.ROOT.joinpath(*module.split("."))
    files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
    return next((file for file in files if module and file.is_file()), None)
