import json
import shutil
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from patience import PATIENCE_S

from meta_rl.commands._flags import experiment_of
from meta_rl.commands.cli import COMMANDS, usage
from meta_rl.core.errors import UserError
from meta_rl.experiment import catalog
from meta_rl.runs import checkpoint


def test_help_and_lists_need_no_torch(environment, tmp_path):
    script = """
import sys
from meta_rl.commands.cli import main
for words in ([], ["--help"], ["help"], ["--version"], ["train"], ["train", "--help"],
              ["list"], ["list", "--help"], ["list", "agents"], ["list", "envs"],
              ["list", "configs"], ["trian"]):
    main(words)
heavy = {"torch", "numpy", "gymnasium", "metaworld", "mujoco", "wandb", "scipy"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
"""
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        check=True,
        timeout=PATIENCE_S,
    )


def test_no_command_prints_the_usage_and_fails(meta_rl):
    assert meta_rl().code == 2
    assert meta_rl("--help").succeeds().out == usage() + "\n"
    for command in COMMANDS:
        assert command in usage()
    assert meta_rl("--version").succeeds().out.startswith("meta-rl ")


@pytest.mark.parametrize("command", [*COMMANDS])
def test_every_command_has_help(meta_rl, command):
    assert f"usage: meta-rl {command}" in meta_rl(command, "--help").succeeds().out


def test_a_list_of_nothing_is_empty(meta_rl, monkeypatch):
    monkeypatch.setattr(catalog, "pretrained_names", list)
    assert meta_rl("list", "pretrained").succeeds().out == ""


def test_lists_name_everything_with_a_sentence(meta_rl):
    for kind in ("agents", "envs"):
        lines = meta_rl("list", kind).succeeds().out.splitlines()
        listed = dict(line.split("  ", 1) for line in lines)
        assert list(map(str.strip, listed)) == catalog.names(kind)
        assert all(text.strip() for text in listed.values())
    listed = dict(line.split("  ", 1) for line in meta_rl("list", "configs").out.splitlines())
    assert list(map(str.strip, listed)) == catalog.config_names()
    assert all(text.strip() for text in listed.values())


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        (
            "trian x",
            ["no command 'trian'; did you mean 'train'? There are: train, sweep, evaluate"],
        ),
        ("train SMALL --from=", ["--from needs a run folder, got nothing"]),
        ("train SMALL --from", ["--from needs a run folder, got nothing"]),
        ("train SMALL --from a --start-from b", ["--from is short for --start-from; give one"]),
        ("train SMALL --threads 100000000", ["threads must be at most", "got 100000000"]),
        (f"evaluate {'x' * 300}", ["File name too long", "(--debug shows where)"]),
        ("train SMALL --seeds 0:1000000000000", ["names more than 10000 seeds"]),
        ("list agent", ["no list of 'agent'; did you mean 'agents'? There are: agents, envs"]),
        ("train nothing_like_it", ["no 'nothing_like_it' in configs/", "there are: "]),
        ("train point_navigation_rl2", ["did you mean 'point_navigation_rl2_ppo'?"]),
        ("train none.yaml", ["no config file 'none.yaml'; `meta-rl list configs` shows"]),
        ("train --seed 1", ["the config comes first: meta-rl train CONFIG"]),
        ("train --resume", ["--resume needs a run folder"]),
        ("train SMALL --resume none", ["--resume comes first and takes no config"]),
        ("report none --output page.pdf", ["--output must end in .html, got 'page.pdf'"]),
        ("train --resume none --overwrite", ["--resume continues a run and --overwrite replaces"]),
        ("train SMALL --processes 2", ["--processes is for several trainings: add --seeds"]),
        ("train SMALL --backend=ray", ["--backend is for several trainings: add --seeds"]),
        ("train --resume none", ["no run folder none"]),
        ("train SMALL --agent.name maml_trop", ["did you mean 'maml_trpo'? There are: "]),
        ("train SMALL --envs.name=point_navgation", ["did you mean 'point_navigation'?"]),
        ("train SMALL --envs.name metaworld --envs.benchmark ML11", ["did you mean 'ML1", "ML45"]),
        ("train SMALL --envs.name metaworld --envs.task raech-v3", ["did you mean 'reach-v3'?"]),
        (
            "train SMALL --envs.name metaworld --meta-batch-size 51",
            ["meta_batch_size 51 is more than the 50 train tasks of ML1; lower meta_batch_size"],
        ),
        ("train SMALL --meta-batch-size 0", ["meta_batch_size must be at least 1, got 0"]),
        ("train SMALL --agent.inner-lr -1", ["agent.inner_lr must be above 0, got -1.0"]),
        ("train SMALL --envs.horizon 0", ["envs.horizon must be at least 1, got 0"]),
        ("train SMALL --device tpu", ["device must be cpu, cuda or cuda:N, got 'tpu'"]),
        ("train SMALL --device cuda:x", ["device must be cpu, cuda or cuda:N, got 'cuda:x'"]),
        ("train SMALL --name a/b", ["name must be a plain folder name", "got 'a/b'"]),
        ("train SMALL --runs SMALL", ["cannot write the run folder", "choose another with --runs"]),
        ("train SMALL --runs /proc/none", ["cannot write the run folder /proc/none/small"]),
        ("train SMALL --plugin", ["--plugin needs a module: --plugin package.module"]),
        ("--plugin nowhere.agent train SMALL", ["cannot find the plugin 'nowhere.agent'"]),
        ("train SMALL --plugin nowhere.agent", ["cannot find the plugin 'nowhere.agent'"]),
        ("train SMALL --agent.name os.path", ["allow it with --plugin os.path"]),
        ("evaluate none", ["no run folder none"]),
        ("evaluate .", [". is not a run folder: it has no config.yaml"]),
        ("adapt none --task point", ["no run folder none"]),
        ("compare", ["name at least one run folder: meta-rl compare RUN RUN"]),
        ("compare none", ["no run folder none"]),
        ("compare none --metrics x", ["--metrics is for the learning curves of --figures"]),
        ("compare none --output x.png", ["'x.png' must end in .md, .csv, .tex", "--figures FOLD"]),
        ("compare .", [". is not a run folder: it has no config.yaml"]),
    ],
)
def test_a_mistake_is_answered_with_one_message_that_helps(meta_rl, small_config, words, phrases):
    path = small_config()
    outcome = meta_rl(*words.replace("SMALL", str(path)).split())
    assert outcome.code == 1
    outcome.fails_with(*phrases)


