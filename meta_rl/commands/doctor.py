"""`meta-rl doctor`."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_rl.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from meta_rl.diagnosis.doctor import Evidence, Finding
    from meta_rl.experiment.config import Experiment

HELP = """\
usage: meta-rl doctor CONFIG|RUN [--iterations N] [--checkpoint latest|best] [--json]
                      [--field value ...]

Looks for silent failures: runs a few real meta-iterations and says what is wrong in them.

  CONFIG         a YAML file, or the name of one in configs/: its agent is examined untrained
  RUN            a run folder: its agent is examined as trained, and its metrics.jsonl is read;
                 nothing is written there
  --iterations   meta-iterations to run (3)
  --checkpoint   which of the run's checkpoints (latest)
  --json         prints the findings as JSON
  --field value  changes any field of the config, as in `meta-rl train`; a smaller
                 --meta-batch-size is quicker, but tells less about the gain of adaptation

A table shows each check with what it measured and its healthy range. Notes are worth knowing;
alarms are faults, each with what to try. Exit code: 0 without alarms, 3 with any.
"""

FOUND = 3
"""Exit code of a faulty experiment; 1 and 2 are taken by errors and by the usage."""

MARKS = {"healthy": "ok", "note": "note", "alarm": "ALARM", "skipped": "-"}


def main(arguments: list[str]) -> int:
    """Examine an experiment and print the findings."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise UserError("the config or run comes first: meta-rl doctor CONFIG|RUN [--field value]")
    source, *flags = arguments
    as_json = "--json" in flags
    flags = [word for word in flags if word != "--json"]
    from meta_rl.commands._flags import take
    from meta_rl.diagnosis.doctor import diagnose

    flags, iterations = take(flags, "--iterations")
    flags, checkpoint = take(flags, "--checkpoint")
    try:
        count = int(iterations or 3)
    except ValueError:
        count = 0
    if count < 1:
        raise UserError(f"--iterations must be a whole number of at least 1, got {iterations}")
    experiment, evidence = _examine(source, flags, count, checkpoint)
    findings = diagnose(evidence)
    alarms = [found for found in findings if found.status == "alarm"]
    if as_json:
        _print_json(source, experiment, count, findings)
    else:
        _print_table(f"{experiment.name}: {count} meta-iterations", findings)
    return FOUND if alarms else 0


def _examine(
    source: str, flags: list[str], iterations: int, checkpoint_name: str | None
) -> "tuple[Experiment[Any, Any], Evidence]":
    from meta_rl.commands._flags import experiment_of, with_flags
    from meta_rl.diagnosis.doctor import examine, recorded_updates
    from meta_rl.experiment.building import resolve_device
    from meta_rl.runs import checkpoint
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import check_same_sections

    if not Path(source).is_dir():
        if checkpoint_name is not None:
            raise UserError(f"--checkpoint is for run folders, and {source} is none")
        experiment = experiment_of(source, flags, "meta-rl doctor CONFIG")
        return experiment, examine(experiment, iterations)
    which = checkpoint_name or "latest"
    if which not in ("latest", "best"):
        hint = did_you_mean(which, ["latest", "best"])
        raise UserError(f"--checkpoint must be latest or best, got {which!r}; {hint}")
    folder = RunFolder(Path(source))
    experiment = with_flags(folder.experiment(), flags, "meta-rl doctor RUN")
    device = resolve_device(experiment.device)
    state = checkpoint.load(folder.checkpoints / f"{which}.pt", device)
    check_same_sections(state, experiment)
    recorded = recorded_updates(folder.metrics)
    return experiment, examine(experiment, iterations, state["agent"], recorded)


def _print_json(
    source: str, experiment: "Experiment[Any, Any]", iterations: int, findings: "list[Finding]"
) -> None:
    def strict(value: Any) -> Any:
        """JSON has no NaN."""
        return None if isinstance(value, float) and not math.isfinite(value) else value

    report = {
        "source": source,
        "name": experiment.name,
        "meta_iterations": iterations,
        "healthy": all(found.status != "alarm" for found in findings),
        "checks": [
            {name: strict(value) for name, value in asdict(found).items()} for found in findings
        ],
    }
    print(json.dumps(report, indent=2, allow_nan=False))


def _print_table(title: str, findings: "list[Finding]") -> None:
    from rich.table import Table

    from meta_rl.reports.tables import console

    table = Table(title=title, title_justify="left")
    for column in ("check", "measured", "healthy", ""):
        table.add_column(column, justify="right" if column == "measured" else "left")
    for found in findings:
        measured = "-" if found.measured is None else f"{found.measured:.3g}"
        if found.interval is not None:
            measured += f" [{found.interval[0]:.3g}, {found.interval[1]:.3g}]"
        table.add_row(found.check, measured, found.healthy, MARKS[found.status])
    printer = console()
    printer.print(table, markup=False)
    for status in ("note", "alarm"):
        for found in findings:
            if found.status == status:
                words = f"{MARKS[status]}  {found.problem} {found.advice}".rstrip()
                printer.print(words, highlight=False, soft_wrap=True, markup=False)
    alarms = sum(found.status == "alarm" for found in findings)
    print(f"{alarms} alarm{'s' * (alarms != 1)}" if alarms else "healthy: no alarms")
