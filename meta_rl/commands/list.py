"""`meta-rl list`."""

import ast

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
    folder = catalog.ROOT / package
    path = folder / f"{name}.py"
    path = path if path.exists() else folder / name / "__init__.py"
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == "Config":
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""
