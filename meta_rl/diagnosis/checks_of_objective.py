"""Checks of an agent's objective, where it opens it."""

from meta_rl.diagnosis.evidence import Evidence
from meta_rl.diagnosis.finding import Finding


def acting_agrees(evidence: Evidence) -> Finding:
    """Before the first step of an update, all probability ratios are 1."""
    found = _of_maths("largest |log ratio| before an update", "below 0.01", evidence, "log_ratio")
    # Single precision leaves about 1e-5 (1e-4 on memories of 1500 steps); parameters, inputs or
    # normalizers that are not those that acted, far more.
    if found.measured is not None and not found.measured < 0.01:
        return found.alarm(
            f"The update gives the recorded actions other probabilities than acting did (log ratio "
            f"up to {found.measured:.2g}).",
            "Let act and the update see the same parameters, inputs, normalizers and memory; an "
            "inner step so large that rounding shows does it too.",
        )
    return found


def gradient_of_the_loss(evidence: Evidence) -> Finding:
    """The meta-gradient agrees with central differences, through the inner step or the memory."""
    check = "meta-gradient's error by finite differences"
    found = _of_maths(check, "below 0.001", evidence, "gradient_error")
    # Double precision gives 1e-7 to 1e-5; a derivative that is missing, 0.01 and more.
    if evidence.maths is None or found.measured is None or not found.measured >= 1e-3:
        return found
    if evidence.maths.approximation is not None:
        return found.note(
            f"The meta-gradient is {found.measured:.1%} off the loss's, as the config wants: "
            f"{evidence.maths.approximation}."
        )
    return found.alarm(
        f"The meta-gradient is not the derivative of the agent's loss: it is "
        f"{found.measured:.1%} off.",
        "Look for detached tensors, or no_grad, on the way from the parameters to the loss; if "
        "something is left out on purpose, the agent's surrogate should say so.",
    )


def advantage_sign(evidence: Evidence) -> Finding:
    """Advantages rise with the return that followed."""
    check = "correlation of advantage and return"
    found = _of_maths(check, "above 0.05", evidence, "advantage_correlation")
    # Monte Carlo advantages have 0.97 and more; λ = 0.95, which looks 20 steps ahead, 0.3 to 0.9
    # on recorded runs. Over a thousand steps of a task chance alone reaches about 0.03.
    if found.measured is not None and found.measured <= 0.05:
        return found.alarm(
            f"Advantages do not rise with the returns that followed (correlation "
            f"{found.measured:.2f}).",
            "Look for a wrong sign, or for rewards and values that are shifted in time.",
        )
    return found


def direction_sign(evidence: Evidence) -> Finding:
    """The update makes likelier what the agent holds for better."""
    check = "cosine of update and policy gradient"
    found = _of_maths(check, "above 0", evidence, "direction_cosine")
    # Where all ratios are 1 they are one direction, but for an entropy bonus and the like; below
    # zero the update makes worse actions likelier.
    if found.measured is not None and found.measured <= 0:
        return found.alarm(
            f"The update points against its own policy gradient (cosine {found.measured:.2f}).",
            "Look for a wrong sign in the loss.",
        )
    return found


def baseline_explains(evidence: Evidence) -> Finding:
    """The linear baseline takes away some of the returns' variance."""
    check = "variance explained by the baseline"
    if evidence.mean("critic/error") is not None:
        return Finding(check, "above 0.05").skipped("a critic takes the baseline's place")
    found = _of_maths(check, "above 0.05", evidence, "explained_variance")
    maths = evidence.maths
    if maths is not None and maths.fewest_steps <= maths.baseline_features:
        return found.note(
            f"A task has {maths.fewest_steps} steps in a meta-batch, no more than the linear "
            f"baseline has features ({maths.baseline_features}): its baseline is the mean return.",
            "Play more copies or episodes of each task.",
        )
    if found.measured is None or not found.measured <= 0.05:
        return found
    # A least-squares fit with a constant cannot explain less than nothing of its own data.
    if found.measured < -0.01:
        return found.alarm(
            f"The linear baseline adds variance to the returns (explained {found.measured:.2f}).",
            "Check the scale of observations and rewards: its equations have become singular.",
        )
    return found.note(
        f"The linear baseline explains {found.measured:.0%} of the returns' variance, so "
        f"advantages are as noisy as returns.",
        "More episodes for each task make up for it.",
    )


def _of_maths(check: str, healthy: str, evidence: Evidence, figure: str) -> Finding:
    if evidence.maths is None:
        why = "the agent offers no surrogate, or its last meta-batch was rejected"
        return Finding(check, healthy).skipped(why)
    return Finding(check, healthy, getattr(evidence.maths, figure))
