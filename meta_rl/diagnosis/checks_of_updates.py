"""Checks of what adaptation and meta-updates do."""

from dataclasses import replace
from math import sqrt

from meta_rl.diagnosis.evidence import Evidence
from meta_rl.diagnosis.finding import Finding
from meta_rl.evaluation.statistics import bootstrap_interval, mean


def rejected_updates(evidence: Evidence) -> Finding:
    """Meta-updates are finite."""
    logged = [bool(row["train/rejected_in_a_row"]) for row in evidence.recorded]
    tried = len(evidence.rows) + len(evidence.rejected)
    count = len(evidence.rejected) + sum(logged)
    found = Finding(
        "rejected meta-updates", "0 here, below 5 % of the run", count / (tried + len(logged))
    )
    if evidence.rejected:
        return found.alarm(
            f"{len(evidence.rejected)} of {tried} meta-updates here had to be rejected: "
            f"{evidence.rejected[0]}.",
            "Lower agent.inner_lr or the outer step size; if rewards are at fault, see there.",
        )
    told = f"{count} of the run's {len(logged)} meta-updates were rejected."
    advice = "Look at the batches in the run's rejected/."
    # No recorded run had one, and each costs a whole meta-batch: one in twenty is no accident.
    if logged and count / len(logged) >= 0.05:
        return found.alarm(told, advice)
    return found.note(told, advice) if count else found


def inner_gradient(evidence: Evidence) -> Finding:
    """The experience of a task says in which direction to adapt."""
    check = "norm of the inner gradient"
    found = _of_metric(check, "above 1e-6", evidence, "inner/gradient_norm")
    # Recorded runs have 0.2 to 1.5; single precision makes 1e-7 of nothing at all.
    if found.measured is not None and found.measured <= 1e-6:
        return found.alarm(
            "The inner gradient is zero: a task's experience holds no signal to adapt by.",
            "Check that rewards differ between the episodes of a task, and that advantages are "
            "not all equal.",
        )
    return found


def inner_movement(evidence: Evidence) -> Finding:
    """Adaptation moves the policy, and not out of this world."""
    found = _of_metric(
        "inner KL, nats a step", "0.02 an episode to 100 a step", evidence, "inner/kl"
    )
    if (kl := found.measured) is None:
        return found
    # √(2 · 100) = 14 standard deviations away every action is clipped, and probability ratios
    # overflow; trained 2-D navigation, which moves at full speed after adaptation, reaches 11.
    if not kl <= 100:
        return found.alarm(
            f"The inner step throws the policy {kl:.2g} nats a step away: it diverges.",
            "Lower agent.inner_lr.",
        )
    # Pinsker: the total variation between episodes before and after is at most √(KL / 2) = 0.1, so
    # adaptation changes the return by at most a tenth of its range, whatever its direction.
    if kl * evidence.steps / max(evidence.episodes, 1) >= 0.02:
        return found
    if (evidence.mean("inner/gradient_norm") or 0) <= 1e-6:
        return found.alarm(
            "Adaptation does not move the policy, for its gradient is zero.",
            "See the inner gradient: there is no signal; a larger agent.inner_lr would not help.",
        )
    # KL grows with the square of the step; recorded runs begin at 0.01 to 0.07 nats a step.
    factor = sqrt(0.03 / max(kl, 1e-30))
    return found.alarm(
        f"Adaptation hardly moves the policy ({kl:.1g} nats a step), though its gradient is sound: "
        f"the inner step is too small.",
        f"Raise agent.inner_lr, by a factor of about {factor:.1g}.",
    )


def posterior_divergence(evidence: Evidence) -> Finding:
    """The posterior of a task says something of it."""
    check = "KL of the task's posterior to the prior, nats"
    found = _of_metric(check, "above 0.1", evidence, "posterior/kl")
    # It bounds the information that z has of the task; telling two tasks apart takes log 2 = 0.7.
    if found.measured is not None and found.measured <= 0.1:
        return found.alarm(
            f"The posterior is the prior but for {found.measured:.1g} nats, so the policy knows "
            f"nothing of its task.",
            "Lower agent.kl_weight, or raise agent.reward_scale, which it is weighed against.",
        )
    return found


def critic_error(evidence: Evidence) -> Finding:
    """Critics come near their targets."""
    check = "half the critics' squared error, in variances of their targets"
    found = _of_metric(check, "below 1", evidence, "critic/error")
    # A critic that says the same of everything has 0.5.
    if found.measured is not None and not found.measured < 1:
        return found.alarm(
            f"The critics miss their targets by {found.measured:.2g}, and a constant would by 0.5: "
            f"they diverge.",
            "Lower agent.outer_lr, or agent.polyak if there is one.",
        )
    return found


def prediction_gain(evidence: Evidence) -> Finding:
    """A model that has adapted predicts better than one that has not."""
    check = "error of predictions after adaptation, share of that before"
    found = Finding(check, "below 1")
    before = evidence.mean("prediction/error_before")
    after = evidence.mean("prediction/error_after")
    if before is None or after is None:
        return found.skipped("no meta-update reported prediction/error_before and error_after")
    found = replace(found, measured=after / before if before > 0 else 1.0)
    if found.measured is not None and not found.measured < 1:
        return found.alarm(
            f"Adaptation makes the model's predictions no better: its error is {after:.2g}, and "
            f"{before:.2g} without adaptation.",
            "Train on; if it stays, change agent.inner_lr or raise agent.past_steps, or see "
            "whether tasks differ at all in what follows an action.",
        )
    return found