@pytest.mark.parametrize(
    ("content", "phrases"),
    [
        ("agent: [", ["cannot read mine.yaml"]),
        ("- 1", ["mine.yaml must hold `key: value` lines such as `agent: {name: maml_trpo}`"]),
        ("{agent: {name: maml_ppo}, envs: {name: metaworld}, sed: 1}", ["did you mean 'seed'?"]),
        ("{agent: {name: maml_ppo, epoch: 1}, envs: {name: metaworld}}", ["did you mean 'epochs'"]),
        ("{agent: {name: maml_ppo}, envs: {name: metaworld}, seed: x}", ["be an int, got 'x'"]),
        ("{agent: {name: maml_ppo}, envs: {name: metaworld}, version: 9}", ["of version 9, but"]),
    ],
)
def test_a_bad_config_file_is_named(meta_rl, tmp_path, content, phrases):
    (tmp_path / "mine.yaml").write_text(content)
    meta_rl("train", "mine.yaml").fails_with("mine.yaml", *phrases)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        "train SMALL --sed 1",
        "train SMALL --seed x",
        "evaluate runs/small --goal 1",
        "adapt",
        "doctor",
        "doctor SMALL --iterations x",
    ],
)
def test_tyro_explains_flags_that_do_not_exist(meta_rl, small_config, words):
    outcome = meta_rl(*words.replace("SMALL", str(small_config())).split())
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert outcome.err


