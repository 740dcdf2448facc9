import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.point_navigation import Config, PointNavigation
from meta_rl import catalog, checkpoint
from meta_rl.adapted import load_policy
from meta_rl.errors import UserError
from meta_rl.experiment import load_trained
from meta_rl.run_folder import RunFolder
from meta_rl.seeding import Streams
from meta_rl.types import Phase
from meta_rl.worker import RolloutWorker

AGENTS = catalog.names("agents")

LOOP = """
import json, sys
import gymnasium
import numpy as np
from gymnasium.spaces import Box
from meta_rl.adapted import load_policy
from meta_rl.errors import UserError

class Point(gymnasium.Env):
    '''envs.point_navigation as anybody would write it.'''

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, goal):
        self.goal = np.array(goal, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position = np.zeros(2, np.float32)
        return self.position, {}

    def step(self, action):
        self.position = self.position + np.float32(0.1) * action
        reward = -float(np.linalg.norm(self.position - self.goal))
        return self.position, reward, False, False, {}

for shape in ((1, 2), (), (2, 1)):  # what the tests' own shape checks would refuse before
    try:
        load_policy(json.loads(sys.argv[1])[0][0]).predict(np.zeros(shape))
    except UserError as error:
        assert f"got an array of shape {shape}" in str(error)
    else:
        raise AssertionError(shape)
acted = {}
for path, goal in json.loads(sys.argv[1]):
    policy, env = load_policy(path), gymnasium.wrappers.TimeLimit(Point(goal), 5)
    acted[path] = []
    for episode in range(2):
        observation, _ = env.reset()
        policy.reset()
        reward, truncated, actions = None, False, []
        while not truncated:
            action = policy.predict(observation, reward)
            assert env.action_space.contains(action)
            observation, reward, _, truncated, _ = env.step(action)
            actions.append(action.tolist())
        acted[path].append(actions)
print(json.dumps(acted))
"""


@pytest.fixture(scope="module")
def adapted(small_config, tmp_path_factory):
    """Train each agent a little and adapt it by the command line; return the run folders."""
    from meta_rl.cli import main

    folder = tmp_path_factory.mktemp("adapted")
    for agent in AGENTS:
        words = [str(small_config(agent)), "--runs", str(folder), "--name", agent]
        assert main(["train", *words]) == 0
        assert main(["adapt", str(folder / agent), "--task", "point", "--goal", "1"]) == 0
    return folder


def test_an_adapted_policy_acts_in_a_gymnasium_loop_as_the_agent_does(adapted, environment):
    family = PointNavigation(Config(horizon=5, test_goals=3))
    tasks = family.tasks("test")[[1]]
    files = [str(adapted / agent / "adapted" / "point-1.pt") for agent in AGENTS]
    argument = json.dumps([(path, tasks.params[0].tolist()) for path in files])
    printed = subprocess.run(
        [sys.executable, "-c", LOOP, argument],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    acted = json.loads(printed)

    for agent, path in zip(AGENTS, files, strict=True):
        trained = load_trained(RunFolder(adapted / agent), "latest")
        device = torch.device("cpu")
        worker = RolloutWorker(family, family.make_env(device, 1), device, Streams(0, device))
        saved = checkpoint.load(Path(path))
        worker.memory = lambda previous, worlds, saved=saved: saved["memory"]
        rollout, _ = worker.collect(
            trained.agent,
            saved["context"],
            tasks,
            1,
            Phase(1),
            deterministic=True,
        )
        expected = rollout.action[:, 0, 0].clamp(-1, 1).numpy()
        for episode in acted[path]:  # both alike: a reset forgets the episode, not the adaptation
            np.testing.assert_allclose(episode, expected, atol=1e-5)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_adapt_command_says_what_it_did(agent, adapted, meta_rl, tmp_path):
    output = tmp_path / "elsewhere" / "policy.pt"
    words = ("--task", "point", "--rounds", 2, "--episodes", 3, "--output", output, "--seed", 1)
    outcome = meta_rl("adapt", adapted / agent, *words).succeeds()

    *told, where = outcome.out.splitlines()
    assert all(line.startswith("point:0  having learned from ") for line in told)
    assert all("return -" in line and "success" in line for line in told)
    learned_from = [int(line.split()[4]) for line in told]
    # copies of a memory agent's task learn from one episode to the next; MAML's from rounds
    assert learned_from == (list(range(7)) if agent == "rl2_ppo" else [0, 3, 6])
    assert where == f"adapted policy: {output}"
    assert load_policy(output).task == "point:0"


@pytest.mark.parametrize("agent", AGENTS)
def test_a_reset_restores_what_adaptation_left(agent, adapted):
    policy = load_policy(adapted / agent / "adapted" / "point-1.pt")
    observations = np.random.default_rng(0).normal(size=(4, 2))

    def play():
        return np.array([policy.predict(seen, reward=-1.0) for seen in observations])

    first = play()
    policy.reset()
    np.testing.assert_array_equal(play(), first)
    assert first.dtype == np.float32 and first.shape == (4, 2)
    assert (np.abs(first) <= 1).all()


def test_a_policy_with_a_memory_remembers_within_the_episode(adapted):
    policy = load_policy(adapted / "rl2_ppo" / "adapted" / "point-1.pt")
    first, later = (policy.predict(np.ones(2), reward=-3.0) for _ in range(2))
    assert (first != later).any()


def test_adaptation_changes_the_policy(adapted, meta_rl, tmp_path):
    policies = []
    for goal in (0, 1):
        words = ("--task", "point", "--goal", goal, "--output", tmp_path / f"{goal}.pt")
        meta_rl("adapt", adapted / "maml_trpo", *words).succeeds()
        policies.append(load_policy(tmp_path / f"{goal}.pt"))
    first, second = (policy.predict(np.ones(2)) for policy in policies)
    assert (first != second).any()


@pytest.mark.parametrize("size", [1, 3])
def test_an_observation_of_another_size_is_refused(size, adapted):
    policy = load_policy(adapted / "maml_trpo" / "adapted" / "point-1.pt")
    with pytest.raises(UserError, match=rf"observes 2 numbers, got an array of shape \({size},\)"):
        policy.predict(np.zeros(size))


def test_a_training_checkpoint_is_not_a_policy(adapted, tmp_path):
    with pytest.raises(UserError, match=r"is a training checkpoint; `meta-rl adapt RUN` makes"):
        load_policy(adapted / "maml_trpo" / "checkpoints" / "latest.pt")
    with pytest.raises(UserError, match=r"no checkpoint .*none.pt"):
        load_policy(tmp_path / "none.pt")


def test_a_policy_names_only_agents_of_the_catalog(adapted, tmp_path):
    state = checkpoint.load(adapted / "maml_trpo" / "adapted" / "point-1.pt")
    checkpoint.save(state | {"agent_name": "os.path"}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"outside of agents/; allow it with --plugin os.path"):
        load_policy(tmp_path / "evil.pt")
