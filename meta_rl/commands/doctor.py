"""`meta-rl doctor`."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from meta_rl.commands._vocabulary import Device, check_at_least, parse_known, tell_device
from meta_rl.core.errors import UserError
from meta_rl.core.outputs import to_json

if TYPE_CHECKING:
    from meta_rl.diagnosis.evidence import Evidence
    from meta_rl.diagnosis.finding import Finding
    from meta_rl.experiment.config import Experiment


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Looks for silent failures: runs a few real meta-iterations and says what is wrong in them.

    A config is examined with an untrained agent. A run is examined with its trained agent and its
    metrics.jsonl; nothing is written there. Any field of the config is a flag too, as in
    `meta-rl train`; `meta-rl doctor CONFIG --help` lists them. A smaller --meta-batch-size is
    quicker, but tells less about the gain of adaptation.

    A table shows each check with its measured value and the healthy range. Notes are worth
    knowing. Alarms are faults, each with advice. The exit code is 0 without alarms, 3 with any.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CONFIG|RUN")]
    """Run folder, YAML file, or name of a config in configs/."""
    iterations: int = 3
    """Meta-iterations to run, at least 1."""
    checkpoint: str | None = None
    """Checkpoint of a run to load: latest, best (in the evaluations during training), or a .pt
    file. Without it, latest."""
    device: Device = None
    """Device of the policy: cpu, cuda or cuda:N. Without it, the device of the config. If a run was
    trained on a device that this machine lacks: its GPU, else its CPU."""
    json: bool = False
    """Print the findings as JSON."""

    def __post_init__(self) -> None:
        check_at_least(1, self, "iterations")


FOUND = 3
"""Exit code of a faulty experiment. Errors and wrong usage have 1 and 2."""

MARKS = {"healthy": "ok", "note": "note", "alarm": "ALARM", "skipped": "-"}


def main(arguments: list[str]) -> int:
    """Examine an experiment and print the findings."""
    if arguments and arguments[0].startswith("-") and arguments[0] not in ("-h", "--help"):
        raise UserError("the config or run comes first: meta-rl doctor CONFIG|RUN [--field value]")
    # After a config, --help is about its fields.
    helps = [word for word in arguments[1:] if word in ("-h", "--help")]
    own = arguments[:1] + [word for word in arguments[1:] if word not in helps]
    given, flags = parse_known(Arguments, own, "doctor")
    from meta_rl.diagnosis.doctor import diagnose

    experiment, evidence = _examine(given, [*flags, *helps])
    findings = diagnose(evidence)
    alarms = [found for found in findings if found.status == "alarm"]
    if given.json:
        _print_json(given.source, experiment, given.iterations, findings)
    else:
        _print_table(f"{experiment.name}: {given.iterations} meta-iterations", findings)
    return FOUND if alarms else 0


def _examine(given: Arguments, flags: list[str]) -> "tuple[Experiment[Any, Any], Evidence]":
    from meta_rl.commands._flags import experiment_of, with_flags
    from meta_rl.diagnosis.evidence import examine, recorded_updates
    from meta_rl.experiment import catalog
    from meta_rl.experiment.building import device_to_read_on, resolve_device
    from meta_rl.runs import checkpoint
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import check_same_sections
    from meta_rl.runs.trimmed import widened

    source = catalog.run_path(given.source)
    if not source.is_dir():
        if "/" in given.source and Path(given.source).suffix != ".yaml":
            raise UserError(f"no run folder {given.source}, and no config of that name")
        if given.checkpoint is not None:
            raise UserError(f"--checkpoint is for run folders, and {given.source} is not one")
        on = [] if given.device is None else ["--device", given.device]
        experiment = experiment_of(given.source, [*flags, *on], "meta-rl doctor CONFIG")
        return experiment, examine(experiment, given.iterations)
    folder = RunFolder(source)
    file = folder.checkpoint(given.checkpoint or "latest")
    stored = folder.experiment()
    if given.device is None:
        device = device_to_read_on(stored.device)
        tell_device(stored.device, device, as_data=given.json)
    else:
        device = resolve_device(given.device)
    changed = with_flags(replace(stored, device=str(device)), flags, "meta-rl doctor RUN")
    experiment = replace(changed, start_from="")  # the agent is the run's own
    state = checkpoint.load(file, device)
    check_same_sections(state, replace(stored, agent=changed.agent, envs=changed.envs))
    recorded = recorded_updates(folder.metrics)
    return experiment, examine(experiment, given.iterations, widened(state["agent"]), recorded)


def _print_json(
    source: str, experiment: "Experiment[Any, Any]", iterations: int, findings: "list[Finding]"
) -> None:
    report = {
        "source": source,
        "name": experiment.name,
        "meta_iterations": iterations,
        "healthy": all(found.status != "alarm" for found in findings),
        "checks": [asdict(found) for found in findings],
    }
    print(to_json(report, indent=2))


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
