import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from playing import Player

from envs import tabular_mdp
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointEnv, PointNavigation
from envs.tabular_mdp import TabularMDPs
from meta_rl.core.episodes import episode_scores
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import TaskStreams
from meta_rl.core.types import RETURN, SUCCESS, Phase, Rollout, Score, Task, Tasks
from meta_rl.evaluation import measuring
from meta_rl.evaluation.folder import Evaluations
from meta_rl.evaluation.measuring import contexts_that_fit, evaluate, tasks_that_fit
from meta_rl.evaluation.protocol import (
    choose_tasks,
    describe_protocol,
    fingerprint,
    make_protocol,
    stage_episodes,
)
from meta_rl.evaluation.result import EvalResult
from meta_rl.experiment.config import EvaluationConfig

CPU = torch.device("cpu")
HORIZON = 5
FAMILY = PointNavigation(PointConfig(horizon=HORIZON, test_goals=7))


class Sweeper:
    """Moves right before adaptation, up after one, left after two: its returns can be computed.

    The context is the number of adaptations of each task. With noise, it is added.
    """

    DIRECTIONS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])

    def __init__(self, episodes=1, copies_share_experience=True):
        self.phases = (Phase(episodes),) * 2
        self.copies_share_experience = copies_share_experience

    def begin(self, tasks, copies, training):
        return torch.zeros(len(tasks), dtype=torch.long)

    def act(self, context, timestep, noise):
        action = self.DIRECTIONS[context].unsqueeze(1).expand(timestep.prev_action.shape)
        if noise is not None:
            action = action + 0.1 * noise.normal(action.shape)
        return action, torch.zeros(action.shape[:2]), context

    def adapt(self, context, rollout):
        assert rollout.last.sum(0).eq(self.phases[0].episodes).all()
        return context + 1

    def meta_update(self, batch):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def measure(agent, config, copies=2, tasks_at_once=3, family=FAMILY, unfinished=None):
    collector = family.make_collector(CPU, 1)
    return evaluate(
        agent, family, collector, CPU, config, copies, tasks_at_once, 100, 10, unfinished
    )


def sweep_return(goal, stage):
    """Minus the distances after 0.1, 0.2, ... metres in the stage's direction."""
    track = 0.1 * torch.arange(1, HORIZON + 1).unsqueeze(1) * Sweeper.DIRECTIONS[stage]
    return -(track.double() - goal).norm(dim=1).sum().item()


def success_of(rollout, episodes):
    """The success of each episode."""
    return episode_scores(rollout, [SUCCESS], episodes)["success"]


def step_rollout(success, ends):
    """One world's rollout with the given success metric, whose episodes end where `ends` says."""
    T = len(success)
    ends = torch.tensor(ends, dtype=torch.bool)
    first = torch.cat([torch.ones(1, dtype=torch.bool), ends[:-1]])
    column = {"obs": torch.zeros(T, 1, 1, 2), "prev_action": torch.zeros(T, 1, 1, 2)}
    return Rollout(
        **column,
        prev_reward=torch.zeros(T, 1, 1),
        first=first.view(T, 1, 1),
        valid=torch.ones(T, 1, 1, dtype=torch.bool),
        action=torch.zeros(T, 1, 1, 2),
        log_prob=torch.zeros(T, 1, 1),
        reward=torch.zeros(T, 1, 1),
        terminated=torch.zeros(T, 1, 1, dtype=torch.bool),
        truncated=ends.view(T, 1, 1),
        next_obs=torch.zeros(T, 1, 1, 2),
        metrics={} if success[0] is None else {"success": torch.tensor(success).view(T, 1, 1)},
    )


