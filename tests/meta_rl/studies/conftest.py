"""Studies whose trainings are real, but run in this process, so that each takes no seconds."""

import contextlib
import io
import shutil
from types import SimpleNamespace

import pytest

from meta_rl.studies import launching, processes


class Killed(BaseException):
    """As by SIGKILL: nothing of ours catches it."""


class InProcess:
    """All trainings that were started, and how one may die."""

    Killed = Killed

    def __init__(self):
        self.started = []
        """The words of each after `meta-rl train`."""
        self.dying = (-1, 0)

    def kill(self, training, meta_iterations):
        """Let a training, counted from here, die after so many meta-iterations."""
        self.dying = (len(self.started) + training, meta_iterations)

    @property
    def begun(self):
        """The names of the runs that were begun, in their order."""
        begun = [words for words in self.started if words[0] != "--resume"]
        # Of a flag that is given twice the last counts.
        return [words[len(words) - words[::-1].index("--name")] for words in begun]

    @property
    def resumed(self):
        """The folders of the runs that were continued."""
        return [words[1] for words in self.started if words[0] == "--resume"]


@contextlib.contextmanager
def trained_in_process():
    """Let trainings run in this process meanwhile."""
    from meta_rl.commands.cli import main
    from meta_rl.runs.sinks.jsonl import JsonlSink

    found = InProcess()
    log = JsonlSink.log

    class Process:
        """What `subprocess.Popen` returns, of a training that has ended already."""

        def __init__(self, words, **options):
            words = words[words.index("train") :]
            found.started.append(words[1:])
            nowhere = io.StringIO()
            with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
                self.returncode = main(words)

        def poll(self):
            return self.returncode

    def log_or_die(self, metrics, env_steps, made):
        log(self, metrics, env_steps, made)
        if (len(found.started), made) == found.dying:
            found.dying = (-1, 0)
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JsonlSink, "log", log_or_die)
        popen = SimpleNamespace(Popen=Process, DEVNULL=None, STDOUT=None)
        patch.setattr(launching, "subprocess", popen)
        patch.setattr(processes, "POLL_S", 0.0)
        yield found


@pytest.fixture
def in_process():
    """Train in this process."""
    with trained_in_process() as found:
        yield found


@pytest.fixture(scope="module")
def config(small_config):
    return small_config("maml_ppo", meta_iterations=4, evaluation={"every": 1, "goals": 2})


HALVING = ("--vary", "agent.inner_lr=0.001,0.1,1,5", "--seeds", "2")
HALVING += ("--early-stopping", "asha", "--reduction", "2", "--processes", "1")


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    """A folder with a finished sweep of four trials in runs/s."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, trained_in_process():
        patch.chdir(folder)
        assert main(["sweep", str(config), *HALVING, "--name", "s"]) == 0
    return folder


@pytest.fixture
def sweep(meta_rl, config, in_process):
    """Run the sweep of `finished`, or as much as is missing of it."""

    def run(*words):
        return meta_rl("sweep", config, *HALVING, "--name", "s", *words)

    return run


@pytest.fixture
def sweep_again(sweep, finished, tmp_path):
    """The same, from where `finished` is."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return sweep
