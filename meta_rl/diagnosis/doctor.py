"""Finds silent failures of an experiment: a few real meta-iterations, measured and judged.

`examine` gathers evidence with the trainer's own code; each check turns evidence into a finding.
Of an agent they use what every agent has, the names of metrics that agents share, and, where it is
offered, `Inspectable.surrogate`.
"""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import e, pi, sqrt
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad
from torch.utils import _pytree as pytree

from meta_rl.core.episodes import episode_scores, episode_step
from meta_rl.core.errors import UserError
from meta_rl.core.protocols import Inspectable, Surrogate
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import SUCCESS, EnvSpec, MetaBatch, Params, Rollout, map_tensors
from meta_rl.evaluation.statistics import bootstrap_interval, mean
from meta_rl.experiment.config import Experiment
from meta_rl.learning.baseline import features, fit, predict
from meta_rl.learning.policy import by_task
from meta_rl.learning.returns import discounted_return
from meta_rl.learning.trust_region import ravel, unravel
from meta_rl.rollouts.adaptation import episodes_in
from meta_rl.runs.folder import RunFolder
from meta_rl.training.trainer import Rejected, Trainer

Row: TypeAlias = Mapping[str, float | int | None]
"""The metrics of one meta-update by name; null where the log could not hold the number."""


@dataclass(frozen=True)
class Finding:
    """What one check measured, and what that means."""

    check: str
    healthy: str
    """The healthy range, in words."""
    measured: float | None = None
    interval: tuple[float, float] | None = None
    status: Literal["healthy", "note", "alarm", "skipped"] = "healthy"
    problem: str = ""
    """What is wrong, or worth knowing, in one sentence; or why the check was skipped."""
    advice: str = ""
    """What to try."""

    def alarm(self, problem: str, advice: str) -> "Finding":
        """Say what is wrong."""
        return replace(self, status="alarm", problem=problem, advice=advice)

    def note(self, problem: str, advice: str = "") -> "Finding":
        """Say what is worth knowing, though nothing need be wrong."""
        return replace(self, status="note", problem=problem, advice=advice)

    def skipped(self, why: str) -> "Finding":
        """Say why there is nothing to judge."""
        return replace(self, status="skipped", problem=why)


@dataclass(frozen=True)
class Maths:
    """An agent's objective on one meta-batch beside what is computed without its help."""

    log_ratio: float
    """Largest |log ratio| of the recorded actions at the very parameters that drew them."""
    advantage_correlation: float
    """Of its advantages with the returns less a baseline, within each task; mean over tasks."""
    direction_cosine: float
    """Of the direction it moves in with the policy gradient of its advantages."""
    explained_variance: float
    """Share of the returns' variance within a task that the linear feature baseline explains."""
    gradient_error: float
    """Of its gradient, relative, by central differences of its loss."""
    approximation: str | None
    """What the gradient leaves out on purpose."""


@dataclass
class Evidence:
    """What the trial meta-iterations showed, and what the run had logged before them."""

    spec: EnvSpec
    recorded: list[Row] = field(default_factory=list)
    """Metrics of the run's own meta-updates."""
    rows: list[Row] = field(default_factory=list)
    """Metrics of the trial updates that were not rejected."""
    batches: list[MetaBatch] = field(default_factory=list)
    """Whole meta-batches."""
    broken: list[Rollout] = field(default_factory=list)
    """Rollouts of the meta-batches that were rejected before they were whole."""
    rejected: list[str] = field(default_factory=list)
    """Why trial updates were rejected."""
    maths: Maths | None = None
    """Of the last trial meta-iteration, if the agent offers it."""

    @property
    def rollouts(self) -> list[Rollout]:
        """All experience."""
        return [rollout for batch in self.batches for rollout in batch.rollouts] + self.broken

    def mean(self, metric: str) -> float | None:
        """Return a metric's mean over the trial updates; none if the agent does not report it."""
        values = [value for row in self.rows if (value := row.get(metric)) is not None]
        return sum(values) / len(values) if values else None

    def share(self, happened: Callable[[Rollout], Shaped[Tensor, "T M N"]]) -> float:
        """Return the share of steps at which something happened."""
        count = sum(float((happened(r).double() * r.valid).sum()) for r in self.rollouts)
        return count / self.steps if self.rollouts else math.nan

    @property
    def steps(self) -> int:
        """Environment steps."""
        return sum(int(rollout.valid.sum()) for rollout in self.rollouts)

    @property
    def episodes(self) -> int:
        """Whole episodes."""
        return sum(int(rollout.last.sum()) for rollout in self.rollouts)

    def gains(self) -> NDArray[np.float64]:
        """Return what adaptation added to the mean return, for each task of the batches."""
        if any(len(batch.rollouts) < 2 for batch in self.batches) or not self.batches:
            return np.zeros(0)
        pairs = [(_mean_return(b.rollouts[-1]), _mean_return(b.rollouts[0])) for b in self.batches]
        return torch.cat([after - before for after, before in pairs]).cpu().double().numpy()