@pytest.mark.parametrize("tasks_at_once", [1, 3, 7, 50])
@pytest.mark.parametrize("episodes", [1, 2])
def test_every_cell_is_measured_however_the_tasks_are_cut(tasks_at_once, episodes):
    config = EvaluationConfig(adaptation_steps=2, actions="deterministic")
    result = measure(Sweeper(episodes), config, copies=2, tasks_at_once=tasks_at_once)

    tasks = FAMILY.tasks("test")
    expected = np.array(
        [[sweep_return(goal, stage) for goal in tasks.params] for stage in range(3)]
    )
    assert result.scores["episode_return"].shape == (episodes, 3, 7, 2)
    np.testing.assert_allclose(
        result.scores["episode_return"],
        np.broadcast_to(expected[None, :, :, None], (episodes, 3, 7, 2)),
        rtol=1e-5,
    )
    assert result.index == tuple(range(7)) and result.names == ("point",) * 7
    assert (result.env_steps, result.meta_iterations) == (100, 10)


class Uneven(Sweeper):
    """Plays three episodes before it adapts for the first time, and two ever after."""

    def __init__(self):
        super().__init__()
        self.phases = (Phase(3), Phase(2))

    def adapt(self, context, experience):
        played = experience.last.sum(0)
        assert (played == torch.where(context == 0, 3, 2).unsqueeze(-1)).all()
        return (context + 1).clamp(max=2)


@pytest.mark.parametrize("actions", ["sampled", "deterministic"])
def test_stages_are_told_by_the_phases_that_were_played(actions):
    config = EvaluationConfig(adaptation_steps=3, actions=actions)
    result = measure(Uneven(), config, copies=2)
    assert result.adaptation_episodes == (0, 6, 10, 14)  # two copies teach one policy
    assert result.shape == (2, 4, 7, 2)  # every stage by as many episodes as the shortest has
    if actions == "deterministic":
        expected = [
            [sweep_return(goal, min(stage, 2)) for goal in FAMILY.tasks("test").params]
            for stage in range(3)
        ]
        np.testing.assert_allclose(
            result.scores["episode_return"][0, :3, :, 0], expected, rtol=1e-5
        )


class RowForEachCopy(Sweeper):
    """Copies learn together, and each has a row of the context: its share of the way."""

    def begin(self, tasks, copies, training):
        return torch.zeros(len(tasks), copies, dtype=torch.long)

    def act(self, context, timestep, noise):
        assert context.shape == timestep.first.shape
        action = self.DIRECTIONS[context]
        return action, torch.zeros(action.shape[:2]), context


def test_a_context_with_a_row_for_each_copy_is_measured_in_as_many_copies_as_it_has():
    config = EvaluationConfig(adaptation_steps=1, evaluation_episodes=5)
    result = measure(RowForEachCopy(), config, copies=2)
    usual = measure(Sweeper(), replace(config, actions="deterministic"), copies=2)
    assert result.shape == (1, 2, 7, 5)
    np.testing.assert_allclose(
        result.scores["episode_return"], usual.scores["episode_return"], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["maml_trpo", "rl2_ppo"])
@pytest.mark.parametrize("actions", ["sampled", "deterministic"])
def test_stage_zero_is_the_agent_before_any_experience(name, actions, build_agent):
    agent = build_agent(name, FAMILY.spec)
    config = EvaluationConfig(actions=actions, seed=5)
    result = measure(agent, config, tasks_at_once=50)

    tasks = FAMILY.tasks("test")
    streams = TaskStreams(5, CPU, "evaluation/0/learning")
    worker = Player(FAMILY, CPU, streams)
    rollout, _ = worker.collect(
        agent,
        agent.begin(tasks, 2, True),
        tasks,
        2,
        agent.phases[0],
        deterministic=actions == "deterministic",
    )
    returns = (rollout.reward * rollout.valid).sum(0)
    np.testing.assert_allclose(result.scores["episode_return"][0, 0], returns.numpy(), rtol=1e-5)


