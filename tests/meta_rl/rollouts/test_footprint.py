import math
from dataclasses import fields

import pytest
import torch
from torch.utils import _pytree as pytree

from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, Phase
from meta_rl.experiment.building import build_agent, build_distribution
from meta_rl.experiment.config import load_experiment
from meta_rl.rollouts import footprint
from meta_rl.rollouts.footprint import check_memory, step_bytes

CPU = torch.device("cpu")
SPEC = EnvSpec.box(6, [-1.0] * 2, [1.0] * 2, horizon=10)


@pytest.fixture
def memory(monkeypatch):
    monkeypatch.setattr(footprint, "available_memory", lambda: 80_000)


def test_the_bytes_of_a_step_are_those_that_a_rollout_takes():
    experiment = load_experiment("point_navigation_maml_trpo")
    distribution = build_distribution(experiment)
    agent = build_agent(experiment, distribution.spec, CPU)
    tasks = distribution.sample(3, "train", torch.Generator().manual_seed(0))
    collector = distribution.make_collector(CPU, workers=1)

    rollout, _ = collector.collect(
        agent, agent.begin(tasks, 2, True), tasks, 2, Phase(2), Streams(0, CPU)
    )
    collector.close()

    columns = [getattr(rollout, field.name) for field in fields(rollout)]
    held = sum(column.nbytes for column in pytree.tree_leaves(columns))
    assert rollout.reward.shape == (2 * distribution.spec.horizon, 3, 2)
    assert held == rollout.reward.numel() * step_bytes(distribution.spec)


@pytest.mark.parametrize(("copies", "told"), [(25, None), (26, "note"), (100, "note")])
def test_large_rollouts_are_told_from_a_quarter_of_the_memory_on(copies, told, memory):
    assert step_bytes(SPEC) == 4 * (2 * (6 + 2) + 4)  # 80
    note = check_memory("a try", {"copies": copies, "horizon": 10}, SPEC, CPU)
    assert (note or "").startswith(told or "")
    assert (note is None) == (told is None)


def test_rollouts_that_do_not_fit_are_refused_with_every_factor_and_the_largest(memory):
    with pytest.raises(UserError) as refused:
        check_memory("a try", {"copies": 101, "horizon": 10}, SPEC, CPU)
    assert str(refused.value) == (
        "the rollouts of a try take 80.8 kB (copies 101 × horizon 10 × 80 bytes a step), but this "
        "machine has 80 kB free; lower copies first"
    )


def test_nothing_is_refused_where_the_memory_is_unknown(monkeypatch):
    monkeypatch.setattr(footprint, "available_memory", lambda: None)
    assert check_memory("a try", {"copies": 10**15}, SPEC, CPU) is None


@pytest.mark.parametrize("size", [1, 999, 1000, 54_321, 10**12, 10**30])
def test_sizes_are_told_in_the_largest_unit_that_they_reach(size):
    number, unit = footprint._readable(size).split(" ")
    scale = 1000 ** ["bytes", "kB", "MB", "GB", "TB", "PB", "EB"].index(unit)
    assert math.isclose(float(number.replace(",", "")) * scale, size, rel_tol=0.01)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--meta-batch-size", 10**12), "lower meta_batch_size first"),
        (("--copies", 10**8), "lower copies first"),
        (("--envs.horizon", 10**11), "lower horizon first"),
        (("--evaluation.copies", 10**11), "lower copies first"),
        (("--evaluation.evaluation-episodes", 10**11), "lower evaluation_episodes first"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_before_its_folder_is_made(
    flags, told, meta_rl, small_config, tmp_path
):
    meta_rl("train", small_config("maml_ppo"), *flags).fails_with(told)
    assert not (tmp_path / "runs").exists()


def test_a_large_run_is_told_so_and_trains(meta_rl, small_config, monkeypatch, tmp_path):
    monkeypatch.setattr(footprint, "WORTH_TELLING", 0)
    meta_rl("train", small_config("maml_ppo")).succeeds()
    assert (
        "note: the rollouts of one meta-iteration take"
        in (tmp_path / "runs" / "small" / "log.txt").read_text()
    )


def test_an_evaluation_that_cannot_fit_is_refused_before_it_plays(meta_rl, small_config, tmp_path):
    meta_rl("train", small_config("maml_ppo")).succeeds()
    before = sorted((tmp_path / "runs").rglob("*"))

    meta_rl("evaluate", "runs/small", "--copies", 10**11).fails_with("lower copies first")
    assert sorted((tmp_path / "runs").rglob("*")) == before
