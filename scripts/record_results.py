"""Gathers the evaluations of finished runs into one small JSON file and a table.

    python scripts/record_results.py OUTPUT.json RUN RUN ... [--splits test train]
                                     [--actions sampled deterministic]

Runs are expected in folders named CONFIG-seedN, as `meta-rl train CONFIG --seed N` makes them.
Prints a markdown table: for each config the mean over its seeds at every stage of adaptation.
Runs that were measured by different protocols, or of which another checkpoint was, share no row.
"""

import re
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from _entry import run_script, write_figures

from meta_rl.core.errors import UserError
from meta_rl.evaluation.continual import StreamRecord, read_stream
from meta_rl.evaluation.finished import shared_protocols
from meta_rl.evaluation.folder import Evaluations, Wanted
from meta_rl.evaluation.life_plan import LEARNING, SINCE_CHANGE
from meta_rl.experiment.identity import learning_hash
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.metrics import read_metrics


@dataclass(frozen=True)
class Args:
    """Gather the evaluations of finished runs."""

    output: Annotated[Path, tyro.conf.Positional]
    """JSON file to write."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    splits: tuple[Literal["test", "validation", "train"], ...] = ("test",)
    """Splits of the evaluations to take."""
    actions: tuple[Literal["sampled", "deterministic"], ...] = ("sampled",)
    """Actions of the evaluations to take: `sampled` from the policy, or `deterministic`, its
    mode."""


def record(run: Path, split: str, actions: str, protocol: str | None = None) -> dict[str, Any]:
    """Return what is worth keeping of a run.

    Args:
        protocol: Fingerprint of the evaluation to take; None takes the last.
    """
    config, _, seed = run.name.rpartition("-seed")
    if not config or not seed.isdigit():
        raise UserError(f"{run} must be a run folder that is named CONFIG-seedN")
    folder = RunFolder(run)
    experiment = folder.description()
    if experiment["seed"] != int(seed):
        named = f"{config}-seed{experiment['seed']}"
        raise UserError(f"{run} is named after another seed than its own; call it {named}")
    result, remark = Evaluations(folder.evaluations).choose(Wanted(split, actions), protocol)
    if remark:
        print(f"{run.name}: {remark}")
    summary = result.summary()
    summary.pop("by_task", None)  # the run keeps each goal
    made = folder.environment()
    if missing := {"command", "commit"} - made.keys():
        raise UserError(f"{run / 'environment.txt'} does not tell the run's {', '.join(missing)}")
    took_s = read_metrics(folder.metrics, ("env_steps",)).wall_time_s(result.env_steps)
    stream = read_stream(run, experiment)
    over_stream = {} if stream is None else {"stream": plain_stream(stream)}
    return {
        "config": config,
        "settings": learning_hash(experiment),
        "split": split,
        "actions": actions,
        "seed": int(seed),
        "command": re.sub(r" --runs \S+", "", made["command"]),
        "commit": made["commit"],
        "machine": made.get("machine", "not recorded"),
        "wall_time_s": None if took_s is None else round(took_s),
        "evaluation_seed": summary.pop("seed"),
        **summary,
        **over_stream,
    }


def plain_stream(stream: StreamRecord) -> dict[str, Any]:
    """Return what was measured of each task name while training went through them."""
    return {
        "score": stream.score.name,
        "meta_iterations_of_a_name": stream.turn,
        "meta_iterations": stream.iterations.tolist(),
        "by_name": dict(zip(stream.names, stream.values.T.tolist(), strict=True)),
    }


def kind(entry: dict[str, Any]) -> tuple[str, ...]:
    """What entries that differ by their seed alone have in common."""
    named = ("config", "split", "actions", "checkpoint", "fingerprint", "settings")
    stages = (str(stage["adaptation_episodes"]) for stage in entry["stages"])
    changing = entry["protocol"].get(LEARNING, "")  # which the fingerprint leaves out
    return *(entry[name] for name in named), changing, " ".join(stages)


def table(records: list[dict[str, Any]]) -> str:
    """Return a markdown table, one row for each config and stage."""
    scores = {score["name"]: score["label"] for entry in records for score in entry["scores"]}
    columns = ["config", "tasks, actions", "seeds", "env steps", " or ".join(stages_are(records))]
    columns += [f"{label}: mean over seeds (each)" for label in scores.values()]
    lines = [f"| {' | '.join(columns)} |", "|" + " --- |" * len(columns)]
    kinds = list(dict.fromkeys(map(kind, records)))
    for row_of in kinds:
        group = [entry for entry in records if kind(entry) == row_of]
        config, split, actions, checkpoint, fingerprint, settings, learning, _ = row_of
        namesakes = [each for each in kinds if each[:4] == row_of[:4]]
        notes = [split, actions, learning and f"learning: {learning}"]
        notes += [] if checkpoint == "latest" else [f"{checkpoint} checkpoint"]
        notes += [f"protocol {fingerprint}"] if len({each[4] for each in namesakes}) > 1 else []
        notes += [f"settings {settings}"] if len({each[5] for each in namesakes}) > 1 else []
        steps = np.mean([entry["env_steps"] for entry in group]) / 1e6
        for stage, row in enumerate(group[0]["stages"]):
            cells = []
            for quantity in scores:
                if quantity not in row:  # such as success in a family that has none
                    cells.append("-")
                    continue
                digits = 1 if quantity == "episode_return" else 2
                values = [entry["stages"][stage][quantity]["mean"] for entry in group]
                each = ", ".join(f"{value:.{digits}f}" for value in values)
                cells.append(f"{np.mean(values):.{digits}f} ({each})")
            lines.append(
                f"| {config} | {', '.join(filter(None, notes))} | {len(group)} | {steps:.2f} M "
                f"| {row['adaptation_episodes']} | {' | '.join(cells)} |"
            )
    return "\n".join(lines)


def stages_are(records: list[dict[str, Any]]) -> list[str]:
    """Return what tells the stages apart."""
    units = [entry["protocol"].get(SINCE_CHANGE) for entry in records]
    told = (f"{unit} since the change" if unit else "adaptation episodes" for unit in units)
    return list(dict.fromkeys(told))


def main(args: Args) -> None:
    """Write the file and print the table."""
    runs = {run.resolve(): run for run in args.runs}.values()  # each once, though named twice
    records = []
    for split, actions in product(args.splits, args.actions):
        protocols = shared_protocols(runs, Wanted(split, actions))
        records += [record(run, split, actions, protocols.get(run)) for run in runs]
    records.sort(key=lambda entry: (*kind(entry), entry["seed"]))
    for one, other in pairwise(records):
        if (kind(one), one["seed"]) == (kind(other), other["seed"]):
            raise UserError(
                f"two of the runs are seed {one['seed']} of {one['config']} with the same "
                f"settings; name one of them"
            )
    write_figures({"runs": records}, args.output)
    print(table(records))


if __name__ == "__main__":
    run_script(main, Args, __doc__)