def test_sampled_episodes_measure_the_stage_that_they_begin_at():
    config = EvaluationConfig(adaptation_steps=1)
    sampled = measure(Sweeper(), config, copies=40)
    mode = measure(Sweeper(), replace(config, actions="deterministic"), copies=1)
    assert sampled.scores["episode_return"][0].std(-1).min() > 0
    np.testing.assert_allclose(
        sampled.scores["episode_return"].mean((0, 3)),
        mode.scores["episode_return"].mean((0, 3)),
        atol=0.1,
    )


def test_deterministic_episodes_are_forgotten(build_agent):
    # RL²'s memory would hold them otherwise: then stage 1 would depend on how stage 0 is measured.
    agent = build_agent("rl2_ppo", FAMILY.spec)
    tasks = FAMILY.tasks("test")
    config = EvaluationConfig(actions="deterministic")
    result = measure(agent, config, tasks_at_once=50)

    streams = TaskStreams(0, CPU, "evaluation/0/learning")
    worker = Player(FAMILY, CPU, streams)
    rollout, context = worker.collect(agent, agent.begin(tasks, 2, True), tasks, 2, agent.phases[0])
    second, _ = worker.collect(
        agent, context, tasks, 2, agent.phases[0], previous=rollout, deterministic=True
    )
    returns = (second.reward * second.valid).sum(0)
    np.testing.assert_allclose(result.scores["episode_return"][0, 1], returns.numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["maml_ppo", "rl2_ppo"])
def test_evaluating_leaves_the_agent_alone_and_is_repeatable(name, build_agent, identical):
    agent = build_agent(name, FAMILY.spec)
    before = {key: repr(value) for key, value in agent.state_dict().items()}
    first, again = (measure(agent, EvaluationConfig()) for _ in range(2))
    other = measure(agent, EvaluationConfig(seed=1))
    np.testing.assert_array_equal(first.scores["episode_return"], again.scores["episode_return"])
    assert (first.scores["episode_return"] != other.scores["episode_return"]).any()
    assert {key: repr(value) for key, value in agent.state_dict().items()} == before


def test_an_episode_succeeds_if_any_of_its_steps_does():
    rollout = step_rollout([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0, 0, 1, 0, 1, 0, 0, 1])
    assert success_of(rollout, 3).flatten().tolist() == [1.0, 0.0, 1.0]


def test_padding_is_no_success():
    rollout = step_rollout([0.0, 0.0, 1.0], [0, 1, 0])
    padded = replace(rollout, valid=torch.tensor([True, True, False]).view(3, 1, 1))
    assert success_of(padded, 1).flatten().tolist() == [0.0]


def test_quick_successes_do_not_crowd_out_failures(monkeypatch):
    # Only goals near the start are reached, and early: they count once a copy all the same.
    monkeypatch.setattr(PointEnv, "REACHED", 0.15)
    result = measure(Sweeper(2), EvaluationConfig(adaptation_steps=0, actions="deterministic"))
    goals = FAMILY.tasks("test").params
    track = 0.1 * torch.arange(1, HORIZON + 1).unsqueeze(1) * Sweeper.DIRECTIONS[0]
    reached = ((track[:, None] - goals).abs() < 0.15).all(-1).any(0).double().numpy()
    assert 0 < reached.mean() < 1
    np.testing.assert_array_equal(
        result.scores["success"][:, 0], np.broadcast_to(reached[None, :, None], (2, 7, 2))
    )
    (stage,) = result.summary()["stages"]
    assert stage["success"]["mean"] == pytest.approx(reached.mean())


def test_episodes_of_experience_count_copies_only_where_they_are_shared():
    config = EvaluationConfig(adaptation_steps=3)
    assert stage_episodes(Sweeper(2, True), config, copies=5) == (0, 10, 20, 30)
    assert stage_episodes(Sweeper(2, False), config, copies=5) == (0, 2, 4, 6)
    assert measure(Sweeper(), EvaluationConfig(), copies=3).adaptation_episodes == (0, 3)


