from dataclasses import replace

import pytest
import torch
from playing import Player

from envs.point_navigation import Config, PointNavigation
from meta_rl.core.protocols import MetaAgent
from meta_rl.core.seeding import Streams
from meta_rl.core.types import Phase
from meta_rl.rollouts.adaptation import Adaptation, NotFinite, copies_have_contexts

CPU = torch.device("cpu")
FAMILY = PointNavigation(Config(horizon=6, test_goals=5))


@pytest.fixture(params=["maml_trpo", "rl2_ppo", "best_of_its_writing"])
def agent(request, build_agent):
    if request.param == "best_of_its_writing":
        return Writer()
    settings = {"adaptation_steps": 2} if request.param == "maml_trpo" else {}
    return build_agent(request.param, FAMILY.spec, **settings)


class Writer(MetaAgent):
    """Writes into its context whenever it acts: how often, and where it was."""

    phases = (Phase(1), Phase(2))
    copies_share_experience = False

    def begin(self, tasks, copies, training):
        return {
            "acted": torch.zeros(len(tasks), copies),
            "training": torch.full((len(tasks),), training),
        }

    def act(self, context, timestep, noise):
        context["acted"] += timestep.valid
        action = 0.1 * context["acted"].unsqueeze(-1).expand(timestep.prev_action.shape)
        return action.clone(), torch.zeros_like(timestep.prev_reward), context

    def adapt(self, context, experience):
        return {**context, "acted": context["acted"] / 2}


def started(agent, seed=0, copies=3, training=True):
    collector = FAMILY.make_collector(CPU, 1)
    streams = Streams(seed, CPU)
    return Adaptation(agent, collector, FAMILY.tasks("test"), copies, streams, training)


def test_the_loop_is_begin_collect_adapt_collect(agent, identical):
    batch = started(agent).complete()

    tasks, player = FAMILY.tasks("test"), Player(FAMILY, CPU, Streams(0, CPU))
    context, previous = agent.begin(tasks, 3, True), None
    for k, phase in enumerate(agent.phases):
        if k > 0:
            context = agent.adapt(context, previous)
        previous, context = player.collect(agent, context, tasks, 3, phase, previous)
        assert identical(vars(batch.rollouts[k]), vars(previous))
    assert len(batch.experience) == len(agent.phases)


def test_measuring_leaves_what_is_known_alone(agent, identical):
    adaptation = started(agent)
    adaptation.play()
    adaptation.learn()
    known = torch.utils._pytree.tree_map(torch.clone, adaptation.context)
    adaptation.measure(deterministic=True)
    assert identical(adaptation.context, known)
    assert adaptation.stage == 1 and len(adaptation.experience) == 1


def test_a_fork_goes_on_alone(agent, identical):
    adaptation = started(agent)
    adaptation.play()
    fork = adaptation.fork()
    known = torch.utils._pytree.tree_map(torch.clone, adaptation.context)
    fork.learn()
    fork.play()
    assert identical(adaptation.context, known)
    assert (adaptation.stage, fork.stage) == (0, 1)
    assert (len(adaptation.experience), len(fork.experience)) == (1, 2)


def test_beyond_the_last_phase_that_one_is_played_again(agent):
    adaptation = started(agent)
    for _ in range(len(agent.phases) + 2):
        adaptation.play()
        adaptation.learn()
    assert adaptation.phase == agent.phases[-1]
    last = agent.phases[-1].episodes
    assert (adaptation.experience[-1].last.sum(0) == last).all()


def test_episodes_learned_from_count_all_copies_where_they_share():
    adaptation = started(Writer())
    for _ in range(2):
        adaptation.play()
        adaptation.learn()
    assert adaptation.episodes == 1 + 2
    shared = Writer()
    shared.copies_share_experience = True
    adaptation = started(shared, copies=3)
    adaptation.play()
    adaptation.learn()
    assert adaptation.episodes == 3


def test_an_agent_that_writes_into_its_context_writes_into_its_rollout_s_own():
    agent = Writer()
    context = agent.begin(FAMILY.tasks("test"), 3, True)
    player = Player(FAMILY, CPU, Streams(0, CPU))
    _, moved = player.collect(agent, context, FAMILY.tasks("test"), 3, Phase(1))
    assert not context["acted"].any() and (moved["acted"] == 6).all()


def test_the_agent_is_told_whether_a_meta_update_will_follow():
    assert started(Writer(), training=True).context["training"].all()
    assert not started(Writer(), training=False).context["training"].all()


class Breaks(Writer):
    """Acts in NaN from its fourth step, on one task."""

    def act(self, context, timestep, noise):
        action, log_prob, context = super().act(context, timestep, noise)
        action[2] = torch.where(context["acted"][2].unsqueeze(-1) > 3, torch.nan, action[2])
        return action, log_prob, context


def test_an_action_that_is_not_finite_ends_the_rollout_and_is_named():
    adaptation = started(Breaks())
    collector = adaptation.collector
    with pytest.raises(
        NotFinite, match="action is not finite in phase 0 of point:2, first at step 3"
    ):
        adaptation.play()
    (rollout,) = adaptation.experience
    assert rollout.reward.shape[0] == 6 and collector.env_steps > 0


def test_a_simulator_that_refuses_an_action_ends_the_rollout_there(monkeypatch):
    from meta_rl.core.errors import NonFiniteAction

    adaptation = started(Breaks())
    step = adaptation.collector.env.step

    def refusing(action):
        if not action.isfinite().all():
            raise NonFiniteAction("no")
        return step(action)

    monkeypatch.setattr(adaptation.collector.env, "step", refusing)
    with pytest.raises(NotFinite, match=r"action is not finite .* first at step 3") as caught:
        adaptation.play()
    (rollout,) = caught.value.batch.rollouts
    assert len(rollout.reward) == 4 and rollout.action[3, 2].isnan().all()


class LosesItself(Writer):
    def adapt(self, context, experience):
        return {**context, "acted": context["acted"] * torch.nan}


def test_what_is_learned_must_be_finite():
    adaptation = started(LosesItself())
    adaptation.play()
    with pytest.raises(NotFinite, match="adaptation 1 gave parameters that are not finite"):
        adaptation.learn()


def test_padding_that_is_not_finite_is_nobody_s_concern():
    adaptation = started(Writer())
    played = adaptation.play()
    valid = played.valid.clone()
    valid[-1, 0] = False
    reward = torch.where(valid, played.reward, torch.nan)
    assert adaptation._problem(replace(played, valid=valid, reward=reward)) is None


@pytest.mark.parametrize(("name", "own"), [("maml_trpo", False), ("rl2_ppo", True)])
def test_who_has_a_context_for_each_copy_is_found_out(name, own, build_agent):
    agent = build_agent(name, FAMILY.spec)
    assert copies_have_contexts(agent, FAMILY.tasks("test")) is own