def _mean_return(rollout: Rollout) -> Float[Tensor, "M"]:
    """Mean over a task's episodes."""
    return (rollout.reward * rollout.valid).sum((0, 2)) / rollout.last.sum((0, 2))


# Gathering evidence


def examine(
    experiment: Experiment[Any, Any],
    iterations: int,
    agent_state: Mapping[str, Any] | None = None,
    recorded: Sequence[Row] = (),
) -> Evidence:
    """Run some meta-iterations in a temporary folder and keep what they show.

    Args:
        agent_state: An agent's state to start from; none starts untrained.
        recorded: What the run had logged.
    """
    with _trial(experiment) as trainer:
        agent = trainer.agent
        if agent_state is not None:
            agent.load_state_dict(agent_state)
        evidence = Evidence(trainer.distribution.spec, list(recorded))
        for number in range(iterations):
            before = pytree.tree_map(
                lambda x: x.clone() if isinstance(x, Tensor) else x, agent.state_dict()
            )
            try:
                batch = trainer.collect()
            except Rejected as problem:
                evidence.broken += problem.batch.rollouts
                evidence.rejected.append(str(problem))
                continue
            evidence.batches.append(batch)
            # The last one: normalizers and optimizers are no longer at their start.
            if isinstance(agent, Inspectable) and number == iterations - 1:
                evidence.maths = compare(agent.surrogate(probe(batch)))
            try:
                metrics = trainer.update(batch)
                evidence.rows.append({name: float(value) for name, value in metrics.items()})
            except Rejected as problem:
                agent.load_state_dict(before)
                evidence.rejected.append(str(problem))
    return evidence


@contextmanager
def _trial(experiment: Experiment[Any, Any]) -> Iterator[Trainer]:
    """Make a trainer whose run folder is a temporary one."""
    untracked = replace(experiment, tracking=replace(experiment.tracking, mode="off"))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(untracked, RunFolder(Path(folder) / "run"))
        try:
            yield trainer
        finally:
            trainer.collector.close()


