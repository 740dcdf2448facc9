import pytest
import torch

from meta_rl.learning.trust_region import (
    TrustRegionConfig,
    conjugate_gradient,
    ravel,
    trust_region_step,
    unravel,
)

CURVATURE = torch.tensor([1.0, 4.0, 9.0])
GRADIENT = torch.tensor([1.0, -2.0, 3.0])


def random_theta(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"weight": (2, 3), "bias": (2,), "log_std": ()}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


def quadratic_step(loss_and_kl=None, gradient=GRADIENT, **settings):
    """A step on L(θ) = gᵀθ with the divergence ½ (θ - θ₀)ᵀ H (θ - θ₀), from θ₀ = (1, 2, 3)."""
    theta = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0, 3.0])}
    start = ravel(theta)

    def exact(candidate):
        moved = ravel(candidate) - start
        return GRADIENT @ ravel(candidate), 0.5 * moved @ (CURVATURE * moved)

    after, metrics = trust_region_step(
        theta,
        gradient,
        GRADIENT @ start,
        lambda v: CURVATURE * v,
        loss_and_kl or exact,
        TrustRegionConfig(**settings),
    )
    return theta, after, metrics


def test_ravel_and_unravel_undo_each_other():
    theta = random_theta()
    vector = ravel(theta)

    again = unravel(vector, theta)

    assert vector.shape == (9,)
    assert list(again) == list(theta)
    assert all(torch.equal(again[name], theta[name]) for name in theta)
    assert torch.equal(ravel(unravel(torch.arange(9.0), theta)), torch.arange(9.0))


def test_conjugate_gradient_equals_a_dense_solve():
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.arange(6.0, dtype=torch.float64)

    x, _ = conjugate_gradient(lambda v: matrix @ v, b, iterations=10, tolerance=1e-20)

    torch.testing.assert_close(x, torch.linalg.solve(matrix, b))


def test_conjugate_gradient_is_exact_after_as_many_iterations_as_distinct_eigenvalues():
    matrix = torch.tensor([2.0, 2.0, 5.0, 5.0, 5.0]).diag()

    x, _ = conjugate_gradient(lambda v: matrix @ v, torch.arange(1.0, 6.0), iterations=2)

    torch.testing.assert_close(x, torch.tensor([0.5, 1.0, 0.6, 0.8, 1.0]))


@pytest.mark.parametrize("iterations", [0, 1, 3, 12])
def test_conjugate_gradient_tells_the_product_of_what_it_found_however_soon_it_ends(iterations):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.arange(6.0, dtype=torch.float64)

    x, image = conjugate_gradient(lambda v: matrix @ v, b, iterations)

    torch.testing.assert_close(image, matrix @ x)
    assert (x != 0).any() == (iterations > 0)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e6])
def test_how_far_conjugate_gradient_goes_does_not_depend_on_the_scale_of_b(scale):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    A, b = root @ root.T + torch.eye(12), torch.randn(12, generator=generator).double()
    calls = []

    def product(v):
        calls.append(v)
        return A @ v

    expected, _ = conjugate_gradient(product, b, 12)
    needed = len(calls)
    torch.testing.assert_close(conjugate_gradient(product, scale * b, 12)[0] / scale, expected)
    assert len(calls) == 2 * needed


def test_the_longest_step_reaches_the_trust_region_s_edge_of_a_quadratic_divergence():
    theta, after, metrics = quadratic_step(max_kl=0.02)

    # d = H⁻¹ g, and ½ β² dᵀ H d = δ is accepted at β unless rounding puts it beyond the edge.
    direction = GRADIENT / CURVATURE
    beta = (2 * 0.02 / (GRADIENT @ direction)).sqrt() * 0.8 ** metrics["outer/shrinkings"]
    torch.testing.assert_close(ravel(after), ravel(theta) - beta * direction)
    assert metrics["outer/shrinkings"] <= 1


def test_an_accepted_step_lowers_the_loss_and_keeps_the_divergence():
    def steeper(candidate):  # a divergence nine times what the curvature says
        moved = ravel(candidate) - torch.tensor([1.0, 2.0, 3.0])
        return GRADIENT @ ravel(candidate), 4.5 * moved @ (CURVATURE * moved)

    theta, after, metrics = quadratic_step(steeper, max_kl=0.02)

    loss, kl = steeper(after)
    assert metrics["outer/accepted"] == 1
    assert loss == metrics["outer/loss_after"] < metrics["outer/loss_before"]
    assert 0 < kl == metrics["outer/kl"] <= 0.02
    assert metrics["outer/shrinkings"] == 5  # 0.8⁵ is the first power below 1/3
    assert not torch.equal(ravel(after), ravel(theta))


@pytest.mark.parametrize(
    "loss_and_kl",
    [
        pytest.param(lambda theta: (torch.tensor(99.0), torch.tensor(0.0)), id="loss grows"),
        pytest.param(
            lambda theta: (GRADIENT @ torch.tensor([1.0, 2.0, 3.0]), torch.tensor(0.0)),
            id="loss stays",
        ),
        pytest.param(lambda theta: (torch.tensor(torch.nan), torch.tensor(0.0)), id="loss is NaN"),
        pytest.param(lambda theta: (-torch.tensor(torch.inf), torch.tensor(0.0)), id="loss is -∞"),
        pytest.param(lambda theta: (torch.tensor(-99.0), torch.tensor(1.0)), id="too far"),
        pytest.param(lambda theta: (torch.tensor(-99.0), torch.tensor(torch.nan)), id="KL is NaN"),
    ],
)
def test_a_line_search_that_finds_nothing_returns_the_very_theta(loss_and_kl):
    theta, after, metrics = quadratic_step(loss_and_kl)

    assert after is theta
    assert torch.equal(ravel(after), torch.tensor([1.0, 2.0, 3.0]))
    assert metrics["outer/accepted"] == 0
    assert metrics["outer/kl"] == 0
    assert metrics["outer/loss_after"] == metrics["outer/loss_before"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0])
def test_a_gradient_that_is_zero_or_not_finite_returns_the_very_theta(value):
    def welcoming(candidate):
        return torch.tensor(-99.0), torch.tensor(0.0)

    theta, after, metrics = quadratic_step(welcoming, gradient=torch.full((3,), value))

    assert after is theta
    assert metrics["outer/accepted"] == 0
