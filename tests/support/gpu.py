"""What tests that need a CUDA GPU are marked with; `scripts/check_gpu` runs them, `-m gpu` too."""

import pytest
import torch

needs_gpu = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
)

CUDA = pytest.param("cuda", marks=needs_gpu)
"""The device parameter of a test that runs on the CPU and, where there is one, on a GPU."""
