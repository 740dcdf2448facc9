import pytest

from meta_rl.studies import processes
from meta_rl.studies.launching import Here, LocalProcess
from meta_rl.studies.processes import InTurn, Places, Training, carry_out


class Ended(LocalProcess):
    """A process that has ended, or whose machine has."""

    is_lost = False

    def __init__(self, code, is_lost):
        self.code, self.is_lost = code, is_lost

    def poll(self):
        return self.code


class Unreliable(Here):
    """A launcher that loses the machines of the first processes."""

    def __init__(self, losses):
        self.losses, self.launched = losses, []

    def launch(self, words, output, needs):
        self.launched.append(list(words))
        lost = len(self.launched) <= self.losses
        return Ended(-9 if lost else 0, lost)


@pytest.fixture
def carried_out(tmp_path, monkeypatch):
    """Train one run with a launcher; return the words of each start, and what failed."""
    monkeypatch.setattr(processes, "POLL_S", 0.0)

    def run(losses):
        launcher, plan = Unreliable(losses), InTurn([Training("run", tmp_path, ["config"])])
        carry_out(plan, Places(launcher, 1))
        return launcher.launched, plan.failed

    return run


@pytest.mark.parametrize("losses", [0, 1, 2])
def test_a_training_whose_machine_is_lost_starts_again(losses, carried_out):
    launched, failed = carried_out(losses)
    assert launched == [["config"]] * (1 + losses)
    assert not failed


def test_three_lost_machines_are_enough(carried_out):
    launched, failed = carried_out(losses=5)
    assert len(launched) == 3
    assert [training.name for training in failed] == ["run"]
