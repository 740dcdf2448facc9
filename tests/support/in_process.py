"""Trainings that are real, but run in this process, so that each takes no seconds."""

import contextlib
import io
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
