"""`meta-rl compare`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from meta_rl.errors import UserError


@dataclass(frozen=True)
class Arguments:
    """Sets the newest evaluations of runs side by side: a table, and adaptation curves as PNG.

    Results measured under different protocols are refused.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of the runs."""
    split: Literal["train", "test"] = "test"
    """Results on tasks trained on, or on held-out ones."""
    actions: Literal["sampled", "deterministic"] = "sampled"
    """Results of actions drawn from the policy, or of its mode."""
    output: str | None = None
    """File of the picture; none means comparison.png in the folder that holds the first run."""
    allow_different_protocols: bool = False
    """Compare all the same, with a warning that names what differs."""


def main(arguments: list[str]) -> int:
    """Compare runs."""
    given = tyro.cli(Arguments, args=arguments, prog="meta-rl compare")
    if not given.runs:
        raise UserError("name at least one run folder: meta-rl compare RUN RUN ...")
    summaries = {run: newest_summary(Path(run), given.split, given.actions) for run in given.runs}
    differing = differing_fields([summary["protocol"] for summary in summaries.values()])
    if differing:
        told = "; ".join(f"{name}: {' / '.join(values)}" for name, values in differing.items())
        if not given.allow_different_protocols:
            raise UserError(
                f"the runs were measured under different protocols ({told}); evaluate them alike, "
                f"or pass --allow-different-protocols to see them all the same"
            )
        print(f"warning: different protocols, not comparable: {told}")
    labels = dict(zip(summaries, short_labels(list(summaries)), strict=True))
    _print_table({labels[run]: summary for run, summary in summaries.items()})
    output = Path(given.output or Path(given.runs[0]).parent / "comparison.png")
    plot({labels[run]: summary for run, summary in summaries.items()}, output)
    print(f"adaptation curves: {output}")
    return 0


def newest_summary(run: Path, split: str, actions: str) -> dict[str, Any]:
    """Read the evaluation of a run that was made last."""
    if not run.is_dir():
        raise UserError(f"no run folder {run}")
    folder = run / "evaluations"
    found = list(folder.glob(f"*-{split}-{actions}-*.json"))
    if not found:
        raise UserError(
            f"{run} has no evaluation on {split} tasks with {actions} actions; make one with "
            f"`meta-rl evaluate {run} --split {split} --actions {actions}`"
        )
    path = max(found, key=lambda path: path.stat().st_mtime)
    try:
        summary: dict[str, Any] = json.loads(path.read_text())
        _ = summary["stages"][0]["episode_return"], summary["protocol"]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"cannot read the evaluation {path}: {error!r}; make it again") from error
    return summary


def differing_fields(protocols: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the protocol fields that are not the same in all, with their values."""
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    columns = {name: [str(protocol.get(name)) for protocol in protocols] for name in names}
    return {
        name: list(dict.fromkeys(values))
        for name, values in columns.items()
        if len(set(values)) > 1
    }


def short_labels(runs: list[str]) -> list[str]:
    """Return the folders' own names, or the paths where names repeat."""
    names = [Path(run).name for run in runs]
    return names if len(set(names)) == len(names) else runs


def _print_table(summaries: dict[str, dict[str, Any]]) -> None:
    from rich.table import Table

    from meta_rl.commands._show import console, interval

    table = Table()
    for column in ("run", "env steps", "adaptation episodes", "return [95 %]", "success [95 %]"):
        table.add_column(column, justify="left" if column == "run" else "right", overflow="fold")
    for label, summary in summaries.items():
        stages = summary["stages"]
        for number, row in enumerate(stages if len(stages) <= 4 else [stages[0], stages[-1]]):
            table.add_row(
                label if number == 0 else "",
                f"{summary['env_steps']:,}" if number == 0 else "",
                str(row["adaptation_episodes"]),
                interval(row.get("episode_return")),
                interval(row.get("success")),
            )
        table.add_section()
    console().print(table)
    fingerprints = ", ".join(
        dict.fromkeys(summary["fingerprint"] for summary in summaries.values())
    )
    print(f"protocol {fingerprints}; intervals: bootstrap over tasks, within each task name")


def plot(summaries: dict[str, dict[str, Any]], output: Path) -> None:
    """Draw return, and success where there is one, against adaptation episodes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import MaxNLocator

    stages = {label: summary["stages"] for label, summary in summaries.items()}
    panels = [("episode_return", "return of an episode")]
    if all("success" in rows[0] for rows in stages.values()):
        panels.append(("success", "share of episodes that succeed"))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.8 * len(panels), 3.6), squeeze=False)
    for axis, (quantity, title) in zip(axes[0], panels, strict=True):
        for label, rows in stages.items():
            x = [row["adaptation_episodes"] for row in rows]
            value = {
                key: [
                    float("nan") if row[quantity][key] is None else row[quantity][key]
                    for row in rows
                ]
                for key in ("mean", "low", "high")
            }
            (line,) = axis.plot(x, value["mean"], marker="o", label=label)
            axis.fill_between(x, value["low"], value["high"], alpha=0.2, color=line.get_color())
        axis.set_xlabel("episodes of the task learned from")
        axis.set_ylabel(title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if quantity == "success":
            axis.set_ylim(-0.02, 1.02)
    axes[0][0].legend(fontsize="small")
    protocol = next(iter(summaries.values()))["protocol"]
    where = " ".join(str(protocol[key]) for key in ("benchmark", "task") if key in protocol)
    figure.suptitle(
        f"{where or protocol['family']}, {protocol['tasks']} {protocol['split']} tasks, "
        f"95 % intervals",
        fontsize="medium",
    )
    figure.tight_layout()
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {output}: {error}; choose another --output") from error
    finally:
        pyplot.close(figure)
