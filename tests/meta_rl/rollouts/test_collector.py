import pytest
import torch
from playing import Player

from envs.point_navigation import Config, PointNavigation
from meta_rl.core.errors import NonFiniteAction
from meta_rl.core.protocols import MetaAgent, TaskDistribution, TaskEnv
from meta_rl.core.seeding import Streams
from meta_rl.core.types import EnvSpec, MetaBatch, Metrics, Phase, Step, Task, Tasks
from meta_rl.rollouts import collector
from meta_rl.rollouts.collector import SimulatedFamily

CPU = torch.device("cpu")
HORIZON = 5


class Ledger:
    """Observes `[task, copy, episode, step]`; every number it reports says what it is.

    Copy n of a task terminates after `params[0] + n` steps, or is truncated at the horizon.
    """

    def __init__(self):
        self.starts = []

    def start(self, tasks, copies, seed):
        self.starts.append((len(tasks), copies, seed))
        task, copy = torch.meshgrid(tasks.index, torch.arange(copies), indexing="ij")
        self.state = torch.stack([task, copy, 0 * task, 0 * task], dim=-1).float()
        self.length = tasks.params[:, :1] + copy
        return self.state.clone()

    def step(self, action):
        self.state[..., 3] += 1
        terminated = self.state[..., 3] == self.length
        truncated = (self.state[..., 3] == HORIZON) & ~terminated
        self.ended = terminated | truncated
        return Step(
            next_obs=self.state.clone(),
            reward=code(self.state),
            terminated=terminated,
            truncated=truncated,
            metrics={"action_seen": action[..., 0].clone()},
        )

    def reset_ended(self):
        self.state[..., 2] += self.ended.float()
        self.state[..., 3] *= ~self.ended
        return self.state.clone()

    def close(self):
        pass


class LedgerFamily(SimulatedFamily):
    """Tasks numbered from 1, each with its own shortest episode."""

    family = "ledger"
    spec = EnvSpec.box(4, (-1.0,) * 2, (1.0,) * 2, HORIZON, metrics=("action_seen",))

    def __init__(self, lengths=(2, 4, 9)):
        tasks = [Task("ledger", "l", m, (float(end),)) for m, end in enumerate(lengths, start=1)]
        self.all = Tasks.stack(tasks)

    def sample(self, count, split, generator):
        return self.all[:count]

    def tasks(self, split):
        return self.all

    def make_env(self, device, workers):
        return Ledger()

    def protocol(self):
        return {}


class Scribe:
    """Answers an observation by its code and a draw; its context counts how often it acted."""

    phases = (Phase(),)
    copies_share_experience = True

    def begin(self, tasks: Tasks, copies: int, training: bool):
        return torch.zeros(len(tasks))

    def act(self, context, timestep, noise):
        name = code(timestep.obs)
        draw = torch.zeros(()) if noise is None else noise.uniform(())
        return torch.stack([name, draw.expand_as(name)], dim=-1), -name, context + 1

    def adapt(self, context, rollout):
        return context

    def meta_update(self, batch: MetaBatch) -> Metrics:
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def code(state):
    """The digits of the number are task, copy, episode and step."""
    return state @ torch.tensor([1000.0, 100.0, 10.0, 1.0])


def collect(worker, lengths=(2, 4, 9), copies=2, episodes=2, **options):
    tasks, agent = LedgerFamily(lengths).tasks("train"), Scribe()
    return worker.collect(
        agent, agent.begin(tasks, copies, True), tasks, copies, Phase(episodes), **options
    )


def make_worker(seed=0):
    return Player(LedgerFamily(), CPU, Streams(seed, CPU))


def test_the_ledger_and_the_scribe_keep_the_protocols():
    assert isinstance(LedgerFamily(), TaskDistribution)
    assert isinstance(Ledger(), TaskEnv)
    assert isinstance(Scribe(), MetaAgent)


def test_every_field_of_a_rollout_tells_of_the_same_step_of_the_same_world():
    lengths, copies, episodes = (2, 4, 9), 2, 3
    worker = make_worker()

    rollout, context = collect(worker, lengths, copies, episodes)

    played = 0
    for m, end in enumerate(lengths):
        for n in range(copies):
            t, action, reward = 0, 0.0, 0.0
            for episode in range(episodes):
                length = min(end + n, HORIZON)
                for s in range(length):
                    now = float(code(torch.tensor([m + 1.0, n, episode, s])))
                    assert rollout.obs[t, m, n].tolist() == [m + 1, n, episode, s]
                    assert rollout.next_obs[t, m, n].tolist() == [m + 1, n, episode, s + 1]
                    assert rollout.action[t, m, n, 0] == now
                    assert rollout.log_prob[t, m, n] == -now
                    assert rollout.reward[t, m, n] == now + 1
                    assert rollout.metrics["action_seen"][t, m, n] == now
                    assert rollout.prev_action[t, m, n, 0] == action
                    assert rollout.prev_reward[t, m, n] == reward
                    assert rollout.first[t, m, n] == (s == 0)
                    assert rollout.valid[t, m, n]
                    ended = s == length - 1
                    assert rollout.terminated[t, m, n] == (ended and end + n <= HORIZON)
                    assert rollout.truncated[t, m, n] == (ended and end + n > HORIZON)
                    assert rollout.last[t, m, n] == ended
                    t, action, reward = t + 1, now, now + 1
            assert not rollout.valid[t:, m, n].any()
            assert not rollout.last[t:, m, n].any()
            played += t
    assert worker.collector.env_steps == played == int(rollout.valid.sum())
    assert rollout.last.sum() == len(lengths) * copies * episodes
    assert (context == len(rollout.obs)).all()


