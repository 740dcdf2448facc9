import pytest
import torch
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TransformedDistribution, kl_divergence
from torch.distributions.transforms import AffineTransform, TanhTransform
from torch.func import jacfwd, jacrev

from meta_rl.core.distributions import Categorical, Gaussian, Product, TanhGaussian, one_hot
from meta_rl.core.seeding import GivenNoise, SharedNoise

B = 6
LOW, HIGH = torch.tensor([[-1.0, -2.0], [1.0, 0.5]], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(kind, seed=0):
    logits = normal(B, 5, seed=seed)
    if kind == "gaussian":
        return Gaussian(normal(B, 2, seed=seed), 0.3 * normal(B, 2, seed=seed + 1))
    if kind == "tanh":
        return TanhGaussian(*made("gaussian", seed), LOW, HIGH)
    if kind == "categorical":
        return Categorical(logits)
    return Product((Categorical(logits[:, :2]), Categorical(logits[:, 2:])))


def of_torch(distribution):
    if isinstance(distribution, Gaussian):
        return [Independent(Normal(distribution.mean, distribution.log_std.exp()), 1)]
    parts = [distribution] if isinstance(distribution, Categorical) else distribution.parts
    return [TorchCategorical(logits=part.logits) for part in parts]


UNBOUNDED = ["gaussian", "categorical", "product"]
KINDS = pytest.mark.parametrize("kind", [*UNBOUNDED, "tanh"])


@pytest.mark.parametrize("kind", UNBOUNDED)
def test_densities_divergences_and_entropies_are_torch_s(kind):
    ours, other = made(kind), made(kind, seed=9)
    theirs, their_other = of_torch(ours), of_torch(other)
    action = ours.sample(SharedNoise(torch.Generator().manual_seed(1)))
    if kind == "gaussian":
        pieces = [action]
    else:
        sizes = [each.logits.shape[-1] for each in theirs]
        pieces = [piece.argmax(-1) for piece in action.split(sizes, dim=-1)]
    expected = sum(each.log_prob(piece) for each, piece in zip(theirs, pieces, strict=True))
    torch.testing.assert_close(ours.log_prob(action), expected)
    torch.testing.assert_close(ours.entropy(), sum(each.entropy() for each in theirs))
    pairs = zip(theirs, their_other, strict=True)
    torch.testing.assert_close(ours.kl(other), sum(kl_divergence(*pair) for pair in pairs))


@KINDS
def test_without_noise_and_by_zeros_the_mode_is_drawn(kind):
    distribution = made(kind)
    size = distribution.mode.shape
    assert torch.equal(distribution.sample(None), distribution.mode)
    assert torch.equal(distribution.sample(GivenNoise(torch.zeros(size))), distribution.mode)


@pytest.mark.parametrize("kind", ["categorical", "product"])
def test_options_are_drawn_as_often_as_they_are_likely(kind):
    distribution = made(kind)
    noise = SharedNoise(torch.Generator().manual_seed(0))
    drawn = torch.stack([distribution.sample(noise) for _ in range(4000)])
    assert ((drawn == 0) | (drawn == 1)).all()
    likely = torch.cat([each.probs for each in of_torch(distribution)], dim=-1)
    torch.testing.assert_close(drawn.mean(0), likely, atol=0.04, rtol=0)  # 5 σ


@KINDS
def test_the_fisher_information_is_the_hessian_of_the_divergence(kind):
    old = made(kind)
    leaves, structure = torch.utils._pytree.tree_flatten(old)
    sizes = [leaf.numel() for leaf in leaves]
    weight = torch.linspace(0.1, 1, B, dtype=torch.float64)

    def built(vector):
        parts = [p.view_as(leaf) for p, leaf in zip(vector.split(sizes), leaves, strict=True)]
        return torch.utils._pytree.tree_unflatten(parts, structure)

    def divergence(vector):
        return (weight * old.kl(built(vector))).sum()

    at = torch.cat([leaf.flatten() for leaf in leaves])
    tangent = normal(len(at), seed=3)
    expected = jacfwd(jacrev(divergence))(at) @ tangent
    product = old.fisher(built(tangent), weight, float(weight.sum()))
    found = torch.cat([leaf.flatten() for leaf in torch.utils._pytree.tree_leaves(product)])
    torch.testing.assert_close(found, expected)


def test_of_equal_options_the_first_is_the_mode():
    assert one_hot(torch.zeros(2, 3)).tolist() == [[1, 0, 0]] * 2


def test_the_density_of_squashed_actions_is_torch_s():
    ours, noise = made("tanh"), SharedNoise(torch.Generator().manual_seed(1))
    squash = [TanhTransform(), AffineTransform((LOW + HIGH) / 2, (HIGH - LOW) / 2)]
    theirs = TransformedDistribution(Normal(ours.mean, ours.log_std.exp()), squash)
    action, log_prob = ours.sample_with_log_prob(noise)
    assert ((action > LOW) & (action < HIGH)).all()
    torch.testing.assert_close(log_prob, theirs.log_prob(action).sum(-1))
    torch.testing.assert_close(ours.log_prob(action), log_prob)
    torch.testing.assert_close(ours.kl(made("tanh", 9)), made("gaussian").kl(made("gaussian", 9)))


@pytest.mark.parametrize("std", [0.1, 0.5, 2.0])
def test_the_entropy_of_squashed_actions_is_their_mean_surprise(std):
    mean = torch.tensor([[-3.0, 0.0], [0.5, 2.0]], dtype=torch.float64)
    policy = TanhGaussian(mean, torch.full_like(mean, std).log(), LOW, HIGH)
    u = mean + std * torch.linspace(-9, 9, 20001, dtype=torch.float64).view(-1, 1, 1)
    density = Normal(mean, std).log_prob(u).exp()
    slope = ((HIGH - LOW) / 2).log() - 2 * u.abs() - 2 * ((1 + (-2 * u.abs()).exp()) / 2).log()
    surprise = density * (slope - Normal(mean, std).log_prob(u))  # p log (a' / p), p being u's
    expected = torch.trapezoid(surprise, u, dim=0).sum(-1)
    torch.testing.assert_close(policy.entropy(), expected, atol=2e-3, rtol=0)


def test_an_action_that_single_precision_rounds_to_its_bound_has_a_finite_density():
    low, high = torch.tensor([-1.0]), torch.tensor([1.0])
    policy = TanhGaussian(torch.tensor([[20.0]]), torch.zeros(1, 1), low, high)
    action, log_prob = policy.sample_with_log_prob(None)
    assert action == 1 and log_prob.isfinite() and policy.log_prob(action).isfinite()
