"""Model-based meta-RL: plans with a model that adapts to the task at every step."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from math import log
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from meta_rl.core.checks import check_above_zero, check_at_least
from meta_rl.core.distributions import Gaussian
from meta_rl.core.errors import UserError
from meta_rl.core.ranks import dealt, sum_over_ranks, world
from meta_rl.core.seeding import Noise, make_generator, seeded
from meta_rl.core.types import (
    EnvSpec,
    MetaBatch,
    Metrics,
    Phase,
    Rollout,
    Tasks,
    TimeStep,
    map_tensors,
)
from meta_rl.learning.descent import descend
from meta_rl.learning.dynamics import TransitionScale
from meta_rl.learning.memory import by_world
from meta_rl.learning.metrics import mean_of
from meta_rl.learning.online_models import OnlineModelConfig, build_online_model
from meta_rl.learning.planning import Planner, PlannerConfig, imagined_return, moved_on
from meta_rl.learning.replay import KeepsReplay, Replay
from meta_rl.learning.trials import History, packed
from meta_rl.learning.windows import Moments, Window


@dataclass(frozen=True)
class Config(PlannerConfig, OnlineModelConfig):
    """GrBAL and ReBAL: plans with a model that adapts online (Nagabandi et al. 2019, Alg. 1-2)."""

    episodes_per_trial: int = 2
    """Episodes of a trial, at least 1. The model's knowledge of a task lasts for one trial."""
    action_std: float = 0.1
    """Standard deviation of actions around the planned ones, above 0. The unit is half of an
    action's range."""
    training_std: float = 0.5
    """Largest standard deviation of actions in training, at least action_std. The tasks of a
    meta-batch get values evenly spaced on a log scale from action_std to this. So some trials
    explore far, and others act as in an evaluation. A single task draws its value at random."""
    initial_std: float = 1.0
    """Standard deviation of actions before the first meta-update, above 0. There is no model to
    plan with yet, so actions are drawn around the middle of their range."""
    future_steps: int = 16
    """Transitions that the adapted model must predict (K), at least 1."""
    future: Literal["next", "trial"] = "next"
    """Transitions to predict: the `next` K, as in the paper, or any K of the rest of the `trial`.
    Use `trial` for tasks that stay the same: what the model has learned must then hold for states
    that the agent has yet to visit."""
    outer_lr: float = 1e-3
    """Step size of the model's Adam, above 0."""
    max_gradient_norm: float = 1.0
    """Largest norm of a gradient, above 0. Longer gradients are scaled down to it."""
    gradient_steps: int = 200
    """Gradient steps of each meta-update, at least 1."""
    update_trials: int = 16
    """Trials that a gradient step draws from the replay, at least 1."""
    moments_per_trial: int = 16
    """Random moments of each drawn trial, at least 1. At each, the model adapts to the past and
    predicts the future."""
    replay_trials: int = 5000
    """Size of the replay in trials, at least 1. The oldest trials are dropped."""

    def __post_init__(self) -> None:
        PlannerConfig.__post_init__(self)
        OnlineModelConfig.__post_init__(self)
        check_at_least(1, self, "episodes_per_trial", "future_steps", "gradient_steps")
        check_at_least(1, self, "update_trials", "moments_per_trial", "replay_trials")
        check_above_zero(self, "action_std", "initial_std", "outer_lr", "max_gradient_norm")
        if self.training_std < self.action_std:
            raise UserError(
                f"agent.training_std must be at least agent.action_std, which is "
                f"{self.action_std}, got {self.training_std}"
            )