@pytest.mark.parametrize(
    ("name", "shape"), [("maml_trpo", (1, 3, 7, 5)), ("rl2_ppo", (5, 3, 7, 2))]
)
def test_evaluation_episodes_measure_the_same_policies_and_teach_them_nothing(
    name, shape, build_agent
):
    agent = build_agent(name, FAMILY.spec)
    usual = EvaluationConfig(adaptation_steps=2, actions="deterministic")
    result = measure(agent, replace(usual, evaluation_episodes=5))
    assert result.scores["episode_return"].shape == shape

    policies = measure(agent, usual).scores["episode_return"]
    if agent.copies_share_experience:
        policies = policies[..., :1]
    # nothing is random here but adaptation, so that each episode is the first again
    np.testing.assert_allclose(
        result.scores["episode_return"], np.broadcast_to(policies, shape), rtol=1e-5
    )


def test_evaluation_episodes_are_counted_and_part_of_the_protocol_where_they_are_used():
    def protocol(shared, **settings):
        config = EvaluationConfig(**settings)
        return make_protocol(Sweeper(copies_share_experience=shared), FAMILY, config, 10)

    shared, trials = (protocol(kind, evaluation_episodes=3) for kind in (True, False))
    assert (shared["adaptation_episodes"], shared["evaluation_episodes"]) == (10, 3)
    assert (trials["adaptation_episodes"], trials["evaluation_episodes"]) == (1, 30)
    usual = protocol(True)
    assert shared.keys() - usual.keys() == {"evaluation_episodes_are_learned_from"}
    # the fingerprint of results that were written before there was the choice
    assert fingerprint(usual) == "586d2d236953"

    result = measure(Sweeper(), EvaluationConfig(evaluation_episodes=3), copies=10)
    assert result.adaptation_episodes == (0, 10)
    assert (
        len(np.unique(result.scores["episode_return"]))
        == result.scores["episode_return"].size
        == 2 * 7 * 3
    )
    assert result.summary()["cells_per_stage"] == 7 * 3


def test_what_a_family_says_of_its_tasks_cannot_hide_how_they_are_measured(monkeypatch):
    few, many = (TabularMDPs(tabular_mdp.Config(actions=number)) for number in (2, 5))
    protocols = [describe_protocol(each, EvaluationConfig(), 1, 1) for each in (few, many)]
    assert fingerprint(protocols[0]) != fingerprint(protocols[1])
    monkeypatch.setattr(TabularMDPs, "protocol", lambda family: {"actions": 2, "split": "mine"})
    with pytest.raises(UserError, match="tabular_mdp has actions, split, which evaluation says"):
        describe_protocol(few, EvaluationConfig(), 1, 1)


class InterruptedAfter(Sweeper):
    """Is stopped by the user in the middle of a later task's adaptation."""

    def __init__(self, adaptations):
        super().__init__()
        self.left = adaptations

    def adapt(self, context, rollout):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().adapt(context, rollout)


@pytest.mark.parametrize("damage", [None, b"", b"PK damaged"])
def test_an_interrupted_evaluation_goes_on_to_the_identical_result(tmp_path, damage):
    file = tmp_path / "evaluations" / "partial-x.npz"
    expected = measure(Sweeper(), EvaluationConfig(), tasks_at_once=2)
    with pytest.raises(KeyboardInterrupt):
        measure(InterruptedAfter(2), EvaluationConfig(), tasks_at_once=2, unfinished=file)
    assert [path.name for path in file.parent.iterdir()] == ["partial-x.npz"]
    if damage is not None:
        file.write_bytes(damage)

    again = InterruptedAfter(2 if damage is None else 4)  # 7 tasks in 4 parts, of which 2 are kept
    resumed = measure(again, EvaluationConfig(), tasks_at_once=2, unfinished=file)
    assert again.left == 0
    np.testing.assert_array_equal(
        resumed.scores["episode_return"], expected.scores["episode_return"]
    )
    np.testing.assert_array_equal(resumed.scores["success"], expected.scores["success"])


