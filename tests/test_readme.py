"""The README's commands do what it says, in its order."""

import glob
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from pages import commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

SMALL = {
    "train": "--meta-iterations 2 --meta-batch-size 2 --copies 2 --envs.horizon 20 --workers 2 "
    "--threads 1 --evaluation.goals 2 --tracking.mode off",
    "sweep": "--dry-run --meta-batch-size 2 --copies 2 --envs.horizon 20",
    "adapt": "--episodes 1",
    "doctor": "--iterations 1 --meta-batch-size 2 --copies 2 --envs.horizon 20 --workers 2",
}
"""Flags that make a command of a newcomer's path quick; where a run goes on, they stay away."""


def test_it_is_short():
    assert len(README.splitlines()) <= 100


@pytest.mark.slow
def test_every_command_works_in_its_order(meta_rl, tmp_path, request):
    played = []
    for line in commands(README):
        program, *words = shlex.split(line)
        if program != "meta-rl":
            continue
        words = [path for word in words for path in (glob.glob(word) or [word])]
        small = SMALL.get(words[0], "") if "--resume" not in words else ""
        if words[0] == "render":
            request.getfixturevalue("can_draw")
        outcome = meta_rl(*words, *shlex.split(small))
        # The doctor may well find something wrong in so small a training.
        assert outcome.code in ((0, 3) if words[0] == "doctor" else (0,)), (line, outcome.err)
        played.append(words[0])
    assert set(played) == {
        *("list", "doctor", "train", "sweep", "evaluate", "compare", "report", "adapt", "render")
    }
    assert (tmp_path / "runs" / "ml1_reach_maml_trpo-seed1" / "adapted").is_dir()


def test_its_scripts_are_there_and_are_shell():
    scripts = [line.split()[0] for line in commands(README) if line.startswith("scripts/")]
    assert scripts == ["scripts/demo", "scripts/test"]
    for script in scripts:
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", ROOT / script], check=True)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs", "results"])
def test_its_links_lead_somewhere(page):
    pages = sorted((ROOT / page).glob("*.md")) if (ROOT / page).is_dir() else [ROOT / page]
    for path in pages:
        for link in re.findall(r"\]\(([^)]+)", path.read_text()):
            if "://" in link:
                continue
            target, _, section = link.partition("#")
            place = path.parent / target if target else path
            assert place.exists(), f"{path.name}: {link}"
            assert not section or section in sections(place), f"{path.name}: {link}"


def sections(page):
    """The headings of a page as GitHub writes them in links."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_commands_in_the_documents_are_known():
    from meta_rl.commands.cli import COMMANDS

    for path in sorted((ROOT / "docs").glob("*.md")):
        for line in commands(path.read_text()):
            if line.startswith("meta-rl "):
                assert line.split()[1] in COMMANDS, f"{path.name}: {line}"
