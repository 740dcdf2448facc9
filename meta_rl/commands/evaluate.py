"""`meta-rl evaluate`."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from meta_rl.commands._vocabulary import (
    Actions,
    InChangingTasks,
    Split,
    changing,
    check_at_least,
    load_agent,
    parse,
)
from meta_rl.core.errors import Interrupted, UserError
from meta_rl.core.outputs import check_folder, check_replaceable, to_json, write_output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meta_rl.experiment.config import EvaluationConfig
    from meta_rl.runs.folder import RunFolder
    from meta_rl.runs.trained import TrainedAgent


@dataclass(frozen=True, kw_only=True)
class Arguments(InChangingTasks):
    """Measures how a run's policy adapts: before, between and after adaptation.

    Every task, goal and copy counts. The result is printed and written to the run's evaluations/,
    as JSON (means, intervals, each goal) and npz (every episode). Flags that are not given are as
    in the run's config. The same command continues an interrupted evaluation.

    Example: adapt from 10 episodes, then measure 3. For MAML with 5 episodes in each copy of a
    task, whose copies teach one policy: --copies 2 --evaluation-episodes 3. For RL², whose copies
    are trials of their own: --copies 1 --adaptation-steps 10 --evaluation-episodes 3.
    """

    split: Split | None = None
    """Split to measure: train, validation, or test for held-out tasks. Without it, as in the
    config."""
    goals: int | None = None
    """Goals to measure for each task name, at least 1, in the split's order. A name with fewer is
    measured on all. Without it here and in the config, all."""
    adaptation_steps: int | None = None
    """Times that the agent adapts, at least 0. It is measured before, between and after. With tasks
    that change: rounds that it learns from after a drop; with 0, none."""
    changes: int | None = None
    """With tasks that change: number of changes that each task is followed through, at least 1."""
    relearn: Literal["after_a_drop", "always"] | None = None
    """With tasks that change, for agents that adapt by gradients: start again from the meta-trained
    parameters when the return drops (`after_a_drop`), or learn from every round (`always`)."""
    copies: int | None = None
    """Copies of each task's environment that are stepped together (N), at least 1."""
    evaluation_episodes: int | None = None
    """Episodes that only measure each stage, at least 1; the agent does not learn from them.
    Without it here and in the config, sampled actions are measured on the episodes that the agent
    adapts from."""
    actions: Literal[Actions, "both"] | None = None
    """Actions while measuring: `sampled` from the policy, `deterministic`, its mode, or `both`,
    with a result for each. Adaptation always samples."""
    seed: int | None = None
    """Seed of the action noise, at least 0. Each task has its own noise."""
    by_task: bool = False
    """Also print a row for each task and goal."""
    threads: int | None = None
    """CPU threads of torch, at least 0; 0 means torch's default."""
    workers: int | None = None
    """Threads (native simulator) or processes (Gymnasium) that step environments, at least 0; 0
    means one for each CPU core."""
    tasks_at_once: int | None = None
    """Tasks to play together, at least 1. Fewer take less memory and more time. Results stay the
    same up to rounding. Without it, as many as fit. An interruption loses at most these."""
    output: Annotated[str | None, tyro.conf.arg(metavar="FOLDER|FILE.json")] = None
    """Folder for the result's files, or the name of its .json file; the .npz goes beside it.
    Without it, RUN/evaluations."""
    counted_by: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Evaluate the agent by other code, which the task family offers under this name. Its figures
    compare with no other result here. They are written to RUN/other_counts."""


def main(arguments: list[str]) -> int:
    """Evaluate a run."""
    given = parse(Arguments, arguments, "evaluate")
    check_at_least(1, given, "tasks_at_once")
    if given.counted_by is not None and (given.by_task or given.output is not None):
        raise UserError(
            "--counted-by has no figures of single goals and writes to RUN/other_counts; leave out "
            "--by-task and --output"
        )
    from meta_rl.core.lives import changes_of
    from meta_rl.experiment.building import set_threads

    place = None if given.counted_by is not None else place_of(given)
    folder, trained = load_agent(given)

    def chosen(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(given, name)) is not None}

    experiment = replace(trained.experiment, **chosen("threads", "workers"))
    set_threads(experiment)
    trained = changing(replace(trained, experiment=experiment), given)
    evaluation = replace(
        experiment.evaluation,
        **chosen("split", "goals", "adaptation_steps", "copies", "evaluation_episodes", "seed"),
        **chosen("changes", "relearn"),
    )
    actions = given.actions or evaluation.actions
    if actions == "both" and changes_of(trained.distribution) is not None:
        raise UserError(
            "where tasks change, only sampled actions are measured; leave out --actions both"
        )
    measure = partial(measure_all, place) if given.counted_by is None else measure_otherwise
    for kind in ("sampled", "deterministic") if actions == "both" else (actions,):
        asked = replace(trained.experiment, evaluation=replace(evaluation, actions=kind))
        measure(folder, replace(trained, experiment=asked), given)
    return 0


def measure_all(
    place: Path | None, folder: "RunFolder", trained: "TrainedAgent", given: Arguments
) -> None:
    """Evaluate by the experiment's settings; print the result, and write it to its place."""
    from meta_rl.commands._show import show_by_task, show_result
    from meta_rl.evaluation.folder import Evaluations
    from meta_rl.evaluation.measuring import check_evaluation_memory, evaluate
    from meta_rl.experiment.building import worker_count

    experiment = trained.experiment
    config, copies = experiment.evaluation, experiment.evaluation_copies
    large = check_evaluation_memory(
        trained.agent, trained.distribution, trained.device, config, copies
    )
    if large is not None:
        print(large, flush=True)
    unfinished = None
    if place is not None:
        beside = place.parent if place.suffix == ".json" else place
        beside.mkdir(parents=True, exist_ok=True)
        unfinished = Evaluations(beside).unfinished(identity(trained))
    collector = trained.distribution.make_collector(trained.device, worker_count(experiment))
    if unfinished is not None and unfinished.exists():
        print(f"going on from {unfinished}", flush=True)
    try:
        result = evaluate(
            trained.agent,
            trained.distribution,
            collector,
            trained.device,
            config,
            copies,
            given.tasks_at_once,
            trained.env_steps,
            trained.meta_iterations,
            unfinished,
        )
    except KeyboardInterrupt:
        goes_on = "the same command goes on after the tasks that were measured"
        raise Interrupted(f"stopped; {goes_on if unfinished else 'nothing was kept'}") from None
    finally:
        collector.close()
    result = replace(result, checkpoint=given.checkpoint)
    title = f"{experiment.name}: adaptation to {config.split} tasks, {config.actions} actions"
    show_result(result, title)
    if given.by_task:
        show_by_task(result)
    if given.checkpoint == "best":
        warn_if_chosen_by(config, result.protocol)
    if place is not None:
        of_others = place.resolve() != folder.evaluations.resolve()
        run = folder.path.resolve()
        # Runs of several studies may have one name, but not one place.
        named = f"{run.name}-{hashlib.blake2b(bytes(run), digest_size=2).hexdigest()}"
        path = (
            result.save_as(place)
            if place.suffix == ".json"
            else Evaluations(place).save(result, named if of_others else "")
        )
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)
        print(f"written to {path}")