def recorded_updates(path: Path) -> list[Row]:
    """Read the meta-updates from a run's metrics.jsonl."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        # A run that goes on, or was killed, may have written half of its last line.
        rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; is it the run's own log?") from error
    # The line of the final evaluation is none of an update.
    return [row for row in rows if "train/rejected_in_a_row" in row]


def probe(batch: MetaBatch, tasks: int = 4) -> MetaBatch:
    """Return a meta-batch's first few tasks in double precision.

    Objectives are means over tasks that share nothing but θ: a few show the same faults, cheaply.
    """

    def some(column: Tensor) -> Tensor:
        kept = column[:, :tasks]
        return kept.double() if kept.is_floating_point() else kept

    rollouts = tuple(map_tensors(some, rollout) for rollout in batch.rollouts)
    return MetaBatch(batch.tasks[:tasks], rollouts)


def compare(surrogate: Surrogate) -> Maths:
    """Hold an agent's objective against finite differences and returns computed here."""
    rollout, valid = surrogate.rollout, surrogate.rollout.valid
    theta = {name: value.detach().double() for name, value in surrogate.theta.items()}
    ends = rollout.last
    if surrogate.across_episodes:  # then only a trial's last step ends the return
        ends = ends & (valid.sum(0) == valid.cumsum(0))
    surplus = returns_less_baseline(rollout, ends, surrogate.gamma)
    weight = surrogate.advantage * valid / valid.sum((0, 2), keepdim=True)

    def likelihood(theta: Params) -> Tensor:
        return (weight * surrogate.log_ratio(theta)).sum()

    downhill, uphill = -ravel(grad(surrogate.loss)(theta)), ravel(grad(likelihood)(theta))
    # Observations and biases of zero put ReLU units on their very kink, where no derivative is.
    near = unravel(ravel(theta) + 1e-3 * _directions(theta, 1)[0], theta)
    with torch.no_grad():
        return Maths(
            log_ratio=float((surrogate.log_ratio(theta) * valid).abs().max()),
            advantage_correlation=_correlation_by_task(surrogate.advantage, surplus, valid),
            direction_cosine=float(downhill @ uphill / downhill.norm() / uphill.norm()),
            explained_variance=_explained_variance(rollout, ends, surrogate.gamma),
            gradient_error=gradient_error(surrogate.loss, near),
            approximation=surrogate.approximation,
        )


def gradient_error(loss: Callable[[Params], Tensor], theta: Params) -> float:
    """Return how far the gradient g is from the slopes of the loss, relative to |g|.

    Slopes s are taken along g, and along random unit vectors u, which see what g may lack: the mean
    of (s - g·u)² over them is |∇ - g|² / D. NaN if g is zero.
    """
    gradient = ravel(grad(loss)(theta))
    # A short step, for the inner gradient jumps where a ReLU unit of any sample passes its kink.
    vector, step = ravel(theta), 1e-8

    def slope(direction: Tensor) -> float:
        up, down = (loss(unravel(vector + h * direction, theta)) for h in (step, -step))
        return float(up - down) / (2 * step)

    norm = float(gradient.norm())
    if norm == 0:
        return math.nan
    along = abs(slope(gradient / norm) - norm)
    squared = [(slope(u) - float(gradient @ u)) ** 2 for u in _directions(theta, 4)]
    return max(along, sqrt(len(vector) * sum(squared) / len(squared))) / norm


def _directions(theta: Params, count: int) -> Float[Tensor, "count D"]:
    """Draw random unit vectors."""
    vector = ravel(theta)
    drawn = torch.randn(count, len(vector), generator=make_generator(0, "doctor")).to(vector)
    units: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return units


def returns_less_baseline(
    rollout: Rollout, ends: Bool[Tensor, "T M N"], gamma: float
) -> Float[Tensor, "T M N"]:
    """Returns to go less a least-squares baseline in time and state, each task on its own.

    Independent of `learning.returns` and `learning.baseline` on purpose: it checks what agents make
    of them.
    """
    reward = (rollout.reward * rollout.valid).double().cpu().numpy()
    keep, last = rollout.valid.cpu().numpy(), ends.cpu().numpy()
    surplus, to_go = np.zeros_like(reward), np.zeros(reward.shape[1:])
    returns = np.zeros_like(reward)
    for t in reversed(range(len(reward))):
        to_go = reward[t] + gamma * np.where(last[t], 0.0, to_go)
        returns[t] = to_go
    obs = rollout.obs.double().cpu().numpy()
    time = episode_step(rollout.first).cpu().numpy()[..., None] / 100
    inputs = np.concatenate([obs, obs**2, time, time**2, time**3, np.ones_like(time)], axis=-1)
    for m in range(reward.shape[1]):
        played = keep[:, m]
        x, y = inputs[:, m][played], returns[:, m][played]
        surplus[:, m][played] = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return torch.from_numpy(surplus).to(rollout.reward.device)


def _correlation_by_task(
    ours: Float[Tensor, "T M N"], theirs: Float[Tensor, "T M N"], valid: Bool[Tensor, "T M N"]
) -> float:
    """Return the mean over tasks of the correlation over a task's steps; NaN if one is constant."""
    pairs = [
        torch.corrcoef(torch.stack([ours[:, m][valid[:, m]], theirs[:, m][valid[:, m]]]))[0, 1]
        for m in range(valid.shape[1])
    ]
    return float(torch.stack(pairs).mean())


