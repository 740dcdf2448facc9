import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

ROOT = Path(__file__).parent.parent


@pytest.fixture
def meta_rl(tmp_path):
    """Run commands in a copy of the tree that has the guide's two new files."""
    for folder in ("meta_rl", "agents", "envs", "configs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for path, code in code_of_the_guide().items():
        (tmp_path / path).write_text(code)

    def run(*words: str) -> str:
        outcome = subprocess.run(
            [sys.executable, "-m", "meta_rl", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    return run


def code_of_the_guide():
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    found = re.findall(r"This is `([\w/]+\.py)`, complete.*?```python\n(.*?)```", guide, re.DOTALL)
    return dict(found)


def command_with(flag):
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    (command,) = re.findall(rf"```sh\nmeta-rl (train .*{re.escape(flag)}.*)\n```", guide)
    return command.split()


def after_adaptation(run: Path) -> np.ndarray:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return np.array([row["return/after"] for row in rows if "return/after" in row])


QUIET = ("--threads", "1", "--tracking.mode", "off", "--name", "guide")


def test_the_guides_agent_is_one_new_file_that_learns_and_is_listed(meta_rl, tmp_path):
    command = command_with("--agent.name best_try")
    meta_rl(*command, *QUIET, "--envs.horizon", "40", "--envs.test-goals", "20")

    returns = after_adaptation(tmp_path / "runs" / "guide")
    # Standing still earns about -15.3 in 40 steps: 0.38 m is the mean distance of a goal.
    assert returns[-5:].mean() > max(returns[:5].mean(), -15.3) + 2
    assert re.search(r"^best_try +Best of N offsets", meta_rl("list", "agents"), re.MULTILINE)
    meta_rl("evaluate", "runs/guide", "--evaluation-episodes", "7")


def test_the_guides_family_is_one_new_file_that_agents_learn_in(meta_rl, tmp_path):
    meta_rl(*command_with("--envs.name lever"), *QUIET, "--evaluation.goals", "10")

    returns = after_adaptation(tmp_path / "runs" / "guide")
    assert returns[-5:].mean() > returns[:3].mean() + 0.5
    rows = (tmp_path / "runs" / "guide" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(rows[-2])
    assert last["return/after"] > last["return/before"] + 2
    assert re.search(r"^lever +Pull a lever", meta_rl("list", "envs"), re.MULTILINE)
