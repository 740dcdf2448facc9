"""What commands that read runs have in common: devices, evaluations, what is no run, outputs."""

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from patience import PATIENCE_S

from meta_rl.commands import _help, _vocabulary, evaluate
from meta_rl.core import protocols
from meta_rl.evaluation.folder import Evaluations
from meta_rl.evaluation.life_plan import LEARNING
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment import building
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trained import load_trained

ADAPT = ("adapt", "runs/small", "--task", "point", "--rounds", 1)


def evaluation(run):
    (path,) = (run.path / "evaluations").glob("*.json")
    return path


def change(path, **fields):
    """Change fields of an evaluation's summary; None takes one away."""
    summary = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: v for name, v in summary.items() if v is not None}))


def another(path, name, **fields):
    """Put another evaluation beside one."""
    for ending in (".json", ".npz"):
        shutil.copy(path.with_suffix(ending), path.with_name(name + ending))
    change(path.with_name(name + ".json"), **fields)
    return path.with_name(name + ".json")


def set_field(run, **fields):
    path = run.path / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | fields))


def test_the_splits_of_flags_are_those_of_task_distributions():
    assert _vocabulary.Split == protocols.Split


# Devices


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "runs/small", "--adaptation-steps", 0, "--goals", 1),
        ADAPT,
        ("doctor", "runs/small", "--iterations", 1),
    ],
)
def test_a_run_trained_on_a_gpu_is_read_where_there_is_none(meta_rl, run, no_gpu, words):
    set_field(run, device="cuda:1")
    told = meta_rl(*words)
    assert told.code in (0, 3) and told.err == ""  # the doctor may raise an alarm
    assert "note: the run was trained on cuda:1; here on cpu" in told.out
    meta_rl(*words, "--device", "cuda").fails_with("sees no CUDA GPU; use --device cpu")
    assert meta_rl(*words, "--device", "cpu").code in (0, 3)


def test_a_device_that_is_the_runs_is_not_worth_a_word(meta_rl, run):
    assert "trained on" not in meta_rl(*ADAPT).succeeds().out


def test_the_doctors_json_stays_json(meta_rl, run, no_gpu):
    set_field(run, device="cuda")
    told = meta_rl("doctor", "runs/small", "--iterations", 1, "--json")
    assert json.loads(told.out)["name"] == "small"
    assert told.err == "note: the run was trained on cuda; here on cpu\n"


def test_films_of_reports_take_a_device(meta_rl, run, no_gpu, monkeypatch):
    asked = []

    def load_agent(which):
        asked.append((which.run, which.checkpoint, which.device))
        raise _vocabulary.UserError("far enough")

    monkeypatch.setattr("meta_rl.commands.report.load_agent", load_agent)
    meta_rl("report", "runs/small", "--videos").fails_with("far enough")
    meta_rl("report", "runs/small", "--videos", "--device", "cuda:3").fails_with("far enough")
    assert asked == [("runs/small", "latest", None), ("runs/small", "latest", "cuda:3")]