def test_as_many_tasks_are_played_together_as_fit():
    collector = FAMILY.make_collector(CPU, 1)
    few, many = (tasks_that_fit(Sweeper(), FAMILY, collector, copies) for copies in (40, 1))
    assert many > 1000 and few == many // 40
    assert tasks_that_fit(Sweeper(), FAMILY, collector, 10**9) == 1
    collector.env.most_worlds = 64  # as for environments that are heavy objects
    assert tasks_that_fit(Sweeper(), FAMILY, collector, 10) == 6


def test_as_many_contexts_are_held_together_as_fit(monkeypatch):
    class Remembers(Sweeper):
        def begin(self, tasks, copies, training):
            return {"seen": torch.zeros(len(tasks), copies, 100), "steps": torch.zeros(len(tasks))}

    monkeypatch.setattr(measuring, "CONTEXT_BYTES", 20_000)
    tasks = FAMILY.tasks("test")
    assert contexts_that_fit(Remembers(), tasks, 10) == 4  # of 4 × (10 × 100 + 1) bytes each
    assert contexts_that_fit(Remembers(), tasks, 100) == 1


def test_goals_are_the_first_of_each_name():
    tasks = Tasks.stack([Task("f", name, i, (0.0,)) for i, name in enumerate("aabab")])

    class TwoNames(PointNavigation):
        def tasks(self, split):
            return tasks

    family = TwoNames(PointConfig())
    assert choose_tasks(family, "test", 2).index.tolist() == [0, 1, 2, 4]
    assert choose_tasks(family, "test", None).index.tolist() == [0, 1, 2, 3, 4]
    assert measure(Sweeper(), EvaluationConfig(goals=2)).index == (0, 1)


def test_the_fingerprint_changes_with_all_that_a_number_depends_on():
    def print_of(agent=None, family=FAMILY, copies=2, **settings):
        config = EvaluationConfig(**settings)
        return fingerprint(make_protocol(agent or Sweeper(), family, config, copies))

    prints = [
        print_of(),
        print_of(split="train"),
        print_of(goals=3),
        print_of(adaptation_steps=2),
        print_of(actions="deterministic"),
        print_of(copies=3),
        print_of(agent=Sweeper(episodes=2)),
        print_of(evaluation_episodes=2),
        *(
            print_of(family=PointNavigation(replace(FAMILY.config, **change)))
            for change in (
                {"horizon": 6},
                {"goal_seed": 1},
                {"reward": "squared"},
                {"test_goals": 8},
            )
        ),
    ]
    assert len(set(prints)) == len(prints)
    assert print_of(every=7, seed=3) == print_of()

    protocol = make_protocol(Sweeper(), FAMILY, EvaluationConfig(), 2)
    for name in protocol:
        assert fingerprint(protocol | {name: "other"}) != fingerprint(protocol)
    assert fingerprint(dict(reversed(protocol.items()))) == fingerprint(protocol)


def test_the_fingerprint_does_not_know_the_run(meta_rl, small_config, tmp_path):
    for name, flags in {
        "one": (),
        "two": ("--seed", 4, "--meta-iterations", 1, "--agent.inner-lr", 0.3),
        "three": ("--agent.name", "maml_ppo", "--meta-batch-size", 3),
    }.items():
        meta_rl("train", small_config(meta_iterations=2), "--name", name, *flags).succeeds()
    prints = {
        json.loads(path.read_text())["fingerprint"]
        for path in tmp_path.glob("runs/*/evaluations/*.json")
    }
    assert len(prints) == 1
    protocols = {path.read_text() for path in tmp_path.glob("runs/*/protocol.json")}
    assert len(protocols) == 1 and fingerprint(json.loads(protocols.pop())) in prints


