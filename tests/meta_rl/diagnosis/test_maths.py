"""What the doctor computes without an agent's help."""

from math import isnan

import pytest
import torch

from meta_rl.diagnosis.maths import _correlation_by_task


def test_a_task_without_signal_does_not_hide_a_wrong_sign_of_others():
    returns = torch.randn(5, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    returns[:, 1] = 0.0  # a task that never pays
    valid = torch.ones(5, 3, 2, dtype=torch.bool)
    assert _correlation_by_task(-returns, returns, valid) == pytest.approx(-1.0)
    nothing = torch.zeros_like(returns)
    assert isnan(_correlation_by_task(nothing, nothing, valid))
