import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import quick
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiDiscrete,
    Tuple,
    flatdim,
    flatten,
)
from playing import Player
from stable_baselines3.common.evaluation import evaluate_policy

from envs import make_sb3
from envs.point_navigation import Config, PointNavigation
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import MetaAgent
from meta_rl.core.seeding import GivenNoise, Streams
from meta_rl.core.types import EnvSpec, Phase, TimeStep
from meta_rl.deployment.policy_file import AdaptedPolicy, load
from meta_rl.deployment.program import ActingPolicy, export
from meta_rl.experiment import catalog
from meta_rl.rollouts import collector
from meta_rl.runs import checkpoint
from meta_rl.runs.folder import RunFolder
from meta_rl.runs.trained import load_trained

OPTIONS: dict[str, dict[str, object]] = {
    "maml_ppo, learned steps of the head": {"adapt": "head", "step_sizes": "per_layer"},
    "rl2_ppo, transformer": {"memory": "transformer", "heads": 2, "context_steps": 8},
    "rl2_ppo, fast weights": {"memory": "fast_weights", "heads": 2},
    "mbrl, recurrence": {"adaptation": "recurrence", "plan_temperature": 1.0},
}
"""Agents with other settings than the default ones; the transformer's window slides."""
AGENTS = [
    *sorted(set(catalog.names("agents")) - {"multitask_ppo", "random", "scripted"}),
    *OPTIONS,
]
"""Those that adapt."""
CHOSEN = ["maml_trpo", "mbrl, recurrence", "pearl", "rl2_ppo", "rl2_ppo, transformer", "varibad"]
"""One of each kind of what is remembered; the others, too, if all is thorough."""
ALL_AT_ONCE = pytest.mark.parametrize(
    "agents", [CHOSEN, pytest.param(AGENTS, marks=pytest.mark.thorough)], ids=["chosen", "all"]
)
MEMORIES = ("in_context_sac", "mbrl", "metric", "rl2_ppo", "varibad")
"""Those that learn while they act: each copy is a trial of its own."""

LOOP = """
import json, sys
import gymnasium
import numpy as np
from gymnasium.spaces import Box
from meta_rl.deployment.policy_file import load
from meta_rl.core.errors import UserError

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

for shape in ((), (2, 1), (1, 1, 2)):  # what the tests' own shape checks would refuse before
    try:
        load(json.loads(sys.argv[1])[0][0]).predict(np.zeros(shape))
    except UserError as error:
        assert f"got an array of shape {shape}" in str(error)
    else:
        raise AssertionError(shape)
acted = {}
for path, goal in json.loads(sys.argv[1]):
    policy, env = load(path), gymnasium.wrappers.TimeLimit(Point(goal), 5)
    acted[path] = []
    for episode in range(2):
        observation, _ = env.reset()
        state, reward, truncated, actions = None, None, False, []
        while not truncated:
            action, state = policy.predict(observation, state, reward=reward)
            assert env.action_space.contains(action)
            observation, reward, _, truncated, _ = env.step(action)
            actions.append(action.tolist())
        acted[path].append(actions)
print(json.dumps(acted))
"""