def test_help_texts_have_no_line_breaks_of_the_source(meta_rl, small_config, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # one panel below the other
    told = meta_rl("train", small_config(), "--help").out
    lines = [line if line[1:8].isspace() else "" for line in told.splitlines()]  # texts alone
    both = [(line, after.split()[0]) for line, after in pairwise(lines) if line and after.strip()]
    assert len(both) > 50
    early = [line for line, word in both if len(line.rstrip()) + 1 + len(word) < len(line)]
    assert early == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="the message is for machines without a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_the_old_run_is_replaced(meta_rl, run):
    words = ("train", "runs/small/config.yaml", "--overwrite", "--device", "cuda")
    meta_rl(*words).fails_with("sees no CUDA GPU; use --device cpu")
    assert run.latest["meta_iterations"] == 2
    meta_rl("evaluate", "runs/small", "--device", "cuda:1").fails_with("device cuda:1 was asked")


def test_a_run_folder_is_replaced_only_on_request(meta_rl, run):
    config = run.path / "config.yaml"
    copy = run.path.parent / "copy.yaml"
    shutil.copy(config, copy)

    meta_rl("train", copy, "--runs", "runs").fails_with(
        "runs/small exists already; continue it with `meta-rl train --resume runs/small`, choose "
        "another --name, or replace it with --overwrite"
    )
    (run.path / "metrics.jsonl").unlink()
    meta_rl("train", copy, "--runs", "runs", "--overwrite").succeeds()
    assert run.latest["meta_iterations"] == 2 and len(run.rows) == 3


@pytest.mark.parametrize("files", [["thesis.tex"], ["config.yaml", "thesis.tex"]])
def test_overwrite_never_deletes_what_is_not_a_run(meta_rl, small_config, tmp_path, files):
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    meta_rl("train", small_config(), "--overwrite").fails_with(
        "runs/small is not a run folder, so it is not overwritten"
    )
    assert sorted(path.name for path in folder.iterdir()) == files

    (tmp_path / "runs" / "file").touch()
    meta_rl("train", small_config(), "--overwrite", "--name", "file").fails_with(
        "cannot write the run folder runs/file"
    )
    assert (tmp_path / "runs" / "file").is_file()


@pytest.mark.parametrize(
    "command", ["train --resume RUN", "evaluate RUN", "adapt RUN --task point"]
)
def test_a_damaged_checkpoint_is_refused(meta_rl, run, command):
    latest = run.path / "checkpoints" / "latest.pt"
    words = command.replace("RUN", "runs/small").split()

    latest.write_bytes(latest.read_bytes()[:-100])
    told = "latest.pt is cut short or damaged"
    meta_rl(*words).fails_with(told, "best.pt lies beside it: evaluate, adapt and render take")

    torch.save({"theta": torch.zeros(3)}, latest)
    meta_rl(*words).fails_with("latest.pt is not a 'meta-rl checkpoint 1'")

    checkpoint.save({"context": {}, "agent": {}}, latest)
    meta_rl(*words).fails_with("not a training checkpoint, but an adapted policy")

    latest.unlink()
    meta_rl(*words).fails_with("no checkpoint runs/small/checkpoints/latest.pt; has the run made")


def test_what_a_checkpoint_was_trained_on_cannot_be_changed(meta_rl, run):
    for flags in ("--envs.horizon 6", "--agent.inner-lr 0.7"):
        meta_rl("train", "--resume", "runs/small", *flags.split()).fails_with(
            "a resumed run keeps its", "Start a new run to change more"
        )
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("name: maml_trpo", "name: os.path"))
    meta_rl("evaluate", "runs/small").fails_with("allow it with --plugin os.path")
    config.write_text("- damaged")
    meta_rl("evaluate", "runs/small").fails_with("config.yaml is damaged")


def test_adapt_knows_the_tasks_and_goals(meta_rl, run):
    adapt = ("adapt", "runs/small", "--task")
    meta_rl(*adapt, "piont").fails_with("did you mean 'point'? There are: point")
    meta_rl(*adapt, "point", "--goal", 9).fails_with("no goal 9 of point in the test split; it has")
    meta_rl(*adapt, "point", "--rounds", 0).fails_with("--rounds must be at least 1, got 0")
    meta_rl(*adapt, "point", "--episodes", 0).fails_with("--episodes must be at least 1, got 0")
    meta_rl(*adapt, "point", "--seed", -1).fails_with("--seed must be at least 0, got -1")
    meta_rl(*adapt, "point", "--freeze-memory").fails_with("maml_trpo has no memory that learns")
    meta_rl(*adapt, "point", "--change-how", "drift").fails_with("--change-how is for tasks")
    meta_rl(*adapt, "point", "--output", "runs/small/config.yaml/x.pt").fails_with(
        "cannot write", "choose another --output"
    )


