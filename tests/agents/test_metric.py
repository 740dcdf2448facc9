import pytest
import torch
from playing import Player

from agents.metric import Config, build
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Tasks
from meta_rl.experiment.config import load_experiment
from meta_rl.rollouts.adaptation import Adaptation
from meta_rl.runs.folder import RunFolder
from meta_rl.training.trainer import Trainer

CPU = torch.device("cpu")


class TwoDoors(PointNavigation):
    """The goal is half a metre to the left or to the right: one step tells which."""

    def __init__(self):
        super().__init__(PointConfig(horizon=6, test_goals=2))

    def sample(self, count, split, generator):
        side = torch.randint(2, (count,), generator=generator)
        goals = torch.stack([0.5 - side.double(), torch.zeros(count).double()], dim=1)
        return Tasks("point_navigation", ("point",) * count, side, goals)


def make_agent(**settings):
    small = {"encoder_sizes": (16,), "memory_size": 16, "hidden_sizes": (16,), "epochs": 4}
    return build(Config(**small | settings), TwoDoors().spec, CPU, seed=0)


def played(agent, worker, family, copies=4, tasks=8):
    drawn = family.sample(tasks, "train", worker.streams.tasks)
    adaptation = Adaptation(agent, worker.collector, drawn, copies, worker.streams, training=True)
    return adaptation.complete()


def test_two_doors_are_told_apart_and_gone_through():
    family = TwoDoors()
    encoder = {"encoder_lr": 3e-3, "encoder_updates": 20}
    agent = make_agent(episodes_per_trial=1, outer_lr=3e-3, initial_std=0.5, **encoder)
    worker = Player(family, CPU, Streams(0, CPU))
    accuracy, earned = [], []
    for _ in range(25):
        batch = played(agent, worker, family)
        metrics = agent.meta_update(batch)
        accuracy.append(metrics["encoder/nearest_task"].item())
        earned.append(batch.rollouts[0].reward.sum(0).mean().item())
    assert sum(accuracy[-6:]) / 6 >= 0.9
    assert sum(earned[-6:]) / 6 > sum(earned[:6]) / 6 + 0.7


def test_an_embedding_is_a_direction_and_what_the_policy_sees():
    agent, family = make_agent(), TwoDoors()
    batch = played(agent, Player(family, CPU, Streams(0, CPU)), family)
    belief = agent.belief({"output": torch.randn(8, 4, 5)})
    assert belief.std is None
    torch.testing.assert_close(belief.mean.norm(dim=-1), torch.ones(8, 4))
    state = agent.shown(batch.rollouts[0].obs, torch.ones(6, 8, 4, 5))
    assert state.shape == (6, 8, 4, 2 + 5)


@pytest.mark.parametrize("setting", ["copies", "meta_batch_size"])
def test_a_trial_alone_is_refused_before_anything_is_played(setting, small_config, tmp_path):
    experiment = load_experiment(str(small_config("metric", **{setting: 1})))
    with pytest.raises(UserError, match=f"metric learns by comparison, so {setting} must be at"):
        Trainer(experiment, RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
        ({"embeddings_per_trial": 0}, "embeddings_per_trial must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Config(**settings)
