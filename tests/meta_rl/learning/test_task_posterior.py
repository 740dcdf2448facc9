from math import expm1, log

import torch

from meta_rl.core.distributions import Gaussian
from meta_rl.learning.task_posterior import ContextEncoder, gaussian, prior

CPU = torch.device("cpu")
VARIANCE = 0.3


def observer():
    """Encode steps c = z + noise of that variance as what they are: N(z; c, variance)."""
    encoder = ContextEncoder(2, (), 2)
    (layer,) = encoder.layers
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4, 2))
        layer.bias.copy_(torch.tensor([0.0, 0.0, *[log(expm1(VARIANCE))] * 2]))  # softplus's
    return encoder


def some_steps(tasks=3, steps=5):
    return torch.randn(tasks, steps, 2, generator=torch.Generator().manual_seed(0))


def test_the_posterior_of_noisy_observations_is_bayes_s():
    steps, valid = some_steps(), torch.ones(3, 5, dtype=torch.bool)
    found = gaussian(prior(3, 2, CPU) + observer()(steps, valid))
    # Of N observations with variance v under N(0, 1): precision 1 + N / v, mean Σ c / (v + N).
    torch.testing.assert_close(found.mean, steps.sum(1) / (VARIANCE + 5))
    torch.testing.assert_close(found.log_std.exp() ** -2, torch.full((3, 2), 1 + 5 / VARIANCE))


def test_of_nothing_the_posterior_is_the_prior():
    found = gaussian(prior(3, 2, CPU) + observer()(some_steps(), torch.zeros(3, 5).bool()))
    standard = Gaussian(torch.zeros(3, 2), torch.zeros(3, 2))
    assert torch.equal(found.kl(standard), torch.zeros(3))


def test_the_order_of_steps_does_not_matter_nor_what_padding_holds():
    encoder = ContextEncoder(2, (8,), 3)
    steps, valid = some_steps(steps=12), torch.rand(3, 12) < 0.6
    added = encoder(steps, valid)
    order = torch.randperm(12)
    torch.testing.assert_close(encoder(steps[:, order], valid[:, order]), added)
    other = torch.where(valid.unsqueeze(-1), steps, 9.0)
    assert torch.equal(encoder(other, valid), added)


def test_steps_sharpen_the_posterior_piece_by_piece():
    encoder = ContextEncoder(2, (8,), 3)
    steps, valid = some_steps(steps=12), torch.ones(3, 12, dtype=torch.bool)
    first, rest = (encoder(steps[:, part], valid[:, part]) for part in (slice(5), slice(5, 12)))
    torch.testing.assert_close(first + rest, encoder(steps, valid))
    wide, narrow = (gaussian(prior(3, 3, CPU) + each).log_std for each in (first, first + rest))
    assert (narrow < wide).all() and (wide < 0).all()
