import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import study as script
from patience import PATIENCE_S, wait_for

from meta_rl.core.errors import UserError

SCRIPT = Path(__file__).parents[1] / "scripts" / "study.py"


@pytest.fixture
def study(tmp_path, small_config):
    """A study of two trainings, the second of which has no end to wait for."""
    config = small_config("maml_ppo")
    path = tmp_path / "ppo.yaml"
    path.write_text(
        "seeds: [0]\n"
        "trainings:\n"
        f"  short: {config} --meta-iterations 2\n"
        f"  long: {config} --meta-iterations 1000000 --checkpoint-every 5\n"
    )
    return path


@pytest.fixture
def start(study, environment):
    """Start the script on the study; what still runs at the end of a test is killed."""
    started = []

    def begin(*words):
        started.append(
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(study), "--processes", "2", *words],
                cwd=study.parent,
                env=environment | {"COLUMNS": "120"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture
def run(study, in_process, monkeypatch, capsys):
    """Run the study in this process; return its exit code and what it printed."""
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("COLUMNS", "120")

    def begin():
        code = script.main(script.Args(study, processes=1))
        return code, capsys.readouterr().out

    return begin


def entries(study):
    path = study.with_suffix(".json")
    return json.loads(path.read_text()) if path.exists() else []


@pytest.mark.slow
def test_a_study_is_run_stopped_and_gone_on_with(study, start):
    interrupted = study.parent / "runs" / "ppo" / "long-seed0" / "metrics.jsonl"
    process = start()
    wait_for(lambda: entries(study) and interrupted.exists(), process)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130 and "the same command goes on" in shown
    assert ("short", 0) in {(run["config"], run["seed"]) for run in entries(study)}
    before = len(interrupted.read_text().splitlines())
    assert before > 0

    # The end may be moved, here to where a test need not wait for it.
    study.write_text(study.read_text().replace("1000000", f"{before + 5}"))
    shown, _ = (process := start()).communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, shown
    assert "short-seed0 starts" not in shown and "long-seed0 starts" in shown
    found = {(run["config"], run["seed"]): run for run in entries(study)}
    assert found.keys() == {("short", 0), ("long", 0)}
    rows = [json.loads(line) for line in interrupted.read_text().splitlines()]
    assert [row["meta_iterations"] for row in rows][: before + 5] == [*range(1, before + 6)]

    shown, _ = (process := start()).communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "starts" not in shown and shown.count("done") == 2


def test_neither_what_is_recorded_nor_what_was_begun_passes_for_a_training_of_other_words(
    study, run
):
    study.write_text(study.read_text().replace("1000000", "1"))
    assert run()[0] == 0
    words = study.read_text()
    study.write_text(words.replace("--meta-iterations 2", "--meta-iterations 2 --copies 3"))
    with pytest.raises(UserError, match="short-seed0 as it came of other words"):
        run()
    study.with_suffix(".json").unlink()
    with pytest.raises(UserError, match=r"was begun with other settings \(copies"):
        run()


def test_what_was_measured_by_hand_is_not_recorded(study, run, meta_rl):
    """Such as after the script was killed between a run's end and its entry."""
    study.write_text(study.read_text().replace("1000000", "1"))
    assert run()[0] == 0
    before = entries(study)
    study.with_suffix(".json").unlink()
    meta_rl("evaluate", "runs/ppo/short-seed0", "--goals", 1, "--adaptation-steps", 0).succeeds()
    assert run()[0] == 0
    assert entries(study) == before


def test_what_fails_is_told_and_leaves_the_others_their_turn(study, run):
    text = study.read_text().replace("--meta-iterations 1000000", "--from runs/nothing")
    study.write_text(text.replace("[0]", "[3]"))
    code, shown = run()
    assert code == 1
    assert "long-seed3 failed: see" in shown and "FAILED (1)" in shown
    assert [entry["config"] for entry in entries(study)] == ["short"]


def test_results_that_others_have_added_meanwhile_are_kept(study, run, monkeypatch):
    study.write_text(study.read_text().replace("1000000", "1"))
    record = script.record

    def record_beside_others(*given):
        if entries(study):
            theirs = {**entries(study)[0], "config": "theirs"}
            study.with_suffix(".json").write_text(json.dumps([*entries(study), theirs]))
        return record(*given)

    monkeypatch.setattr(script, "record", record_beside_others)
    assert run()[0] == 0
    assert [entry["config"] for entry in entries(study)] == ["long", "short", "theirs"]


def test_a_run_whose_checkpoint_was_removed_is_not_trained_anew(study, run):
    study.write_text(study.read_text().replace("1000000", "4"))
    assert run()[0] == 0
    study.with_suffix(".json").unlink()
    (study.parent / "runs/ppo/short-seed0/checkpoints/latest.pt").unlink()
    with pytest.raises(UserError, match=r"short-seed0 has made 2 .* checkpoint, .*, is gone"):
        run()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("seeds: 3", "must be a list of whole numbers, got 3"),
        ("seeds: ['0']", "must be a list of whole numbers"),
        ("trainings: [short]", "must be lines of `name: CONFIG"),
        ("trainings: {short: }", "must be lines of `name: CONFIG"),
        ("trainings: {1: two_step_rl2_ppo}", "must be lines of `name: CONFIG"),
        ("trainings: {of/two: two_step_rl2_ppo}", "must be that of a folder"),
        ("trainings: {short: two_step_rl2_ppo --name 'x}", "the words of short cannot be read"),
    ],
)
def test_a_study_of_another_form_is_told(study, line, message):
    given = {"seeds": "seeds: [0]", "trainings": "trainings: {short: two_step_rl2_ppo}"}
    given[line.partition(":")[0]] = line
    study.write_text("\n".join(given.values()) + "\n")
    with pytest.raises(UserError, match=message):
        script.read(study, study.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [("[", "cannot read the figures in"), ('{"runs": []}', "holds no results of a study")],
)
def test_results_that_are_none_are_named_and_not_replaced(study, start, content, message):
    study.with_suffix(".json").write_text(content)
    shown, _ = (process := start()).communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and message in shown
    assert study.with_suffix(".json").read_text() == content


def test_a_study_holds_seeds_and_trainings_alone(study):
    study.write_text(study.read_text() + "processes: 4\n")
    with pytest.raises(UserError, match="must hold `seeds` and `trainings`"):
        script.read(study, study.parent)
