import pytest
import torch
from networks import make_policy

from agents._maml import Stages
from meta_rl.core.distributions import Gaussian
from meta_rl.learning.inner_loop import (
    InnerLoop,
    clipped_ratio_loss,
    likelihood_ratio_loss,
    scheduled,
    score_function_loss,
)
from meta_rl.learning.samples import Samples


@pytest.mark.parametrize("loss", [likelihood_ratio_loss, clipped_ratio_loss(0.2), "importance"])
def test_padding_counts_nothing_however_narrow_the_policy(loss):
    """The density of 17 dimensions at σ = 0.001 is beyond single precision."""
    std, size = 1e-3, 17
    mean = torch.zeros(1, 3, size, requires_grad=True)
    policy = Gaussian(mean, torch.full((1, 1, size), std).log())
    action = torch.zeros(1, 3, size)
    action[:, :2] = std * torch.randn(1, 2, size, generator=torch.Generator().manual_seed(0))
    log_prob = policy.log_prob(action).detach()
    log_prob[:, 2] = 0.0  # the last step is padding
    weight, advantage = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[1.0, 2.0, 0.0]])
    samples = Samples(torch.zeros(1, 3, 2), action, log_prob, advantage, weight, copies=1)

    if loss == "importance":
        inner = InnerLoop(make_policy(), score_function_loss, scheduled(lambda steps: steps))
        found = Stages(inner, [samples], {0: 1.0}, first_order=False).importance_loss({0: policy})
    else:
        found = loss(policy, samples).sum()
    (slope,) = torch.autograd.grad(found, mean)

    assert found.item() == pytest.approx(-1.5) and slope[:, :2].abs().sum() > 0
    assert slope.isfinite().all() and not slope[:, 2].any()