def test_what_no_memory_holds_is_told_in_a_line(meta_rl, small_config, tmp_path):
    config = small_config(runs=str(tmp_path / "new"))
    vast = ("train", config, "--agent.hidden-sizes", 10**7, 10**7)
    meta_rl(*vast).fails_with("out of memory (", "can't allocate", "smaller networks")
    meta_rl("train", config, "--envs.test-goals", 10**12).fails_with(
        "envs.test_goals must be at most 1000000, got 1000000000000"
    )
    assert not (tmp_path / "new").exists()


def test_evaluate_refuses_bad_numbers(meta_rl, run):
    for words, told in {
        "--copies 0": "evaluation.copies must be at least 1, got 0",
        "--evaluation-episodes 0": "evaluation.evaluation_episodes must be at least 1, got 0",
        "--seed -1": "evaluation.seed must be at least 0, got -1",
        "--tasks-at-once 0": "--tasks-at-once must be at least 1, got 0",
        "--workers -1": "workers must be at least 0, got -1",
        "--checkpoint newest": "checkpoint must be latest, best or a .pt file, got 'newest'",
        "--checkpoint none.pt": "no checkpoint none.pt",
        "--counted-by metaworld --by-task": "leave out --by-task and --output",
        "--counted-by metaworld --output there": "leave out --by-task and --output",
        "--changes 3": "--changes is for tasks that change, and here they do not; add",
        "--change-every 2-episodes": "change.every must be never, a whole number of episodes",
        "--counted-by metaworld": "of the family point_navigation, which offers no other count;",
    }.items():
        meta_rl("evaluate", "runs/small", *words.split()).fails_with(told)


def test_compare_refuses_different_protocols_and_names_them(meta_rl, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "runs" / "other")
    both = ("compare", "runs/small", "runs/other")
    told = meta_rl(*both).succeeds().out
    assert "small" in told and "other" in told and (tmp_path / "runs/comparison.png").exists()

    shared = list((tmp_path / "runs" / "other" / "evaluations").iterdir())
    meta_rl("evaluate", "runs/other", "--copies", 3).succeeds()
    told = meta_rl(*both).succeeds().out  # by the protocol that both were measured by
    assert f"other: of 2 evaluations takes {shared[0].stem}" in told
    for path in shared:
        path.unlink()
    meta_rl(*both).fails_with(
        "different protocols (adaptation_episodes: 2 / 3; evaluation_episodes: 2 / 3); evaluate "
        "them alike, or pass --allow-different-protocols"
    )
    allowed = meta_rl(*both, "--allow-different-protocols").succeeds()
    assert "warning: different protocols, not comparable: adaptation_episodes: 2 / 3" in allowed.out

    meta_rl("compare", "runs/small", "--split", "train").fails_with(
        "runs/small has no evaluation on train tasks with sampled actions; make one with"
    )
    blocked = "runs/comparison.png/x"
    meta_rl("compare", "runs/small", "--figures", blocked).fails_with(
        f"cannot write {blocked}/adaptation.png", "choose another --figures"
    )
    meta_rl("compare", "runs/small", "--output", f"{blocked}.md").fails_with(
        f"cannot write {blocked}.md", "choose another --output"
    )
    (found,) = (run.path / "evaluations").glob("*.json")
    found.write_text("{}")
    meta_rl("compare", "runs/small").fails_with("cannot read the evaluation", "make it again")


