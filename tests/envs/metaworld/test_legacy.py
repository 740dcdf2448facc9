import json
from importlib.metadata import version

import numpy as np
import pytest
import torch
from metaworld.evaluation import Timestep
from playing import Player

from envs.metaworld import Config, build
from envs.metaworld.legacy import LegacyAgent
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointNavigation
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Phase
from meta_rl.evaluation.measuring import evaluate
from meta_rl.experiment.config import EvaluationConfig

CPU = torch.device("cpu")
HORIZON = 150
ONE_OF_TEN = EvaluationConfig(goals=10, evaluation_episodes=3, actions="deterministic")


class KnowsOneGoal:
    """Moves the hand to the goal of the first test task of reach-v3, and stays put on all others.

    An oracle control: the context is each task's goal, and 1 where it is known.
    """

    phases = (Phase(1),) * 2
    copies_share_experience = True

    def begin(self, tasks, copies, training):
        known = (tasks.index == 50).unsqueeze(-1)
        return torch.cat([tasks.params[:, 3:6], known], dim=1).float()

    def act(self, context, timestep, noise):
        goal, known = context.unsqueeze(1).split([3, 1], dim=-1)
        action = torch.zeros(timestep.prev_action.shape)
        action[..., :3] = known * 10 * (goal - timestep.obs[..., :3])
        return action, torch.zeros_like(timestep.prev_reward), context

    def adapt(self, context, rollout):
        assert rollout.last.sum(0).eq(1).all()
        return context

    def meta_update(self, batch):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_one_goal_of_ten_is_a_tenth_by_our_count_and_all_by_metaworlds():
    family = build(Config(horizon=HORIZON))
    collector = family.make_collector(CPU, 1)
    try:
        ours = evaluate(KnowsOneGoal(), family, collector, CPU, ONE_OF_TEN, 1, None, 0, 0)
    finally:
        collector.close()
    assert [stage["success"]["mean"] for stage in ours.summary()["stages"]] == [0.1, 0.1]
    assert [row["success"] for row in ours.by_task()] == [[1.0, 1.0]] + 9 * [[0.0, 0.0]]

    theirs = family.other_counts()["metaworld"](KnowsOneGoal(), CPU, ONE_OF_TEN, 1)
    assert theirs["success"] == 1.0
    assert theirs["success_by_name"] == {"reach-v3": 1.0}
    assert theirs["options"]["environments"] == 10 and theirs["options"]["num_evals"] == 1
    assert "quick successes crowd out failures" in theirs["warning"]


@pytest.mark.parametrize("name", ["maml_trpo", "rl2_ppo"])
def test_metaworlds_calls_make_an_agent_do_what_ours_do(name, build_agent):
    # The same steps of the same worlds, once by our worker and once by metaworld's calls.
    family = PointNavigation(PointConfig(horizon=5, test_goals=3))
    spec, tasks = family.spec, family.tasks("test")
    agent = build_agent(name, spec)
    worker = Player(family, CPU, Streams(0, CPU))
    rollout, context = worker.collect(agent, agent.begin(tasks, 1, True), tasks, 1, Phase(2))
    adapted = agent.adapt(context, rollout)
    measured, _ = worker.collect(agent, adapted, tasks, 1, Phase(1), rollout, deterministic=True)

    noise = Streams(0, CPU).noise(tasks)
    legacy = LegacyAgent(agent, spec, lambda: tasks, CPU, True, noise)
    legacy.init()
    env = family.make_env(CPU, 1)
    obs, nothing = env.start(tasks, 1, 0), np.zeros((3, 4))  # action, reward and end, as observed
    for _ in range(10):
        action, _ = legacy.adapt_action(np.hstack([obs.squeeze(1).numpy(), nothing]))
        step = env.step(torch.from_numpy(action).float().unsqueeze(1))
        columns = (step.reward, step.terminated, step.truncated)
        legacy.step(Timestep(None, action, *(c.squeeze(1).numpy() for c in columns), {}))
        obs = env.reset_ended()
    legacy.adapt()
    for _ in range(2):  # the second episode begins from the same memory
        obs, seen = env.start(tasks, 1, 0), nothing
        legacy.reset(np.ones(3, dtype=bool))
        for t in range(5):
            action = legacy.eval_action(np.hstack([obs.squeeze(1).numpy(), seen]))
            expected = measured.action[t, :, 0].clamp(-1, 1)
            np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-6)
            step = env.step(torch.from_numpy(action).float().unsqueeze(1))
            obs = step.next_obs
            seen = np.hstack([action, step.reward.numpy(), np.zeros((3, 1))])


@pytest.fixture
def reach(meta_rl, small_config, tmp_path):
    envs = {"name": "metaworld", "horizon": 3}
    path = small_config(envs=envs, meta_iterations=1, evaluation={"goals": 1})
    meta_rl("train", path).succeeds()
    return tmp_path / "runs" / "small"


def test_the_legacy_result_is_written_where_compare_does_not_look(meta_rl, reach):
    for path in (reach / "evaluations").iterdir():
        path.unlink()
    words = ("--counted-by", "metaworld", "--goals", 2, "--copies", 1)
    told = meta_rl("evaluate", reach, *words).succeeds().out
    assert f"warning: this is metaworld {version('metaworld')}'s own count, which flatters" in told
    (path,) = (reach / "other_counts").iterdir()
    assert path.name.startswith("metaworld-") and path.name in told
    summary = json.loads(path.read_text())
    assert summary["counted_by"] == f"metaworld {version('metaworld')}: metaworld.evaluation"
    assert not summary.keys() & {"stages", "protocol", "fingerprint"}
    assert not any((reach / "evaluations").iterdir())
    meta_rl("compare", reach).fails_with("has no evaluation on test tasks")
