"""Finds silent failures of an experiment: a few real meta-iterations, measured and judged.

`examine` gathers evidence with the trainer's own code; each check turns evidence into a finding.
Of an agent they use what every agent has, the names of metrics that agents share, and, where it is
offered, `Inspectable.surrogate`.
"""

import math
from collections.abc import Callable

from meta_rl.diagnosis.checks_of_experience import (
    action_bounds,
    diverged_worlds,
    exploration,
    finite_observations,
    finite_rewards,
    observation_scale,
    observation_spread,
    some_success,
    varying_rewards,
)
from meta_rl.diagnosis.checks_of_objective import (
    acting_agrees,
    advantage_sign,
    baseline_explains,
    direction_sign,
    gradient_of_the_loss,
)
from meta_rl.diagnosis.checks_of_updates import (
    adaptation_gain,
    backtracks,
    clipped_share,
    critic_error,
    inner_gradient,
    inner_movement,
    line_search,
    outer_movement,
    parameter_movement,
    posterior_divergence,
    prediction_gain,
    rejected_updates,
)
from meta_rl.diagnosis.evidence import Evidence
from meta_rl.diagnosis.finding import Finding


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return what every check found."""
    findings = [check(evidence) for check in CHECKS]
    return [
        found.skipped("there was nothing to measure it on")
        if found.status == "healthy" and (found.measured is None or math.isnan(found.measured))
        else found
        for found in findings
    ]


CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    finite_rewards,
    finite_observations,
    varying_rewards,
    some_success,
    observation_scale,
    observation_spread,
    action_bounds,
    exploration,
    diverged_worlds,
    rejected_updates,
    acting_agrees,
    gradient_of_the_loss,
    advantage_sign,
    direction_sign,
    baseline_explains,
    inner_gradient,
    inner_movement,
    posterior_divergence,
    critic_error,
    prediction_gain,
    adaptation_gain,
    outer_movement,
    parameter_movement,
    line_search,
    backtracks,
    clipped_share,
)