def adaptation_gain(evidence: Evidence) -> Finding:
    """Adaptation raises the return, paired over tasks."""
    gains = evidence.gains()
    found = Finding("gain of adaptation in return [99 %]", "above 0")
    if len(gains) < 2:
        return found.skipped("it takes two phases and two tasks to measure")
    ends = bootstrap_interval(mean, [gains[None]], [""] * len(gains), confidence=0.99)
    gain = float(gains.mean())
    assert ends is not None
    low, high = ends.tolist()
    found = replace(found, measured=gain, interval=(low, high))
    if low > 0:
        return found
    if high >= 0:  # as it may be before training; the inner KL tells whether it can be
        return found.note("Adaptation gains nothing that these few tasks could show.")
    problem = f"Adaptation lowers the return by {-gain:.3g} on average."
    # A gradient step on the return raises it if it is short and of the right sign. A memory
    # promises nothing before it is trained.
    if evidence.mean("inner/kl") is None:
        return found.note(problem, "Train on; if it stays, the memory holds nothing of use.")
    return found.alarm(problem, "Lower agent.inner_lr; look for a wrong sign in the inner loss.")


def outer_movement(evidence: Evidence) -> Finding:
    """The outer step moves the policy, and stays where its surrogate holds."""
    found = _of_metric("outer KL, nats a step", "1e-6 to 0.2", evidence, "outer/kl")
    if (kl := found.measured) is None:
        return found
    # Total variation √(0.2 / 2) = 0.3: of every third action the experience says nothing.
    # Recorded runs stay below 0.05.
    if not kl <= 0.2:
        return found.alarm(
            f"The outer step moves the policy by {kl:.2g} nats a step, beyond what its experience "
            f"tells about.",
            "Lower the outer step size (agent.outer_lr), the epochs or target_kl.",
        )
    # √(2 · 1e-6) = 0.0014 standard deviations: a thousand updates one way are 1.4 of them.
    if kl < 1e-6:
        return found.alarm(
            f"The outer step hardly moves the policy ({kl:.1g} nats a step).",
            "Raise the outer step size; with a line search, see whether it rejects its steps.",
        )
    return found


def parameter_movement(evidence: Evidence) -> Finding:
    """The outer steps are many and long enough for the experience that they cost."""
    found = Finding(
        "movement of θ per million env steps, in its lengths", "above 0.1", evidence.movement
    )
    if found.measured is None:
        return found.skipped("the agent offers no surrogate, or its last update was rejected")
    # Gradient agents that learned next to nothing of ML1 push-v3 in five million env steps moved
    # by 0.07 to 0.08; what learned it, or 2-D navigation, by 0.18 to 1.7 (docs/push_study.md).
    # RL² with a transformer solves the T-maze by 0.07.
    if found.measured <= 0.1:
        by_gradients = evidence.mean("inner/kl") is not None
        told = found.alarm if by_gradients else found.note
        return told(
            f"The outer steps are {'' if by_gradients else 'perhaps '}too few or too short: a "
            f"million env steps move θ by {found.measured:.1g} of its length.",
            "Take more steps on each meta-batch (agent.minibatches, agent.epochs, or "
            "agent.outer_steps), or longer ones (agent.outer_lr, agent.trust_region.max_kl).",
        )
    return found


def line_search(evidence: Evidence) -> Finding:
    """The line search finds a step."""
    updates = [row for row in [*evidence.recorded, *evidence.rows] if "outer/accepted" in row]
    found = Finding("outer steps that the line search rejects", "below 50 %")
    if not updates:
        return found.skipped("there was no update with a line search")
    share = sum(not row["outer/accepted"] for row in updates) / len(updates)
    found = replace(found, measured=share)
    problem = f"The line search rejected {share:.0%} of {len(updates)} outer steps whole."
    advice = "Use more tasks or episodes, a smaller agent.curvature_stride, or a smaller max_kl."
    # No recorded run rejected one; a run that loses every second meta-batch wastes half its budget.
    if share >= 0.5:
        return found.alarm(problem, advice)
    return found.note(problem, advice) if share > 0 else found


def backtracks(evidence: Evidence) -> Finding:
    """The quadratic model of the divergence is about right."""
    found = _of_metric("shrinkings of the outer step", "below 10", evidence, "outer/shrinkings")
    # 0.8¹⁰ = 0.1 of the step that the model allows; recorded runs need at most 5.
    if found.measured is not None and found.measured >= 10:
        return found.note(
            f"The line search shrinks the outer step {found.measured:.0f} times: the quadratic "
            f"model of the divergence is far off.",
            "Use a smaller agent.curvature_stride, or more damping.",
        )
    return found


def clipped_share(evidence: Evidence) -> Finding:
    """Most steps still have a gradient under PPO's clip."""
    check = "probability ratios beyond the clip"
    found = _of_metric(check, "below 50 %", evidence, "outer/clipped_share")
    # Clipped steps give no gradient, so most of the meta-batch is wasted; recorded runs stay
    # below 30 %.
    if found.measured is not None and found.measured >= 0.5:
        return found.alarm(
            f"{found.measured:.0%} of the probability ratios lie beyond the clip.",
            "Lower the outer step size or the epochs, or set agent.target_kl.",
        )
    return found


def _of_metric(check: str, healthy: str, evidence: Evidence, metric: str) -> Finding:
    found = Finding(check, healthy, evidence.mean(metric))
    if found.measured is None:
        return found.skipped(f"no meta-update reported {metric}")
    return found
