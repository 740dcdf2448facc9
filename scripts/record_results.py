"""Gathers the newest evaluations of finished runs into one small JSON file and a table.

    .venv/bin/python scripts/record_results.py OUTPUT.json RUN RUN ...

Runs are expected in folders named CONFIG-seedN, as `meta-rl train CONFIG --seed N` makes them.
Prints a markdown table: for each config the mean over its seeds at every stage of adaptation.
"""

import json
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from meta_rl.comparison import newest_result


def record(run: Path) -> dict[str, Any]:
    """Return what is worth keeping of a run."""
    config, _, seed = run.name.rpartition("-seed")
    summary = newest_result(run, "test", "sampled").summary()
    summary.pop("by_task", None)  # the run keeps each goal
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    described = dict(
        line.split(" ", 1) for line in (run / "environment.txt").read_text().splitlines()[:4]
    )
    return {
        "config": config,
        "seed": int(seed),
        "command": re.sub(r" --runs \S+", "", described["command"]),
        "commit": described["commit"],
        "wall_time_s": round(last["wall_time_s"]),
        "evaluation_seed": summary.pop("seed"),
        **summary,
    }


def table(records: list[dict[str, Any]]) -> str:
    """Return a markdown table, one row for each config and stage."""
    lines = [
        "| config | seeds | env steps | adaptation episodes | return: mean over seeds (each) "
        "| success: mean over seeds (each) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for config in dict.fromkeys(entry["config"] for entry in records):
        group = [entry for entry in records if entry["config"] == config]
        steps = np.mean([entry["env_steps"] for entry in group]) / 1e6
        for stage, row in enumerate(group[0]["stages"]):
            cells = []
            for quantity, digits in (("episode_return", 1), ("success", 2)):
                values = [entry["stages"][stage][quantity]["mean"] for entry in group]
                each = ", ".join(f"{value:.{digits}f}" for value in values)
                cells.append(f"{np.mean(values):.{digits}f} ({each})")
            lines.append(
                f"| {config} | {len(group)} | {steps:.2f} M | {row['adaptation_episodes']} "
                f"| {cells[0]} | {cells[1]} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Write the file and print the table."""
    output, *runs = map(Path, sys.argv[1:])
    records = sorted(
        (record(run) for run in runs), key=lambda entry: (entry["config"], entry["seed"])
    )
    machine = f"{platform.machine()} virtual machine, {os.cpu_count()} cores, no GPU"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "runs": records}, indent=1) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
