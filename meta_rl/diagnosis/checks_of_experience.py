"""Checks of what a family shows and what a policy does in it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import e, pi

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meta_rl.core.episodes import episode_scores
from meta_rl.core.spaces import choices
from meta_rl.core.types import SUCCESS, Rollout
from meta_rl.diagnosis.evidence import Evidence
from meta_rl.diagnosis.finding import Finding
from meta_rl.rollouts.adaptation import episodes_in


def finite_rewards(evidence: Evidence) -> Finding:
    """Rewards are numbers."""
    return _finite(
        evidence,
        "rewards",
        lambda r: torch.isfinite(r.reward),
        "Mend the family's reward: look for divisions, roots and logarithms that can leave their "
        "domain.",
    )


def finite_observations(evidence: Evidence) -> Finding:
    """Observations are numbers."""
    return _finite(
        evidence,
        "observations",
        lambda r: torch.isfinite(r.obs).all(-1),
        "Mend what the environment shows: sensors that may have nothing to say, divisions, or "
        "physics that diverges.",
    )


def _finite(
    evidence: Evidence, what: str, finite: Callable[[Rollout], Bool[Tensor, "T M N"]], advice: str
) -> Finding:
    share = evidence.share(lambda rollout: ~finite(rollout))
    found = Finding(f"{what} not finite, share of steps", "0", share)
    if share > 0:
        return found.alarm(f"{share:.1%} of the {what} are NaN or infinite.", advice)
    return found


def varying_rewards(evidence: Evidence) -> Finding:
    """A task whose reward never changes has nothing to say about which action was better.

    Unless it ends episodes: then what it pays for living tells.
    """
    constant = [
        torch.stack([_spread(rollout) for rollout in batch.rollouts]).amax(0) == 0
        for batch in evidence.batches
    ]
    share = float(torch.cat(constant).double().mean()) if constant else math.nan
    found = Finding("tasks with a constant reward", "below 50 %", share)
    advice = "Shape the reward, lengthen the episodes, or play more of them, so that some differ."
    if share >= 0.5:  # then most of a meta-gradient's mean over tasks is zeros
        return found.alarm(f"The reward never changes on {share:.0%} of the tasks.", advice)
    if share > 0:
        return found.note(f"The reward never changes on {share:.0%} of the tasks.", advice)
    return found


def _spread(rollout: Rollout) -> Float[Tensor, "M"]:
    """Largest less smallest reward of each task; a failure counts as a step without reward."""
    failed = rollout.terminated & rollout.valid
    reward = torch.cat([rollout.reward, torch.zeros_like(rollout.reward)])
    padding = torch.cat([~rollout.valid, ~failed])
    highest = reward.masked_fill(padding, -math.inf).amax((0, 2))
    return highest - reward.masked_fill(padding, math.inf).amin((0, 2))


def some_success(evidence: Evidence) -> Finding:
    """Some episode succeeds now and then."""
    found = Finding("episodes that succeed", "some")
    scores = [
        episode_scores(rollout, [SUCCESS], episodes_in(rollout))["success"].mean()
        for rollout in evidence.rollouts
        if "success" in rollout.metrics and rollout.last.any()
    ]
    if not scores:
        return found.skipped("the family reports no success")
    found = replace(found, measured=float(torch.stack(scores).mean()))
    logged = [row.get("success/after") or row.get("success/before") for row in evidence.recorded]
    if found.measured != 0 or any(logged):
        return found
    # All recorded runs had a success in their very first update; harder tasks take longer.
    if len(logged) >= 10:
        return found.alarm(
            f"No episode has succeeded in {len(logged)} meta-updates and here.",
            "Check what success means, and whether the reward leads to it.",
        )
    return found.note("No episode has succeeded yet.")


def observation_scale(evidence: Evidence) -> Finding:
    """Observations lie where the baseline and the running normalization do not cut them off."""
    # Both clip at 10 (`baseline.features`, `RunningMoments.normalize`), where tanh has long been
    # flat; rare outliers do no harm.
    share = evidence.share(lambda r: (r.obs.abs() > 10).double().mean(-1))
    found = Finding("observations beyond ±10", "below 1 %", share)
    if share < 0.01:
        return found
    problem = (
        f"{share:.1%} of the observations' components exceed ±10, where the baseline is blind."
    )
    # Its own check tells whether the baseline explains enough all the same.
    if evidence.normalizes:
        return found.note(f"{problem} The agent's own inputs are normalized.")
    return found.alarm(
        problem, "Scale the family's observations to about 1, or normalize the agent's inputs."
    )


def observation_spread(evidence: Evidence) -> Finding:
    """Observations differ enough for a network to tell them apart."""
    seen = [rollout.obs[rollout.valid] for rollout in evidence.rollouts]
    spread = float(torch.cat(seen).std(0).max()) if seen else math.nan
    found = Finding("largest standard deviation of an observation", "above 0.001", spread)
    if spread == 0:  # a bandit shows nothing
        return found.note(
            "All observations are alike: a policy can only go by its memory or its adaptation."
        )
    if spread <= 1e-3:  # moves the mean action by about as much, far below any exploration noise
        return found.alarm(
            f"No component of the observation varies by more than {spread:.1g}.",
            "Scale the family's observations to about 1.",
        )
    return found


def action_bounds(evidence: Evidence) -> Finding:
    """The simulator does not cut off nearly every action."""
    low, high = evidence.spec.action_bounds

    def beyond(rollout: Rollout) -> Tensor:
        action = rollout.action
        outside = (action < action.new_tensor(low)) | (action > action.new_tensor(high))
        return outside.double().mean(-1)

    share = evidence.share(beyond)
    found = Finding("action components beyond their bounds", "below 95 %", share)
    # A standard deviation of 1 on bounds of ±1 gives 32 %, agents trained to move at full speed
    # up to 80 %; near 100 % the world sees the corners alone, whatever the policy learns.
    if share >= 0.95:
        return found.alarm(
            f"{share:.0%} of the actions' components lie beyond their bounds and are clipped.",
            "Take smaller steps (agent.inner_lr, the outer step size) or a smaller "
            "agent.initial_std.",
        )
    return found


def exploration(evidence: Evidence) -> Finding:
    """The policy before adaptation still tries things: its noise by the drawn actions' density."""
    # An oracle has nothing to find out, and its densities say nothing.
    drawn = [] if evidence.sees_tasks else [batch.rollouts[0] for batch in evidence.batches]
    densities = [float(r.log_prob[r.valid].double().mean()) for r in drawn]
    if choices(evidence.spec.action_space):
        return _exploration_of_choices(densities)
    low, high = evidence.spec.action_bounds
    half = np.subtract(high, low) / 2
    found = Finding("standard deviation / half the action range", "above 0.02")
    if not np.isfinite(half).all():
        return found.skipped("actions have no bounds")
    # A Gaussian's entropy is log σ + ½ log 2πe for each dimension, and -E[log π] estimates it.
    std = math.nan
    if densities:
        log_std = -np.mean(densities) / evidence.spec.action_size - 0.5 * math.log(2 * pi * e)
        std = float(np.exp(log_std - np.log(half).mean()))
    found = replace(found, measured=std)
    # Below it a random walk of 100 steps strays by √100 · 0.02 = a fifth of one full action: the
    # episodes of a task are as good as one, and tell no direction.
    if std <= 0.02:
        return found.alarm(
            f"The policy hardly explores: its standard deviation has collapsed to {std:.2g} of "
            f"half the action range.",
            "Raise agent.min_std, agent.initial_std or the entropy bonus, or go back to an "
            "earlier checkpoint with smaller outer steps.",
        )
    return found


