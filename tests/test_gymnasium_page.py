"""What docs/gymnasium.md shows works as it stands."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from pages import commands

PAGE = (Path(__file__).parent.parent / "docs" / "gymnasium.md").read_text()
SMALL = (
    "--meta-iterations 2 --meta-batch-size 2 --copies 2 --workers 2 --threads 1 "
    "--evaluation.goals 2 --evaluation.copies 2 --tracking.mode off"
)


def files():
    """Return the files that the page writes out, by the name in their first line."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)
    return dict(blocks)


def test_its_first_config_is_the_one_that_comes_along():
    (shown,) = re.findall(r"```yaml\n(agent.*?)```", PAGE, re.DOTALL)
    config = Path(__file__).parent.parent / "configs" / "cartpole_rl2_ppo.yaml"
    ours, theirs = yaml.safe_load(shown), yaml.safe_load(config.read_text())
    assert ours["agent"] == theirs["agent"] and ours["envs"] == theirs["envs"]


@pytest.mark.slow
def test_every_command_works_in_its_order(meta_rl, tmp_path, request):
    for name, content in files().items():
        (tmp_path / name).write_text(content)
    played = []
    for line in commands(PAGE):
        program, *words = shlex.split(line)
        assert program == "meta-rl"
        if words[0] == "render":
            request.getfixturevalue("can_draw")
        small = shlex.split(SMALL) if words[0] == "train" else []
        outcome = meta_rl(*words, *small)
        assert outcome.code == 0, (line, outcome.err)
        played.append(words[0])
    assert set(played) == {"train", "evaluate", "adapt", "render"}
    assert set(files()) == {"rooms.py", "rooms.yaml"}
