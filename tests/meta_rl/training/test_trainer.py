import json
import os
import signal
import sys
import textwrap
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from cases import quick

from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.types import all_finite
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment import catalog
from meta_rl.experiment.config import load_experiment
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import RunFolder
from meta_rl.training.summary import summarize
from meta_rl.training.trainer import Trainer

WORLDS = '''
"""Reach a point on a line. A file `fault` beside this module makes it fail."""
import os, pickle, signal
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from gymnasium.spaces import Box

class Line(gymnasium.Env):
    observation_space = Box(-9, 9, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episodes += 1
        self.position = 0.0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.position += 0.1 * float(action[0])
        reward, obs = -abs(self.position - self.goal), np.array([self.position], np.float32)
        fault = Path(__file__).with_name("fault")
        if fault.exists():
            kind, first, last = fault.read_text().split()
            if int(first) <= self.episodes <= int(last):
                if kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if kind == "raise":
                    raise ValueError("the rail is bent")
                if kind == "reward":
                    reward = float("nan")
                if kind == "obs":
                    obs *= np.nan
        return obs, reward, False, False, {}

@dataclass(frozen=True)
class LineFamily:
    metric_names: tuple[str, ...] = ()

    def make(self, name):
        return Line()

    def assign(self, env, task):
        env.goal = task.params[0]
'''
FAMILY = '''
from dataclasses import dataclass

import torch

from lines.worlds import LineFamily
from meta_rl.rollouts.gymnasium.task_env import GymnasiumTaskEnv
from meta_rl.core.types import EnvSpec, Task, Tasks
from meta_rl.rollouts.collector import SimulatedFamily

@dataclass(frozen=True)
class Config:
    """Points on a line."""

class Lines(SimulatedFamily):
    family = "lines"
    spec = EnvSpec.box(observation_size=1, action_low=(-1.0,), action_high=(1.0,), horizon=4)

    def sample(self, count, split, generator):
        rows = torch.randperm(8, generator=generator)[:count].tolist()
        return self.tasks(split)[rows]

    def tasks(self, split):
        first = 0 if split == "train" else 8
        numbers = range(first, first + 8)
        return Tasks.stack([Task("lines", "line", n, (n / 8 - 1,)) for n in numbers])

    def make_env(self, device, workers):
        return GymnasiumTaskEnv(LineFamily(), self.spec, device, workers)

    def protocol(self):
        return {"horizon": 4}

def build(config):
    return Lines()
'''


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """Write a family of the user's own; return a function that sets its fault.

    Each of the agents here begins two episodes in every world and meta-iteration, so episodes 5
    and 6 are those of the third: or 5 alone, if it is rejected at once.
    """
    folder = tmp_path / "lines"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "worlds.py").write_text(textwrap.dedent(WORLDS))
    (folder / "family.py").write_text(textwrap.dedent(FAMILY))
    monkeypatch.syspath_prepend(tmp_path)

    def set_fault(kind, first=0, last=0):
        (folder / "fault").unlink(missing_ok=True)
        if kind != "none":
            (folder / "fault").write_text(f"{kind} {first} {last}")

    yield set_fault
    for name in [name for name in sys.modules if name.partition(".")[0] == "lines"]:
        del sys.modules[name]


@pytest.fixture
def train_lines(meta_rl, small_config, run_at, tmp_path):
    """Train on them by the command line; return how that ended, and the run."""

    def train(agent, name, iterations, **changes):
        config = small_config(agent, meta_iterations=iterations, copies=1, **changes)
        text = config.read_text().replace("name: point_navigation", "name: lines.family")
        unknown = ("horizon", "test_goals", "validation_goals")
        text = "\n".join(line for line in text.splitlines() if not line.strip().startswith(unknown))
        config.write_text(text)
        outcome = meta_rl("train", config, "--name", name, "--plugin", "lines.family")
        return outcome, run_at(tmp_path / "runs" / name)

    return train


