"""The policies in pretrained/ are small, and do what was recorded of them."""

import json

import pytest

from meta_rl.experiment import catalog
from meta_rl.runs import checkpoint

NAMES = catalog.pretrained_names()


@pytest.mark.parametrize("name", NAMES)
def test_a_policy_is_small_and_has_nothing_of_training(name):
    file = catalog.ROOT / "pretrained" / name / "checkpoints" / "latest.pt"
    assert file.stat().st_size <= 400_000
    state = checkpoint.load(file)
    assert state["trimmed"] and not {"streams", "sinks"} & state.keys()
    assert not {"optimizer", "generator"} & state["agent"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_adapts_as_well_as_was_recorded(meta_rl, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # found from anywhere
    recorded = json.loads(
        (catalog.ROOT / "pretrained" / name / "evaluations" / "test.json").read_text()
    )
    goals = 4

    outcome = meta_rl(
        *("evaluate", f"pretrained/{name}", "--goals", goals, "--evaluation-episodes", 2),
        *("--copies", 2, "--output", tmp_path / "again.json"),
    )

    assert outcome.code == 0, outcome.err
    again = json.loads((tmp_path / "again.json").read_text())
    expected = [task["success"][-1] for task in recorded["by_task"][:goals]]
    # Of eight episodes one may fail by chance, or two.
    assert again["stages"][-1]["success"]["mean"] >= sum(expected) / goals - 0.25


def test_what_it_makes_of_a_task_is_written_to_the_runs_here(meta_rl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = meta_rl("adapt", f"pretrained/{NAMES[0]}", "--goal", 57, "--episodes", 1)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / NAMES[0] / "adapted" / "push-v3-57.pt").is_file()


def test_it_is_not_trained_on(meta_rl):
    folder = catalog.ROOT / "pretrained" / NAMES[0]
    outcome = meta_rl("train", "--resume", folder)
    assert outcome.code == 1
    assert "is trimmed to what adaptation needs" in outcome.err


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_copy_of_it_is_compared(meta_rl, command):
    outcome = meta_rl(command, f"pretrained/{NAMES[0]}")
    assert outcome.code == 1
    assert "copy the folder to runs/, `meta-rl evaluate` the copy" in outcome.err


def test_another_name_gets_a_hint(meta_rl):
    outcome = meta_rl("adapt", f"pretrained/{NAMES[0]}x", "--goal", "57")
    assert outcome.code == 1
    assert f"did you mean '{NAMES[0]}'?" in outcome.err


def test_the_list_tells_what_each_is(meta_rl):
    outcome = meta_rl("list", "pretrained")
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == NAMES
    assert all(len(line.split()) > 5 for line in outcome.out.splitlines())