class MBRL(KeepsReplay):
    """Takes the first action of a plan that it has tried out in a model of the present world.

    The context is the model's memory of each world (`known`, see `online_models`), each world's
    `plan` (M, N, H, A), and the deviation of its actions, `std` (M, N). Every copy is a trial of
    its own.

    Differs from the paper: the reward is learned as well, as one more number that the model
    predicts and adapts. The paper's reward is a known function of the transition. Here it is not
    given, and in most families tasks differ by it. A plan starts from the rest of the plan before.
    """

    copies_share_experience = False
    learns_over_ranks = True

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        self.config = config
        self.spec = spec
        self.device = device
        self.phases = (Phase(episodes=1),) * config.episodes_per_trial
        self.trial_steps = config.episodes_per_trial * spec.horizon
        self.scale = TransitionScale.empty(spec, device)
        with seeded(seed, "init"):
            self.model = build_online_model(config, spec, self.trial_steps).to(device)
        self._plan_by(seed)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.outer_lr)
        self.generator = make_generator(seed, "update")
        self.meta_updates = 0
        self.has_model = False
        """Whether the model has learned anything, in this run or in the one it started from."""
        self.replay = Replay(config.replay_trials, History.none(spec).rows(self.trial_steps))

    def _plan_by(self, seed: int) -> None:
        generator = make_generator(seed, "planner")
        self.planner = Planner(self.config, self.spec.action_size, generator, self.device)
        self.planner_seed = seed

    def begin(self, tasks: Tasks, copies: int, training: bool) -> dict[str, Any]:
        """Start without memories and without a plan."""
        worlds = torch.Size((len(tasks), copies))
        shape = (*worlds, self.config.planning_horizon, self.spec.action_size)
        least, most = self.config.action_std, self.config.training_std
        std = torch.full((len(tasks),), least, device=self.device)
        if training:  # one for each task of all ranks, shuffled anew in each meta-iteration
            count = len(tasks) * world().size
            shuffling = make_generator(self.planner_seed, f"spread/{self.meta_updates}")
            spread = torch.linspace(log(least), log(most), count).exp()
            if count == 1:  # a single task: spread over meta-iterations
                spread = least * (most / least) ** torch.rand(1, generator=shuffling)
            order = torch.randperm(count, generator=shuffling)
            std = spread[order][world().share(count)].to(self.device)
        return {
            "known": self.model.nothing(worlds),
            "plan": torch.zeros(shape, device=self.device),
            "std": std.unsqueeze(1).expand(worlds),
        }

    def act(
        self, context: dict[str, Any], timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], dict[str, Any]]:
        """Adapt, plan, and act near the plan's first step (Alg. 2)."""
        policy, context = self.distribution(context, timestep)
        action = policy.sample(noise)
        return action, policy.log_prob(action), context

    def distribution(
        self, context: dict[str, Any], timestep: TimeStep
    ) -> tuple[Gaussian, dict[str, Any]]:
        """Return the actions around the planned ones, and the context that they come from."""
        known = self.model.remember(context["known"], timestep, self.scale)
        fresh = timestep.first.unsqueeze(-1).unsqueeze(-1)
        plan = torch.where(fresh, 0.0, moved_on(context["plan"]))
        std = torch.full_like(context["std"], self.config.initial_std)
        if self.has_model:
            plan, std = self.planned(plan, timestep.obs, known), context["std"]
        mean = self.scale.action(plan[:, :, 0])
        log_std = (std.unsqueeze(-1) * self.scale.half_range).log().expand_as(mean)
        return Gaussian(mean, log_std), {**context, "known": known, "plan": plan}

    def planned(
        self, plan: Float[Tensor, "M N H A"], obs: Float[Tensor, "M N O"], known: Any
    ) -> Float[Tensor, "M N H A"]:
        """Improve plans by the returns that the adapted model predicts."""
        knowledge = self.model.knowledge(known, self.scale)

        def step(state: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
            x = self.scale.inputs(state, unit)
            return self.scale.outcome(state, self.model.predict(x, knowledge))

        def imagined(actions: Float[Tensor, "B K H A"]) -> Float[Tensor, "B K"]:
            return imagined_return(step, obs.flatten(0, 1), actions, self.config.gamma)

        improved = self.planner.improve(plan.flatten(0, 1), imagined)
        better: Tensor = by_world(improved, obs.shape[:2])
        return better

    def adapt(self, context: dict[str, Any], rollout: Rollout) -> dict[str, Any]:
        """Return the context: acting has already adapted to every step of the rollout."""
        return context

    def meta_update(self, batch: MetaBatch) -> Metrics:
        """Store the trials, and train the model to adapt at random moments of stored trials."""
        own = History.played(packed(Rollout.concatenate(batch.rollouts)).masked())
        of_all = History.from_rows(self.keep(own.rows(self.trial_steps)), self.device)
        metrics = self.errors(of_all) if self.has_model else {}
        self.scale = self.scale.merge(own.obs, own.reward, own.next_obs, own.valid)
        found = []
        for _ in range(self.config.gradient_steps):
            drawn = self.replay.sample(self.config.update_trials, self.generator)
            found.append(self.gradient_step(History.from_rows(drawn, self.device)))
        self.meta_updates += 1
        self.has_model = True
        metrics["replay/trials"] = torch.tensor(float(len(self.replay)))
        return metrics | mean_of(found)

    def gradient_step(self, history: History) -> Metrics:
        """Take one step on the error of the future that the adapted model predicts (eq. 3).

        Every rank has all of the trials, and differentiates its share of them.
        """
        moments = Moments.drawn(history, self.config.moments_per_trial, self.generator)
        future = self.future(history, moments)
        loss = self.loss(history, moments, future, self.model.knowledge_at)
        norm = descend(self.optimizer, loss, self.config.max_gradient_norm)
        return {"outer/loss": sum_over_ranks(loss.detach()), "outer/gradient_norm": norm}

    def future(self, history: History, moments: Moments) -> Window:
        """Return the K transitions after each moment that the model must predict."""
        steps = self.config.future_steps
        if self.config.future == "next":
            return moments.next(history, steps)
        return moments.later(history, steps, self.generator)

    def loss(
        self,
        history: History,
        moments: Moments,
        future: Window,
        known: Callable[[History, Moments, TransitionScale], Any],
    ) -> Float[Tensor, ""]:
        """Return this rank's part of the mean error of predicted transitions.

        Args:
            future: The transitions after the moments.
            known: Returns the model's knowledge at moments of trials.
        """
        count, part = future.counted.sum(), dealt(history.valid.shape[1])
        trials = part.rows.to(self.device)
        among, moments = moments.of(trials)
        future = map_tensors(lambda column: column[among], future)
        knowledge = known(history.of(trials), moments, self.scale)
        x = self.scale.inputs(future.obs, self.scale.unit(future.action))
        target = self.scale.targets(future.obs, future.reward, future.next_obs)
        error = self.model.error(self.model.predict(x, knowledge), target)
        # A rank without trials has one of weight 0.
        counted = future.counted & (part.share > 0)
        return torch.where(counted, error, 0.0).sum() / count

    @torch.no_grad()
    def errors(self, history: History) -> Metrics:
        """Return the error of predictions in new trials, which nothing was learned from yet.

        Before adaptation the model knows nothing of the task; after it, what it knew when acting.
        """
        moments = Moments.drawn(history, self.config.moments_per_trial, self.generator)
        future = self.future(history, moments)
        knows = {"before": self.model.ignorance_at, "after": self.model.knowledge_at}
        return {
            f"prediction/error_{when}": sum_over_ranks(self.loss(history, moments, future, known))
            for when, known in knows.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the model, its scale, Adam's moments and the state of all chance."""
        return {
            "model": self.model.state_dict(),
            "scale": self.scale.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "planner_seed": self.planner_seed,
            "generator": self.generator.get_state(),
            "meta_updates": self.meta_updates,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.model.load_state_dict(state["model"])
        self.scale = self.scale.loaded(state["scale"])
        self._plan_by(state.get("planner_seed", self.planner_seed))  # older runs did not save it
        self.meta_updates = state["meta_updates"]
        self.has_model = bool(self.scale.reward.count > 0)
        if "optimizer" in state:  # a trimmed state is not trained on
            self.optimizer.load_state_dict(deepcopy(state["optimizer"]))  # Adam keeps tensors
            self.generator.set_state(state["generator"].cpu())


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> MBRL:
    """Make the agent with its initial parameters."""
    return MBRL(config, spec, device, seed)