@pytest.mark.parametrize(
    ("kind", "fate"),
    [
        ("kill", "was killed by SIGKILL while stepping line:"),
        ("raise", "exited with code 1 while stepping line:"),
    ],
)
def test_a_worker_that_dies_costs_no_more_than_its_meta_iteration(
    lines, train_lines, meta_rl, kind, fate, monkeypatch
):
    monkeypatch.setattr("meta_rl.rollouts.gymnasium.task_env.FAREWELL_S", 600.0)
    lines(kind, 5, 5)
    outcome, run = train_lines("maml_trpo", "small", 4, checkpoint_every=100)
    stopped = "; stopped after 2 meta-iterations; continue with `meta-rl train --resume runs/small`"
    outcome.fails_with("environment worker 0 (pid ", fate, ", copy 0", stopped)
    assert ("the rail is bent (worlds.py, line" in outcome.err) is (kind == "raise")
    assert run.latest["meta_iterations"] == 2

    meta_rl("train", "--resume", "runs/small").fails_with("allow it with --plugin lines.family")
    lines("none")
    meta_rl("train", "--resume", "runs/small", "--plugin", "lines.family").succeeds()

    again, undisturbed = train_lines("maml_trpo", "undisturbed", 4, checkpoint_every=100)
    again.succeeds()
    run.equals(undisturbed)


@pytest.mark.parametrize(
    ("agent", "kind"),
    [
        ("maml_ppo", "reward"),
        ("rl2_ppo", "obs"),
        pytest.param("maml_ppo", "obs", marks=pytest.mark.thorough),
        pytest.param("rl2_ppo", "reward", marks=pytest.mark.thorough),
    ],
)
def test_a_meta_batch_with_nan_is_rejected_and_the_run_goes_on(
    lines, train_lines, identical, agent, kind
):
    _, two = train_lines(agent, "two", 2)
    lines(kind, 5, 5)
    outcome, three = train_lines(agent, "three", 3)
    lines(kind, 5, 5)
    _, four = train_lines(agent, "four", 4)

    outcome.succeeds()
    assert "meta-update 3 was rejected: " in outcome.out
    assert "its batch is in runs/three/rejected/3.pt" in outcome.out
    assert identical(three.latest["agent"], two.latest["agent"])
    assert [row["train/rejected_in_a_row"] for row in three.rows[:3]] == [0, 0, 1]
    batch = torch.load(three.path / "rejected" / "3.pt", weights_only=True)
    assert "not finite" in batch["reason"] and "line:" in batch["reason"]
    assert four.latest["meta_iterations"] == 4 and four.latest["rejected_in_a_row"] == 0
    assert not identical(four.latest["agent"], three.latest["agent"])


def test_a_rejected_batch_holds_what_was_wrong(lines, train_lines):
    lines("reward", 1, 1)
    outcome, run = train_lines("maml_ppo", "small", 1)
    outcome.succeeds()
    assert "reward is not finite in phase 0 of line:" in outcome.out
    batch = torch.load(run.path / "rejected" / "1.pt", weights_only=True)
    (rollout,) = batch["experience"]
    assert rollout["reward"].shape == (4, 2, 1) and rollout["reward"].isnan().all()
    assert rollout["obs"].isfinite().all()


def test_nan_that_does_not_end_stops_the_run(lines, train_lines, meta_rl, identical):
    _, untrained = train_lines("maml_ppo", "one", 1, max_rejected=2)
    lines("reward", 1, 10**9)
    outcome, run = train_lines("maml_ppo", "small", 9, max_rejected=2)

    outcome.fails_with(
        "meta-update 2 was rejected: reward is not finite in phase 0 of line:",
        "That is 2 in a row, so the run stops; look at the batch, or lower the step sizes",
    )
    assert sorted(path.name for path in (run.path / "rejected").iterdir()) == ["1.pt", "2.pt"]
    assert run.latest["meta_iterations"] == 1
    assert all_finite(run.latest["agent"])
    assert not identical(run.latest["agent"], untrained.latest["agent"])


@pytest.mark.parametrize(
    ("agent", "settings"),
    [
        ("maml_trpo", {"inner_lr": 1e30}),
        ("maml_ppo", {"inner_lr": 1e30}),
        ("rl2_ppo", {"outer_lr": 1e30, "target_kl": None}),
    ],
)
def test_a_diverging_agent_keeps_its_parameters_and_the_run_stops(
    meta_rl, small_config, run_at, tmp_path, identical, agent, settings
):
    config = small_config(agent, agent=settings, meta_iterations=9, max_rejected=3)
    initial = Trainer(load_experiment(str(config)), RunFolder(tmp_path / "initial"))
    initial.collector.close()

    outcome = meta_rl("train", config)

    outcome.fails_with("not finite", "That is 3 in a row, so the run stops", "lower the step sizes")
    run = run_at(tmp_path / "runs" / "small")
    assert identical(run.latest["agent"], initial.agent.state_dict())
    assert [row["train/rejected_in_a_row"] for row in run.rows] == [1, 2]


