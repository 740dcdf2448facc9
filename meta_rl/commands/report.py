"""`meta-rl report`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from meta_rl.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Tells what runs achieved, and how, in one HTML file to send, print or publish.

    Runs that differ by their seed alone are one group. The file opens from disk and asks the
    network for nothing.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of the runs."""
    split: Literal["train", "test"] = "test"
    """Results on tasks trained on, or on held-out ones."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Results of actions drawn from the policy, or of its mode."""
    output: str = "report.html"
    """File of the report."""


def main(arguments: list[str]) -> int:
    """Write a report."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl report")
    if not given.runs:
        raise UserError("name at least one run folder: meta-rl report RUN RUN ...")
    from meta_rl.comparison import group_runs, load_run
    from meta_rl.report import make_page

    groups = group_runs([load_run(Path(run), given.split, given.actions) for run in given.runs])
    page = make_page(groups)
    output = Path(given.output)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page.html(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error}; choose another --output") from error
    print(f"report: {output}")
    return 0
