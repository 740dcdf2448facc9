import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence
from torch.func import functional_call, grad, hessian, jvp, vjp, vmap
from torch.utils import _pytree as pytree

from meta_rl.core.distributions import Gaussian
from meta_rl.core.seeding import SharedNoise
from meta_rl.learning import mlp
from meta_rl.learning.linearization import LinearPolicy
from meta_rl.learning.policy import MLPPolicy, by_task, for_each_task, from_by_task
from meta_rl.learning.trust_region import ravel, unravel

CPU = torch.device("cpu")
M, B, A = 3, 7, 2
OBSERVATION = 4


def make_policy(activation="tanh", hidden_sizes=(8, 5), min_std=1e-6):
    return MLPPolicy(OBSERVATION, A, hidden_sizes, activation, initial_std=0.5, min_std=min_std)


def task_parameters(policy, seed=0):
    """Different parameters for each task, log_std included."""
    generator = torch.Generator().manual_seed(seed)
    shared = policy.initial_parameters(generator, CPU)
    return {
        name: value + 0.3 * torch.randn(M, *value.shape, generator=generator)
        for name, value in shared.items()
    }


def gaussians(seed):
    """Distributions of (M, B) states whose deviations depend on the task alone."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(M, B, A, generator=generator)
    return Gaussian(mean, torch.randn(M, 1, A, generator=generator))


def as_torch(policy):
    return Independent(Normal(policy.mean, policy.log_std.exp().expand_as(policy.mean)), 1)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden_sizes", [(8, 5), ()])
def test_the_batched_policy_equals_vmap_of_the_module_with_its_gradients(activation, hidden_sizes):
    policy = make_policy(activation, hidden_sizes)
    params = task_parameters(policy)
    obs = torch.randn(M, B, OBSERVATION, generator=torch.Generator().manual_seed(1))
    action = torch.randn(M, B, A, generator=torch.Generator().manual_seed(2))

    def module(params, obs):
        return functional_call(policy, params, (obs,))

    def of_both(function):
        def total(params):
            return function(params, obs).log_prob(action).square().sum()

        return function(params, obs), grad(total)(params)

    (batched, batched_gradient), (reference, gradient) = map(
        of_both, (policy.batched, vmap(module))
    )
    assert batched.mean.shape == (M, B, A) and batched.log_std.shape == (M, 1, A)
    torch.testing.assert_close(batched, reference)
    torch.testing.assert_close(batched_gradient, gradient)


# With choices, A counts the options of all of them.
CHOICES = pytest.mark.parametrize("choices", [(), (2,), (3, 2)])


def linear_policy(monkeypatch, choices):
    """A policy and its linearization in double precision, cut into pieces, and the states."""
    monkeypatch.setattr(mlp, "AT_ONCE", 3 * 5)  # three steps a piece
    generator = torch.Generator().manual_seed(3)
    policy = MLPPolicy(OBSERVATION, sum(choices) or A, (5,), "tanh", 0.5, 0.1, choices).double()
    phi = {name: value.double() for name, value in task_parameters(policy).items()}
    if not choices:
        phi["log_std"][0, 0] = -9.0  # below its floor, where nothing moves it
    obs = torch.randn(M, B, OBSERVATION, generator=generator, dtype=torch.float64)
    return policy, phi, obs, LinearPolicy(policy, phi, obs)


def random_like(tree, seed):
    generator = torch.Generator().manual_seed(seed)
    return pytree.tree_map(
        lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64), tree
    )


@CHOICES
def test_a_linear_policy_pushes_and_pulls_as_the_batched_one_s_jacobian(monkeypatch, choices):
    policy, phi, obs, linear = linear_policy(monkeypatch, choices)
    tangent = random_like(phi, 4)

    def of(phi):
        return policy.batched(phi, obs)

    expected, moved = jvp(of, (phi,), (tangent,))
    torch.testing.assert_close(linear.distribution, expected)
    torch.testing.assert_close(linear.push(tangent), moved)
    cotangent = random_like(moved, 5)
    torch.testing.assert_close(linear.pull(cotangent), vjp(of, phi)[1](cotangent)[0])


@CHOICES
def test_pushed_weighed_and_pulled_a_change_is_the_divergence_s_hessian_times_it(
    monkeypatch, choices
):
    # The terms with second derivatives of the network vanish at the divergence's minimum.
    policy, phi, obs, linear = linear_policy(monkeypatch, choices)
    generator = torch.Generator().manual_seed(6)
    weight = torch.rand(M, B, generator=generator, dtype=torch.float64)
    weight = weight / weight.sum(1, keepdim=True)
    vector = ravel(phi)
    old = policy.batched(phi, obs)

    def divergence(vector):
        return (weight * old.kl(policy.batched(unravel(vector, phi), obs))).sum()

    expected = hessian(divergence)(vector)

    for row in torch.randn(3, len(vector), generator=generator, dtype=torch.float64):
        tangent = linear.push(unravel(row, phi))
        product = linear.pull(linear.distribution.fisher(tangent, weight, 1.0))
        torch.testing.assert_close(product, unravel(expected @ row, phi))


def test_shared_parameters_give_every_task_the_module_s_own_policy():
    policy = make_policy()
    params = policy.initial_parameters(torch.Generator().manual_seed(0), CPU)
    obs = torch.randn(M, B, OBSERVATION, generator=torch.Generator().manual_seed(1))

    batched = policy.batched(for_each_task(params, M), obs)

    own = policy(obs)
    torch.testing.assert_close(batched.mean, own.mean)
    assert (own.log_std.exp() - 0.5).abs().max() < 1e-6


def test_log_prob_is_the_joint_density_of_torch_distributions():
    policy, action = gaussians(0), torch.randn(M, B, A)
    expected = Normal(policy.mean, policy.log_std.exp()).log_prob(action).sum(-1)

    torch.testing.assert_close(policy.log_prob(action), expected)


def test_the_divergence_and_the_entropy_equal_those_of_torch_distributions():
    p, q = gaussians(0), gaussians(1)

    torch.testing.assert_close(p.kl(q), kl_divergence(as_torch(p), as_torch(q)))
    torch.testing.assert_close(p.entropy().expand(M, B), as_torch(p).entropy())
    assert (p.kl(p) == 0).all()


def test_samples_have_the_distribution_s_mean_and_deviation_and_follow_the_generator():
    policy = Gaussian(
        torch.tensor([[1.0, -2.0]]).expand(20_000, 2), torch.tensor([[0.5, 2.0]]).log()
    )

    samples = policy.sample(SharedNoise(torch.Generator().manual_seed(0)))

    # Standard errors: σ / √20000 = 0.014 at most for the mean, 0.01 for the deviation.
    torch.testing.assert_close(samples.mean(0), torch.tensor([1.0, -2.0]), atol=0.06, rtol=0)
    torch.testing.assert_close(samples.std(0), torch.tensor([0.5, 2.0]), atol=0.05, rtol=0)
    assert torch.equal(samples, policy.sample(SharedNoise(torch.Generator().manual_seed(0))))


def test_without_a_generator_a_sample_is_the_mean():
    policy = gaussians(0)

    assert torch.equal(policy.sample(None), policy.mean)


def test_the_standard_deviation_has_a_floor():
    policy = make_policy(min_std=0.1)
    params = task_parameters(policy)
    params["log_std"] = torch.tensor([-9.0, -1.0]).expand(M, A)
    obs = torch.zeros(M, B, OBSERVATION)

    std = policy.batched(params, obs).log_std.exp()

    torch.testing.assert_close(std[0, 0], torch.tensor([0.1, 0.36787944]))  # e⁻¹
    own = {name: value[0] for name, value in params.items()}
    torch.testing.assert_close(functional_call(policy, own, (obs[0],)).log_std.exp(), std[0])


def test_initial_parameters_follow_the_generator_and_begin_with_the_given_deviation():
    policy = make_policy()

    first, again = (
        {
            name: value.clone()
            for name, value in policy.initial_parameters(
                torch.Generator().manual_seed(s), CPU
            ).items()
        }
        for s in (3, 3)
    )

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert (first["layers.0.bias"] == 0).all()
    assert first["layers.0.weight"].abs().max() <= (6 / (OBSERVATION + 8)) ** 0.5  # Xavier's bound
    torch.testing.assert_close(first["log_std"].exp(), torch.full((A,), 0.5))


def test_laying_steps_out_by_task_keeps_every_number_with_its_task():
    T, N = 5, 3
    # The digits of each number are its step, task and copy.
    t, m, n = torch.meshgrid(*map(torch.arange, (T, 4, N)), indexing="ij")
    code = (100 * t + 10 * m + n).float()

    laid = by_task(code)

    assert laid.shape == (4, T * N)
    assert laid[2].tolist() == [100 * t + 20 + n for t in range(T) for n in range(N)]
    assert torch.equal(from_by_task(laid, copies=N), code)
    pairs = torch.stack([code, -code], dim=-1)
    assert torch.equal(by_task(pairs)[..., 1], -laid)
    assert torch.equal(from_by_task(by_task(pairs), copies=N), pairs)
