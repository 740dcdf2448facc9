"""Compares the returns of agents in whole trials with classical players on the same tasks.

    python scripts/trial_returns.py results/bandits.json RUN RUN ... [--cpu-s SECONDS SECONDS ...]

Takes the evaluation of the test split of each run, of a folder named CONFIG-seedN, whose stages are
the episodes of a trial, and the players of results/bandit_references.json. An interval is the 95 %
one of the mean over tasks, whose copies are averaged first. Prints a markdown table.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from _entry import read_figures, run_script, write_figures
from bandit_references import mean_and_interval
from record_results import record

from meta_rl.core.errors import UserError
from meta_rl.evaluation.comparison import differing_fields, told_differences
from meta_rl.evaluation.folder import Evaluations, Wanted
from meta_rl.evaluation.result import EvalResult
from meta_rl.runs.folder import RunFolder


@dataclass(frozen=True)
class Args:
    """Compare whole trials with the classical players."""

    output: Annotated[Path, tyro.conf.Positional]
    """JSON file to write."""
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders."""
    cpu_s: tuple[float, ...] = ()
    """CPU time of each run's training, in seconds, as `time` prints it. Without it, the file has
    none."""
    references: Path = Path("results/bandit_references.json")
    """File that bandit_references.py has written."""


def setting_of(protocol: Mapping[str, Any]) -> tuple[str, int]:
    """Return what the references call the tasks of an evaluation, and the episodes of a trial."""
    if protocol["family"] == "bandits":
        return f"bandit_{protocol['arms']}x{protocol['horizon']}", 1
    if protocol["family"] == "tabular_mdp":
        episodes = protocol["adaptation_episodes"] + 1
        return f"tabular_mdp_{episodes}", episodes
    raise UserError(f"there are no references for the family {protocol['family']}")


def check_is_trial(run: Path, result: EvalResult, episodes: int) -> None:
    """Refuse an evaluation whose stages are not the episodes of one trial, one after the other."""
    apart = not result.protocol.get("evaluation_episodes_are_learned_from", True)
    stages = tuple(result.adaptation_episodes)
    if stages != tuple(range(episodes)) or (apart and episodes > 1):
        raise UserError(
            f"{run} was measured after {', '.join(map(str, stages))} episodes of a task, but the "
            f"stages must be the {episodes} of a trial, one episode each; evaluate it with "
            f"--adaptation-steps {episodes - 1}, and without --evaluation-episodes"
        )


def trial_of(run: Path, references: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's record, with what its trials earn and how that compares."""
    result, _ = Evaluations(RunFolder(run).evaluations).choose(Wanted("test", "sampled"))
    setting, episodes = setting_of(result.protocol)
    check_is_trial(run, result, episodes)
    earned = result.scores["episode_return"].sum(1).mean(0)  # over stages, then repetitions
    found = mean_and_interval(earned)
    if setting not in references:
        raise UserError(
            f"{run} was measured on {setting}, of which there are no references, only of "
            f"{', '.join(references)}; run bandit_references.py with its settings"
        )
    tasks, players = references[setting].get("protocol"), references[setting]["players"]
    if tasks is None:
        raise UserError(
            f"the references of {setting} do not say which tasks they were measured on, as they "
            f"are older than that; run bandit_references.py again"
        )
    theirs = {name: result.protocol.get(name) for name in tasks} | {"tasks": len(earned)}
    if differing := differing_fields([theirs, tasks | {"tasks": tasks["test_tasks"]}]):
        raise UserError(
            f"{run} was measured on other tasks than the references of {setting} "
            f"({told_differences(differing)}); run bandit_references.py for its own, or evaluate "
            f"a run of the default tasks"
        )
    share = {
        name: round(found["mean"] / row["mean"], 4) if row["mean"] else None
        for name, row in players.items()
    }
    return record(run, "test", "sampled") | {
        "setting": setting,
        "trial_return": found,
        "share_of_reference": share,
    }


def table(trials: list[dict[str, Any]], references: Mapping[str, Any]) -> str:
    """Return a markdown table: players and runs of each setting, the best last."""
    lines = [
        "| setting | player | return of a trial | 95 % interval |",
        "| --- | --- | --- | --- |",
    ]
    for setting, found in references.items():
        rows = [(row["mean"], row, name) for name, row in found["players"].items()]
        rows += [
            (
                trial["trial_return"]["mean"],
                trial["trial_return"],
                f"{trial['config']}, seed {trial['seed']}",
            )
            for trial in trials
            if trial["setting"] == setting
        ]
        for _, row, name in sorted(rows, key=lambda each: each[0]):
            interval = f"{row['low']:.2f} to {row['high']:.2f}"
            lines.append(f"| {setting} | {name} | {row['mean']:.2f} | {interval} |")
    return "\n".join(lines)


def main(args: Args) -> None:
    """Write the file and print the table."""
    if len(args.cpu_s) not in (0, len(args.runs)):
        raise UserError(f"--cpu-s must have one number a run, got {len(args.cpu_s)}")
    references = read_figures(args.references)
    trials = [trial_of(run, references) for run in args.runs]
    for trial, seconds in zip(trials, args.cpu_s, strict=bool(args.cpu_s)):
        trial["cpu_time_s"] = seconds
    write_figures({"runs": trials}, args.output)
    print(table(trials, references))


if __name__ == "__main__":
    run_script(main, Args, __doc__)