def test_a_batch_too_large_is_refused_before_anything_is_made(meta_rl, small_config, tmp_path):
    config = small_config(envs={"name": "metaworld"}, meta_batch_size=51)
    meta_rl("train", config).fails_with("meta_batch_size 51 is more than the 50 train tasks of ML1")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("simulator", quick(["native", "gymnasium"], ["native"]))
def test_the_number_of_workers_does_not_change_a_run(
    simulator, meta_rl, small_config, run_at, tmp_path
):
    config = small_config("maml_trpo", copies=1, evaluation={"goals": 2})
    text = config.read_text().replace("name: point_navigation", "name: metaworld")
    text = text.replace("horizon: 5", "horizon: 20").replace("  test_goals: 3\n", "")
    config.write_text(text.replace("  validation_goals: 3\n", ""))
    for workers in (1, 2):
        flags = ("--workers", workers, "--envs.simulator", simulator)
        meta_rl("train", config, *flags, "--runs", f"by{workers}").succeeds()

    one, two = (run_at(tmp_path / f"by{workers}" / "small") for workers in (1, 2))
    one.equals(two)
    assert one.latest["env_steps"] == 2 * 2 * 2 * 20  # iterations, phases, tasks, steps


@pytest.mark.parametrize("agent", quick(catalog.names("agents")))
def test_a_seed_is_the_whole_of_a_runs_randomness(agent, meta_rl, small_config, run_at, tmp_path):
    config = small_config(agent)
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # the global generator has no say
        meta_rl("train", config, "--seed", seed, "--runs", f"run{number}").succeeds()

    first, again, other = (run_at(tmp_path / f"run{number}" / "small") for number in range(3))
    again.equals(first)
    assert other.rows != first.rows


def test_a_run_folder_holds_what_describes_and_continues_the_run(
    meta_rl, small_config, run_at, tmp_path
):
    meta_rl("train", small_config(evaluation={"every": 1})).succeeds()
    run = run_at(tmp_path / "runs" / "small")

    assert {path.name for path in run.path.iterdir()} == {
        *("config.yaml", "protocol.json", "environment.txt", "metrics.jsonl"),
        *("checkpoints", "evaluations"),
    }
    environment = (run.path / "environment.txt").read_text()
    assert "python 3." in environment and "commit " in environment and "torch==" in environment
    *watched, final = run.rows
    assert [row["meta_iterations"] for row in run.rows] == [1, 2, 2]
    assert "evaluation/return/stage_1" in final
    for row in watched:
        assert {"return/before", "return/after", "validation/return/stage_1"} < row.keys()
    steps = [row["env_steps"] for row in run.rows]
    per_iteration = 2 * 2 * 2 * 5  # tasks, copies, phases, steps; evaluations do not count
    assert 0 < steps[0] <= per_iteration and steps[0] < steps[1] <= 2 * per_iteration
    stems = {path.stem.rpartition("-")[0] for path in (run.path / "evaluations").glob("*.json")}
    assert stems == {f"{count}-validation-sampled-seed0" for count in steps} | {
        f"{steps[-1]}-test-sampled-seed0"
    }
    best = torch.load(run.path / "checkpoints" / "best.pt", weights_only=True)
    quantities = ("success", "return")
    scores = [[row[f"validation/{name}/stage_1"] for name in quantities] for row in watched]
    assert best["meta_iterations"] == 1 + scores.index(max(scores))


