"""Which cases of a test run every time."""

import pytest

AGENTS = ("maml_trpo", "rl2_ppo", "pearl")
"""One of each kind: gradients, memory, replay."""


def quick(cases, chosen=AGENTS):
    """Cases of a parametrization, those that are not chosen marked as thorough."""
    return [
        pytest.param(case, marks=() if case in chosen else pytest.mark.thorough) for case in cases
    ]
