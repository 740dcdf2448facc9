import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_guides_agent_is_one_new_file_that_trains_and_is_listed(tmp_path: Path) -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    command = re.search(r"```sh\nmeta-rl (train .*?)\n```", guide)
    assert code and command
    for folder in ("meta_rl", "agents", "envs", "configs"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "agents" / "hill_climber.py").write_text(code[1])

    def meta_rl(*words: str) -> str:
        outcome = subprocess.run(
            [sys.executable, "-m", "meta_rl", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(tmp_path), "WANDB_MODE": "offline"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout

    # As the guide has it, on a smaller meta-batch.
    small = ("--meta-batch-size", "5", "--envs-per-task", "2", "--threads", "1")
    trained = meta_rl(*command[1].split(), *small, "--tracking.mode", "off")

    assert "adaptation to test tasks" in trained
    listed = meta_rl("list", "agents")
    assert re.search(r"^hill_climber +Random search over linear policies", listed, re.MULTILINE)