def _exploration_of_choices(densities: Sequence[float]) -> Finding:
    """Return how many options are tried on average: the perplexity, exp(-E[log π])."""
    tried = float(np.exp(-np.mean(densities))) if densities else math.nan
    found = Finding("options that are tried (perplexity)", "above 1.01", tried)
    # Of two options the rarer then has 0.2 %: it is not once tried in a few hundred steps.
    if tried <= 1.01:
        return found.alarm(
            f"The policy hardly explores: it tries {tried:.3f} options on average.",
            "Raise the entropy bonus, or go back to an earlier checkpoint with smaller steps.",
        )
    return found


def diverged_worlds(evidence: Evidence) -> Finding:
    """The physics holds."""
    found = Finding("worlds that diverged, share of episodes", "below 1 %")
    counts = [
        (r.metrics["diverged"] * r.valid).sum()
        for r in evidence.rollouts
        if "diverged" in r.metrics
    ]
    if not counts:
        return found.skipped("the family reports no divergence")
    share = float(torch.stack(counts).sum()) / max(evidence.episodes, 1)
    found = replace(found, measured=share)
    problem = f"The physics diverged in {share:.1%} of the episodes, which were cut short."
    advice = "Look at what the actions do there; lower initial_std or the bounds of the actions."
    # Cut episodes look like early ends and bias the return; from 1 % on every meta-batch of a
    # hundred episodes has one.
    if share >= 0.01:
        return found.alarm(problem, advice)
    return found.note(problem, advice) if share > 0 else found
