from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from meta_rl.core.errors import UserError
from meta_rl.learning.critic import ValueHead
from meta_rl.learning.fast_weights import STEPS_AT_ONCE, STEPS_REMEMBERED, corrected
from meta_rl.learning.memory import Kind, MemoryConfig, build_memory

WORLDS, INPUTS, UNITS, WINDOW = 3, 4, 8, 5


def make(kind, layers=2, window=WINDOW):
    settings = {"memory": kind, "memory_size": UNITS}
    if kind == "transformer":
        settings |= {"layers": layers, "heads": 2, "context_steps": window}
    if kind == "fast_weights":
        settings |= {"layers": layers, "heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_memory(MemoryConfig(**settings), INPUTS, trial_steps=100)


def some_inputs(steps, seed=0):
    return torch.randn(steps, WORLDS, INPUTS, generator=torch.Generator().manual_seed(seed))


def stepped(memory, inputs, valid):
    """What is remembered at each step, taken one by one, and the state after the last."""
    state, outputs = memory.empty(WORLDS), []
    with torch.no_grad():
        for row, kept in zip(inputs, valid, strict=True):
            output, state = memory.step(row, state, kept)
            outputs.append(output)
    return torch.stack(outputs), state


def in_pieces(memory, inputs, cuts):
    """The same of sequences, cut into pieces that each go on from the one before."""
    state, outputs = memory.empty(WORLDS), []
    for piece in torch.tensor_split(inputs, cuts):
        output, state = memory.sequence(piece, state)
        outputs.append(output)
    return torch.cat(outputs), state


@pytest.fixture(params=get_args(Kind))
def memory(request):
    return make(request.param)


@pytest.mark.parametrize("cuts", [(), (1, 2, 3), (4, 12), (7, 8, 16)])
def test_steps_and_sequences_remember_the_same_wherever_they_are_cut(memory, cuts):
    inputs = some_inputs(17)

    acted, state = stepped(memory, inputs, torch.ones(17, WORLDS, dtype=torch.bool))
    trained, same = in_pieces(memory, inputs, cuts)

    torch.testing.assert_close(trained, acted, rtol=0, atol=1e-5)
    for ours, theirs in zip(tree_leaves(state), tree_leaves(same), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_padding_between_steps_moves_nothing_and_worlds_keep_their_own_time(memory):
    valid = torch.rand(30, WORLDS, generator=torch.Generator().manual_seed(1)) < 0.5
    inputs = some_inputs(30)
    assert len(valid.sum(0).unique()) > 1 and valid.sum(0).min() > 2 * WINDOW

    acted, _ = stepped(memory, inputs, valid)

    for world in range(WORLDS):
        kept = valid[:, world]
        alone, _ = memory.sequence(inputs[kept, world : world + 1], memory.empty(1))
        torch.testing.assert_close(acted[kept, world], alone[:, 0], rtol=0, atol=1e-5)


def test_no_step_sees_a_later_one_and_no_gradient_flows_through_the_state(memory):
    inputs = some_inputs(12)
    first, second = inputs[:6].clone().requires_grad_(), inputs[6:].clone().requires_grad_()

    output, state = memory.sequence(first, memory.empty(WORLDS))
    before = tree_map(torch.clone, state)
    later, _ = memory.sequence(second, state)
    (slope,) = torch.autograd.grad(output[3, :, 0].sum(), first)

    assert slope[:4].abs().amin((1, 2)).min() > 0 and not slope[4:].any()
    assert torch.autograd.grad(later.sum(), first, allow_unused=True) == (None,)
    assert all(map(torch.equal, tree_leaves(before), tree_leaves(state)))


@pytest.mark.parametrize("layers", [1, 2])
def test_each_layer_of_a_transformer_looks_back_over_its_window(layers):
    memory, steps = make("transformer", layers), 20
    inputs = some_inputs(steps).requires_grad_()

    output, _ = memory.sequence(inputs, memory.empty(WORLDS))
    (slope,) = torch.autograd.grad(output[-1, :, 0].sum(), inputs)

    seen = slope.abs().amax((1, 2)) > 0
    reach = 1 + layers * (WINDOW - 1)  # a layer's first step has seen as much of the one below
    assert not seen[: steps - reach].any() and seen[steps - reach :].all()


def test_a_transformer_knows_how_long_ago_a_step_was_and_not_when():
    memory = make("transformer", layers=1)
    late = memory.empty(WORLDS)
    late["steps"] += 100_000 * WINDOW + 3
    inputs = some_inputs(WINDOW)

    early, _ = memory.sequence(inputs, memory.empty(WORLDS))
    # The slots of a late state hold what was there before; at the last step all are left behind.
    moved, _ = memory.sequence(inputs, late)
    swapped, _ = memory.sequence(inputs[[1, 0, 2, 3, 4]], memory.empty(WORLDS))

    torch.testing.assert_close(moved[-1], early[-1], rtol=0, atol=1e-5)
    assert (swapped[-1] - early[-1]).abs().max() > 1e-3  # the order does matter


def test_a_transformer_remembers_the_same_beside_worlds_that_are_at_another_step():
    memory, inputs = make("transformer"), some_inputs(17)
    valid = torch.ones(17, WORLDS, dtype=torch.bool)
    together, state = stepped(memory, inputs, valid)
    valid[7, 2] = False  # from here on the last world is a step behind

    apart, behind = stepped(memory, inputs, valid)

    assert behind["steps"].tolist() == [17, 17, 16]
    assert torch.equal(apart[:, :2], together[:, :2])
    assert all(torch.equal(behind[name][:2], state[name][:2]) for name in ("keys", "values"))


def test_a_transformer_writes_one_slot_of_its_state_in_place():
    memory = make("transformer")
    _, state = stepped(memory, some_inputs(8), torch.ones(8, WORLDS, dtype=torch.bool))
    before = tree_map(torch.clone, state)
    valid = torch.tensor([True, False, True])

    with torch.no_grad():
        _, moved = memory.step(some_inputs(1, seed=1)[0], state, valid)

    assert moved["keys"] is state["keys"] and moved["values"] is state["values"]
    changed = (moved["keys"] != before["keys"]).any(-1)  # (B, layers, W)
    expected = torch.zeros_like(changed)
    expected[valid, :, 8 % WINDOW] = True
    assert torch.equal(changed, expected)
    assert moved["steps"].tolist() == [9, 8, 9] and state["steps"].tolist() == [8, 8, 8]


def test_a_transformer_has_room_for_no_more_than_a_trial():
    memory = build_memory(MemoryConfig(memory="transformer"), INPUTS, trial_steps=30)
    assert memory.empty(2)["keys"].shape == (2, 2, 30, 32)


def test_fast_weights_recall_the_last_value_or_the_mean_of_all_that_a_key_has_had():
    key = torch.eye(4)[[0, 1, 0, 2, 0, 1]]  # key 3 never comes
    value = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(4, 2)
    count = torch.tensor([1, 1, 2, 1, 3, 2])
    all_kept = torch.zeros(6)

    read, last = corrected(nothing, key, key, value, torch.ones(6), all_kept)
    _, mean = corrected(nothing, key, key, value, 1 / count, all_kept)

    torch.testing.assert_close(read, value)
    torch.testing.assert_close(last, torch.stack([*value[[4, 5, 3]], torch.zeros(2)]))
    torch.testing.assert_close(
        mean[:2], torch.stack([value[[0, 2, 4]].mean(0), value[[1, 5]].mean(0)])
    )


def test_fast_weights_fade_by_what_each_step_keeps():
    kept = torch.tensor([0.5, 0.9, 0.0, 0.8])
    key, other = torch.eye(2)
    written = torch.ones(1, 3)

    read, last = corrected(
        key.unsqueeze(1) @ written,
        key.expand(4, -1),
        other.expand(4, -1),
        torch.zeros(4, 3),
        torch.ones(4),
        kept.clamp(min=1e-30).log(),
    )

    expected = kept.cumprod(0).unsqueeze(1) * written
    torch.testing.assert_close(read, expected)
    torch.testing.assert_close(last, key.unsqueeze(1) @ expected[-1:])


def test_heads_of_fast_weights_begin_with_memories_of_different_lengths():
    with torch.no_grad():
        block = make("fast_weights").blocks[0]
        block.key_value_rates.weight.zero_()
        *_, log_kept = block.project(torch.zeros(UNITS), torch.zeros(UNITS))
    torch.testing.assert_close(
        (-1 / log_kept).log(), torch.tensor(STEPS_REMEMBERED).log(), rtol=0, atol=0.02
    )


def test_fast_weights_that_forgot_nothing_are_refused():
    memory = make("fast_weights", layers=1)
    state = {
        name.replace("key_value_rates", "key_value_rate"): value
        for name, value in memory.state_dict().items()
    }
    with pytest.raises(UserError, match=r"fast weights, which did not fade.*train a new run"):
        memory.load_state_dict(state)


def test_fast_weights_are_corrected_step_by_step_and_never_too_far():
    """The rule itself, for longer than steps are solved together."""
    memory, steps = make("fast_weights", layers=1), 3 * STEPS_AT_ONCE + 1
    block, generator = memory.blocks[0], torch.Generator().manual_seed(0)
    x = 10 * torch.randn(1, steps, UNITS, generator=generator)
    weights = torch.randn(1, 2, UNITS // 2, UNITS // 2, generator=generator)
    before = torch.randn(1, UNITS, generator=generator)

    def given(weights, key):
        return torch.einsum("bhde,bhd->bhe", weights, key)

    with torch.no_grad():
        output, (after, last) = block.sequence(x, weights, before)
        now = block.norm(x)
        assert torch.equal(last, now[:, -1])
        for step in range(steps):
            query, key, value, rate, log_kept = block.project(now[:, step], before)
            weights = log_kept.exp()[..., None, None] * weights
            wrong = value - given(weights, key)
            weights = weights + rate[..., None, None] * key.unsqueeze(-1) * wrong.unsqueeze(-2)
            expected = block.finish(x[:, step], given(weights, query).flatten(1))
            torch.testing.assert_close(output[:, step], expected, rtol=1e-5, atol=1e-5)
            assert ((value - given(weights, key)).abs() <= wrong.abs()).all()  # no overshooting
            before = now[:, step]

    torch.testing.assert_close(after, weights, rtol=1e-5, atol=1e-5)


@dataclass(frozen=True)
class Agent(MemoryConfig):
    """As an agent takes the settings over."""

    outer_lr: float = 1e-3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"memory_size": 0}, r"agent\.memory_size must be at least 1, got 0"),
        ({"heads": 0}, r"agent\.heads must be at least 1, got 0"),
        (
            {"memory": "transformer", "memory_size": 20},
            r"agent\.memory_size must be a multiple of 8, twice agent\.heads.*got 20",
        ),
        (
            {"memory": "fast_weights", "memory_size": 6},
            r"agent\.memory_size must be a multiple of agent\.heads, 4, .*got 6",
        ),
    ],
)
def test_settings_that_cannot_be_are_user_errors(settings, told):
    with pytest.raises(UserError, match=told):
        Agent(**settings)


def test_a_critic_expects_the_mean_of_the_first_returns_and_keeps_what_it_predicts_later():
    generator = torch.Generator().manual_seed(0)
    head, features = ValueHead(UNITS), torch.randn(50, UNITS, generator=generator)
    valid = torch.arange(50) < 40  # the rest is padding, which may hold anything
    returns = torch.where(valid, 3 + 2 * features[:, 0], torch.nan)

    head.rescale(returns, valid)
    torch.testing.assert_close(head.unscaled(head(features)), returns[valid].mean().expand(50))
    torch.testing.assert_close(head.scaled(returns[valid]).std(correction=0), torch.ones(()))

    with torch.no_grad():
        head.weight.copy_(torch.randn(1, UNITS, generator=generator))
        scaled = head(features)
        before = head.unscaled(scaled)
        head.rescale(1000 + 50 * features[:, 1], valid)
        torch.testing.assert_close(head.unscaled(head(features)), before, rtol=1e-4, atol=1e-2)
    # Half of all returns are about 3 and half about 1000, so now a deviation is about 500.
    assert head.moments.std > 400 and head(features).std() < scaled.std() / 100