def warn_if_chosen_by(config: "EvaluationConfig", protocol: "Mapping[str, Any]") -> None:
    """Print a warning if the best checkpoint was chosen on the tasks that it is measured on."""
    from meta_rl.core.protocols import ALL_TASKS
    from meta_rl.evaluation.protocol import chosen_on_measured

    if not chosen_on_measured(protocol, config.every, config.choose_on):
        return
    advice = "train with --evaluation.choose-on validation to choose it on others"
    if ALL_TASKS in protocol:
        advice = "there are no others, so measure the latest checkpoint"
    elif config.choose_on == "validation":
        advice = "--split test has others"
    print(
        f"warning: this checkpoint was chosen as the best on the same {config.choose_on} tasks "
        f"that it is measured on, so the result is too good; {advice}"
    )


def place_of(given: Arguments) -> Path | None:
    """Return the folder or .json file for the result, or None after a warning.

    A place that was asked for must be writable; the default one need not be.
    """
    from meta_rl.experiment import catalog
    from meta_rl.runs.folder import RunFolder

    if given.output is None:
        run = RunFolder(catalog.run_path(given.run))
        if run.is_pretrained:
            print("the result is only printed: name a folder or file for it with --output")
            return None
        run.description()  # or a word on what is wrong with it
        folder = run.evaluations
        try:
            check_folder(folder, "give another place with --output")
        except UserError as error:
            print(f"warning: {error}. The result is only printed")
            return None
        return folder
    output, advice = Path(given.output), "choose another --output"
    if output.suffix != ".json":
        if output.suffix.lower() == ".json" or not given.output:
            raise UserError(f"--output must be a folder, or end in .json, got {given.output!r}")
        check_folder(output, advice)
        return output
    if given.actions == "both":
        raise UserError(
            f"--actions both makes two results, so --output must name a folder, not {output}"
        )
    check_replaceable(advice, output, output.with_suffix(".npz"))
    return output


