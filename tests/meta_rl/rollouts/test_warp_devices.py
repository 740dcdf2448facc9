"""Which of Warp's devices one of torch's is."""

import pytest
import torch

wp = pytest.importorskip("warp")

from meta_rl.rollouts.warp.devices import warp_device  # noqa: E402


@pytest.mark.parametrize(("name", "number"), [("cuda", 1), ("cuda:0", 0)])
def test_a_gpu_without_a_number_is_torch_s_current_one(name, number, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    # Warp takes it from a list, by its number.
    monkeypatch.setattr(wp, "device_from_torch", lambda device: ["first", "second"][device.index])
    assert warp_device(torch.device(name)) == ["first", "second"][number]