def test_evaluate_writes_what_it_prints(meta_rl, run):
    words = (
        "--split",
        "train",
        "--actions",
        "deterministic",
        "--goals",
        2,
        "--adaptation-steps",
        0,
    )
    outcome = meta_rl("evaluate", "runs/small", *words).succeeds()
    (path,) = (run.path / "evaluations").glob("*-train-deterministic-*.json")
    summary = json.loads(path.read_text())
    assert (summary["tasks"], len(summary["stages"])) == (2, 1)
    assert summary["fingerprint"] in outcome.out and path.name in outcome.out


def test_evaluate_shows_each_goal_for_both_kinds_of_actions(meta_rl, run):
    words = ("--actions", "both", "--evaluation-episodes", 3, "--by-task", "--threads", 1)
    outcome = meta_rl("evaluate", "runs/small", *words, "--workers", 1).succeeds()
    for kind in ("sampled", "deterministic"):
        found = (run.path / "evaluations").glob(f"*-test-{kind}-*.json")
        (summary,) = (
            summary
            for path in found
            if (summary := json.loads(path.read_text()))["protocol"]["evaluation_episodes"] == 3
        )
        assert f"{kind} actions" in outcome.out and summary["fingerprint"] in outcome.out
        assert [(row["task"], row["goal"]) for row in summary["by_task"]] == [
            ("point", goal) for goal in range(3)
        ]
        for row in summary["by_task"]:
            shown = [f"{value:.2f}" for value in (*row["episode_return"], *row["success"])]
            assert any(all(cell in line for cell in shown) for line in outcome.out.splitlines())
        for stage, row in enumerate(summary["stages"]):
            by_task = [each["episode_return"][stage] for each in summary["by_task"]]
            assert sum(by_task) / 3 == pytest.approx(row["episode_return"]["mean"])
    assert not list((run.path / "evaluations").glob("partial-*"))


def test_evaluate_takes_a_checkpoints_file(meta_rl, run, tmp_path):
    kept = tmp_path / "kept.pt"
    shutil.move(run.path / "checkpoints" / "latest.pt", kept)
    outcome = meta_rl("evaluate", "runs/small", "--checkpoint", kept, "--seed", 3).succeeds()
    path = run.path.parent.parent / outcome.out.split("written to ")[1].strip()
    summary = json.loads(path.read_text())
    assert (summary["checkpoint"], summary["seed"]) == (str(kept), 3)


@pytest.mark.parametrize(
    ("envs", "split", "advice"),
    [
        ({}, "train", "train with --evaluation.choose-on validation"),
        ({}, "test", None),
        ({"name": "t_maze", "horizon": 3}, "test", "there are no others, so measure the latest"),
    ],
)
def test_a_checkpoint_that_was_selected_on_what_measures_it_is_warned_of(
    meta_rl, small_config, envs, split, advice
):
    choosing = {"every": 1, "choose_on": "train"}
    config = small_config("rl2_ppo", envs=envs, evaluation=choosing, meta_iterations=1)
    meta_rl("train", config).succeeds()
    told = meta_rl("evaluate", "runs/small", "--checkpoint", "best", "--split", split).succeeds()
    assert ("chosen as the best on the same train tasks" in told.out) == (advice is not None)
    assert advice is None or advice in told.out


WAITS_AFTER_THREE = """
import sys, time
from meta_rl.evaluation.partial import Cells
fill = Cells.fill
def fill_and_wait(self, rows, scores):
    fill(self, rows, scores)
    if self.measured.sum() == 3:
        print("MEASURED", flush=True)
        time.sleep(3600)
Cells.fill = fill_and_wait
from meta_rl.commands.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""`meta-rl` whose evaluation does not end before a signal comes."""


