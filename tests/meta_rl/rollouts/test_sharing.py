"""Tasks that are shared out among workers are played as they would be together, bit for bit.

The workers of `crews.CrewHere` need no Ray; test_ray.py has those that do.
"""

import pytest
import torch
from cases import quick
from crews import CrewHere
from toys import lines, ridge

from envs.point_navigation import Config, PointEnv, PointNavigation
from meta_rl.core.change import ChangeConfig
from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.lives import Changing
from meta_rl.core.seeding import PartStreams, Streams, TaskStreams
from meta_rl.core.types import Examples, Phase
from meta_rl.experiment import catalog
from meta_rl.experiment.config import load_experiment
from meta_rl.rollouts.adaptation import Adaptation, NotFinite
from meta_rl.rollouts.elsewhere import CollectorElsewhere
from meta_rl.rollouts.ray import presence
from meta_rl.rollouts.ray.collector import SharingCollector
from meta_rl.rollouts.ray.job import Failed, Played, to_arrays
from meta_rl.rollouts.ray.sharing import shares
from meta_rl.training.collecting import make_collector

CPU = torch.device("cpu")
TWIN = 0


class NearEnv(PointEnv):
    """Goals are reached from far, so that episodes end at different times."""

    REACHED = 0.25

    def step(self, action):
        if not action.isfinite().all():
            raise NonFiniteAction("the point cannot move so")
        return super().step(action)


class NearGoals(PointNavigation):
    def make_env(self, device, workers):
        return NearEnv(self.config, device)


FAMILY = NearGoals(Config(horizon=8, test_goals=6))


@pytest.fixture
def both(build_agent):
    """Make an agent's adaptation by one collector, and by workers that share the tasks.

    In place of workers there may be the TWIN of an agent that is on another device.
    """

    def make(agent="maml_trpo", family=FAMILY, tasks=5, copies=3, workers=3, streams=Streams):
        def build(device):
            if not isinstance(agent, str):
                return agent, family
            return build_agent(agent, family.spec, device), family

        drawn = family.sample(tasks, "train", torch.Generator().manual_seed(0))
        changes = getattr(family, "changes", None)
        local = family.make_collector(CPU, 1)
        if workers == TWIN:
            shared = CollectorElsewhere(family.make_collector(CPU, 1), build(CPU)[0], CPU, CPU)
        else:
            shared = SharingCollector(CrewHere(build, workers), CPU, changes)
        return [
            Adaptation(build(CPU)[0], collector, drawn, copies, streams(0, CPU, "test"), True)
            for collector in (local, shared)
        ]

    return make


def masked(experience):
    return vars(experience if isinstance(experience, Examples) else experience.masked())


@pytest.fixture
def agree(identical):
    """Go through all phases; assert that there is no difference whatsoever."""

    def check(one, other):
        for adaptation in (one, other):
            adaptation.complete()
        for ours, theirs in zip(one.experience, other.experience, strict=True):
            assert identical(masked(ours), masked(theirs))
        assert identical(one.context, other.context)
        assert one.collector.env_steps == other.collector.env_steps
        if isinstance(one.streams, Streams):
            assert identical(one.streams.state_dict(), other.streams.state_dict())

    return check


@pytest.mark.parametrize("agent", quick(catalog.names("agents")))
def test_every_agent_plays_the_same_with_workers(agent, both, agree):
    agree(*both(agent))


@pytest.mark.parametrize("agent", quick(catalog.names("agents")))
def test_every_agent_s_twin_plays_as_it_does(agent, both, agree):
    agree(*both(agent, workers=TWIN))


def test_a_twin_plays_as_what_the_agent_has_become(both, agree):
    one, other = both("rl2_ppo", workers=TWIN)
    one.agent.load_state_dict(other.agent.state_dict())
    for adaptation in (one, other):
        with torch.no_grad():
            adaptation.agent.policy.head.bias.add_(1.0)
    agree(one, other)
    assert one.experience[0].action.mean() > 0.5


