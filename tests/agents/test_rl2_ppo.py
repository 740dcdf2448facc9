from dataclasses import replace
from math import log

import pytest
import torch
from playing import Player
from torch.utils._pytree import tree_leaves

from agents import rl2_ppo
from agents.rl2_ppo import Config, build
from envs.point_navigation import Config as PointConfig
from envs.point_navigation import PointEnv, PointNavigation
from meta_rl.core.episodes import episode_sums
from meta_rl.core.errors import UserError
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, MetaBatch, Rollout, Tasks, TimeStep

CPU = torch.device("cpu")
FAMILY = PointNavigation(PointConfig(horizon=12, test_goals=5))
TASKS, COPIES = 4, 3
TRANSFORMER = {"memory": "transformer", "heads": 2}
FAST_WEIGHTS = {"memory": "fast_weights", "heads": 2}
SLIDING = TRANSFORMER | {"context_steps": 6}


@pytest.fixture
def early_ends(monkeypatch):
    """Goals that most points soon run into, so that episodes end at different steps."""
    monkeypatch.setattr(PointEnv, "REACHED", 0.25)


def make_agent(**settings):
    small = {"encoder_sizes": (16,), "memory_size": 8, "epochs": 2, "minibatches": 2}
    return build(Config(**small | settings), FAMILY.spec, CPU, seed=0)


def make_worker(family=FAMILY, seed=0):
    return Player(family, CPU, Streams(seed, CPU))


def trial(agent, worker, tasks, copies=COPIES):
    """Let the agent play one trial on each task; return it with the memory after it."""
    context, rollouts = agent.begin(tasks, copies, True), []
    for phase in agent.phases:
        previous = rollouts[-1] if rollouts else None
        rollout, context = worker.collect(agent, context, tasks, copies, phase, previous)
        rollouts.append(rollout)
    return MetaBatch(tasks, tuple(rollouts)), context


def some_tasks(seed=0, count=TASKS):
    return FAMILY.sample(count, "train", torch.Generator().manual_seed(seed))


