"""Steps of torch's optimizers."""

import pytest
import torch
from torch import nn

from meta_rl.learning.descent import descend, tiny_numbers_are_zero


def is_zero():
    """Whether a number below 1e-38 is taken for zero."""
    return bool(torch.tensor(1e-30) * 1e-12 == 0)


def test_numbers_below_1e_38_are_zero_within_and_never_after():
    assert not is_zero()
    with tiny_numbers_are_zero():
        assert is_zero()
    assert not is_zero()
    with pytest.raises(KeyError), tiny_numbers_are_zero():
        raise KeyError
    assert not is_zero()


def test_slopes_that_have_faded_are_zero_and_others_are_exact():
    weight = nn.Parameter(torch.tensor([2.0, 3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    faded, kept = weight.unbind()
    loss = (faded * 1e-30) * 1e-12 + kept.square()  # slopes 1e-42 and 2 · 3
    assert descend(optimizer, loss, max_gradient_norm=100.0) == 6
    assert weight.grad.tolist() == [0, 6] and weight.tolist() == [2, 0]
    assert not is_zero()