ALONE = """
import importlib.abc, json, sys

class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"meta_rl", "envs", "agents", "gymnasium", "mujoco"}:
            raise ImportError(f"{name} is not to be had here")

sys.meta_path.insert(0, Only())
import numpy as np
import torch

answers = {}
for path, observations in json.loads(sys.argv[1]):
    files = {"metadata.json": ""}
    program = torch.export.load(path, extra_files=files).module()
    about = json.loads(files["metadata.json"], parse_constant=sys.exit)  # NaN is no JSON
    start, size = about["initial"], len(about["action_low"])
    known = (torch.tensor([start["prev_action"]]), torch.tensor([start["prev_reward"]]),
             torch.tensor([True]), torch.tensor([start["state"]]))
    answers[path] = []
    for step, row in enumerate(observations):
        obs = torch.tensor([row])
        noise = torch.full((1, size), 0.0 if step % 2 else 0.7)
        if about["outputs"] == ["action"]:
            action = program(obs, noise)
        else:
            action, drawn, state = program(obs, noise, *known)
            known = (drawn, torch.tensor([-0.5]), torch.tensor([False]), state)
        answers[path].append(action[0].tolist())
assert not {"meta_rl", "envs", "agents", "gymnasium", "mujoco"} & sys.modules.keys()
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def adapted(small_config, tmp_path_factory):
    """Train agents a little and adapt them by the command line; return their run folders."""
    from meta_rl.commands.cli import main

    folder = tmp_path_factory.mktemp("adapted")

    def of(agent):
        if not (folder / agent).exists():
            config = small_config(agent.partition(",")[0], agent=OPTIONS.get(agent, {}))
            words = [str(config), "--runs", str(folder), "--name", agent]
            assert main(["train", *words]) == 0
            assert main(["adapt", str(folder / agent), "--task", "point", "--goal", "1"]) == 0
        return folder / agent

    return of


@ALL_AT_ONCE
def test_an_adapted_policy_acts_in_a_gymnasium_loop_as_the_agent_does(
    agents, adapted, environment, monkeypatch
):
    family = PointNavigation(Config(horizon=5, test_goals=3))
    tasks = family.tasks("test")[[1]]
    files = [str(adapted(agent) / "adapted" / "point-1.pt") for agent in agents]
    argument = json.dumps([(path, tasks.params[0].tolist()) for path in files])
    printed = subprocess.run(
        [sys.executable, "-c", LOOP, argument],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    acted = json.loads(printed)

    for agent, path in zip(agents, files, strict=True):
        trained = load_trained(RunFolder(adapted(agent)), "latest")
        device = torch.device("cpu")
        worker = Player(family, device, Streams(0, device))
        saved = checkpoint.load(Path(path))
        assert not saved["freeze_memory"]
        monkeypatch.setattr(
            collector, "last_action_and_reward", lambda *given, saved=saved: saved["memory"]
        )
        rollout, _ = worker.collect(
            trained.agent,
            saved["context"],
            tasks,
            1,
            Phase(1),
            deterministic=True,
        )
        expected = rollout.action[:, 0, 0].clamp(-1, 1).numpy()
        for episode in acted[path]:  # both alike: no state is the episode forgotten, not the task
            np.testing.assert_allclose(episode, expected, atol=1e-5)


@pytest.mark.parametrize("agent", quick(AGENTS))
def test_the_adapt_command_says_what_it_did(agent, adapted, meta_rl, tmp_path):
    output = tmp_path / "elsewhere" / "policy.pt"
    words = ("--task", "point", "--rounds", 2, "--episodes", 3, "--output", output, "--seed", 1)
    outcome = meta_rl("adapt", adapted(agent), *words).succeeds()

    note, *told, log, program, where = outcome.out.splitlines()
    adapted_for = "6 episodes" if agent.startswith(MEMORIES) else "2 rounds"
    assert note == f"note: adapting for {adapted_for}; the agent was trained for 1"
    assert [line.split()[:4] for line in told] == [
        ["point:0", "round", "1,", "adapting,"],
        ["point:0", "round", "2,", "adapting,"],
        ["point:0", "round", "3,", "executing,"],
    ]
    rows = [json.loads(line) for line in output.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["learned_from"] for row in rows] == [0, 3, 6]
    # what a memory learned while executing is forgotten, so its rounds are single episodes
    assert [len(row["returns"]) for row in rows] == [3, 3, 1 if agent.startswith(MEMORIES) else 3]
    assert [row["return"] for row in rows] == [np.mean(row["returns"]) for row in rows]
    assert rows[0]["kl"] is None and all(row["kl"] > 0 for row in rows[1:])
    assert all(0 <= row["success"] <= 1 for row in rows)
    assert log == f"log: {output.with_suffix('.jsonl')}"
    assert program == f"program: {output.with_suffix('.pt2')}"
    assert where == f"adapted policy: {output}"
    about = load(output).metadata
    assert about["task"] == "point:0" and about["adaptation_episodes"] == 6
    assert about["protocol"]["family"] == "point_navigation"
    assert about["versions"]["torch"] == torch.__version__


@ALL_AT_ONCE
def test_an_exported_policy_needs_nothing_but_torch_and_numpy(agents, adapted, environment):
    observations = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    files = [adapted(agent) / "adapted" / "point-1.pt" for agent in agents]
    argument = json.dumps(
        [(str(path.with_suffix(".pt2")), observations.tolist()) for path in files]
    )
    printed = subprocess.run(
        [sys.executable, "-c", ALONE, argument], check=True, capture_output=True, text=True
    ).stdout
    answers = json.loads(printed)

    for agent, path in zip(agents, files, strict=True):
        trained = load_trained(RunFolder(adapted(agent)), "latest")
        saved = checkpoint.load(path)
        context, (action, reward) = saved["context"], saved["memory"]
        for step, (answer, obs) in enumerate(
            zip(answers[str(path.with_suffix(".pt2"))], observations, strict=True)
        ):
            first = torch.full((1, 1), step == 0)
            seen = torch.from_numpy(obs).view(1, 1, -1)
            timestep = TimeStep(seen, action, reward, first, torch.ones_like(first))
            with torch.no_grad():
                policy, context = trained.agent.distribution(context, timestep)
            action = policy.sample(GivenNoise(torch.full((1, 1, 2), 0.0 if step % 2 else 0.7)))
            reward = torch.full((1, 1), -0.5)
            np.testing.assert_allclose(answer, action.view(-1).clamp(-1, 1), atol=1e-6)


class Counter(MetaAgent):
    """An agent that only acts: its action is how often it has acted, over ten."""

    phases = (Phase(),)
    copies_share_experience = False

    def act(self, context, timestep, noise):
        acted = context["acted"] + 1
        action = acted.unsqueeze(-1) / 10 + 0 * timestep.prev_action
        return action, torch.zeros_like(timestep.prev_reward), {"acted": acted}


def test_an_agent_that_only_acts_is_exported_too(tmp_path):
    spec = EnvSpec.box(2, (-1.0, -0.2), (1.0, 0.2), 5)
    memory = torch.zeros(1, 1, 2), torch.zeros(1, 1)
    policy = ActingPolicy(Counter(), {"acted": torch.full((1, 1), 1)}, memory, spec, False)
    export(policy, {"task": "count"}, tmp_path / "counter.pt2")

    program = torch.export.load(tmp_path / "counter.pt2").module()
    obs, prev_action, reward = torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3)
    first, state = torch.ones(3).bool(), policy.initial_state.expand(3, -1)
    for acted in (2, 3):
        action, prev_action, state = program(
            obs, torch.randn(3, 2), prev_action, reward, first, state
        )
        torch.testing.assert_close(action, torch.tensor([[acted / 10, 0.2]]).expand(3, -1))
        torch.testing.assert_close(prev_action, torch.full((3, 2), acted / 10))
    with pytest.raises(UserError, match=r"Counter moves a part .* shape \(1,\)"):
        ActingPolicy(Counter(), {"acted": torch.ones(1)}, memory, spec, False)


def test_a_policy_that_chooses_says_a_number_for_one_observation(meta_rl, small_config, tmp_path):
    few = {"horizon": 4, "test_tasks": 5, "validation_tasks": 5}
    config = small_config("rl2_ppo", name="arms", envs={"name": "bandits", **few})
    meta_rl("train", config).succeeds()
    meta_rl("adapt", "runs/arms").succeeds()
    (file,) = (tmp_path / "runs" / "arms" / "adapted").glob("*.pt")
    policy = load(file)
    arm, state = policy.predict(np.ones(1))
    assert isinstance(arm, np.integer) and arm in {*range(5)}  # as a table may be asked by it
    arms, _ = policy.predict(np.ones((3, 1)))
    assert arms.shape == (3,)
    assert np.shape(policy.predict(np.ones(1), state, reward=1.0)[0]) == ()


@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (Discrete(4, start=-1), 2),
        (MultiDiscrete([2, 3]), np.array([1, 2])),
        (Box(0, 255, (2, 2, 3), np.uint8), np.arange(12, dtype=np.uint8).reshape(2, 2, 3)),
        (Dict({"a": Box(-1, 1, (2,)), "b": Discrete(2)}), {"a": np.array([0.5, 2.0]), "b": 1}),
        (Tuple([Box(-1, 1, (2,)), Discrete(2)]), (np.array([0.5, 2.0]), 1)),
    ],
    ids=str,
)
def test_an_observation_is_taken_as_its_environment_gives_it(space, observation):
    one = Box(-1.0, 1.0, (1,), np.float32)
    context = torch.arange(1.0, flatdim(space) + 1).view(1, 1, -1)
    memory = torch.zeros(1, 1, 1), torch.zeros(1, 1)
    acting = ActingPolicy(Weigher(), context, memory, EnvSpec(space, one, 5, "any"), False)
    policy = AdaptedPolicy(acting, {})

    row = flatten(space, observation)
    action, _ = policy.predict(observation)

    np.testing.assert_allclose(action, [np.tanh((row * context.numpy()).sum() / 100)], rtol=1e-5)
    np.testing.assert_allclose(policy.predict(np.stack([row, row]))[0], [action, action])
    for other in (np.zeros(7), {"c": 1}, (1,)):
        with pytest.raises(UserError, match=r"the policy observes \d+ numbers, or one of .*, got"):
            policy.predict(other)


class Weigher(MetaAgent):
    """Acts by a weighted sum of what it observes."""

    phases = (Phase(),)
    copies_share_experience = True

    def act(self, context, timestep, noise):
        action = ((timestep.obs * context).sum(-1, keepdim=True) / 100).tanh()
        return action, torch.zeros_like(timestep.prev_reward), context


@pytest.mark.parametrize("agent", quick(AGENTS, CHOSEN))
def test_no_state_begins_an_episode_with_what_adaptation_left(agent, adapted):
    policy = load(adapted(agent) / "adapted" / "point-1.pt")
    observations = np.random.default_rng(0).normal(size=(4, 2))

    def play(starts):
        state, actions = None, []
        for seen, start in zip(observations, starts, strict=True):
            start = None if start is None else np.array([start])
            action, state = policy.predict(seen, state, start, reward=-1.0)
            actions.append(action)
        return np.array(actions)

    first = play([None] * 4)
    np.testing.assert_array_equal(play([True, False, False, False]), first)
    assert first.dtype == np.float32 and first.shape == (4, 2)
    assert (np.abs(first) <= 1).all()
    for seen, action in zip(observations, play([True] * 4), strict=True):
        np.testing.assert_array_equal(action, policy.predict(seen)[0])


@pytest.mark.parametrize("agent", quick(AGENTS, CHOSEN))
def test_worlds_that_are_predicted_together_act_as_each_alone(agent, adapted):
    policy = load(adapted(agent) / "adapted" / "point-1.pt")
    observations = np.random.default_rng(0).normal(size=(3, 4, 2))
    together, state = [], None
    for seen in observations:
        action, state = policy.predict(seen, state, reward=np.arange(4.0))
        together.append(action)
    for world in range(4):
        alone, state = [], None
        for seen in observations[:, world]:
            action, state = policy.predict(seen, state, reward=float(world))
            alone.append(action)
        np.testing.assert_allclose(np.array(together)[:, world], alone, atol=1e-5)


@pytest.mark.parametrize("agent", quick(AGENTS, CHOSEN))
def test_sampled_actions_follow_torch_s_seed(agent, adapted):
    policy = load(adapted(agent) / "adapted" / "point-1.pt")

    def draw(seed):
        torch.manual_seed(seed)
        return policy.predict(np.zeros((50, 2)), deterministic=False)[0]

    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()
    assert np.std(draw(0), axis=0).min() > 0.05


@pytest.mark.parametrize("agent", quick(AGENTS, CHOSEN))
def test_stable_baselines3_evaluates_an_adapted_policy(agent, adapted):
    policy = load(adapted(agent) / "adapted" / "point-1.pt")
    worlds = make_sb3("point_navigation", num_envs=2, horizon=5, split="test")
    mean, _ = evaluate_policy(policy, worlds, n_eval_episodes=4, warn=False)
    assert -30 < mean < 0


def test_a_policy_with_a_memory_remembers_within_the_episode_unless_it_is_frozen(
    adapted, meta_rl, tmp_path
):
    words = ("--goal", 1, "--freeze-memory", "--output", tmp_path / "frozen.pt")
    meta_rl("adapt", adapted("rl2_ppo"), *words).succeeds()
    free = load(adapted("rl2_ppo") / "adapted" / "point-1.pt")
    frozen = load(tmp_path / "frozen.pt")

    def memories(policy):
        state, seen = None, []
        for _ in range(2):
            _, state = policy.predict(np.ones(2), state, reward=-3.0)
            seen.append(state[0])
        return seen

    first, second = memories(free)
    assert (first != second).any()
    first, second = memories(frozen)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[0], frozen.policy.initial_state)


def test_a_memory_goes_on_into_the_next_episode_if_it_is_asked_to(adapted):
    policy = load(adapted("rl2_ppo") / "adapted" / "point-1.pt")
    observations = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
    action, state = policy.predict(observations, reward=0.0)

    begins, rewards = np.array([True, False]), np.array([-3.0, -3.0])
    went_on, _ = policy.predict(observations, state, begins, reward=rewards, remembering=True)

    given = (torch.from_numpy(part) for part in (observations, np.zeros((2, 2), np.float32)))
    memory, drawn = torch.from_numpy(state[0]), torch.from_numpy(state[1])
    expected, _, _ = policy.policy(
        *given, drawn, torch.tensor([-3.0, -3.0]), torch.tensor([True, False]), memory
    )
    np.testing.assert_array_equal(went_on, expected.detach().numpy())
    forgot, _ = policy.predict(observations, state, begins, reward=rewards)
    np.testing.assert_array_equal(forgot[0], action[0])
    assert (went_on[0] != action[0]).any() and (went_on[1] == forgot[1]).all()
    with pytest.raises(UserError, match="the state is of 2 worlds, and the observation of 1"):
        policy.predict(observations[0], state)


def test_adaptation_changes_the_policy(adapted, meta_rl, tmp_path):
    policies = []
    for goal in (0, 1):
        words = ("--task", "point", "--goal", goal, "--output", tmp_path / f"{goal}.pt")
        meta_rl("adapt", adapted("maml_trpo"), *words).succeeds()
        policies.append(load(tmp_path / f"{goal}.pt"))
    first, second = (policy.predict(np.ones(2))[0] for policy in policies)
    assert (first != second).any()


@pytest.mark.parametrize("size", [1, 3])
def test_an_observation_of_another_size_is_refused(size, adapted):
    policy = load(adapted("maml_trpo") / "adapted" / "point-1.pt")
    with pytest.raises(UserError, match=rf"observes 2 numbers, got an array of shape \({size},\)"):
        policy.predict(np.zeros(size))


def test_a_training_checkpoint_is_not_a_policy(adapted, tmp_path):
    with pytest.raises(UserError, match=r"is a training checkpoint; `meta-rl adapt RUN` makes"):
        load(adapted("maml_trpo") / "checkpoints" / "latest.pt")
    with pytest.raises(UserError, match=r"no policy .*none.pt; `meta-rl adapt RUN` writes one"):
        load(tmp_path / "none.pt")
    with pytest.raises(UserError, match=r"is for torch.export.load; load .*point-1.pt here"):
        load(adapted("maml_trpo") / "adapted" / "point-1.pt2")


def test_a_policy_names_only_agents_of_the_catalog(adapted, tmp_path):
    state = checkpoint.load(adapted("maml_trpo") / "adapted" / "point-1.pt")
    checkpoint.save(state | {"agent_name": "os.path"}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"outside of agents/; allow it with --plugin os.path"):
        load(tmp_path / "evil.pt")