@pytest.mark.parametrize(
    ("evaluation", "watched", "chosen_on"),
    [
        ({"every": 2}, {"validation"}, "validation"),  # the last state is watched, too
        ({"every": 1, "choose_on": "train"}, {"train"}, "train"),
        ({"every": 1, "split": "train"}, {"train"}, "train"),  # configs before `choose_on`
        ({"every": 1, "choose_on": "test"}, set(), "test"),
        ({}, set(), None),
    ],
)
def test_training_ends_with_the_test_split_whatever_is_watched_and_compares_at_once(
    meta_rl, small_config, tmp_path, evaluation, watched, chosen_on
):
    config = small_config(meta_iterations=3, envs={"validation_goals": 2}, evaluation=evaluation)
    meta_rl("train", config).succeeds()
    run = tmp_path / "runs" / "small"

    made = [json.loads(path.read_text()) for path in (run / "evaluations").glob("*.json")]
    finished = [each for each in made if each["meta_iterations"] == 3]
    assert {each["protocol"]["split"] for each in finished} == watched | {"test"}
    assert {each["protocol"]["split"] for each in made} == watched | {"test"}
    protocol = json.loads((run / "protocol.json").read_text())
    assert protocol["split"] == "test" and protocol["best_is_chosen_on"] == chosen_on
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = sum("evaluation/return/stage_1" in row for row in rows)
    assert logged == (3 if chosen_on == "test" else 1)
    assert (run / "checkpoints" / "best.pt").is_file()
    if chosen_on == "validation":
        assert "small" in meta_rl("compare", run).succeeds().out
        meta_rl("report", run).succeeds()


def test_an_evaluation_that_fails_counts_no_env_steps(small_config, tmp_path, monkeypatch):
    steps = []

    def failing(agent, distribution, collector, *others):
        steps.append(collector.env_steps)
        collector.env_steps += 1000
        raise UserError("nothing to measure")

    monkeypatch.setattr("meta_rl.training.trainer.evaluate", failing)
    config = small_config("maml_ppo", evaluation={"every": 1}, runs=str(tmp_path))
    experiment = load_experiment(str(config))
    trainer = Trainer(experiment, RunFolder(tmp_path / "small"))
    with pytest.raises(UserError, match="nothing to measure"):
        trainer.run()  # where its end is measured, which is no warning
    trainer.close()
    assert steps[1] == 2 * steps[0] > 0


def test_a_checkpoint_that_cannot_be_written_leaves_a_run_with_a_replay_to_be_resumed(
    meta_rl, small_config, run_at, identical, tmp_path, monkeypatch
):
    settings = {"meta_iterations": 8, "agent": {"replay_trials": 8}, "runs": str(tmp_path)}
    written = []

    def save(state, path):
        written.append(path)
        if path.name == "latest.pt" and state["meta_iterations"] >= 5:
            raise UserError("no space left")
        checkpoint.save(state, path)

    config = small_config("varibad", **settings)
    with monkeypatch.context() as full:
        full.setattr("meta_rl.training.trainer.checkpoint", SimpleNamespace(save=save))
        with pytest.raises(UserError, match="no space left"):
            Trainer(load_experiment(str(config)), RunFolder(tmp_path / "small")).run()
    assert len(written) == 5 + 2, "of the beginning too; one that failed, and one more attempt"
    meta_rl("train", "--resume", tmp_path / "small").succeeds()
    meta_rl("train", config, "--name", "whole").succeeds()
    ours, theirs = (run_at(tmp_path / name).latest["agent"] for name in ("small", "whole"))
    assert identical(ours, theirs)


def test_best_stays_what_it_was_until_a_better_one_is_written(small_config, tmp_path, monkeypatch):
    ranks = iter([(3.0,), (1.0,), (2.0,)])
    monkeypatch.setattr(EvalResult, "rank", lambda result: next(ranks))
    full = [True]

    def save(state, path):
        if path.name == "best.pt" and full.pop():
            raise UserError("no space left")
        checkpoint.save(state, path)

    monkeypatch.setattr("meta_rl.training.trainer.checkpoint", SimpleNamespace(save=save))
    settings = {"meta_iterations": 2, "evaluation": {"every": 1}, "runs": str(tmp_path)}
    experiment = load_experiment(str(small_config("maml_ppo", **settings)))
    with pytest.raises(UserError, match="no space left"):
        Trainer(experiment, RunFolder(tmp_path / "small")).run()
    assert not (tmp_path / "small" / "checkpoints" / "best.pt").exists()
    full.extend([False, False])
    trainer = Trainer(experiment, RunFolder(tmp_path / "other"))
    trainer.run()
    assert trainer.counters.best == (2.0,)


def test_a_later_end_knows_what_was_the_best_at_the_first(small_config, tmp_path, monkeypatch):
    ranks = iter(
        [(1.0,), (3.0,), (2.0,)]
    )  # after two meta-iterations, at the end of three, of four
    monkeypatch.setattr(EvalResult, "rank", lambda result: next(ranks))
    settings = {"meta_iterations": 3, "evaluation": {"every": 2}, "runs": str(tmp_path)}
    experiment = load_experiment(str(small_config("maml_ppo", **settings)))
    folder = RunFolder(tmp_path / "small")
    Trainer(experiment, folder).run()
    longer = replace(experiment, meta_iterations=4)
    Trainer(longer, folder, resume=True).run()
    best = checkpoint.load(folder.checkpoints / "best.pt")
    assert (best["meta_iterations"], best["best"]) == (3, (3.0,))


