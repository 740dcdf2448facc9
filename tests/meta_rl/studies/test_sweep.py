import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from wandb_files import records

from envs.point_navigation import PointNavigation
from meta_rl.commands._flags import experiment_of
from meta_rl.evaluation.result import EvalResult
from meta_rl.runs import checkpoint
from meta_rl.studies.launching import Here
from meta_rl.studies.processes import Places
from meta_rl.studies.sweep import Trial

SCORES = ("success", "episode_return")
FEW = ("--vary", "agent.inner_lr=0.01,0.1")


def table_of(folder):
    return (folder / "runs/s/table.md").read_text()


def rows_of(folder):
    """Return the cells of the table, one row a trial."""
    lines = table_of(folder).splitlines()[4:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def run_of(folder, number, seed=0):
    return folder / f"runs/s/s-{int(number):03}-seed{seed}"


def measured(run, split):
    """Return the last stage's scores on a split by the meta-iterations, as the files have them."""
    found = [json.loads(path.read_text()) for path in run.glob(f"evaluations/*-{split}-*.json")]
    return {each["meta_iterations"]: each["stages"][-1] for each in found}


def chosen(outcome):
    (line,) = (line for line in outcome.out.splitlines() if line.startswith("chosen"))
    return line


def test_a_sweep_that_was_killed_ends_with_the_same_table(sweep, in_process, finished, tmp_path):
    in_process.kill(2, meta_iterations=3)
    with pytest.raises(in_process.Killed):
        sweep()
    assert not (tmp_path / "runs/s/table.md").exists()
    resumed = sweep().succeeds()

    assert in_process.resumed == [f"runs/s/{in_process.begun[1]}"]
    assert len(in_process.begun) == len({*in_process.begun}) == len(in_process.started) - 1
    assert table_of(tmp_path) == table_of(finished)
    assert (tmp_path / "runs/s/settings.png").stat().st_size > 10_000
    again = sweep().succeeds()  # nothing is left to do
    assert "starts" not in again.out and chosen(again) == chosen(resumed)


def test_asha_follows_its_rule_and_other_seeds_come_after_the_first(finished):
    """What the trials with the lower numbers had achieved decides, and nothing else."""
    alive, expected = [0, 1, 2, 3], {}
    for rung in (1, 2):
        seen = []
        for number in [*alive]:
            stage = measured(run_of(finished, number), "validation")[rung]
            rank = (stage["success"]["mean"], stage["episode_return"]["mean"])
            seen.append(rank)
            if sum(other > rank for other in seen) >= max(1, len(seen) // 2):
                alive.remove(number)
                expected[number] = f"stopped at {rung}"
    expected |= dict.fromkeys(alive, "finished")
    rows = {int(row[0]): row for row in rows_of(finished)}
    assert {number: row[2] for number, row in rows.items()} == expected
    assert len({*expected.values()}) > 1
    for number, row in rows.items():
        assert row[3] == ("2" if number in alive else "1")
        assert run_of(finished, number, seed=1).exists() == (number in alive)


def test_the_choice_is_made_on_the_validation_split_alone(sweep_again, tmp_path):
    before, (best, *_) = table_of(tmp_path), rows_of(tmp_path)[0]
    scores = []
    for seed in (0, 1):
        scores.append(measured(run_of(tmp_path, best, seed), "validation")[4])
        # What the test split says is not looked at: of the others it is made perfect.
        for row in rows_of(tmp_path)[1:]:
            for path in run_of(tmp_path, row[0], seed).glob("evaluations/*-test-*.json"):
                stored = json.loads(path.read_text())
                for stage in stored["stages"]:
                    stage["success"]["mean"] = stage["episode_return"]["mean"] = 1.0
                path.write_text(json.dumps(stored))
                path.with_suffix(".npz").unlink()

    again = sweep_again().succeeds()
    assert chosen(again).startswith(f"chosen on the validation split: {best} ")
    assert table_of(tmp_path) == before
    mean = sum(each["episode_return"]["mean"] for each in scores) / 2
    assert rows_of(tmp_path)[0][6].startswith(f"{mean:.2f} [")
    assert "judged by success" in table_of(tmp_path)


def test_an_evaluation_that_was_made_by_hand_changes_no_choice(sweep_again, meta_rl, tmp_path):
    before = table_of(tmp_path)
    for number, *_ in rows_of(tmp_path)[-2:]:
        words = ("--split", "validation", "--actions", "deterministic", "--goals", 1)
        meta_rl("evaluate", run_of(tmp_path, number), *words).succeeds()
    sweep_again().succeeds()
    assert table_of(tmp_path) == before


def test_a_sweep_that_was_moved_or_renamed_goes_on_where_it_is(
    sweep_again, meta_rl, in_process, config, tmp_path
):
    before = table_of(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runs" / "s").rename(tmp_path / "elsewhere" / "t")
    sweep_again("--runs", "elsewhere", "--name", "t").succeeds()
    assert not in_process.started and not (tmp_path / "runs/s").exists()
    assert (tmp_path / "elsewhere/t/table.md").read_text() == before


def test_a_trial_is_chosen_by_all_of_its_seeds(meta_rl, config, in_process, tmp_path, monkeypatch):
    once = ("--seeds", 2, "--meta-iterations", 1, "--processes", 1)
    words = ("sweep", config, *FEW, "--name", "s", *once)
    meta_rl(*words).succeeds()
    before, (best, other) = table_of(tmp_path), [row[0] for row in rows_of(tmp_path)]
    run = run_of(tmp_path, best, seed=1)
    (lost,) = run.glob("evaluations/*-validation-*.json")
    lost.unlink()
    with monkeypatch.context() as patch:  # as if it could not be measured
        patch.setattr(Trial, "next", lambda trial, all_seeds: None)
        assert f"split: {other} " in chosen(meta_rl(*words).succeeds())
    meta_rl(*words).succeeds()
    assert in_process.resumed == [str(run.relative_to(tmp_path))]
    assert table_of(tmp_path) == before


def test_trials_of_different_lengths_are_judged_at_their_own_ends(
    meta_rl, in_process, config, tmp_path
):
    words = ("sweep", config, "--vary", "meta_iterations=1,3,2", "--name", "s", "--processes", 1)
    told = meta_rl(*words).succeeds()
    rows = rows_of(tmp_path)
    assert [row[2:4] for row in rows] == [["finished", "1"]] * 3
    ends = {}
    for number, end in enumerate((1, 3, 2)):
        ends[number] = measured(run_of(tmp_path, number), "validation")[end]
    best = max(ends, key=lambda each: [ends[each][name]["mean"] for name in SCORES])
    assert int(rows[0][0]) == best and f"split: {best:03} " in chosen(told)

    (path,) = run_of(tmp_path, 0).glob("evaluations/*-validation-*.json")
    found = EvalResult.load(path)
    perfect = {name: np.ones_like(cells) for name, cells in found.scores.items()}
    replace(found, scores=perfect).save_as(path)  # now the shortest is the best
    assert "split: 000 " in chosen(meta_rl(*words).succeeds())
    assert rows_of(tmp_path)[0][0] == "000"


def test_a_dry_run_counts_and_estimates_and_makes_nothing(meta_rl, in_process, config, tmp_path):
    words = ("sweep", config, *FEW, "--vary", "copies=3", "--seeds", 2, "--name", "s")
    told = meta_rl(*words, "--processes", 1, "--dry-run").succeeds().out
    assert "trials 2 × seeds 2 = runs 4, in runs/s" in told
    assert "by a probe of 2 meta-iterations: " in told
    assert not in_process.started and not (tmp_path / "runs").exists()
    # 4 iterations × 2 tasks × 3 copies × 2 phases × 5 steps; and, of as many stages and copies, 2
    # test goals once and 2 validation goals after each iteration.
    cells = [cell.strip() for cell in told.splitlines()[4].strip("│").split("│")]
    assert cells == ["000", "0.01", "3", "240", f"{(2 + 4 * 2) * 3 * 2 * 5}"]


def test_a_dry_run_goes_by_what_is_there(sweep_again, in_process, tmp_path):
    shutil.rmtree(run_of(tmp_path, rows_of(tmp_path)[0][0], seed=1))
    before = sorted((tmp_path / "runs").rglob("*"))
    told = sweep_again("--dry-run").succeeds().out
    runs = len(list((tmp_path / "runs/s").glob("*-seed?")))
    assert f"by {runs} runs of it, evaluations included: " in told
    assert "finished already" in told and sorted((tmp_path / "runs").rglob("*")) == before


def test_what_no_trial_could_draw_is_told_before_anything_starts(
    meta_rl, in_process, small_config, tmp_path
):
    pole = {"name": "gymnasium", "id": "CartPole-v1", "horizon": 5, "train_tasks": 4}
    pole |= {"vary": [{"attribute": "length", "scale": [0.5, 2.0]}]}
    config = small_config("maml_ppo", envs=pole)
    words = ("--vary", "meta_batch_size=2,6", "--seeds", 1)
    meta_rl("sweep", config, *words).fails_with("6 tasks are more than the 4 train tasks")
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--vary copies=2,3", "would be measured differently (adaptation_episodes: 2 / 3; "),
        ("--seed 3", "give --seeds instead of --seed"),
        ("--evaluation.choose-on test", "a sweep chooses on the validation split, but evaluation"),
        ("--early-stopping asha --evaluation.every 4", "give fewer than --meta-iterations 4, got"),
        ("--reduction 1", "--reduction must be at least 2, got 1"),
        ("--reduction 2", "--reduction is for --early-stopping asha: give both"),
        ("--search-seed 1", "--search-seed is for --search random or tpe: give both"),
        ("--address auto", "--address is for --backend ray: give both"),
        ("--trials 0", "--trials must be at least 1, got 0"),
        ("--name a/b", "name must be a plain folder name"),
        ("--agent.hidden-sizes 8 --agent.minibatches 1 --copies 0", "copies must be at least 1"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(meta_rl, in_process, config, words, message):
    given = words.split()
    if "--vary" not in given:
        given += FEW
    meta_rl("sweep", config, *given).fails_with(message)
    assert not in_process.started and not Path("runs").exists()


def test_a_folder_holds_one_sweep(sweep_again):
    sweep_again("--agent.epochs", 3).fails_with(
        "runs/s holds another sweep (config.agent.epochs 2, not 3); choose another --name, or"
    )


def test_trials_that_were_measured_by_other_packages_are_not_chosen_between(
    sweep_again, tmp_path, monkeypatch
):
    sweep_again().succeeds()
    protocol_of = PointNavigation.protocol
    monkeypatch.setattr(PointNavigation, "protocol", lambda of: {**protocol_of(of), "n": 2})
    sweep_again().fails_with("holds trials that were measured otherwise")


def test_a_trial_that_fails_is_told_and_the_others_go_on(meta_rl, in_process, config, tmp_path):
    words = ("sweep", config, *FEW, "--early-stopping", "asha", "--name", "s")
    thesis = run_of(tmp_path, 0) / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.touch()
    (run_of(tmp_path, 1) / "checkpoints").mkdir(parents=True)  # by a kill before the first one
    outcome = meta_rl(*words)
    assert outcome.code == 1 and "failed: 000; the same command tries again" in outcome.out
    assert [row[2] for row in rows_of(tmp_path)] == ["finished", "failed"]
    assert thesis.exists()


def test_a_rung_that_could_not_be_measured_is_the_worst_and_the_sweep_goes_on(
    sweep_again, tmp_path
):
    """As after an evaluation that failed, which costs a run nothing else."""
    (best, *_) = rows_of(tmp_path)[0]
    for path in run_of(tmp_path, best).glob("evaluations/*-validation-*"):
        if path.suffix == ".json" and json.loads(path.read_text())["meta_iterations"] == 1:
            path.unlink()
            path.with_suffix(".npz").unlink()
    outcome = sweep_again().succeeds()
    assert "waits" not in {row[2] for row in rows_of(tmp_path)}
    assert chosen(outcome)


def test_a_sweep_goes_on_with_settings_that_it_did_not_know_when_it_began(sweep_again, tmp_path):
    file = tmp_path / "runs/s/sweep.yaml"
    stored = yaml.safe_load(file.read_text())
    del stored["config"]["agent"]["before_weight"]
    file.write_text(yaml.safe_dump(stored))
    sweep_again().succeeds()
    file.write_text("")
    sweep_again().fails_with("runs/s/sweep.yaml is damaged")


@pytest.mark.slow
def test_wandb_has_all_runs_in_one_group(meta_rl, in_process, config):
    meta_rl(
        "sweep", config, *FEW, "--name", "s", "--tracking.mode", "offline", "--meta-iterations", 1
    ).succeeds()
    folders = sorted(Path("runs/s").glob("*/wandb/offline-run-*"))
    found = [run for folder in folders for run in records(folder)["run"]]
    assert [run["display_name"] for run in found] == ["s-000-seed0", "s-001-seed0"]
    assert {run["run_group"] for run in found} == {"s"}


def test_seeds_are_shown_as_one_group_and_go_on_but_as_no_other_experiment(
    meta_rl, in_process, config
):
    words = ("train", config, "--seeds", "1:3", "--name", "mine", "--processes", 1)
    in_process.kill(2, meta_iterations=3)
    with pytest.raises(in_process.Killed):
        meta_rl(*words)
    outcome = meta_rl(*words).succeeds()
    assert in_process.begun == ["mine-seed1", "mine-seed2"]
    assert in_process.resumed == ["runs/mine-seed2"]
    assert "1 of 2 runs are finished already" in outcome.out
    rows = [line for line in outcome.out.splitlines() if line.startswith("│ mine ")]
    assert rows and all(line.split("│")[2].strip() == "2" for line in rows)

    meta_rl(*words, "--agent.inner-lr", 0.7).fails_with(
        "runs/mine-seed1 was begun with other settings (agent.inner_lr 0.1, not 0.7); choose"
    )
    meta_rl(*words, "--meta-iterations", 5).succeeds()  # their end may move
    assert in_process.resumed[1:] == ["runs/mine-seed1", "runs/mine-seed2"]


def test_flags_that_may_be_other_reach_the_runs_that_go_on(meta_rl, in_process, config):
    words = ("train", config, "--seeds", "1", "--name", "mine", "--processes", 1)
    meta_rl(*words).succeeds()
    changed = ("--checkpoint-every", 2, "--rollouts.no-cuda-graph", "--tracking.tags", "a", "b")
    meta_rl(*words, "--meta-iterations", 5, *changed).succeeds()
    given = in_process.started[-1]
    assert given[:2] == ["--resume", "runs/mine-seed0"]
    assert given[given.index("--checkpoint-every") + 1] == "2"
    tags = given.index("--tracking.tags")
    assert given[tags + 1 : tags + 3] == ["a", "b"]


def test_an_evaluation_by_another_protocol_is_no_end_of_a_run(meta_rl, in_process, config):
    words = ("train", config, "--seeds", "1", "--name", "mine", "--processes", 1)
    meta_rl(*words).succeeds()
    for path in Path("runs/mine-seed0/evaluations").glob("*-test-*"):
        path.unlink()
    meta_rl("evaluate", "runs/mine-seed0", "--goals", 1, "--actions", "deterministic").succeeds()
    told = meta_rl(*words).succeeds().out
    assert "finished already" not in told and in_process.resumed == ["runs/mine-seed0"]


def test_a_run_that_was_killed_between_its_last_evaluation_and_its_checkpoint_goes_on(
    meta_rl, in_process, small_config
):
    evaluation = {"every": 1, "goals": 2, "choose_on": "test"}
    config = small_config("maml_ppo", meta_iterations=2, evaluation=evaluation)
    words = ("train", config, "--seeds", "1", "--name", "mine", "--processes", 1)
    latest = Path("runs/mine-seed0/checkpoints/latest.pt")
    meta_rl(*words, "--meta-iterations", 1).succeeds()
    before = latest.read_bytes()
    meta_rl(*words).succeeds()
    latest.write_bytes(before)
    assert "finished already" not in meta_rl(*words).succeeds().out
    assert checkpoint.load(latest)["meta_iterations"] == 2


def test_a_run_whose_checkpoint_was_removed_is_not_trained_anew(meta_rl, in_process, config):
    words = ("train", config, "--seeds", "1", "--name", "mine", "--processes", 1)
    meta_rl(*words).succeeds()
    Path("runs/mine-seed0/checkpoints/latest.pt").unlink()
    meta_rl(*words).fails_with(
        "runs/mine-seed0 has made 4 meta-iterations, but its latest checkpoint"
    )
    assert len(in_process.started) == 1


def test_rollouts_on_ray_are_hired_by_one_training_at_a_time(meta_rl, in_process, config):
    words = ("train", config, "--seeds", "2", "--rollouts.backend", "ray")
    meta_rl(*words, "--processes", 2).fails_with("would hire Ray's whole cluster")
    experiment = experiment_of(str(config), ["--rollouts.backend", "ray", "--workers", "0"], "test")
    places = Places.of(Here(), 0, experiment, runs=2)
    training = places.training_of(experiment, [str(config)])
    assert places.at_a_time == 1
    assert "--workers" not in training.begin  # which would be cores of every machine


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--seeds", "--seeds must be like 5, 0:5 or 0,3,7"),
        ("--seeds 3:1", "--seeds 3:1 names no seed"),
        ("--seeds 2 --seed 1", "--seeds and --seed do not go together"),
        ("--seeds 2 --address auto", "--address is for --backend ray: give both"),
        ("--seeds 99999999999999999999", "names more than 10000 seeds, a process each"),
        ("--seeds 2 --overwrite", "--seeds and --overwrite do not go together"),
        ("--seeds 2 --processes many", "--processes must be a whole number, at least 0, got"),
        ("--seeds 2 --meta-iterations 0", "meta_iterations must be at least 1, got 0"),
    ],
)
def test_seeds_that_make_no_sense_are_refused(meta_rl, in_process, config, words, message):
    meta_rl("train", config, *words.split()).fails_with(message)
    assert not in_process.started