def identity(trained: "TrainedAgent") -> str:
    """Return a hash of all that decides the cells of an evaluation, agent and program included.

    The protocol's fingerprint, in contrast, is the same for all agents, seeds and versions.
    """
    from importlib.metadata import version

    from meta_rl import __version__
    from meta_rl.core.ranks import digest
    from meta_rl.evaluation.protocol import make_protocol
    from meta_rl.experiment.config import plain
    from meta_rl.runs.folder import describe_commit

    experiment = trained.experiment
    config, copies = experiment.evaluation, experiment.evaluation_copies
    protocol = make_protocol(trained.agent, trained.distribution, config, copies)
    agent = [experiment.agent_name, plain(asdict(experiment.agent))]
    packages = map(version, ("torch", "numpy", "numba"))
    versions = [__version__, describe_commit(), *packages]
    options = [protocol, agent, asdict(config), copies, str(trained.device), versions]
    content = json.dumps(options) + digest(trained.agent.state_dict())
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def measure_otherwise(folder: "RunFolder", trained: "TrainedAgent", given: Arguments) -> None:
    """Let other code of the family evaluate the agent; write and print its figures."""
    from meta_rl.core.lives import original
    from meta_rl.core.protocols import OtherwiseCounted

    name, family = str(given.counted_by), trained.distribution.family
    offered = original(trained.distribution)
    counts = offered.other_counts() if isinstance(offered, OtherwiseCounted) else {}
    if name not in counts:
        raise UserError(
            f"--counted-by {name}: the run's tasks are of the family {family}, which "
            f"{'offers ' + ', '.join(counts) if counts else 'offers no other count'}; "
            f"leave the flag out for our own"
        )
    check_folder(folder.other_counts, "make the run folder writable")
    config, copies = trained.experiment.evaluation, trained.experiment.evaluation_copies
    summary = {
        "env_steps": trained.env_steps,
        "meta_iterations": trained.meta_iterations,
        "checkpoint": given.checkpoint,
        **counts[name](trained.agent, trained.device, config, copies),
    }
    print(f"warning: {summary['warning']}")
    for task, success in summary["success_by_name"].items():
        print(f"{task:<32}success {success:.3f}, counted by {name}")
    print(f"mean success {summary['success']:.3f}, mean return {summary['episode_return']:.1f}")
    options = hashlib.sha256(json.dumps(summary["options"]).encode()).hexdigest()[:12]
    kind = f"{config.split}-{config.actions}-{options}"
    path = folder.other_counts / f"{name}-{trained.env_steps}-{kind}.json"
    text = to_json(summary, indent=2) + "\n"
    write_output(text.encode(), path, "free space or make the folder writable")
    print(f"written to {path}")