class NeverHeard(Sweeper):
    """After it has adapted, its actions are NaN, which a simulator refuses."""

    def act(self, context, timestep, noise):
        action, log_prob, context = super().act(context, timestep, noise)
        return torch.where((context > 0).view(-1, 1, 1), torch.nan, action), log_prob, context


@pytest.mark.parametrize("apart", [{"evaluation_episodes": 2}, {"actions": "deterministic"}, {}])
def test_actions_that_are_not_finite_are_told_however_they_are_measured(apart):
    config = EvaluationConfig(adaptation_steps=1, **apart)
    with pytest.raises(UserError, match="action is not finite in phase 1"):
        measure(NeverHeard(1), config)


def test_a_result_comes_back_from_its_files(tmp_path):
    result = measure(Sweeper(2), EvaluationConfig(adaptation_steps=1))
    evaluations = Evaluations(tmp_path / "evaluations")
    path = evaluations.save(result)
    assert path.name == f"100-test-sampled-seed0-{result.fingerprint}.json"
    loaded, other = EvalResult.load(path), replace(result, seed=3)
    assert loaded.summary() == result.summary()
    beside = evaluations.save(other)  # another evaluation seed overwrites nothing
    assert beside != path and EvalResult.load(beside).seed == 3
    checkpoints = ("latest", "best", "a/latest.pt", "b/latest.pt")
    written = {evaluations.save(replace(result, checkpoint=each)) for each in checkpoints}
    assert len(written) == 4, "nor does another checkpoint"

    summary = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as cells:
        np.testing.assert_array_equal(cells["episode_return"], result.scores["episode_return"])
        np.testing.assert_array_equal(cells["success"], result.scores["success"])
        assert tuple(cells["names"]) == result.names
    assert summary == json.loads(json.dumps(result.summary()))
    assert (summary["tasks"], summary["cells_per_stage"]) == (7, 2 * 7 * 2)
    for stage, row in enumerate(summary["stages"]):
        mean = result.scores["episode_return"][:, stage].mean()
        assert row["episode_return"]["mean"] == pytest.approx(mean)
        assert row["episode_return"]["low"] < mean < row["episode_return"]["high"]
        assert row["episode_return_by_name"] == {"point": pytest.approx(mean)}
        assert result.metrics()[f"evaluation/return/stage_{stage}"] == pytest.approx(mean)


def result_with(episode_return, success, judged_by=(SUCCESS, RETURN)):
    return EvalResult(
        names=("a",),
        index=(0,),
        scores={
            "episode_return": np.full((1, 1, 1, 1), episode_return),
            "success": np.full((1, 1, 1, 1), success),
        },
        judged_by=judged_by,
        adaptation_episodes=(0,),
        protocol={"split": "test", "actions": "sampled", "success_rule": None},
        env_steps=1,
        meta_iterations=1,
    )


def test_best_is_by_success_then_return_and_nan_is_never_best():
    nan = float("nan")
    worst_to_best = [
        result_with(nan, nan),
        result_with(-5.0, nan),
        result_with(-5.0, 0.0),
        result_with(-4.0, 0.0),
        result_with(-9.0, 0.1),
        result_with(-8.0, 0.1),
    ]
    scores = [result.rank() for result in worst_to_best]
    assert scores == sorted(scores) and len(set(scores)) == len(scores)


def test_a_family_without_success_has_none_in_its_summary():
    result = result_with(1.0, float("nan"), judged_by=(RETURN,))
    row = result.summary()["stages"][0]
    assert "success" not in row and row["episode_return"]["mean"] == 1.0
    assert result.metrics() == {"evaluation/return/stage_0": 1.0}


def test_of_losses_the_lower_is_the_better():
    loss = Score("loss", "loss", "loss", "mean", higher_is_better=False)
    result = result_with(0.0, 0.0, judged_by=(loss,))
    better, worse = (
        replace(result, scores={"loss": np.full((1, 1, 1, 1), value)}) for value in (0.1, 0.2)
    )
    assert better.rank() > worse.rank()
