"""The derivatives of the inner loop against torch.func, in double precision."""

import pytest
import torch
from derivatives import FunctionalInnerLoop
from networks import STEPS, TASKS, cut, like, make_policy, played, shared_parameters
from torch.func import jvp, vjp
from torch.utils._python_dispatch import TorchDispatchMode

from meta_rl.learning.inner_loop import (
    LEARNED,
    InnerLoop,
    clipped_ratio_loss,
    initial_step_sizes,
    learned,
    likelihood_ratio_loss,
    scheduled,
    score_function_loss,
)
from meta_rl.learning.linearization import Linearization

K = 2

SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"step_sizes": "per_layer"}, id="per_layer"),
        pytest.param({"step_sizes": "per_parameter"}, id="per_parameter"),
        pytest.param({"adapt": "head"}, id="head"),
        pytest.param({"epochs": 2, "loss": clipped_ratio_loss(0.1)}, id="epochs"),
        pytest.param({"first_order": True}, id="first_order"),
        pytest.param({"choices": (3,), "loss": likelihood_ratio_loss}, id="categorical"),
        pytest.param({"step_sizes": "per_parameter", "adapt": "head", "epochs": 2}, id="all_of_it"),
        pytest.param(
            {"step_sizes": "per_parameter", "adapt": "head", "epochs": 2, "first_order": True},
            id="all_of_it_first_order",
        ),
    ],
)


class Case:
    """An inner loop, its θ, and what it adapts to."""

    def __init__(
        self,
        monkeypatch,
        loss=score_function_loss,
        choices=(),
        step_sizes=None,
        adapt="all",
        epochs=1,
        first_order=False,
    ):
        policy = make_policy("tanh", (5, 3), choices)
        cut(monkeypatch, policy, 2 * STEPS)
        moving = policy.head if adapt == "head" else ("layers", "log_std")

        def adapts(name):
            return name.startswith(moving)

        alpha = torch.tensor([0.3, 0.2], dtype=torch.float64)
        fixed = scheduled(lambda steps: alpha[steps])
        self.inner = InnerLoop(policy, loss, learned if step_sizes else fixed, adapts, epochs)
        self.theta = shared_parameters(policy)
        if step_sizes:
            sizes = initial_step_sizes(self.theta, alpha, adapts, step_sizes == "per_parameter")
            direction = like(sizes)
            self.theta |= {n: v * (1 + 0.1 * direction[n]) for n, v in sizes.items()}
        self.supports = [played(policy, seed) for seed in range(K)]
        self.first_order = first_order

    def linearized(self):
        return Linearization(self.inner, self.theta, self.supports, self.first_order)

    def stages(self, theta):
        """Every stage's φ, for torch.func."""
        oracle = FunctionalInnerLoop.like(self.inner)
        return list(oracle.trajectory(theta, self.supports, self.first_order))

    def cotangents(self):
        """A slope of something in each stage's φ."""
        phi = {name: value.expand(TASKS, *value.shape) for name, value in self.theta.items()}
        return {k: like(phi, 10 + k) for k in range(K + 1)}


def inner(cotangents, stages):
    """The sum of all products of one with the other."""
    return sum(
        (slope * stages[k][name]).sum()
        for k, of_stage in cotangents.items()
        for name, slope in of_stage.items()
    )


@SETTINGS
def test_the_trajectory_and_its_gradient_are_those_of_torch_func(monkeypatch, settings):
    case = Case(monkeypatch, **settings)
    cotangents = case.cotangents()
    leaves = {name: value.clone().requires_grad_() for name, value in case.theta.items()}

    stages = list(case.inner.trajectory(leaves, case.supports, case.first_order))
    gradient = torch.autograd.grad(inner(cotangents, stages), list(leaves.values()))

    expected, pull = vjp(case.stages, case.theta)
    torch.testing.assert_close(stages, expected)
    found = dict(zip(leaves, gradient, strict=True))
    torch.testing.assert_close(found, pull(list(cotangents.values()))[0])


@SETTINGS
def test_the_linearization_pushes_and_pulls_as_the_trajectory_s_jacobian(monkeypatch, settings):
    case = Case(monkeypatch, **settings)
    tangent, cotangents = like(case.theta, 20), case.cotangents()

    linear = case.linearized()

    stages, moved = jvp(case.stages, (case.theta,), (tangent,))
    torch.testing.assert_close(linear.stages, stages)
    torch.testing.assert_close(linear.push(tangent), moved)
    pulled = linear.pull(cotangents)
    assert list(pulled) == list(case.theta)  # `ravel` counts on it
    pull = vjp(case.stages, case.theta)[1]
    torch.testing.assert_close(pulled, pull(list(cotangents.values()))[0])


@SETTINGS
def test_push_and_pull_are_each_other_s_transposes(monkeypatch, settings):
    case = Case(monkeypatch, **settings)
    tangent, cotangents, linear = like(case.theta, 20), case.cotangents(), case.linearized()

    moved, pulled = linear.push(tangent), linear.pull(cotangents)

    torch.testing.assert_close(inner(cotangents, moved), inner({0: pulled}, [tangent]))


@pytest.mark.parametrize("counted", [(2,), (0, 2), (1, 2)])
def test_what_a_cotangent_leaves_out_counts_for_zero(monkeypatch, counted):
    # As an objective leaves out stages, and a policy's slope, in another order, the step sizes.
    case = Case(monkeypatch, step_sizes="per_parameter")
    names = case.inner.policy.parameter_names
    whole = case.cotangents()
    zero = {k: {n: torch.zeros_like(v) for n, v in whole[k].items()} for k in whole}
    some = {k: {name: whole[k][name] for name in names} for k in counted}
    linear = case.linearized()

    pulled = linear.pull(some)

    padded = {k: zero[k] | some.get(k, {}) for k in whole}
    torch.testing.assert_close(pulled, linear.pull(padded))
    assert list(pulled) == list(case.theta)
    assert (pulled[f"{LEARNED}layers.0.weight"] != 0).all()


@pytest.mark.parametrize("first_order", [False, True])
def test_a_first_order_linearization_keeps_nothing_for_second_derivatives(monkeypatch, first_order):
    linear = Case(monkeypatch, first_order=first_order).linearized()
    kept = [each for stage in linear.steps for step in stage for each in step.slope.kept]
    assert {each is None for each in kept} == {first_order}


class Devices(TorchDispatchMode):
    """Notes where all tensors are made."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        self.seen.add(made.device.type)
        return made


def test_learned_step_sizes_are_picked_where_they_are():
    """A GPU would wait for an index that the processor has made, once for each parameter."""
    alpha, steps = torch.ones(TASKS, K, 3, device="meta"), torch.zeros(TASKS, device="meta").long()
    with Devices() as devices:
        assert learned({f"{LEARNED}x": alpha}, "x", steps).shape == (TASKS, 3)
    assert devices.seen == {"meta"}