@pytest.mark.parametrize(
    ("gpus", "trained_on", "found"),
    [
        (0, "cpu", "cpu"),
        (0, "cuda", "cpu"),
        (0, "cuda:1", "cpu"),
        (1, "cpu", "cpu"),
        (1, "cuda", "cuda"),
        (1, "cuda:0", "cuda:0"),
        (1, "cuda:1", "cuda"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_a_run_is_read_on_its_own_device_else_on_the_gpu_else_on_the_cpu(
    monkeypatch, gpus, trained_on, found
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert str(building.device_to_read_on(trained_on)) == found


# Which evaluation speaks for a run


def test_the_evaluation_with_most_env_steps_speaks_for_a_run_whatever_its_files_time(meta_rl, run):
    old = evaluation(run)
    steps = json.loads(old.read_text())["env_steps"]
    new = another(old, "later-test-sampled-x", env_steps=steps + 1000)
    for path, time_s in ((old, 2e9), (new, 1e9)):
        os.utime(path, (time_s, time_s))

    told = meta_rl("compare", "runs/small").succeeds().out

    assert f"{steps + 1000:,}" in told.split("probability")[0]
    assert (
        f"small: of 2 evaluations takes {new.name}, {steps + 1000:,} env steps, checkpoint latest, "
        in told
    )


def test_of_equally_trained_evaluations_the_one_made_last_counts(meta_rl, run):
    first = evaluation(run)
    second = another(first, "b", made_at="2031-05-06T07:08:09+00:00")
    third = another(first, "c", made_at="2031-05-06T09:08:08+02:00")  # a second earlier
    for path, time_s in ((first, 2e9), (second, 1e9), (third, 1.5e9)):
        os.utime(path, (time_s, time_s))

    told = meta_rl("compare", "runs/small").succeeds().out
    assert "of 3 evaluations takes b.json" in told and "made 2031-05-06 07:08:09 UTC\n" in told
    told = meta_rl("report", "runs/small").succeeds().out
    assert "of 3 evaluations takes b.json" in told


def test_what_was_measured_later_by_another_protocol_speaks_for_no_run(meta_rl, run):
    first = evaluation(run)
    protocol = json.loads(first.read_text())["protocol"]
    later = {"made_at": "2031-05-06T07:08:09+00:00"}
    other = protocol | {"evaluation_episodes": 1}
    another(first, "a", protocol=other, checkpoint="best", **later)
    another(first, "b", protocol=other | {LEARNING: "after_a_drop"}, **later)
    told = meta_rl("compare", "runs/small").succeeds().out
    assert f"of 3 evaluations takes {first.name}" in told


def test_an_interrupted_evaluation_is_gone_on_with_by_the_same_agent_alone(meta_rl, small_config):
    found = []
    for agent, settings in (
        ("random", {}),
        ("scripted", {}),
        ("rl2_ppo", {}),
        ("rl2_ppo", {"gamma": 0.5}),
    ):
        config = small_config(agent, agent=settings, meta_iterations=1, name=f"{agent}{len(found)}")
        meta_rl("train", config).succeeds()
        trained = load_trained(RunFolder(Path("runs") / f"{agent}{len(found)}"), "latest")
        found.append(evaluate.identity(trained))
        assert evaluate.identity(trained) == found[-1]
    assert len(set(found)) == len(found)


def test_a_file_that_does_not_say_when_it_was_made_counts_by_its_time_and_with_a_word(meta_rl, run):
    first = evaluation(run)
    change(first, made_at=None)
    assert EvalResult.load(first).made_at is None
    second = another(first, "b")
    for path, time_s in ((first, 2e9), (second, 1e9)):
        os.utime(path, (time_s, time_s))

    told = meta_rl("compare", "runs/small").succeeds().out

    assert f"takes {first.name}" in told
    assert f"by the file's time for {second.name}, {first.name}, older than" in told or (
        f"by the file's time for {first.name}, {second.name}, older than" in told
    )


def test_one_evaluation_needs_no_word(meta_rl, run):
    assert "evaluations takes" not in meta_rl("compare", "runs/small").succeeds().out


def test_the_checkpoint_that_counts_may_be_chosen(meta_rl, run):
    path = evaluation(run)
    another(path, "b", checkpoint="best", env_steps=1)
    told = meta_rl("compare", "runs/small", "--checkpoint", "best", "--format", "csv").succeeds()
    assert {line.split(",")[3] for line in told.out.splitlines()[1:]} == {"1"}
    (path.with_name("b.json")).unlink()
    meta_rl("compare", "runs/small", "--checkpoint", "best").fails_with(
        "has no evaluation on test tasks with sampled actions of the best checkpoint; make one "
        "with `meta-rl evaluate runs/small --split test --actions sampled --checkpoint best`"
    )


def test_a_missing_evaluation_is_answered_with_those_that_are_there(meta_rl, run):
    meta_rl("compare", "runs/small", "--split", "train").fails_with(
        "runs/small has no evaluation on train tasks with sampled actions; make one with `meta-rl "
        "evaluate runs/small --split train --actions sampled`. It has: --split test --actions samp"
    )


# Damage


def damages(content):
    """Ways in which a file may be damaged: empty, cut, overwritten, another file."""
    size = len(content)
    yield b""
    yield from (content[:cut] for cut in range(1, size, max(1, size // 12)))
    for at in range(0, size, max(1, size // 40)):
        yield content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
    yield b"\0" * size
    yield b"[]"
    yield b"null"
    yield b"[" * 100_000


@pytest.mark.parametrize("ending", [".json", ".npz"])
def test_a_damaged_evaluation_is_named_and_never_a_traceback(run, ending):
    path = evaluation(run)
    whole = EvalResult.load(path)
    file = path.with_suffix(ending)
    content = file.read_bytes()
    refused = 0
    for damaged in damages(content):
        file.write_bytes(damaged)
        try:
            read = EvalResult.load(path)
        except _vocabulary.UserError as error:
            assert f"cannot read the evaluation {file}: " in str(error)
            assert "make it again" in str(error)
            refused += 1
        else:  # a byte that means nothing to the cells, such as a zip file's dates
            np.testing.assert_array_equal(read.scores["success"], whole.scores["success"])
    assert refused >= 15


@pytest.mark.parametrize("ending", [".json", ".npz"])
@pytest.mark.parametrize("command", ["compare", "report"])
def test_an_empty_evaluation_is_named(meta_rl, run, command, ending):
    file = evaluation(run).with_suffix(ending)
    file.write_bytes(b"")
    meta_rl(command, "runs/small").fails_with(
        f"cannot read the evaluation runs/small/evaluations/{file.name}: it is empty; make it again"
    )


def test_damaged_metrics_cost_their_lines_only(meta_rl, run):
    metrics = run.path / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    metrics.write_text(lines[0] + "{cut\n\n[1]\n" + lines[1] + lines[2])
    told = meta_rl("compare", "runs/small").succeeds().out
    assert "warning: small: 2 damaged lines of metrics.jsonl are left out" in told
    (run.path / "environment.txt").write_text("command meta-rl train x\ncommi")
    meta_rl("report", "runs/small").succeeds()


def test_an_evaluation_is_written_whole_or_not_at_all(run, monkeypatch):
    path = evaluation(run)
    result = EvalResult.load(path)
    before = path.read_bytes(), path.with_suffix(".npz").read_bytes()

    def fails(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(_vocabulary.UserError, match=r"cannot write the evaluation .*No space left"):
        Evaluations(path.parent).save(result)
    assert (path.read_bytes(), path.with_suffix(".npz").read_bytes()) == before
    assert len(list(path.parent.iterdir())) == 2


# What is no run, and what is a broken one


@pytest.mark.parametrize("command", ["compare", "report"])
def test_what_is_no_run_is_skipped_with_a_word(meta_rl, run, command):
    (run.path.parent / "comparison.png").write_bytes(b"picture")
    (run.path.parent / "notes").mkdir()
    paths = sorted(run.path.parent.iterdir())
    told = meta_rl(command, *paths).succeeds().out
    for name in ("comparison.png", "notes"):
        assert f"skipped {run.path.parent / name}: it is not a run folder" in told


def test_compare_can_be_repeated_after_it_left_its_picture(meta_rl, run, tmp_path):
    for _ in range(2):
        meta_rl("compare", *sorted((tmp_path / "runs").iterdir())).succeeds()
    assert (tmp_path / "runs" / "comparison.png").stat().st_size > 5000


def test_words_about_skipping_stay_out_of_tables_for_programs(meta_rl, run):
    (run.path.parent / "notes.txt").touch()
    told = meta_rl("compare", "runs/notes.txt", "runs/small", "--format", "csv").succeeds()
    assert "skipped runs/notes.txt" in told.err and "skipped" not in told.out


def test_nothing_but_what_is_no_run_is_an_error(meta_rl, run):
    (run.path.parent / "a").mkdir()
    (run.path.parent / "b.png").touch()
    meta_rl("compare", "runs/a").fails_with("runs/a is not a run folder: it has no config.yaml")
    meta_rl("compare", "runs/b.png").fails_with("runs/b.png is not a run folder")
    meta_rl("compare", "runs/a", "runs/b.png").fails_with("none of the paths named is a run")
    meta_rl("compare", "runs").fails_with("runs is not a run folder", "name them: runs/*")


def test_a_folder_that_may_not_be_read_is_a_broken_run(meta_rl, run, tmp_path, monkeypatch):
    locked = tmp_path / "runs" / "locked"
    locked.mkdir()
    exists = Path.exists

    def guarded(path):
        if locked in path.absolute().parents:
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", guarded)
    words = ("compare", "runs/locked", "runs/small")
    meta_rl(*words).fails_with("1 of 2 runs cannot be read: cannot read runs/locked: Permission")
    assert "left out a broken run" in meta_rl(*words, "--skip-broken").succeeds().out
    meta_rl("compare", "runs/locked").fails_with("cannot read runs/locked: Permission denied")


def test_a_name_that_is_not_there_is_a_mistake_and_not_skipped(meta_rl, run):
    missing = "no run folder runs/smal; did you mean 'small'?"
    meta_rl("compare", "runs/small", "runs/smal").fails_with(missing)
    meta_rl("evaluate", "runs/smal").fails_with(missing)
    meta_rl("train", "--resume", "runs/smal").fails_with(missing)
    shutil.copytree(run.path, run.path.parent / "more" / "other")
    told = meta_rl("compare", "runs/small", "runs/more").succeeds().out
    assert "skipped runs/more: it is not a run folder, but holds some; name them: runs/more/*" in (
        told
    )


def test_a_run_that_is_left_out_does_not_decide_by_which_protocol_the_others_are_read(
    meta_rl, run, tmp_path
):
    for name in ("other", "unmeasured"):
        shutil.copytree(run.path, tmp_path / "runs" / name)
    shutil.rmtree(tmp_path / "runs/unmeasured/evaluations")
    meta_rl("evaluate", run.path, "--goals", 2).succeeds()
    words = ("compare", "runs/small", "runs/other")
    meta_rl(*words).succeeds()
    meta_rl(*words, "runs/unmeasured", "--skip-broken").succeeds()


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_at_equal_steps_the_latest_checkpoint_speaks_for_a_run(meta_rl, run, checkpoint):
    meta_rl("evaluate", run.path, "--checkpoint", checkpoint).succeeds()
    told = meta_rl("compare", run.path).succeeds().out
    assert ("checkpoint latest" in told) == (checkpoint == "best")
    assert "checkpoint best, made" not in told


@pytest.mark.parametrize("command", ["compare", "report"])
def test_broken_runs_are_named_together_and_left_out_on_request(meta_rl, run, command, tmp_path):
    for name in ("damaged", "unmeasured", "without_config"):
        shutil.copytree(run.path, tmp_path / "runs" / name)
    (tmp_path / "runs/damaged/config.yaml").write_text("- nothing")
    shutil.rmtree(tmp_path / "runs/unmeasured/evaluations")
    (tmp_path / "runs/without_config/config.yaml").unlink()
    words = (command, *(f"runs/{path.name}" for path in sorted((tmp_path / "runs").iterdir())))
    reasons = (
        "runs/damaged/config.yaml is damaged",
        "runs/unmeasured has no evaluation on test tasks",
        "runs/without_config is not a run folder: it has no config.yaml",
    )

    meta_rl(*words).fails_with("3 of 4 runs cannot be read", *reasons, "--skip-broken leaves out")

    told = meta_rl(*words, "--skip-broken").succeeds().out
    for reason in reasons:
        assert f"warning: left out a broken run: {reason}" in told
    meta_rl(command, "runs/damaged", "runs/unmeasured", "--skip-broken").fails_with("none of the")


def test_a_run_that_is_named_twice_counts_once(meta_rl, run):
    told = meta_rl("compare", "runs/small", run.path, "runs/../runs/small", "--format", "csv")
    assert {line.split(",")[0] for line in told.succeeds().out.splitlines()[1:]} == {"small"}


def test_a_run_that_is_named_by_a_dot_has_its_name(meta_rl, run, monkeypatch, tmp_path):
    monkeypatch.chdir(run.path)
    from meta_rl.commands.cli import main

    assert main(["compare", ".", "--output", str(tmp_path / "x.csv")]) == 0
    assert "\nsmall," in (tmp_path / "x.csv").read_text()
    assert (tmp_path / "runs" / "comparison.png").exists()
    assert not (run.path / "comparison.png").exists()


# Where output goes


def blocked(path):
    """Put a file where a folder should be: not even root can write into it."""
    if path.is_dir():
        shutil.rmtree(path)
    path.touch()


def test_compare_needs_no_picture(meta_rl, run):
    (run.path.parent / "comparison.png").mkdir()
    told = meta_rl("compare", "runs/small").succeeds()
    assert told.out.count("warning: ") == 1 and "probability" not in told.err
    assert "warning: cannot write runs/comparison.png: Is a directory; choose another --fig" in (
        told.out
    )
    assert "│ small │" in told.out


def test_evaluate_needs_no_file(meta_rl, run):
    blocked(run.path / "evaluations")
    told = meta_rl("evaluate", "runs/small", "--goals", 1, "--actions", "both").succeeds()
    assert told.out.count("warning: cannot write to runs/small/evaluations: it is a file") == 1
    assert "adaptation episodes" in told.out and "written to" not in told.out


@pytest.mark.parametrize("name", ["elsewhere/deeper", "mine.json"])
def test_an_evaluation_goes_where_it_is_sent(meta_rl, run, tmp_path, name):
    before = sorted((run.path / "evaluations").iterdir())
    meta_rl("evaluate", "runs/small", "--goals", 1, "--output", name).succeeds()
    assert sorted((run.path / "evaluations").iterdir()) == before
    found = [tmp_path / name] if name.endswith(".json") else list((tmp_path / name).glob("*.json"))
    assert [EvalResult.load(path).names for path in found] == [("point",)]
    assert not list(tmp_path.rglob("partial-*"))


def test_runs_of_one_name_from_several_studies_go_to_files_of_their_own(meta_rl, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "study" / "runs" / run.path.name)
    for each in ("runs/small", "study/runs/small", "runs/small"):
        meta_rl("evaluate", each, "--goals", 1, "--output", "all").succeeds()
    one, other = (path.name.split("-")[:2] for path in (tmp_path / "all").glob("*.json"))
    assert one[0] == other[0] == "small" and one[1] != other[1]


@pytest.mark.parametrize(
    ("words", "flag", "name", "told"),
    [
        (("evaluate", "runs/small"), "--output", "file/x.json", "cannot write"),
        (("evaluate", "runs/small"), "--output", "file", "it is a file, not a folder"),
        (("evaluate", "runs/small"), "--output", "x.JSON", "must be a folder, or end in .json"),
        (("evaluate", "runs/small"), "--output", "folder.json", "it is a folder, not a file"),
        (("evaluate", "runs/small", "--actions", "both"), "--output", "x.json", "name a folder"),
        (("render", "runs/small"), "--output", "file/film.mp4", "cannot write file/film.mp4"),
        (("render", "runs/small"), "--output", "folder.png", "it is a folder, not a file"),
        (("render", "runs/small"), "--output", "film.gif", "a film is an .mp4, or a .png"),
        (("report", "runs/small"), "--output", "file/page.html", "cannot write file/page.html"),
        (("report", "runs/small"), "--output", "folder.html", "it is a folder, not a file"),
        (("evaluate", "runs/small"), "--output", "", "must be a folder, or end in .json, got ''"),
        (("compare", "runs/small"), "--output", "file/all.md", "cannot write file/all.md"),
        (("compare", "runs/small"), "--figures", "file", "cannot write file/adaptation.png"),
        (("compare", "runs/small"), "--figures", "pictures", "pictures/tasks.png: it is a folder"),
        (ADAPT, "--output", "file/policy.pt", "cannot write file/policy.pt"),
        (ADAPT, "--output", "taken.pt", "taken.pt2: it is a folder, not a file"),
        (ADAPT, "--video", "file/film.mp4", "cannot write file/film.mp4"),
    ],
)
def test_where_output_goes_is_checked_before_any_work(
    meta_rl, run, tmp_path, monkeypatch, words, flag, name, told
):
    (tmp_path / "file").write_text("kept")
    for folder in ("folder.json", "folder.png", "folder.html", "taken.pt2", "pictures/tasks.png"):
        (tmp_path / folder).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))

    def work(*arguments, **options):
        raise AssertionError("work was done for an output that cannot be written")

    for place in (
        "meta_rl.rollouts.collector.RolloutCollector.collect",
        "meta_rl.evaluation.finished.load_runs",
        "meta_rl.runs.trained.load_trained",
    ):
        monkeypatch.setattr(place, work)
    meta_rl(*words, flag, name).fails_with(told)
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("words", "folder"), [(("render", "runs/small"), "videos"), (ADAPT, "adapted")]
)
def test_a_default_place_that_is_needed_is_checked_before_any_work(
    meta_rl, run, monkeypatch, words, folder
):
    blocked(run.path / folder)

    def collect(*arguments, **options):
        raise AssertionError("played before the output was checked")

    monkeypatch.setattr("meta_rl.rollouts.collector.RolloutCollector.collect", collect)
    meta_rl(*words).fails_with(f"cannot write runs/small/{folder}/point-0", "another --output")


def test_a_report_holds_films_that_cannot_be_kept_by_their_run(meta_rl, run, tmp_path):
    blocked(run.path / "videos")
    told = meta_rl("report", "runs/small", "--videos")
    assert "warning: cannot write to runs/small/videos" in told.succeeds().out
    assert (tmp_path / "report.html").read_text().count("<video") == 1


# Words


def test_list_shows_everything_by_kind(meta_rl):
    told = meta_rl("list").succeeds().out
    blocks = told.split("\n\n")
    assert [block.partition(":")[0] for block in blocks] == [
        "agents",
        "task families",
        "configs",
        "trained policies",
    ]
    for block, kind in zip(blocks, ("agents", "envs", "configs", "pretrained"), strict=True):
        listed = [line.removeprefix("  ") for line in block.splitlines()[1:]]
        assert listed == meta_rl("list", kind).succeeds().out.splitlines()
    meta_rl("list", "agents", "envs").fails_with("name one kind")


SHARED = {
    "--checkpoint STR": ("evaluate", "adapt", "render", "doctor"),
    "--device": ("evaluate", "adapt", "render", "report", "doctor"),
    "--output": ("evaluate", "adapt", "render", "report", "compare"),
    "--split": ("evaluate", "adapt", "render", "report", "compare"),
    "--task": ("adapt", "render"),
    "--goal": ("adapt", "render"),
    "--skip-broken": ("report", "compare"),
    "--allow-different-protocols": ("report", "compare"),
}


@pytest.mark.parametrize("flag", SHARED)
def test_commands_share_their_words(meta_rl, flag, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in SHARED[flag]:
        assert flag.split()[0] in meta_rl(command, "--help").succeeds().out, command


@pytest.mark.parametrize("command", ["evaluate", "adapt", "render", "report", "compare", "doctor"])
def test_help_tells_of_every_flag_in_sentences(meta_rl, command):
    told = meta_rl(command, "--help").succeeds().out
    words = " ".join(told.replace("│", " ").split())
    kind = importlib.import_module(f"meta_rl.commands.{command}").Arguments
    texts = {}
    for cls in reversed(kind.__mro__[:-1]):
        texts |= _help.texts(cls)
    assert texts.keys() == {field.name for field in dataclasses.fields(kind)}
    for text in texts.values():
        assert text in words and text.endswith(".") and "None" not in text
    assert "None" not in words and "False" not in words


def test_a_help_text_is_one_paragraph_whatever_its_lines_in_the_source(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit):
        _vocabulary.parse(_vocabulary.OneRun, ["-h"], "x")
    assert "the run's config. If this machine lacks that one" in capsys.readouterr().out


@pytest.fixture
def without_rights():
    """Words that let a command run by the rights of files, which root is not held by otherwise."""
    if os.geteuid() != 0:
        return []
    rights = "-dac_override,-dac_read_search"
    words = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]
    if shutil.which("setpriv") is None or subprocess.run([*words, "true"]).returncode != 0:
        pytest.skip("needs setpriv, or another user than root")
    return words


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("compare runs/small", 0, "warning: cannot write runs/comparison.png: Permission denied"),
        ("render runs/small", 1, "meta-rl: cannot write runs/small/videos/point-0.mp4: Permission"),
        *(
            pytest.param(*case, marks=pytest.mark.thorough)
            for case in (
                ("evaluate runs/small", 0, "cannot write to runs/small/evaluations: Permission d"),
                ("report runs/small", 1, "meta-rl: cannot write report.html: Permission denied; "),
                ("adapt runs/small", 1, "meta-rl: cannot write runs/small/adapted/point-0.pt: Per"),
            )
        ),
    ],
)
def test_in_a_folder_that_may_only_be_read(
    run, tmp_path, environment, without_rights, words, code, told
):
    folders = [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        outcome = subprocess.run(
            [*without_rights, sys.executable, "-m", "meta_rl", *words.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert outcome.returncode == code, outcome.stderr
    assert told in outcome.stdout + outcome.stderr
    assert (outcome.stdout + outcome.stderr).count("cannot write") == 1
    assert ("adaptation episodes" in outcome.stdout) == (code == 0)
