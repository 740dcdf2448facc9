import pytest
import torch

from meta_rl.core.errors import UserError
from meta_rl.core.types import EnvSpec, Phase
from meta_rl.experiment.config import load_experiment
from meta_rl.runs.folder import RunFolder
from meta_rl.training import memory
from meta_rl.training.trainer import Trainer


def test_the_estimate_is_what_the_tensors_of_a_meta_batch_take(small_config, tmp_path):
    config = small_config(envs={"horizon": 9}, meta_batch_size=3)
    trainer = Trainer(load_experiment(str(config)), RunFolder(tmp_path / "run"))
    batch = trainer.collect()
    trainer.close()
    tensors = [
        value
        for rollout in batch.rollouts
        for value in [*vars(rollout).values(), *rollout.metrics.values()]
        if isinstance(value, torch.Tensor)
    ]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    spec, phases = trainer.distribution.spec, trainer.agent.phases
    assert memory.meta_iteration_bytes(spec, phases, 3, 2) == pytest.approx(taken, rel=0.1)


@pytest.mark.parametrize(("flag", "count"), [("--meta-batch-size", 10**12), ("--copies", 10**8)])
def test_what_does_not_fit_is_refused_before_anything_is_made(
    flag, count, meta_rl, small_config, tmp_path
):
    outcome = meta_rl("train", small_config(envs={"horizon": 100}), flag, count)
    outcome.fails_with("GB", "meta_batch_size", "copies", "envs.horizon 100", "lower one")
    assert not (tmp_path / "runs").exists()


def test_a_large_share_of_the_memory_is_told(monkeypatch):
    spec = EnvSpec.box(10, [-1.0], [1.0], 100)
    told = []
    for free, lines in ((10**9, 0), (10**7, 1)):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        told.clear()
        memory.check_memory(spec, (Phase(2),), 20, 10, told.append)
        assert len(told) == lines
    monkeypatch.setattr(memory, "available_memory", lambda: 10**6)
    with pytest.raises(UserError, match=r"machine has 0\.0 GB free; lower one of them"):
        memory.check_memory(spec, (Phase(2),), 20, 10, told.append)
