"""What is shown never ends a command: real processes with closed pipes and full disks."""

import json
import shutil
import subprocess
import sys

import pytest
from patience import PATIENCE_S

pytestmark = pytest.mark.slow
META_RL = f"{sys.executable} -m meta_rl"


@pytest.fixture(scope="module")
def trained(small_config, tmp_path_factory):
    """A folder with a finished small run in runs/small."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(small_config()), "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.fixture
def shell(tmp_path, environment):
    """Run a line of bash; return how the pipeline ended."""

    def run(line):
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return run


@pytest.mark.parametrize(
    ("output", "word"),
    [
        ("| head -1", "Broken pipe"),
        ("> /dev/full", "No space left"),
        pytest.param(">&- 2>&-", None, marks=pytest.mark.thorough),
    ],
)
def test_a_training_goes_on_when_nobody_can_be_shown_it(
    output, word, shell, small_config, run_at, tmp_path
):
    # The console prints at most a line each ten seconds: the first and the last are enough. Those
    # between give `head` the time to be gone before the last.
    made = 5 if "head" not in output else 60
    config = small_config(meta_iterations=made, checkpoint_every=1000)
    outcome = shell(f"{META_RL} train {config} {output}")

    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    run = run_at(tmp_path / "runs" / "small")
    assert run.latest["meta_iterations"] == made
    assert [row["meta_iterations"] for row in run.rows] == [*range(1, made + 1), made]
    journal = run.path / "log.txt"
    if word is None:  # it was closed before anything began, so nothing could fail
        assert not journal.exists()
    else:
        (line,) = journal.read_text().splitlines()
        assert "warning: the console is switched off: " in line and word in line
    assert list((run.path / "evaluations").glob("*.json"))


OUTPUTS = ("| true", "> /dev/full", ">&-")
ENDS = [
    *((words, None, output) for words in ("--help", "list configs") for output in OUTPUTS),
    # One way of writing serves all commands, so those that take long have one output each.
    ("train --help", None, "| true"),
    (
        "evaluate runs/small --by-task --goals 1",
        "runs/small/evaluations/*-test-*.json",
        "> /dev/full",
    ),
    pytest.param(
        *("adapt runs/small --task point --goal 0 --output policy.pt", "policy.pt", "| true"),
        marks=pytest.mark.thorough,
    ),
    ("compare runs/small", None, ">&-"),
    pytest.param(*("report runs/small", "report.html", "> /dev/full"), marks=pytest.mark.thorough),
]


@pytest.mark.parametrize(("words", "made", "output"), ENDS)
def test_every_command_survives_an_output_that_is_closed_or_full(
    words, made, output, shell, trained, tmp_path
):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    before = set(tmp_path.glob(made)) if made else set()

    outcome = shell(f"{META_RL} {words} {output}")

    assert "Traceback" not in outcome.stderr and "Exception ignored" not in outcome.stderr
    if output == "> /dev/full":
        (line,) = outcome.stderr.splitlines()
        assert line.startswith("meta-rl: cannot write the output: ") and "No space" in line
        # Lost words are a failure where words are all that was asked for.
        assert outcome.returncode == (0 if made or "train" in words else 1)
    else:
        assert (outcome.returncode, outcome.stderr) == (0, "")
    if made:
        (new,) = set(tmp_path.glob(made)) - before
        if new.suffix == ".json":  # whole, although its table was not shown
            assert json.loads(new.read_text())["tasks"] == 1
