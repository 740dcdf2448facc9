from dataclasses import replace

import pytest
import torch

from meta_rl.core.types import EnvSpec
from meta_rl.learning.dynamics import TransitionScale
from meta_rl.learning.online_models import OnlineModelConfig, build_online_model
from meta_rl.learning.trials import History
from meta_rl.learning.windows import Moments

CPU = torch.device("cpu")
SPEC = EnvSpec.box(2, [-1.0, -1.0], [1.0, 1.0], horizon=4)
SMALL = OnlineModelConfig(
    past_steps=3, hidden_sizes=(8,), memory_size=8, heads=2, context_steps=6, inner_lr=0.2
)
STEPS, TRIALS = 8, 3


def trials(seed=0):
    """Trials of two episodes of four steps; the last trial's second one ends after two."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(STEPS, TRIALS, *shape, generator=generator)

    obs, valid = drawn(2), torch.ones(STEPS, TRIALS, dtype=torch.bool)
    next_obs = torch.cat([obs[1:], drawn(2)[:1]])
    next_obs[3] = 7.0  # where the first episode ends, nothing of which is shown
    valid[6:, 2] = False
    first = torch.zeros(STEPS, TRIALS, dtype=torch.bool)
    first[[0, 4]] = True
    return History(obs, drawn(2).tanh(), drawn(), next_obs, first, valid)


def a_scale(history):
    scale = TransitionScale.empty(SPEC, CPU)
    return scale.merge(history.obs, history.reward, history.next_obs, history.valid)


def acted(model, history, scale, until):
    """Return what is known of each trial before step `until`, remembered step by step."""
    state = model.nothing(torch.Size((TRIALS, 1)))
    shown = history.seen()
    for t in range(until + 1):
        step = shown.at(t)
        if t > 0 and t < STEPS:  # an agent sees how the next episode begins
            step = replace(step, obs=history.obs[t].unsqueeze(1))
        state = model.remember(state, step, scale)
    return model.knowledge(state, scale)


@pytest.mark.parametrize(
    "settings",
    [
        {"adaptation": "gradient"},
        {"adaptation": "gradient", "adaptation_steps": 2, "activation": "tanh"},
        {"adaptation": "recurrence"},
        {"adaptation": "recurrence", "memory": "lstm"},
        {"adaptation": "recurrence", "memory": "transformer"},
        {"adaptation": "recurrence", "memory": "fast_weights"},
    ],
)
def test_what_is_known_while_acting_is_what_training_makes_of_the_trial(settings):
    torch.manual_seed(0)
    model = build_online_model(replace(SMALL, **settings), SPEC, trial_steps=STEPS)
    history = trials()
    scale, x = a_scale(history), torch.randn(TRIALS, 5, 4)
    for step in range(6):
        moments = Moments(torch.arange(TRIALS), torch.full((TRIALS,), step))
        expected = model.predict(x, acted(model, history, scale, step))
        found = model.predict(x, model.knowledge_at(history, moments, scale))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adaptation", ["gradient", "recurrence"])
def test_padding_is_not_remembered(adaptation, identical):
    model = build_online_model(replace(SMALL, adaptation=adaptation), SPEC, trial_steps=STEPS)
    history, scale = trials(), a_scale(trials())
    step = history.seen().at(1)
    state = model.remember(model.nothing(torch.Size((TRIALS, 1))), step, scale)
    waiting = replace(step, valid=torch.zeros(TRIALS, 1, dtype=torch.bool), obs=step.obs + 1)
    assert identical(model.remember(state, waiting, scale), state)


def test_the_past_ends_before_its_moment_and_holds_only_what_was_shown():
    history = trials()
    moments = Moments(torch.tensor([0, 1, 2]), torch.tensor([1, 5, 5]))
    past, future = moments.past(history, 3), moments.next(history, 3)
    # Step 3 ends an episode: what followed it, 7 in both numbers, must not be learned from.
    assert past.counted.tolist() == [[False, False, True], [True] * 3, [True] * 3]
    assert torch.equal(past.obs[0, 2], history.obs[0, 0])
    assert torch.equal(past.reward[1], history.reward[[1, 2, 4], 1])
    assert future.counted.tolist() == [[True] * 3, [True] * 3, [True, False, False]]
    assert torch.equal(future.next_obs[1], history.next_obs[5:8, 1])


def test_moments_are_drawn_from_the_whole_of_each_trial_and_not_beyond_it():
    drawn = Moments.drawn(trials(), 300, torch.Generator().manual_seed(0))
    steps = drawn.step.view(TRIALS, 300)
    assert drawn.trial.view(TRIALS, 300)[:, 0].tolist() == [0, 1, 2]
    assert [sorted(set(row.tolist())) for row in steps] == [
        list(range(8)),
        list(range(8)),
        list(range(6)),
    ]


def test_errors_weigh_the_reward_beside_the_mean_over_the_observation():
    # (1² + 3²) / 2 + 0.5 · 2² = 7
    model = build_online_model(replace(SMALL, reward_weight=0.5), SPEC, trial_steps=STEPS)
    output = torch.tensor([[[1.0, 3.0, 2.0]]])
    assert model.error(output, torch.zeros_like(output)).item() == 7


def test_later_transitions_are_drawn_from_each_moment_to_the_end_of_its_trial():
    history = trials()
    moments = Moments(torch.tensor([0, 2, 2]), torch.tensor([5, 0, 5]))
    drawn = moments.later(history, 200, torch.Generator().manual_seed(0))
    assert drawn.counted.all()
    rewards = [set(row.tolist()) for row in drawn.reward]
    assert rewards[0] == set(history.reward[5:8, 0].tolist())
    assert rewards[1] == set(history.reward[0:6, 2].tolist())  # the last two are padding
    assert rewards[2] == set(history.reward[5:6, 2].tolist())