def time_step(first=False, valid=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (TASKS, COPIES)
    return TimeStep(
        obs=torch.randn(*shape, 2, generator=generator),
        prev_action=torch.randn(*shape, 2, generator=generator),
        prev_reward=torch.randn(shape, generator=generator),
        first=torch.full(shape, first),
        valid=torch.full(shape, valid),
    )


def recomputed(agent, trials, memory):
    """Log-probabilities (L, C, B) under the present parameters, by pieces as the update plays."""
    with torch.no_grad():
        policy, _, _ = agent.play(trials, memory, agent.policy)
    return policy.log_prob(trials.action)


def test_a_memory_outlives_the_episode_and_other_tasks_begin_with_an_empty_one():
    agent = make_agent()
    empty = agent.begin(some_tasks(), COPIES, True)
    assert empty.shape == (TASKS, COPIES, 8) and not empty.any()

    with torch.no_grad():
        _, _, filled = agent.act(empty, time_step(), None)
        _, _, next_episode = agent.act(filled, time_step(first=True, seed=1), None)
        _, _, forgetful = agent.act(empty, time_step(first=True, seed=1), None)

    assert (next_episode - forgetful).abs().amin((0, 1)).max() > 1e-3
    assert not agent.begin(some_tasks(1), COPIES, True).any()


def test_a_trial_goes_on_where_the_last_episode_ended():
    agent, worker = make_agent(), make_worker()
    batch, _ = trial(agent, worker, some_tasks())
    first, second = batch.rollouts
    assert not first.prev_action[0].any() and not first.prev_reward[0].any()
    torch.testing.assert_close(second.prev_action[0], first.action[-1])
    torch.testing.assert_close(second.prev_reward[0], first.reward[-1])
    assert second.first[0].all() and not second.obs[0].any()


def test_adapting_is_an_identity_because_acting_has_remembered():
    agent, worker = make_agent(), make_worker()
    tasks = some_tasks()
    rollout, context = worker.collect(
        agent, agent.begin(tasks, COPIES, True), tasks, COPIES, agent.phases[0]
    )
    assert context.abs().sum() > 0
    assert agent.adapt(context, rollout) is context


def test_padding_is_not_remembered():
    agent = make_agent()
    context = torch.rand(TASKS, COPIES, 8)
    valid = torch.rand(TASKS, COPIES, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        _, _, moved = agent.act(context, replace(time_step(), valid=valid), None)
    assert torch.equal(moved[~valid], context[~valid])
    assert not (moved[valid] == context[valid]).all(-1).any()


def test_a_world_that_waits_remembers_its_own_episode_alone(early_ends):
    agent, worker = make_agent(episodes_per_trial=1), make_worker()
    batch, memory = trial(agent, worker, some_tasks())
    (rollout,) = batch.rollouts
    steps = rollout.valid.sum(0)
    assert len(steps.unique()) > 2  # worlds ended at different steps

    for m, n in ((0, 0), (1, 2), (3, 1)):
        played = rollout.valid[:, m, n]
        inputs = agent.inputs(rollout)[played, m, n].unsqueeze(1)
        with torch.no_grad():
            _, _, alone = agent.policy(inputs, torch.zeros(1, 8))
        torch.testing.assert_close(memory[m, n], alone[0])


@pytest.mark.parametrize(
    ("bptt_steps", "normalize", "settings"),
    [
        *((steps, normalize, {}) for steps in (1, 5, 7, 250) for normalize in (True, False)),
        (7, True, {"memory": "lstm", "critic": True}),
        (7, True, SLIDING),
        (250, True, TRANSFORMER | {"critic": True}),
        (7, True, FAST_WEIGHTS),
    ],
)
def test_before_the_first_update_the_probability_ratio_is_one(
    early_ends, bptt_steps, normalize, settings
):
    agent = make_agent(
        episodes_per_trial=3, bptt_steps=bptt_steps, normalize_inputs=normalize, **settings
    )
    worker = make_worker()
    agent.meta_update(trial(agent, worker, some_tasks())[0])  # now the moments say something
    batch, _ = trial(agent, worker, some_tasks(1))
    rollout = Rollout.concatenate(batch.rollouts)
    gaps = ~rollout.valid[:-1] & rollout.valid[1:]
    assert gaps.any()  # padding lies between episodes

    trials = agent.prepare(rollout, agent.policy)
    pieces = trials.pieces(bptt_steps)
    memory = agent.memories(pieces, agent.policy)
    log_ratio = recomputed(agent, pieces, memory) - pieces.log_prob

    assert trials.valid.sum() == rollout.valid.sum() == pieces.valid.sum()
    assert len(trials.valid) == rollout.valid.sum(0).max() > bptt_steps or bptt_steps == 250
    assert log_ratio[pieces.valid].abs().max() < 1e-5
    metrics, _ = agent.step(pieces, memory)
    assert metrics["outer/kl"].abs() < 1e-7 and metrics["outer/clipped_share"] == 0


@pytest.mark.parametrize("bptt_steps", [1, 5, 12, 36, 250])
def test_pieces_hold_the_trials_in_order_and_are_of_one_length(early_ends, bptt_steps):
    agent = make_agent(episodes_per_trial=3)
    batch, _ = trial(agent, make_worker(), some_tasks())
    trials = agent.prepare(Rollout.concatenate(batch.rollouts), agent.policy)
    pieces = trials.pieces(bptt_steps)
    length, count, columns = pieces.valid.shape
    steps = len(trials.valid)
    assert columns == TASKS * COPIES and length <= bptt_steps
    assert count == -(-steps // bptt_steps) and 0 <= length * count - steps < count
    in_order = pieces.inputs.transpose(0, 1).flatten(0, 1)
    assert torch.equal(in_order[:steps], trials.inputs) and not in_order[steps:].any()
    assert not pieces.valid.transpose(0, 1).flatten(0, 1)[steps:].any()
    which = torch.tensor([2, 0])
    assert torch.equal(pieces.of(which).action, pieces.action[:, :, which])


@pytest.mark.parametrize("settings", [{}, SLIDING, FAST_WEIGHTS], ids=str)
def test_memories_are_those_of_the_whole_trial_and_follow_the_parameters(settings):
    agent = make_agent(episodes_per_trial=3, **settings)
    batch, _ = trial(agent, make_worker(), some_tasks())
    pieces = agent.prepare(Rollout.concatenate(batch.rollouts), agent.policy).pieces(10)

    def whole_trial(steps):
        inputs = pieces.inputs.transpose(0, 1).flatten(0, 1)[:steps]
        with torch.no_grad():
            return agent.policy(inputs, agent.policy.memory.empty(TASKS * COPIES))[2]

    def assert_is_of_whole_trial(memory, piece):
        expected = tree_leaves(whole_trial(piece * length))
        for part, whole in zip(tree_leaves(memory), expected, strict=True):
            torch.testing.assert_close(part[piece], whole, rtol=1e-5, atol=1e-5)

    memory = agent.memories(pieces, agent.policy)
    length, count, _ = pieces.valid.shape
    assert count > 3 and not any(part[0].any() for part in tree_leaves(memory))
    for piece in range(1, count):
        assert_is_of_whole_trial(memory, piece)

    with torch.no_grad():
        for parameter in agent.policy.parameters():
            parameter.add_(0.1)
    for passes in range(1, count):  # each pass brings one more piece up to date
        _, _, memory = agent.play(pieces, memory, agent.policy)
        assert_is_of_whole_trial(memory, passes)
    for piece in range(1, count):
        assert_is_of_whole_trial(memory, piece)


def test_trials_are_packed_without_gaps_and_in_order(early_ends):
    agent = make_agent(episodes_per_trial=3)
    batch, _ = trial(agent, make_worker(), some_tasks())
    rollout = Rollout.concatenate(batch.rollouts)
    trials = agent.prepare(rollout, agent.policy)
    lengths = rollout.valid.sum(0).flatten()
    clock = torch.arange(len(trials.valid)).unsqueeze(1)
    assert torch.equal(trials.valid, clock < lengths)
    for column, (m, n) in enumerate((m, n) for m in range(TASKS) for n in range(COPIES)):
        own = rollout.action[:, m, n][rollout.valid[:, m, n]]
        assert torch.equal(trials.action[: len(own), column], own)


def test_the_advantage_reaches_across_episodes_but_not_to_other_tasks(early_ends):
    agent = make_agent(normalize_advantage=False, gae_lambda=1.0, gamma=0.9)
    batch, _ = trial(agent, make_worker(), some_tasks())
    rollout = Rollout.concatenate(batch.rollouts)
    last = len(batch.rollouts[0].reward)
    richer = rollout.reward.clone()
    richer[last, 0, 0] += 100.0  # the first step of world (0, 0)'s second episode
    changed = agent.prepare(replace(rollout, reward=richer), agent.policy).advantage
    before = agent.prepare(rollout, agent.policy).advantage
    assert (changed - before)[0, 0].abs() > 1
    assert torch.equal(changed[:, COPIES:], before[:, COPIES:])  # the other tasks' columns


def test_a_critic_learns_what_the_rest_of_the_trial_brings(early_ends):
    agent = make_agent(critic=True, gae_lambda=0.5, gamma=0.9, normalize_advantage=False)
    agent.meta_update(trial(agent, make_worker(), some_tasks())[0])  # now its values differ
    batch, _ = trial(agent, make_worker(), some_tasks(1))
    rollout = Rollout.concatenate(batch.rollouts)
    trials = agent.prepare(rollout, agent.policy)

    target = agent.policy.critic.unscaled(trials.target)
    value = agent.policy.critic.unscaled(agent.values(trials, agent.policy))
    for m, n in ((0, 0), (3, 2)):
        reward = rollout.reward[:, m, n][rollout.valid[:, m, n]]
        to_go = torch.stack(
            [sum(0.9**k * r for k, r in enumerate(reward[t:])) for t in range(len(reward))]
        )
        column = m * COPIES + n
        torch.testing.assert_close(target[: len(reward), column], to_go, rtol=1e-4, atol=1e-4)
        # Backwards: A = r + γ V' - V + γ λ A', and nothing comes after the last step.
        later, next_value = torch.zeros(()), torch.zeros(())
        for t in reversed(range(len(reward))):
            later = reward[t] + 0.9 * next_value - value[t, column] + 0.45 * later
            torch.testing.assert_close(trials.advantage[t, column], later, rtol=1e-4, atol=1e-4)
            next_value = value[t, column]
    assert value[trials.valid].std() > 1e-3 and not trials.advantage[~trials.valid].any()


def test_a_critic_sees_no_future_beyond_the_horizon():
    with pytest.raises(UserError, match=r"agent\.bootstrap_at_horizon must be false"):
        Config(critic=True, bootstrap_at_horizon=True)


def test_only_a_meta_update_moves_the_normalizers():
    agent, worker = make_agent(), make_worker()
    batch, _ = trial(agent, worker, some_tasks())
    assert agent.obs_moments.count == 0 and agent.reward_moments.count == 0

    agent.meta_update(batch)

    rollout = Rollout.concatenate(batch.rollouts)
    obs, reward = rollout.obs[rollout.valid], rollout.reward[rollout.valid]
    assert agent.obs_moments.count == len(obs) == len(reward)
    torch.testing.assert_close(agent.obs_moments.mean, obs.mean(0))
    torch.testing.assert_close(agent.reward_moments.variance, reward.var(correction=0))
    moments = agent.obs_moments
    trial(agent, worker, some_tasks(1))
    assert agent.obs_moments is moments


def test_without_normalization_nothing_is_counted():
    agent = make_agent(normalize_inputs=False)
    agent.meta_update(trial(agent, make_worker(), some_tasks())[0])
    assert agent.obs_moments.count == 0


def test_epochs_end_when_the_policy_has_moved_too_far():
    tight = make_agent(epochs=10, target_kl=1e-9, outer_lr=1e-2)
    free = make_agent(epochs=10, target_kl=None, outer_lr=1e-2)
    counts = [
        agent.meta_update(trial(agent, make_worker(), some_tasks())[0])["outer/epochs"].item()
        for agent in (tight, free)
    ]
    assert counts[0] < 3 and counts[1] == 10


def test_more_minibatches_than_trials_are_as_many_as_trials():
    agent = make_agent(minibatches=50)
    metrics = agent.meta_update(trial(agent, make_worker(), some_tasks(count=1), copies=2)[0])
    assert metrics["outer/loss"].isfinite()


@pytest.mark.parametrize("memory", ["gru", "transformer"])
@pytest.mark.parametrize(("at_once", "threads"), [(1, 1), (1, 3), (2**14, 3)])
def test_a_minibatch_s_gradient_does_not_depend_on_how_many_trials_are_played_at_once(
    early_ends, monkeypatch, with_threads, at_once, threads, memory
):
    def updated():
        agent = make_agent(target_kl=None, memory=memory, bptt_steps=4)
        metrics = agent.meta_update(trial(agent, make_worker(), some_tasks())[0])
        return metrics, dict(agent.policy.named_parameters())

    metrics, theta = with_threads(1, updated)
    monkeypatch.setattr(rl2_ppo, "STEPS_AT_ONCE", at_once)
    again, same = with_threads(threads, updated)

    for name, value in metrics.items():
        torch.testing.assert_close(again[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, value in theta.items():
        torch.testing.assert_close(same[name], value, rtol=0, atol=1e-5)


def test_initial_std_must_lie_within_its_bounds():
    with pytest.raises(
        UserError, match=r"initial_std must lie between min_std 0.05 and max_std 1.5"
    ):
        Config(initial_std=2.0)


def test_the_deviation_begins_as_configured_and_can_always_come_back_from_its_bounds():
    config = Config(initial_std=0.7, min_std=0.1, max_std=2.0)
    agent = build(config, FAMILY.spec, CPU, 0)
    policy, _, _ = agent.policy(torch.zeros(1, 1, 6), torch.zeros(1, config.memory_size))
    torch.testing.assert_close(policy.log_std.exp(), torch.full((1, 1, 2), 0.7), rtol=0.05, atol=0)
    assert agent.policy.bounded(torch.tensor(agent.policy.unbounded(log(0.7), config))).exp() == (
        pytest.approx(0.7, rel=1e-5)
    )
    for raw in (-3.0, 3.0):  # far beyond either bound
        value = torch.tensor(raw, requires_grad=True)
        bounded = agent.policy.bounded(value)
        (slope,) = torch.autograd.grad(bounded, value)
        assert log(0.1) < bounded.item() < log(2.0) and slope > 1e-3


def test_a_checkpoint_with_hard_bounds_is_refused():
    agent = build(Config(encoder_sizes=(8,), memory_size=8), FAMILY.spec, CPU, 0)
    state = agent.state_dict()
    del state["log_std"]
    with pytest.raises(UserError, match=r"clipped the standard deviation at its bounds.*train"):
        agent.load_state_dict(state)


class TwoDoors(PointNavigation):
    """The goal is half a metre to the left or to the right: one step tells which."""

    def __init__(self):
        super().__init__(PointConfig(horizon=4, test_goals=2))
        self.spec = EnvSpec.box(2, (-1.0, -1.0), (1.0, 1.0), 4)

    def sample(self, count, split, generator):
        side = torch.randint(2, (count,), generator=generator)
        goals = torch.stack([0.5 - side.double(), torch.zeros(count).double()], dim=1)
        return Tasks("point_navigation", ("point",) * count, side, goals)


def test_it_learns_to_use_in_the_second_episode_what_the_first_one_told():
    family = TwoDoors()
    settings = {"encoder_sizes": (16,), "memory_size": 16, "outer_lr": 3e-3, "epochs": 6}
    agent = build(Config(**settings), family.spec, CPU, seed=0)
    worker = make_worker(family)
    gains = []
    for _ in range(60):
        tasks = family.sample(16, "train", worker.streams.tasks)
        batch, _ = trial(agent, worker, tasks, copies=4)
        agent.meta_update(batch)
        first, second = (episode_sums(r, r.reward, 1).mean() for r in batch.rollouts)
        gains.append((second - first).item())
    # Knowing the side, four steps bring -(0.4 + 0.3 + 0.2 + 0.1) at best instead of about -2.
    assert sum(gains[:5]) / 5 < 0.1
    assert sum(gains[-5:]) / 5 > 0.15