@pytest.mark.parametrize("agent", ["maml_trpo", "rl2_ppo"])
@pytest.mark.parametrize(
    ("tasks", "copies", "workers"), [(4, 1, 4), (3, 1, 3), (1, 5, 2), (2, 2, 8), (7, 2, 3)]
)
def test_small_shares_are_rounded_as_large_ones(agent, tasks, copies, workers, both, agree):
    agree(*both(agent, tasks=tasks, copies=copies, workers=workers))


@pytest.mark.parametrize("workers", [TWIN, 3])
def test_each_task_s_own_noise_goes_with_it(workers, both, agree):
    agree(*both(streams=TaskStreams, workers=workers))


@pytest.mark.parametrize(
    ("every", "workers"), [("3 steps", 3), ("geometric 0.5", 3), ("3 steps", TWIN)]
)
def test_lives_go_on_elsewhere(every, workers, both, agree):
    agree(*both("rl2_ppo", Changing(FAMILY, ChangeConfig(every=every)), workers=workers))


@pytest.mark.parametrize("workers", [TWIN, 3])
def test_examples_are_shared_out_too(workers, both, agree):
    family = lines.build(lines.Config())
    agent = ridge.build(ridge.Config(), family.spec, CPU, 0)
    agree(*both(agent, family, workers=workers))


def test_a_rollout_ends_everywhere_at_an_action_that_is_not_finite(both, identical):
    one, other = both()
    for adaptation in (one, other):
        adaptation.context["policy"] = {
            name: value.clone() for name, value in adaptation.context["policy"].items()
        }
        adaptation.context["policy"]["log_std"][3] = torch.nan
        with pytest.raises(NotFinite, match="action is not finite"):
            adaptation.play()
    assert [len(each.experience[0].valid) for each in (one, other)] == [1, 1]
    assert one.collector.env_steps == other.collector.env_steps
    assert identical(one.streams.state_dict(), other.streams.state_dict())


def test_what_travels_is_told(both):
    _, shared = both("rl2_ppo", tasks=4, copies=2, workers=2)
    shared.complete()
    told = {name: float(value) for name, value in shared.collector.tell().items()}
    first = shared.experience[0]
    columns = sum(x.nbytes for x in vars(first).values() if isinstance(x, torch.Tensor))
    columns += first.metrics["success"].nbytes
    assert told["rollouts/received_mb_a_phase"] >= columns / 1e6
    agent = shared.agent.state_dict()
    assert told["rollouts/sent_mb_a_phase"] > sum(x.nbytes for x in agent["policy"].values()) / 1e6
    assert told["rollouts/lost_workers"] == 0
    assert set(map(float, shared.collector.tell().values())) == {0.0}


def test_a_later_phase_brings_the_last_step_alone(both):
    _, shared = both("rl2_ppo")
    shared.complete()
    later = [job for job in shared.collector._players.jobs if job.previous is not None]
    assert {len(job.previous["reward"]) for job in later} == {1}


@pytest.mark.parametrize(
    ("count", "copies", "workers", "sizes"),
    [
        (20, 10, 4, [5, 5, 5, 5]),
        (5, 3, 3, [1, 2, 2]),
        (2, 10, 64, [1, 1]),
        (1, 10, 4, [1]),
        (3, 1, 3, [3]),  # three worlds are too few to be played apart
    ],
)
def test_shares_are_even(count, copies, workers, sizes):
    blocks = shares(count, copies, workers)
    assert [block.stop - block.start for block in blocks] == sizes
    assert [row for block in blocks for row in range(count)[block]] == list(range(count))


class Halting:
    """Acts by a sigmoid, whose last numbers are rounded otherwise, and so by where they lie."""

    phases, copies_share_experience = (Phase(1),), True

    def begin(self, tasks, copies, training):
        return torch.zeros(len(tasks), 1)

    def act(self, context, timestep, noise):
        action = torch.sigmoid(timestep.obs + noise.normal(timestep.obs.shape))
        return action, action.sum(-1), context

    def adapt(self, context, experience):
        return context

    def meta_update(self, batch):
        return {}

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_where_a_few_rows_are_not_enough_each_worker_acts_for_all(both, agree):
    one, other = both(Halting(), tasks=40, copies=1, workers=3)
    agree(one, other)
    acted = float(other.collector.tell()["rollouts/acted_for_a_task"])
    assert 1 < acted <= 3  # by the CPU: as few as are needed, at most all 40 thrice


