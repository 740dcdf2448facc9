"""The inner losses' gradients and Hessians against torch.func, in double precision."""

import gc
import weakref

import pytest
import torch
from networks import POLICIES, ROWS, STEPS, TASKS, cut, like, make_policy, played, task_parameters
from torch.func import grad, jvp

from meta_rl.learning import task_gradient as module
from meta_rl.learning.inner_loop import (
    clipped_ratio_loss,
    likelihood_ratio_loss,
    score_function_loss,
)
from meta_rl.learning.policy import MLPPolicy
from meta_rl.learning.samples import Samples
from meta_rl.learning.task_gradient import TaskGradient, task_gradient

LOSSES = pytest.mark.parametrize(
    "loss",
    [
        pytest.param(score_function_loss, id="score"),
        pytest.param(likelihood_ratio_loss, id="ratio"),
        pytest.param(clipped_ratio_loss(0.1), id="clipped"),
    ],
)


def reference(policy, loss, samples):
    """φ ↦ ∇L(φ) by torch.func."""
    return grad(lambda phi: loss(policy.batched(phi, samples.obs), samples))


def required(phi):
    return {name: value.clone().requires_grad_() for name, value in phi.items()}


@POLICIES
@LOSSES
def test_the_gradient_and_the_products_with_the_hessian_are_those_of_torch_func(
    monkeypatch, kind, loss
):
    policy = make_policy(*kind)
    cut(monkeypatch, policy, 2 * STEPS)  # several tasks a piece, and some more pieces
    phi, samples = task_parameters(policy), played(policy)
    along = like(phi)

    found = TaskGradient(policy, loss, phi, samples, kept=True)

    gradient, product = jvp(reference(policy, loss, samples), (phi,), (along,))
    torch.testing.assert_close(found.value, gradient)
    torch.testing.assert_close(found.product(along), product)


@ROWS
@LOSSES
def test_how_the_steps_are_cut_into_pieces_changes_nothing_but_rounding(monkeypatch, loss, rows):
    policy = make_policy(hidden_sizes=(5, 6))
    phi, samples = task_parameters(policy), played(policy)
    whole = TaskGradient(policy, loss, phi, samples, kept=True)
    cut(monkeypatch, policy, rows)

    parts = TaskGradient(policy, loss, phi, samples, kept=True)

    assert len(whole.pieces) == 1 and (len(parts.pieces) > 1 or rows > TASKS * STEPS)
    torch.testing.assert_close(parts.value, whole.value)
    for seed in range(2):  # products can be asked for as often as one likes
        along = like(phi, seed)
        torch.testing.assert_close(parts.product(along), whole.product(along))


@POLICIES
@LOSSES
def test_its_backward_multiplies_with_the_hessian(monkeypatch, kind, loss):
    # c(φ) = Σ ½ |∇L(φ)|² + u ∇L(φ) has the gradient ∇²L(φ) (∇L(φ) + u).
    policy = make_policy(*kind)
    cut(monkeypatch, policy, 3)  # several pieces a task
    phi, samples = task_parameters(policy), played(policy)
    leaves, u = required(phi), like(phi)

    gradient = task_gradient(policy, loss, leaves, samples)
    c = sum((0.5 * value.square() + u[name] * value).sum() for name, value in gradient.items())
    found = dict(zip(phi, torch.autograd.grad(c, list(leaves.values())), strict=True))

    slope = reference(policy, loss, samples)
    along = {name: value + u[name] for name, value in slope(phi).items()}
    torch.testing.assert_close(gradient, slope(phi))
    torch.testing.assert_close(found, jvp(slope, (phi,), (along,))[1])


@pytest.mark.parametrize("choices", [(), (3,)])
def test_the_episodes_reach_beyond_the_clip_on_both_sides(choices):
    # Otherwise the tests above would not see what the clipped loss does there.
    policy = make_policy(choices=choices)
    samples = played(policy)
    ratio = samples.log_ratio(policy.batched(task_parameters(policy), samples.obs)).exp()
    good = samples.advantage > 0
    assert (ratio > 1.1)[good].any() and (ratio < 0.9)[~good].any()
    assert ((ratio - 1).abs() < 0.1).any()


def test_the_hessian_is_symmetric_and_keeps_the_tasks_apart():
    policy = make_policy()
    phi, samples = task_parameters(policy), played(policy)
    found = TaskGradient(policy, score_function_loss, phi, samples, kept=True)
    u, v = like(phi, 1), like(phi, 2)

    def inner(left, right):
        return sum((left[name] * right[name]).flatten(1).sum(1) for name in left)

    torch.testing.assert_close(inner(u, found.product(v)), inner(found.product(u), v))
    only = {name: value.clone() for name, value in u.items()}
    for value in only.values():
        value[1:] = 0.0
    moved = found.product(only)
    assert all((value[1:] == 0).all() and (value[0] != 0).any() for value in moved.values())


