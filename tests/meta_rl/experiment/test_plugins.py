"""Agents of the user's own that take parts of ours."""

import json

import pytest
import yaml

from meta_rl.deployment.policy_file import load
from meta_rl.experiment import catalog

OWN_AGENT = """
from pathlib import Path

import torch

from agents import maml_ppo
from agents.maml_ppo import Config


class Own(maml_ppo.MAMLPPO):
    def begin(self, tasks, copies, training):
        Path("trained" if training else "measured").touch()
        return super().begin(tasks, copies, training)

    def meta_update(self, batch):
        return super().meta_update(batch) | {"outer/own": torch.tensor(1.0)}


def build(config, spec, device, seed):
    return Own(config, spec, device, seed)
"""

PLUGIN = ("--plugin", "own_lab.agent")


@pytest.fixture
def own_agent(tmp_path, monkeypatch):
    """Write an agent that borrows another's Config but has its own `build`."""
    monkeypatch.setattr(catalog, "_plugins", set())
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_lab").mkdir()
    (tmp_path / "own_lab" / "__init__.py").touch()
    (tmp_path / "own_lab" / "agent.py").write_text(OWN_AGENT)


def test_an_agent_that_borrows_a_config_is_built_by_itself_in_every_command(
    own_agent, meta_rl, small_config, run_at, tmp_path
):
    config = small_config(agent={"name": "own_lab.agent", "hidden_sizes": [8], "epochs": 1})
    meta_rl("train", config, *PLUGIN, "--agent.inner-lr", 0.2).succeeds()

    run = run_at(tmp_path / "runs" / "small")
    written = yaml.safe_load((run.path / "config.yaml").read_text())
    assert written["agent"]["name"] == run.latest["config"]["agent"]["name"] == "own_lab.agent"
    assert written["agent"]["inner_lr"] == 0.2 and "agent_name" not in written
    assert (tmp_path / "trained").exists()

    resume = ("train", "--resume", "runs/small", "--meta-iterations", 3)
    meta_rl(*resume).fails_with("allow it with --plugin own_lab.agent")
    meta_rl(*resume, *PLUGIN).succeeds()
    updates = [row for row in run.rows if "outer/loss_after" in row]
    assert [row["outer/own"] for row in updates] == [1.0, 1.0, 1.0]

    (tmp_path / "measured").unlink()
    meta_rl("evaluate", "runs/small", *PLUGIN).succeeds()
    assert (tmp_path / "measured").exists()

    meta_rl("adapt", "runs/small", "--task", "point", "--output", "mine.pt", *PLUGIN).succeeds()
    adapted = load("mine.pt", plugin="own_lab.agent")
    assert adapted.metadata["agent"] == "own_lab.agent"
    assert type(adapted.policy.agent).__name__ == "Own"


def test_taking_an_agent_by_a_flag_keeps_the_name_that_was_given(
    own_agent, meta_rl, small_config, tmp_path
):
    words = ("--agent.name", "own_lab.agent", *PLUGIN, "--agent.hidden-sizes", 8)
    meta_rl("train", small_config("maml_ppo"), *words).succeeds()

    rows = (tmp_path / "runs" / "small" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["outer/own"] == 1.0


def test_an_agent_or_a_family_without_a_part_is_told(meta_rl, small_config, tmp_path):
    (tmp_path / "own_parts").mkdir()  # found in the working folder
    (tmp_path / "own_parts" / "__init__.py").touch()
    (tmp_path / "own_parts" / "partly.py").write_text(
        "from agents.maml_ppo import Config\n"
        "class Partly:\n"
        "    phases = ()\n"
        "    def begin(self, tasks, copies, training): ...\n"
        "def build(*given): return Partly()\n"
    )
    for section in ("agent", "envs"):
        config = small_config(**{section: {"name": "own_parts.partly"}})
        meta_rl("train", config, "--plugin", "own_parts.partly").fails_with(
            "own_parts.partly.build() returns a Partly without", "CONTRIBUTING.md"
        )
        assert not (tmp_path / "runs").exists()
