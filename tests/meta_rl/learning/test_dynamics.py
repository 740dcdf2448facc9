import pytest
import torch
from torch.func import functional_call

from meta_rl.core.errors import UserError
from meta_rl.core.types import EnvSpec
from meta_rl.learning.dynamics import AdaptiveMLP, TransitionScale

CPU = torch.device("cpu")
SPEC = EnvSpec.box(2, [-1.0], [3.0], horizon=5)


def rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.double)


def network(activation="tanh", inner_lr=0.3):
    torch.manual_seed(0)
    made = AdaptiveMLP(3, (5, 4), 2, activation, inner_lr).double()
    with torch.no_grad():  # a size of its own for each layer's weights and biases
        made.step_sizes.add_(0.05 * torch.arange(6.0).view(3, 2))
    return made


def gradient_steps(made, x, target, weight, count):
    """Return θ' of one world by autograd: θ - α ∇ Σ w (f(x) - y)², differentiable in θ."""
    theta = dict(made.named_parameters())
    sizes = theta.pop("step_sizes")
    phi = dict(theta)
    for _ in range(count):
        loss = (weight * (functional_call(made, phi, (x.unsqueeze(0),))[0] - target) ** 2).sum()
        gradient = torch.autograd.grad(loss, list(phi.values()), create_graph=True)
        phi = {
            name: value - sizes[int(name.split(".")[1]), int(name.endswith("bias"))] * slope
            for (name, value), slope in zip(phi.items(), gradient, strict=True)
        }
    return phi


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_worlds_predict_as_after_gradient_steps_of_their_own_and_so_does_the_meta_gradient(
    activation, count
):
    made, queries, answers = network(activation), rows(2, 6, 3, seed=1), rows(2, 6, 2, seed=2)
    x, target, weight = rows(2, 4, 3), rows(2, 4, 2, seed=3), rows(2, 4, 2, seed=4).abs()
    weight[1, 0] = 0.0  # a row that is not there

    steps = None
    for _ in range(count):
        steps = made.adapted(x, target, weight, steps)
    predicted = made(queries, steps)
    expected = []
    for world in range(2):
        phi = gradient_steps(made, x[world], target[world], weight[world], count)
        expected.append(functional_call(made, phi, (queries[world].unsqueeze(0),))[0])

    torch.testing.assert_close(predicted, torch.stack(expected))
    theta = list(made.parameters())
    ours = torch.autograd.grad(((predicted - answers) ** 2).sum(), theta)
    theirs = torch.autograd.grad(((torch.stack(expected) - answers) ** 2).sum(), theta)
    torch.testing.assert_close(ours, theirs)


def test_a_linear_model_of_one_number_takes_the_step_that_one_computes_by_hand():
    # f(x) = w x + b, w = 2, b = 1; at x = 3 it says 7 in place of 5. Slope 2 (7 - 5) = 4, so
    # w' = 2 - 0.1 · 4 · 3 = 0.8 and b' = 1 - 0.1 · 4 = 0.6; at x = 10 it then says 8.6.
    made = AdaptiveMLP(1, (), 1, "relu", inner_lr=0.1)
    with torch.no_grad():
        made.layers[0].weight.fill_(2.0)
        made.layers[0].bias.fill_(1.0)
    one = torch.ones(1, 1, 1)
    steps = made.adapted(3 * one, 5 * one, one)
    torch.testing.assert_close(made(10 * one, steps), 8.6 * one)
    assert made(10 * one).item() == 21


def test_nothing_to_learn_from_is_no_step():
    made, x = network(), rows(1, 4, 3)
    steps = made.adapted(x, rows(1, 4, 2), torch.zeros(1, 4, 2).double())
    torch.testing.assert_close(made(x, steps), made(x))


def test_scaled_transitions_have_mean_0_and_variance_1_and_come_back():
    obs, reward = rows(50, 2).float() * 3 + 1, rows(50, seed=1).float() * 10 - 4
    next_obs = obs + rows(50, 2, seed=2).float() * 0.1 + 0.5
    valid = torch.arange(50) < 40
    scale = TransitionScale.empty(SPEC, CPU).merge(obs, reward, next_obs, valid)
    target = scale.targets(obs, reward, next_obs)
    torch.testing.assert_close(target[:40].mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(target[:40].std(0, correction=0), torch.ones(3), rtol=1e-3, atol=0)
    torch.testing.assert_close(scale.outcome(obs, target), (next_obs, reward), rtol=1e-4, atol=1e-4)
    again = TransitionScale.empty(SPEC, CPU).loaded(scale.state_dict())
    assert torch.equal(again.targets(obs, reward, next_obs), target)


def test_actions_are_scaled_by_their_bounds_and_clipped_as_the_simulator_does():
    scale = TransitionScale.empty(SPEC, CPU)
    action = torch.tensor([[-1.0], [1.0], [3.0], [7.0]])
    unit = scale.unit(action)
    assert unit.flatten().tolist() == [-1, 0, 1, 1]
    assert scale.action(unit).flatten().tolist() == [-1, 1, 3, 3]


def test_actions_without_bounds_are_refused():
    unbounded = EnvSpec.box(2, [float("-inf")], [1.0], horizon=5)
    with pytest.raises(UserError, match="continuous actions within finite bounds"):
        TransitionScale.empty(unbounded, CPU)