class SeldomOtherwise(Halting):
    """Rounds one number of a thousand otherwise where less than all 40 rows are acted for."""

    def act(self, context, timestep, noise):
        action = noise.normal(timestep.obs.shape)
        otherwise = (action > 3.0) & (len(action) < 40)
        return torch.where(otherwise, action.nextafter(action + 1), action), action[..., 0], context


def test_loops_that_seldom_differ_are_told_apart_all_the_same(both, agree):
    one, other = both(SeldomOtherwise(), tasks=40, copies=1, workers=3)
    agree(one, other)
    assert float(other.collector.tell()["rollouts/acted_for_a_task"]) == 3


def test_a_few_rows_are_enough_for_our_agents(both):
    for agent in ("maml_trpo", "rl2_ppo"):
        _, shared = both(agent, tasks=20, copies=4, workers=5)
        shared.play()
        assert float(shared.collector.tell()["rollouts/acted_for_a_task"]) == 1


def test_a_part_s_noise_is_that_of_the_whole(identical):
    whole, tasks = Streams(0, CPU), FAMILY.tasks("test")
    state = {"acting": whole.acting.get_state(), "env": whole.env.get_state()}
    part = PartStreams(state, CPU, slice(2, 4), len(tasks))
    drawn = part.noise(tasks[2:4]).normal((2, 3, 2))
    assert torch.equal(drawn, whole.noise(tasks).normal((len(tasks), 3, 2))[2:4])
    assert part.env_seed() == whole.env_seed()
    assert identical(part.state_dict()["acting"], whole.acting.get_state())


def test_a_worker_that_fails_says_why_and_plays_the_next_job(both):
    _, shared = both(workers=1)
    shared.play()
    crew = shared.collector._players
    (worker,), job, state = crew.workers, crew.jobs[0], to_arrays(shared.agent.state_dict())
    env = worker._collector.env
    env.step = lambda action: 1 / 0
    failed = worker.play(state, job)
    assert isinstance(failed, Failed)
    assert failed.traceback.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert isinstance(worker.play(state, job), Played)
    assert worker._collector.env is not env


def test_without_the_extra_the_flag_says_what_is_missing(monkeypatch, meta_rl, small_config):
    monkeypatch.setattr(presence, "find_spec", lambda name: None)
    told = meta_rl("train", small_config(), "--rollouts.backend", "ray")
    told.fails_with("needs Ray", "pip install -e '.[cluster]'", "--rollouts.backend local")


@pytest.mark.parametrize(
    ("rollouts", "message"),
    [
        ({"backend": "dask"}, "rollouts.backend must be one of local, ray"),
        ({"device": "gpu"}, "rollouts.device must be one of same, cpu"),
        ({"workers": -1}, "rollouts.workers must be at least 0, got -1"),
        ({"gpus_per_worker": -0.5}, "rollouts.gpus_per_worker must be at least 0, got -0.5"),
        ({"deadline_s": 0.0}, "rollouts.deadline_s must be above 0, got 0"),
    ],
)
def test_bad_settings_are_refused(rollouts, message, small_config):
    with pytest.raises(UserError, match=message):
        load_experiment(str(small_config(rollouts=rollouts)))


def test_ranks_and_ray_do_not_mix(monkeypatch, small_config, build_agent):
    from meta_rl.core import ranks

    monkeypatch.setattr(presence, "find_spec", lambda name: "there")
    monkeypatch.setattr(ranks, "_ranks", ranks.Ranks(0, 2))
    experiment = load_experiment(str(small_config(rollouts={"backend": "ray"})))
    agent = build_agent("maml_trpo", FAMILY.spec)
    with pytest.raises(UserError, match="without torchrun"):
        make_collector(experiment, agent, FAMILY, CPU, print)
