"""Trimming keeps what acting and adapting depend on."""

import torch

from meta_rl.runs.trimmed import trim, widened


def state():
    weights = {"layers.0.weight": torch.randn(3, 4), "log_std": torch.randn(4)}
    moments = {"count": torch.tensor(1e6), "mean": torch.randn(3)}
    agent = {"theta": weights, "obs_moments": moments, "optimizer": {"state": weights}}
    counters = {"env_steps": 10, "meta_iterations": 2}
    whole = {"config": {}, "protocol": {}, "streams": {}, "sinks": {}, "agent": agent}
    return whole | counters


def test_what_training_needs_is_gone_and_the_rest_is_as_it_was(identical):
    whole = state()
    small = trim(whole)
    assert small.keys() == {
        "config",
        "protocol",
        "env_steps",
        "meta_iterations",
        "agent",
        "trimmed",
    }
    assert small["agent"].keys() == {"theta", "obs_moments"}
    assert identical(small["agent"]["theta"], whole["agent"]["theta"])
    assert identical(widened(small["agent"]), small["agent"])


def test_half_precision_is_of_weight_matrices_and_is_widened_again(identical):
    whole = state()
    small = trim(whole, half=True)["agent"]
    assert small["theta"]["layers.0.weight"].dtype == torch.half
    wide = widened(small)
    assert identical(wide["theta"]["log_std"], whole["agent"]["theta"]["log_std"])
    assert identical(wide["obs_moments"], whole["agent"]["obs_moments"])
    torch.testing.assert_close(
        wide["theta"]["layers.0.weight"],
        whole["agent"]["theta"]["layers.0.weight"],
        rtol=1e-3,
        atol=1e-7,
    )
