"""The hand-written derivatives of many tasks' networks against torch.func, in double precision."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import (
    POLICIES,
    ROWS,
    STEPS,
    TASKS,
    cut,
    like,
    make_policy,
    normal,
    played,
    task_parameters,
)
from torch.func import jvp, vjp

from meta_rl.learning import mlp
from meta_rl.learning.mlp import Passes, layer_names, layers_of, pieces
from meta_rl.learning.policy import MLPPolicy


def passes(policy, phi, obs, kept=True):
    return Passes(layers_of(phi, len(policy.layers)), policy.activation, obs, kept)


def output(distribution):
    """What the network put out."""
    return distribution.logits if hasattr(distribution, "logits") else distribution.mean


def of_layers(policy, params):
    return {name: params[name] for name in layer_names(len(policy.layers))}


# Pieces.


@ROWS
def test_pieces_have_every_step_of_every_task_once_and_no_more_steps_than_fit(monkeypatch, rows):
    policy = make_policy()
    cut(monkeypatch, policy, rows)
    code = torch.arange(1.0 * TASKS * STEPS).view(TASKS, STEPS, 1).expand(-1, -1, 4)

    found = pieces(code, layers_of(task_parameters(policy), 2))

    assert len(found) == {3: 3 * 3, 2 * STEPS + 1: 2, 10**6: 1}[rows]
    parts = [piece.of(code)[..., 0].flatten() for piece in found]
    assert torch.cat(parts).sort().values.tolist() == list(range(TASKS * STEPS))
    assert max(map(len, parts)) <= rows


def test_what_a_piece_may_hold_counts_the_widest_layer(monkeypatch):
    monkeypatch.setattr(mlp, "AT_ONCE", 40)
    obs = torch.zeros(1, 100, 4)
    narrow, wide = ([(torch.zeros(1, size, 4), torch.zeros(1, size))] for size in (2, 20))
    assert [len(pieces(obs, layers)) for layers in (narrow, wide)] == [10, 50]
    monkeypatch.setattr(mlp, "AT_ONCE", 1)  # a piece has at least one step
    assert len(pieces(obs, wide)) == 100


# Values and derivatives.


@POLICIES
@ROWS
def test_passes_push_and_pull_are_the_network_s_jacobian_and_its_transpose(monkeypatch, kind, rows):
    policy = make_policy(*kind)
    cut(monkeypatch, policy, rows)
    phi, obs = task_parameters(policy), played(policy).obs
    layers = of_layers(policy, phi)

    def network(layers):
        return output(policy.batched(phi | layers, obs))

    through = passes(policy, phi, obs)

    along, slope = like(layers), normal(network(layers).shape, torch.Generator().manual_seed(1))
    value, pushed = jvp(network, (layers,), (along,))
    (pulled,) = vjp(network, layers)[1](slope)
    assert len(through.each) > 1 or rows > TASKS * STEPS
    torch.testing.assert_close(through.output, value)
    torch.testing.assert_close(through.push(along), pushed)
    assert list(through.pull(slope)) == list(layers)
    torch.testing.assert_close(through.pull(slope), pulled)


@POLICIES
@ROWS
def test_the_policy_in_pieces_equals_the_batched_one_with_its_gradient(monkeypatch, kind, rows):
    policy = make_policy(*kind)
    cut(monkeypatch, policy, rows)
    phi, samples = task_parameters(policy), played(policy)

    def likelihood(of):
        leaves = {name: value.clone().requires_grad_() for name, value in phi.items()}
        distribution = of(leaves, samples.obs)
        total = (samples.weight * distribution.log_prob(samples.action)).sum()
        return distribution, torch.autograd.grad(total, list(leaves.values()))

    (in_pieces, gradient), (batched, expected) = map(likelihood, (policy.in_pieces, policy.batched))
    torch.testing.assert_close(in_pieces, batched)
    torch.testing.assert_close(gradient, expected)


def test_the_policy_in_pieces_complains_when_differentiated_twice_or_by_torch_func():
    policy = make_policy()
    phi, samples = task_parameters(policy), played(policy)

    def loss(weight):
        changed = policy.in_pieces(phi | {"layers.0.weight": weight}, samples.obs)
        return changed.log_prob(samples.action).square().sum()

    weight = phi["layers.0.weight"].requires_grad_()
    (gradient,) = torch.autograd.grad(loss(weight), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(loss)(weight.detach())


# Threads.


def long_rollouts(monkeypatch):
    """A policy in single precision and rollouts of it that take several pieces."""
    monkeypatch.setattr(mlp, "AT_ONCE", 2**16)
    generator = torch.Generator().manual_seed(0)
    policy = MLPPolicy(10, 3, (32, 32), "tanh", 0.5, 0.1)
    shared = policy.initial_parameters(generator, torch.device("cpu"))
    phi = {name: value.expand(3, *value.shape).clone() for name, value in shared.items()}
    obs, slope = (torch.randn(3, 3000, size, generator=generator) for size in (10, 3))
    assert len(pieces(obs, layers_of(phi, 3))) == 6
    return policy, phi, obs, slope


def test_results_are_the_same_bit_for_bit_for_any_number_of_threads(
    with_threads, identical, monkeypatch
):
    policy, phi, obs, slope = long_rollouts(monkeypatch)

    def all_of_it():
        through = passes(policy, phi, obs)
        return through.output, through.push(phi), through.pull(slope)

    alone = with_threads(1, all_of_it)
    for threads in (2, 3):
        assert identical(with_threads(threads, all_of_it), alone)


def test_callers_on_several_threads_do_not_disturb_each_other(with_threads, identical, monkeypatch):
    policy, phi, obs, slope = long_rollouts(monkeypatch)

    def all_of_it():
        return passes(policy, phi, obs).pull(slope)

    alone = with_threads(1, all_of_it)

    def at_once():
        with ThreadPoolExecutor(4) as callers:
            return [each.result() for each in [callers.submit(all_of_it) for _ in range(8)]]

    assert all(identical(each, alone) for each in with_threads(3, at_once))


# Memory.


def test_without_derivatives_only_the_outputs_are_kept():
    policy = make_policy()
    phi, obs = task_parameters(policy), played(policy).obs

    through = passes(policy, phi, obs, kept=False)

    assert all(each.seen == [] for each in through.each)
    assert torch.equal(through.output, passes(policy, phi, obs).output)


def test_a_policy_in_pieces_is_freed_with_the_last_use_of_it():
    policy = make_policy()
    phi = {name: value.requires_grad_() for name, value in task_parameters(policy).items()}
    samples = played(policy)
    gc.disable()
    try:
        distribution = policy.in_pieces(phi, samples.obs)
        kept = weakref.ref(distribution.mean.grad_fn.passes)
        distribution.log_prob(samples.action).sum().backward()
        assert kept() is not None
        del distribution
        assert kept() is None
    finally:
        gc.enable()