def test_a_rollout_ends_when_the_last_world_has_finished_its_episodes():
    rollout, _ = collect(make_worker(), lengths=(2, 3), copies=1, episodes=2)

    assert rollout.obs.shape == (6, 2, 1, 4)
    assert rollout.valid[:, 0, 0].tolist() == [True] * 4 + [False] * 2
    assert all(len(column) == 6 for column in rollout.metrics.values())


def test_an_action_on_padding_that_is_not_finite_ends_nobody_else_s_episode(monkeypatch):
    def refuse(self, action):
        if not action.isfinite().all():
            raise NonFiniteAction("refused")
        return step(self, action)

    def lose_itself(self, context, timestep, noise):
        action, log_prob, context = act(self, context, timestep, noise)
        return action.where(timestep.valid.unsqueeze(-1), torch.nan), log_prob, context

    expected, _ = collect(make_worker(), lengths=(2, 4), copies=1)
    step, act = Ledger.step, Scribe.act
    monkeypatch.setattr(Ledger, "step", refuse)
    monkeypatch.setattr(Scribe, "act", lose_itself)
    rollout, _ = collect(make_worker(), lengths=(2, 4), copies=1)

    assert len(rollout.obs) == 8 and not expected.valid.all()
    assert not rollout.truncated.any() and rollout.action.isfinite().all()
    assert torch.equal(rollout.masked().reward, expected.masked().reward)


def test_steps_are_counted_over_all_rollouts():
    worker = make_worker()

    for _ in range(2):
        collect(worker, lengths=(2, 3), copies=1, episodes=2)

    assert worker.collector.env_steps == 2 * (4 + 6)


def test_a_continued_rollout_remembers_each_world_s_last_action_and_reward_before_padding():
    worker = make_worker()
    lengths, copies, episodes = (2, 4), 2, 2
    first, _ = collect(worker, lengths, copies, episodes)

    second, _ = collect(worker, lengths, copies, episodes, previous=first)

    assert not first.valid.all()
    for m, end in enumerate(lengths):
        for n in range(copies):
            last = min(end + n, HORIZON) - 1
            name = code(torch.tensor([m + 1.0, n, episodes - 1, last]))
            assert second.prev_action[0, m, n, 0] == name
            assert second.prev_reward[0, m, n] == name + 1
    assert torch.equal(second.prev_action[1:], second.action[:-1])
    assert second.first[0].all()
    assert (first.prev_action[0] == 0).all() and (first.prev_reward[0] == 0).all()


def test_the_mode_is_asked_for_without_noise_and_noise_follows_the_seed():
    mode, _ = collect(make_worker(), deterministic=True)
    drawn, again = (collect(make_worker(seed=3))[0] for _ in range(2))
    other, _ = collect(make_worker(seed=4))

    assert (mode.action[..., 1] == 0).all()
    assert torch.equal(drawn.action, again.action)
    assert not torch.equal(drawn.action, other.action)


@pytest.mark.parametrize(("many", "expected"), [(7, 1), (6, 3)])
def test_a_policy_acts_on_one_thread_unless_there_are_many_worlds(
    with_threads, monkeypatch, many, expected
):
    monkeypatch.setattr(collector, "MANY_WORLDS", many)
    act, seen = Scribe.act, set()

    def watched(self, context, timestep, noise):
        seen.add(torch.get_num_threads())
        return act(self, context, timestep, noise)

    monkeypatch.setattr(Scribe, "act", watched)
    with_threads(3, lambda: collect(make_worker()))  # three tasks in two copies

    assert seen == {expected}


def test_every_rollout_gives_the_simulator_a_seed_of_its_own():
    worker, twin = make_worker(), make_worker()
    for _ in range(2):
        collect(worker)
        collect(twin)

    (_, _, first), (tasks, copies, second) = worker.env.starts
    assert (tasks, copies) == (3, 2)
    assert first != second
    assert worker.env.starts == twin.env.starts


@pytest.mark.parametrize("episodes", [1, 3])
def test_a_rollout_of_point_navigation_is_a_chain_of_its_own_moves(episodes):
    family = PointNavigation(Config(horizon=6))
    tasks = family.sample(3, "train", torch.Generator().manual_seed(0))
    worker = Player(family, CPU, Streams(0, CPU))

    class Wanderer(Scribe):
        def act(self, context, timestep, noise):
            action = noise.normal(timestep.obs.shape)
            return action, torch.zeros(timestep.obs.shape[:2]), context

    rollout, _ = worker.collect(Wanderer(), None, tasks, 4, Phase(episodes))

    moved = rollout.obs + 0.1 * rollout.action.clamp(-1, 1)
    torch.testing.assert_close(rollout.next_obs, moved)
    going_on = ~rollout.first[1:]
    torch.testing.assert_close(rollout.obs[1:][going_on], rollout.next_obs[:-1][going_on])
    assert (rollout.obs[rollout.first] == 0).all()
    assert (rollout.last.sum(0) == episodes).all()
    assert torch.equal(rollout.prev_action[1:], rollout.action[:-1])
    goal = tasks.params.float().view(1, 3, 1, 2)
    torch.testing.assert_close(rollout.reward, -(rollout.next_obs - goal).norm(dim=-1))