def test_what_a_kill_left_out_of_the_record_is_told_at_the_next_resume(
    meta_rl, small_config, run_at, tmp_path
):
    meta_rl("train", small_config(evaluation={"every": 2})).succeeds()
    run = run_at(tmp_path / "runs" / "small")
    whole, text = run.rows, (run.path / "metrics.jsonl").read_text()
    assert any("evaluation/" in name for name in whole[-1])
    # Killed after the file of the final evaluation, and before it was told.
    (run.path / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[:-1]))
    meta_rl("train", "--resume", run.path).succeeds()
    assert run.rows == whole
    meta_rl("train", "--resume", run.path).succeeds()
    assert run.rows == whole  # once
    # Stopped in the final evaluation: what was watched of the same state is not watched again.
    (run.path / "metrics.jsonl").write_text("".join(text.splitlines(keepends=True)[:-1]))
    for path in run.path.glob("evaluations/*-test-*"):
        path.unlink()
    meta_rl("train", "--resume", run.path).succeeds()
    assert run.rows == whole


def test_a_stop_in_the_final_evaluation_loses_nothing_of_what_was_watched_before_it(
    meta_rl, small_config, run_at, tmp_path, monkeypatch
):
    config = small_config(meta_iterations=3, evaluation={"every": 2})
    meta_rl("train", config, "--name", "whole").succeeds()
    evaluate, stops = Trainer.evaluate, [KeyboardInterrupt]

    def stopped(trainer, split):
        if split == "test" and stops:
            raise stops.pop()
        return evaluate(trainer, split)

    monkeypatch.setattr(Trainer, "evaluate", stopped)
    assert meta_rl("train", config, "--name", "stopped").code == 130
    whole, run = (run_at(tmp_path / "runs" / name) for name in ("whole", "stopped"))
    assert run.latest["best"] == whole.latest["best"]
    meta_rl("train", "--resume", run.path).succeeds()
    assert [row.keys() for row in run.rows] == [row.keys() for row in whole.rows]


def test_a_run_whose_end_was_not_compared_with_the_best_is_not_finished(
    meta_rl, small_config, run_at, tmp_path, monkeypatch
):
    config = small_config(meta_iterations=3, evaluation={"every": 2, "choose_on": "validation"})
    evaluate = Trainer.evaluate

    def stopped(trainer, split):
        if trainer.counters.meta_iterations == 3:
            raise KeyboardInterrupt
        return evaluate(trainer, split)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "evaluate", stopped)
        assert meta_rl("train", config).code == 130
    run = run_at(tmp_path / "runs" / "small")
    meta_rl("evaluate", run.path).succeeds()
    meta_rl("train", "--resume", run.path).succeeds()
    assert list(run.path.glob("evaluations/*-validation-*")) != []
    ends = [row for row in run.rows if row["meta_iterations"] == 3]
    assert any(name.startswith("evaluation/") for row in ends for name in row)
    assert "is finished" in meta_rl("train", "--resume", run.path).succeeds().out


def test_a_signal_while_an_error_is_saved_takes_neither_the_checkpoint_nor_the_error(
    small_config, tmp_path, monkeypatch
):
    collect, saved, failed = Trainer.collect, [], []

    def failing(trainer):
        if trainer.counters.meta_iterations == 2:
            failed.append(True)
            raise RuntimeError("broken off")
        return collect(trainer)

    def save(state, path):
        if failed:
            os.kill(os.getpid(), signal.SIGTERM)
        checkpoint.save(state, path)
        saved.append(state["meta_iterations"])

    monkeypatch.setattr(Trainer, "collect", failing)
    monkeypatch.setattr("meta_rl.training.trainer.checkpoint", SimpleNamespace(save=save))
    experiment = load_experiment(str(small_config(meta_iterations=4, runs=str(tmp_path))))
    trainer = Trainer(experiment, RunFolder(tmp_path / "small"))
    with pytest.raises(RuntimeError, match="broken off"):
        trainer.run()
    trainer.close()
    assert saved[-1] == 2


