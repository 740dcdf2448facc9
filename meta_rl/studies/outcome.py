"""What a sweep found, as a table and a picture."""

from typing import Any

from matplotlib.figure import Figure

from meta_rl.evaluation.comparison import Group, title_of
from meta_rl.evaluation.statistics import Estimate, estimate, mean
from meta_rl.reports.comparison_tables import told as told_estimate
from meta_rl.reports.parallel_coordinates import (
    Coordinate,
    parallel_coordinates,
    spans_magnitudes,
)
from meta_rl.reports.tables import TextTable
from meta_rl.studies.settings import told_value
from meta_rl.studies.sweep import Sweep, Trial


def sweep_table(sweep: Sweep) -> TextTable:
    """Return a row for each trial, the best on the validation split first."""
    groups = {trial.number: sweep.group(trial) for trial in sweep.trials}
    known = next((group for group in groups.values() if group is not None), None)
    judged = [score.name for score in known.first.judged_by] if known else []
    shown = [score.name for score in known.first.shown] if known else []
    scores = list(dict.fromkeys([*judged, *shown]))  # the first decides, the next where it ties
    rows = []
    for trial in sweep.in_order():
        group = groups[trial.number]
        steps = max((run.result.env_steps for run in group.runs), default=0) if group else 0
        rows.append(
            [
                f"{trial.number:03}",
                *(told_value(value) for value in trial.setting.values()),
                _told_state(sweep, trial),
                str(len(group.runs) if group else 0),
                f"{steps:,}",
                *(told_estimate(_estimate(group, score)) if group else "-" for score in scores),
            ]
        )
    columns = ["trial", *sweep.names, "state", "seeds", "env steps", *map(title_of, scores)]
    title = "validation split, after adaptation, mean over seeds"
    if judged:
        title += f"; judged by {title_of(judged[0])}"
    return TextTable(title, columns, rows)


def sweep_picture(sweep: Sweep) -> Figure | None:
    """Draw the trials of which anything is known; none if there are none."""
    measured = [
        (trial, group) for trial in sweep.trials if (group := sweep.group(trial)) is not None
    ]
    if not measured:
        return None
    score = measured[0][1].first.judged_by[0]
    settings = [
        _coordinate(name, [trial.setting[name] for trial, _ in measured]) for name in sweep.names
    ]
    values = [_estimate(group, score.name).value for _, group in measured]
    texts = [f"{value:.2f}" for value in values]
    whole = [sweep.state(trial) == "finished" for trial, _ in measured]
    outcome = Coordinate(
        f"{title_of(score.name)} (validation)",
        values,
        texts,
        higher_is_better=score.higher_is_better,
    )
    title = sweep.name if all(whole) else f"{sweep.name} (dashed: not trained to the end)"
    return parallel_coordinates(settings, outcome, whole, title)


def _coordinate(name: str, values: list[Any]) -> Coordinate:
    return Coordinate(name, values, [told_value(each) for each in values], spans_magnitudes(values))


def _estimate(group: Group, score: str) -> Estimate:
    return estimate(mean, [group.scores(score)], group.strata)


def _told_state(sweep: Sweep, trial: Trial) -> str:
    rung = sweep.stopped_at(trial)
    return sweep.state(trial) if rung is None else f"stopped at {rung}"
