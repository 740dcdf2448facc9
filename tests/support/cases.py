"""Which cases of a test run every time."""

import pytest

AGENTS = ("maml_trpo", "rl2_ppo", "pearl")
"""One of each kind: gradients, memory, replay."""


def quick(cases, chosen=AGENTS):
    """Cases of a parametrization, those that are not chosen marked as thorough."""
    return [pytest.param(case, marks=_marks(case in chosen)) for case in cases]


def _marks(chosen):
    return () if chosen else pytest.mark.thorough