def test_a_stopped_evaluation_goes_on_to_the_identical_result(
    meta_rl, python_process, small_config, tmp_path
):
    envs = {"name": "point_navigation", "horizon": 20, "test_goals": 30}
    config = small_config(envs=envs, meta_iterations=1, meta_batch_size=1)
    meta_rl("train", config).succeeds()  # and evaluates one task at a time
    folder = tmp_path / "runs" / "small" / "evaluations"
    words = ("evaluate", "runs/small", "--tasks-at-once", 1)
    (cells,) = folder.glob("*.npz")
    with np.load(cells) as read:
        expected = dict(read)
    cells.unlink()

    process = python_process("-c", WAITS_AFTER_THREE, *words)
    while "MEASURED" not in (line := process.stdout.readline()):
        assert line, process.communicate()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert told == "meta-rl: stopped; the same command goes on after the tasks that were measured\n"
    (found,) = folder.glob("partial-*.npz")
    with np.load(found) as read:
        assert read["measured"].sum() == 3

    outcome = meta_rl(*words).succeeds()
    assert f"going on from {found.relative_to(tmp_path)}" in outcome.out
    assert not list(folder.glob("partial-*"))
    with np.load(cells) as read:
        assert read.keys() == expected.keys()
        for name, column in expected.items():
            np.testing.assert_array_equal(read[name], column)


def test_the_default_name_tells_config_and_seed(meta_rl, small_config, tmp_path):
    path = small_config(name=None, meta_iterations=1)
    meta_rl("train", path, "--seed", 3).succeeds()
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == ["small-seed3"]


def test_an_empty_name_is_the_default_and_never_the_folder_of_all_runs(small_config):
    flags = ["--seed", "3", "--name", ""]
    assert experiment_of(str(small_config()), flags, "train").name == "small"
    assert experiment_of(str(small_config(name=None)), flags, "train").name == "small-seed3"


@pytest.mark.parametrize("word", ["none", "null", "None"])
def test_a_flag_takes_none_as_help_texts_and_configs_write_it(word):
    flags = ["--agent.target-kl", word]
    assert experiment_of("ml1_reach_maml_ppo", flags, "test").agent.target_kl is None
    flags = [f"--agent.target-kl={word}", "--name", word]
    experiment = experiment_of("ml1_reach_maml_ppo", flags, "test")
    assert experiment.agent.target_kl is None and experiment.name == word  # a name is text


def test_debug_shows_the_traceback(meta_rl, meta_rl_process):
    with pytest.raises(UserError, match="no 'none' in configs/"):
        meta_rl("train", "none", "--debug")

    plain, debug = meta_rl_process("train", "none"), meta_rl_process("train", "none", "--debug")
    _, message = plain.communicate(timeout=PATIENCE_S)
    _, traceback = debug.communicate(timeout=PATIENCE_S)
    assert (plain.returncode, debug.returncode) == (1, 1)
    assert message.startswith("meta-rl: no 'none' in configs/") and message.count("\n") == 1
    assert traceback.startswith("Traceback") and "UserError: no 'none'" in traceback


def test_a_reader_that_goes_away_is_no_error(environment):
    command = f"{sys.executable} -m meta_rl.commands.cli list configs | true"
    outcome = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], env=environment, capture_output=True, text=True
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_a_policy_does_not_take_the_place_of_a_run_s_own_files(meta_rl, run):
    latest = run.path / "checkpoints" / "latest.pt"
    before = latest.read_bytes()
    adapt = ("adapt", run.path, "--task", "point", "--goal", 0, "--output")
    for name in ("checkpoints/latest.pt", "metrics.pt"):
        meta_rl(*adapt, run.path / name).fails_with("would lie among the files of the run")
    assert latest.read_bytes() == before and (run.path / "metrics.jsonl").exists()


def test_what_fails_before_it_plays_leaves_an_earlier_log(meta_rl, run, tmp_path):
    output = tmp_path / "kept.pt"
    meta_rl("adapt", run.path, "--task", "point", "--goal", 0, "--output", output).succeeds()
    log = output.with_suffix(".jsonl").read_text()
    meta_rl("adapt", run.path, "--env", "no_such.py:Crash", "--output", output).fails_with(
        "no file"
    )
    assert output.with_suffix(".jsonl").read_text() == log


def test_another_run_s_checkpoint_is_not_measured_as_this_one_s(
    meta_rl, small_config, run, tmp_path
):
    meta_rl("train", small_config(), "--seed", 1, "--name", "other").succeeds()
    theirs = tmp_path / "runs" / "other" / "checkpoints" / "latest.pt"
    meta_rl("evaluate", run.path, "--checkpoint", theirs).fails_with(
        "the checkpoint is of another run: its seed is 1, not 0"
    )
