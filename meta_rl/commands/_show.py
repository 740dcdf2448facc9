"""What commands print."""

from collections.abc import Sequence

from meta_rl.core.words import counted
from meta_rl.evaluation.comparison import Group
from meta_rl.evaluation.life_plan import SINCE_CHANGE
from meta_rl.evaluation.lives import recovery
from meta_rl.evaluation.result import EvalResult
from meta_rl.evaluation.statistics import too_few_tasks
from meta_rl.reports import comparison_tables as tables
from meta_rl.reports.tables import TextTable, console


def show_result(result: EvalResult, title: str) -> None:
    """Print an evaluation: a row for each stage of adaptation."""
    TextTable(
        title,
        [result.stages_are, *(f"{score.label} [95 % interval]" for score in result.shown)],
        [
            [
                str(row["adaptation_episodes"]),
                *(interval(row[score.name]) for score in result.shown),
            ]
            for row in result.summary()["stages"]
        ],
        left=0,
    ).print()
    if (found := recovery(result)) is not None:
        console().print(found.told, highlight=False, soft_wrap=True)
    console().print(
        f"{counted(len(result.names), result.protocol['split'] + ' task')}, "
        f"{_measured(result)}, {result.protocol['actions']} actions, "
        f"{result.env_steps:,} env steps of training, protocol {result.fingerprint}",
        highlight=False,
        soft_wrap=True,
    )
    if too_few_tasks(result.strata):
        console().print(tables.FEW_TASKS, highlight=False, soft_wrap=True)


def _measured(result: EvalResult) -> str:
    """Return what each stage is measured on, in words."""
    protocol = result.protocol
    if SINCE_CHANGE not in protocol:
        return f"{counted(result.cells_per_stage, 'episode')} a stage"
    apart = f"{protocol['between_changes']} {protocol[SINCE_CHANGE]} apart"
    return f"{protocol['changes_followed']} changes of each, {apart}"


def show_groups(groups: Sequence[Group]) -> None:
    """Print groups of runs: their aggregates at every stage, and remarks."""
    options = tables.Options(every_stage=True)
    rows = tables.aggregate_rows(groups, options)
    for table in tables.tables_of(groups, rows, options):
        table.print()
    print(*tables.remarks_on(groups, rows, options), sep="\n")


def show_by_task(result: EvalResult) -> None:
    """Print a row for each task name and goal, with its means at every stage."""
    after = "{}, {} since the change" if SINCE_CHANGE in result.protocol else "{} after {}"
    TextTable(
        "mean over a goal's episodes",
        [
            *("task", "goal"),
            *(
                after.format(score.label, episodes)
                for score in result.shown
                for episodes in result.adaptation_episodes
            ),
        ],
        [
            [
                row["task"],
                str(row["goal"]),
                *(f"{value:.2f}" for score in result.shown for value in row[score.name]),
            ]
            for row in result.by_task()
        ],
    ).print()


def interval(value: dict[str, float | None]) -> str:
    """Format a mean with its interval."""
    if value["low"] is None or value["high"] is None:
        return f"{value['mean']:.2f} [-]"
    return f"{value['mean']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"
