"""`meta-rl list`."""

import ast
from pathlib import Path

from meta_rl.core.errors import UserError, did_you_mean
from meta_rl.experiment import catalog

HELP = """\
usage: meta-rl list agents|envs|configs

Shows the learning algorithms, the task families, or the experiments to start from.
"""


def main(arguments: list[str]) -> int:
    """Print names with one line each."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else 2
    kinds = ("agents", "envs", "configs")
    if arguments[0] not in kinds:
        hint = did_you_mean(arguments[0], list(kinds))
        raise UserError(f"no list of {arguments[0]!r}; {hint}There are: {', '.join(kinds)}")
    if arguments[0] == "configs":
        rows = [(name, _first_comment(name)) for name in catalog.config_names()]
    else:
        package: catalog.Package = "agents" if arguments[0] == "agents" else "envs"
        rows = [(name, _config_help(package, name)) for name in catalog.names(package)]
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    return 0


def _first_comment(name: str) -> str:
    first = catalog.config_path(name).read_text().partition("\n")[0]
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