@pytest.mark.parametrize("agent", ["pearl", "metric"])
def test_agents_that_learn_by_task_are_refused_where_tasks_change(agent, small_config, tmp_path):
    experiment = load_experiment(str(small_config(agent, change={"every": "1 episodes"})))
    with pytest.raises(UserError, match=f"{agent} learns by which experience is of the same task"):
        Trainer(experiment, RunFolder(tmp_path / "small"))
    assert not (tmp_path / "small").exists()


def test_settings_of_another_backend_are_told(meta_rl, small_config, tmp_path):
    words = ("--rollouts.workers", 8, "--rollouts.deadline-s", 5)
    told = meta_rl("train", small_config("maml_ppo"), *words).succeeds()
    note = "no effect with rollouts.backend local: rollouts.workers, rollouts.deadline_s"
    assert f"note: {note}" in told.out
    assert note in (tmp_path / "runs" / "small" / "log.txt").read_text()
    assert "no effect" not in meta_rl("train", small_config(), "--name", "plain").succeeds().out
    words = ("--change.how", "drift", "--change.drift", 0.5, "--overwrite")
    told = meta_rl("train", small_config("maml_ppo"), *words).succeeds()
    assert "note: no effect with change.every never: change.how, change.drift" in told.out


def test_a_family_that_draws_fewer_tasks_than_it_was_asked_for_is_refused(
    meta_rl, small_config, monkeypatch, tmp_path
):
    sample = PointNavigation.sample
    monkeypatch.setattr(PointNavigation, "sample", lambda *given: sample(*given)[:1])
    refused = meta_rl("train", small_config("maml_ppo"))
    refused.fails_with("2 training tasks were asked for, and point_navigation gave 1")
    assert not (tmp_path / "runs").exists()


def test_an_end_that_is_behind_is_refused(meta_rl, small_config, run_at, tmp_path):
    meta_rl("train", small_config("maml_ppo", meta_iterations=3)).succeeds()
    before = (tmp_path / "runs" / "small" / "config.yaml").read_text()
    refused = meta_rl("train", "--resume", "runs/small", "--meta-iterations", 2)
    refused.fails_with("has done 3 meta-iterations already, so that it cannot end with 2")
    assert (tmp_path / "runs" / "small" / "config.yaml").read_text() == before


def test_a_family_whose_validation_tasks_are_its_test_tasks_is_refused(
    small_config, tmp_path, monkeypatch
):
    held_out = PointNavigation.tasks
    monkeypatch.setattr(PointNavigation, "tasks", lambda family, split: held_out(family, "test"))
    experiment = load_experiment(str(small_config(evaluation={"every": 1})))
    with pytest.raises(UserError, match=r"validation and test splits of point_navigation share 3"):
        Trainer(experiment, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_from_before_there_was_a_validation_split_evaluates_and_goes_on(
    meta_rl, small_config, tmp_path
):
    meta_rl("train", small_config(evaluation={"every": 1, "split": "train"})).succeeds()
    run = tmp_path / "runs" / "small"
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["version"], config["envs"]["validation_goals"], config["evaluation"]["choose_on"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    for name in ("latest", "best"):
        path = run / "checkpoints" / f"{name}.pt"
        state = torch.load(path, weights_only=True)
        state["config"] = config
        torch.save(state, path)

    for split in ("train", "validation", "test"):
        told = meta_rl("evaluate", run, "--split", split, "--checkpoint", "best").succeeds().out
        assert ("warning" in told) == (split == "train")
    meta_rl("train", "--resume", run, "--meta-iterations", 3).succeeds()


def test_a_summary_names_the_first_and_the_last_phase(small_config, tmp_path):
    trainer = Trainer(load_experiment(str(small_config())), RunFolder(tmp_path / "run"))
    batch = trainer.collect()
    summary = summarize(batch, trainer.distribution.spec.scores)
    trainer.collector.close()

    before, after = batch.rollouts
    for name, rollout in (("before", before), ("after", after)):
        mean = (rollout.reward * rollout.valid).sum(0).mean()  # one episode each
        torch.testing.assert_close(summary[f"return/{name}"], mean)
    assert summary["return/phase_0"] == summary["return/before"]
    assert summary["return/phase_1"] == summary["return/after"]
    assert summary.keys() > {"success/before", "success/after"}