def _explained_variance(rollout: Rollout, ends: Bool[Tensor, "T M N"], gamma: float) -> float:
    """Return 1 - Var(G - V) / Var(G) within a task, mean over tasks, for the linear baseline V."""
    valid = by_task(rollout.valid)
    target = by_task(discounted_return(rollout.reward, ends, gamma))
    phi = features(by_task(rollout.obs), by_task(episode_step(rollout.first)))
    value = predict(phi, fit(phi, target, valid))
    explained = [
        1 - (g - v)[played].var() / g[played].var()
        for g, v, played in zip(target, value, valid, strict=True)
    ]
    return float(torch.stack(explained).mean())


# Judging it. Every limit has its reason beside it; "recorded runs" are those in results/, on 2-D
# navigation and Meta-World.


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return what every check found."""
    findings = [check(evidence) for check in CHECKS]
    return [
        found.skipped("there was nothing to measure it on")
        if found.status == "healthy" and (found.measured is None or math.isnan(found.measured))
        else found
        for found in findings
    ]


def finite_rewards(evidence: Evidence) -> Finding:
    """Rewards are numbers."""
    share = evidence.share(lambda r: ~torch.isfinite(r.reward))
    found = Finding("rewards not finite, share of steps", "0", share)
    if share > 0:
        return found.alarm(
            f"{share:.1%} of the rewards are NaN or infinite.",
            "Mend the family's reward: look for divisions, roots and logarithms that can leave "
            "their domain.",
        )
    return found


def varying_rewards(evidence: Evidence) -> Finding:
    """A task whose reward never changes has nothing to say about which action was better."""
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
    """Largest less smallest reward of each task."""
    reward, padding = rollout.reward, ~rollout.valid
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
    share = evidence.share(lambda r: (~(r.obs.abs() <= 10)).double().mean(-1))
    found = Finding("observations beyond ±10 or not finite", "below 1 %", share)
    if share >= 0.01:
        return found.alarm(
            f"{share:.1%} of the observations' components exceed ±10, where the baseline is blind.",
            "Scale the family's observations to about 1, or normalize the agent's inputs.",
        )
    return found


def observation_spread(evidence: Evidence) -> Finding:
    """Observations differ enough for a network to tell them apart."""
    seen = [rollout.obs[rollout.valid] for rollout in evidence.rollouts]
    spread = float(torch.cat(seen).std(0).max()) if seen else math.nan
    found = Finding("largest standard deviation of an observation", "above 0.001", spread)
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
    drawn = [batch.rollouts[0] for batch in evidence.batches]
    low, high = evidence.spec.action_bounds
    half = np.subtract(high, low) / 2
    densities = [float(r.log_prob[r.valid].double().mean()) for r in drawn]
    # A Gaussian's entropy is log σ + ½ log 2πe for each dimension, and -E[log π] estimates it.
    std = math.nan
    if densities:
        log_std = -np.mean(densities) / evidence.spec.action_size - 0.5 * math.log(2 * pi * e)
        std = float(np.exp(log_std - np.log(half).mean()))
    found = Finding("standard deviation / half the action range", "above 0.02", std)
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
    found = _of_maths(check, "above 0.05", evidence, "explained_variance")
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
            "Lower the outer step size (agent.outer_lr, agent.learning_rate), the epochs or "
            "target_kl.",
        )
    # √(2 · 1e-6) = 0.0014 standard deviations: a thousand updates one way are 1.4 of them.
    if kl < 1e-6:
        return found.alarm(
            f"The outer step hardly moves the policy ({kl:.1g} nats a step).",
            "Raise the outer step size; with a line search, see whether it rejects its steps.",
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


CHECKS: tuple[Callable[[Evidence], Finding], ...] = (
    finite_rewards,
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
    adaptation_gain,
    outer_movement,
    line_search,
    backtracks,
    clipped_share,
)