def test_only_the_policy_s_own_parameters_are_differentiated():
    policy = make_policy(choices=(3,))
    phi = required(task_parameters(policy) | {"step_sizes.layers.0.weight": torch.ones(TASKS, 1)})
    gradient = task_gradient(policy, score_function_loss, phi, played(policy))
    assert list(gradient) == [f"layers.{i}.{kind}" for i in (0, 1) for kind in ("weight", "bias")]


def test_a_part_that_the_meta_loss_does_not_need_gets_its_derivative_all_the_same():
    # As where only the head adapts: ∂/∂φ of a bias's part of ∇L, all other parts unused.
    policy = make_policy(hidden_sizes=(5, 6))
    phi, samples = task_parameters(policy), played(policy)
    leaves, name = required(phi), "layers.2.bias"

    gradient = task_gradient(policy, score_function_loss, leaves, samples)
    found = torch.autograd.grad(gradient[name].sum(), list(leaves.values()))

    along = {each: torch.zeros_like(value) for each, value in phi.items()}
    along[name] = torch.ones_like(phi[name])
    slope = reference(policy, score_function_loss, samples)
    expected = jvp(slope, (phi,), (along,))[1]
    torch.testing.assert_close(dict(zip(phi, found, strict=True)), expected)


def test_it_complains_when_differentiated_twice_or_by_torch_func():
    policy = make_policy()
    phi, samples = task_parameters(policy), played(policy)

    def norm(phi):
        gradient = task_gradient(policy, score_function_loss, phi, samples)
        return sum(value.square().sum() for value in gradient.values())

    leaves = required(phi)
    once = torch.autograd.grad(norm(leaves), list(leaves.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once[0].sum().backward()
    with pytest.raises(RuntimeError, match="functorch transforms"):
        grad(norm)(phi)


def test_results_are_the_same_bit_for_bit_for_any_number_of_threads(identical):
    generator = torch.Generator().manual_seed(0)
    policy = MLPPolicy(10, 3, (32, 32), "tanh", 0.5, 0.1)
    shared = policy.initial_parameters(generator, torch.device("cpu"))
    phi = {name: value.expand(3, *value.shape).clone() for name, value in shared.items()}
    obs, action = (torch.randn(3, 3000, size, generator=generator) for size in (10, 3))
    log_prob, advantage = torch.randn(2, 3, 3000, generator=generator)
    weight = torch.full((3, 3000), 1 / 3000)
    samples = Samples(obs, action, log_prob, advantage, weight, copies=1)

    def all_of_it(threads):
        torch.set_num_threads(threads)
        leaves = required(phi)
        gradient = task_gradient(policy, score_function_loss, leaves, samples)
        along = torch.autograd.grad(
            sum(value.square().sum() for value in gradient.values()), list(leaves.values())
        )
        return gradient, along

    before = torch.get_num_threads()
    try:
        alone, *others = (all_of_it(threads) for threads in (1, 3, 2))
    finally:
        torch.set_num_threads(before)
    assert all(identical(other, alone) for other in others)


@pytest.mark.parametrize("differentiated", [False, True])
def test_what_a_gradient_keeps_is_freed_with_the_last_use_of_it(differentiated):
    policy = make_policy()
    samples, leaves = played(policy), required(task_parameters(policy))
    gc.disable()
    try:
        gradient = task_gradient(policy, score_function_loss, leaves, samples)
        kept = [weakref.ref(gradient["log_std"].grad_fn.gradient), weakref.ref(samples)]
        kept += [weakref.ref(leaf) for leaf in kept[0]().kept[0].leaves]
        if differentiated:
            sum(value.square().sum() for value in gradient.values()).backward()
        del samples
        assert kept[0]() is not None
        del gradient
        assert all(each() is None for each in kept)
    finally:
        gc.enable()


def test_nothing_is_kept_for_derivatives_that_cannot_be_asked_for(monkeypatch):
    policy = make_policy()
    phi, samples = task_parameters(policy), played(policy)
    found = []

    class Recorded(TaskGradient):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            found.append(self.kept[0])

    monkeypatch.setattr(module, "TaskGradient", Recorded)
    gradient = task_gradient(policy, score_function_loss, phi, samples)
    task_gradient(policy, score_function_loss, required(phi), samples)

    assert found[0] is None and found[1] is not None
    assert not any(value.requires_grad for value in gradient.values())
