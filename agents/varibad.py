"""VariBAD: acts on a belief over tasks, inferred by a recurrent variational autoencoder."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log, pi
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from agents._task_inference import TaskInference, TaskInferenceConfig
from meta_rl.core.checks import check_above_zero, check_at_least, check_layers
from meta_rl.core.distributions import Gaussian
from meta_rl.core.protocols import Belief
from meta_rl.core.ranks import dealt, sum_over_ranks
from meta_rl.core.types import EnvSpec, Metrics, Rollout, Tasks, map_tensors
from meta_rl.learning.metrics import mean_of
from meta_rl.learning.normalization import RunningMoments
from meta_rl.learning.novelty import Novelty
from meta_rl.learning.replay import KeepsReplay, Replay
from meta_rl.learning.trials import History


@dataclass(frozen=True)
class Config(TaskInferenceConfig):
    """VariBAD: acts on a belief over tasks, from variational inference (Zintgraf et al. 2020)."""

    replay_trials: int = 1000
    """Size of the replay in trials, at least 2. The oldest trials are dropped. The encoder and the
    decoders learn from it."""
    decoder_sizes: tuple[int, ...] = (64, 32)
    """Units of each hidden layer of the decoders, each at least 1."""
    decode_transitions: bool = False
    """Also predict next observations, for families whose tasks differ in dynamics."""
    reward_std: float = 0.3
    """Standard deviation of rewards around the decoder's prediction, above 0. With
    normalize_inputs, rewards are first divided by their running standard deviation, or by a fifth
    of their mean if that is larger."""
    transition_std: float = 0.3
    """Standard deviation of each number of the next observation around its prediction, above 0."""
    kl_to: Literal["previous", "prior"] = "previous"
    """Reference of each belief's KL divergence: the belief one step earlier (`previous`), as in the
    paper, or N(0, I) (`prior`)."""
    elbo_beliefs: int | None = 20
    """Beliefs of each trial that predictions are made from, at least 1. Each gradient step draws
    them at random. `none` takes all."""
    elbo_steps: int | None = 50
    """Steps of each trial that are predicted, at least 1. Each gradient step draws them at random.
    `none` takes all."""
    exploration_bonus: float = 0.0
    """Initial weight of HyperX's bonus for new states and beliefs, at least 0, in the unit of
    rewards. The bonus is divided by its running standard deviation. 0 gives none."""
    error_bonus: float = 0.0
    """Initial weight of HyperX's bonus for steps that the decoders predict badly, at least 0. Unit
    and scaling are those of exploration_bonus."""
    bonus_updates: int = 100
    """Meta-updates over which both bonuses fade linearly to 0, at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(2, self, "replay_trials")
        check_at_least(0, self, "exploration_bonus", "error_bonus")
        check_at_least(1, self, "bonus_updates")
        check_layers(self, "decoder_sizes")
        check_above_zero(self, "reward_std", "transition_std")
        for name in ("elbo_beliefs", "elbo_steps"):
            if getattr(self, name) is not None:
                check_at_least(1, self, name)


class Decoder(nn.Module):
    """Predicts a part of each step, given each belief's sample of the task.

    The first layer has separate weights for steps and tasks, and adds up their outputs. Every task
    meets every step, so joint inputs would take one row for each pair.
    """

    def __init__(
        self, step_size: int, task_size: int, sizes: tuple[int, ...], outputs: int
    ) -> None:
        super().__init__()
        first, *rest = (*sizes, outputs)
        self.of_step = nn.Linear(step_size, first)
        self.of_task = nn.Linear(task_size, first, bias=False)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise((first, *rest)):
            layers += [nn.ReLU(), nn.Linear(fan_in, fan_out)]
        self.rest = nn.Sequential(*layers)

    def forward(
        self, step: Float[Tensor, "J B I"], task: Float[Tensor, "K B L"]
    ) -> Float[Tensor, "K J B O"]:
        """Return what each of K samples of the task predicts of each of J steps."""
        predicted: Tensor = self.rest(self.of_step(step) + self.of_task(task).unsqueeze(1))
        return predicted


class VariBAD(KeepsReplay, TaskInference):
    """Infers a Gaussian belief over the task, N(mean, std²), and acts on state and belief.

    The task variable is the belief's mean and logarithmic deviation side by side, 2 L numbers.
    """

    config: Config

    def __init__(self, config: Config, spec: EnvSpec, device: torch.device, seed: int) -> None:
        super().__init__(config, spec, device, seed, outputs=2 * config.task_size)
        steps = config.episodes_per_trial * spec.horizon
        self.replay = Replay(config.replay_trials, History.none(spec).rows(steps))
        self.bonuses = {
            name: weight
            for name, weight in (("new", config.exploration_bonus), ("error", config.error_bonus))
            if weight > 0
        }
        # With bonuses, each process would judge novelty by its own tasks alone.
        self.learns_over_ranks = not self.bonuses
        self.bonus_moments = {name: RunningMoments.empty((), device) for name in self.bonuses}
        self.meta_updates = 0
        if "new" in self.bonuses:
            state = spec.observation_size + 2 * config.task_size
            self.novelty = Novelty(state, seed).to(device)
            learning = torch.optim.Adam(self.novelty.predictor.parameters(), lr=config.encoder_lr)
            self.optimizers["novelty"] = learning

    def make_inference(self, outputs: int) -> dict[str, nn.Module]:
        """Make the encoder, and a decoder of rewards and maybe one of transitions."""
        config, spec = self.config, self.spec
        step, sizes = spec.observation_size + spec.action_size, config.decoder_sizes
        made = super().make_inference(outputs)
        made["reward"] = Decoder(step + spec.observation_size, config.task_size, sizes, 1)
        if config.decode_transitions:
            made["transition"] = Decoder(step, config.task_size, sizes, spec.observation_size)
        return made

    def belief(self, context: Mapping[str, Any]) -> Belief:
        """Return the belief over each copy's task."""
        mean, log_std = context["output"].chunk(2, dim=-1)
        return Belief(mean, log_std.exp())

    def improve_encoder(self, history: History, tasks: Tasks) -> Metrics:
        """Take steps on the ELBO of trials drawn from the replay.

        Every rank keeps the trials of all ranks, and differentiates its share of the drawn ones.
        """
        explored = self.get_used_to(history)
        self.keep(history.rows(self.config.episodes_per_trial * self.spec.horizon))
        found = []
        for _ in range(self.config.encoder_updates):
            drawn = self.replay.sample(self.config.encoder_trials, self.generator)
            trials = History.from_rows(drawn, self.device)
            elbo, metrics = self.elbo(trials)
            # Per step: otherwise the gradient would grow with the square of the trial's length.
            loss = -elbo / trials.valid.sum(0).float().mean()
            norm = self.descend("encoder", loss)
            found.append(sum_over_ranks(metrics) | {"encoder/gradient_norm": norm})
        return mean_of(found) | explored

    @property
    def bonus_left(self) -> float:
        """The share of the bonuses' weights that has not faded yet."""
        return max(0.0, 1 - self.meta_updates / self.config.bonus_updates)

    def rewarded(self, rollout: Rollout) -> Rollout:
        """Return packed trials with bonuses added to the rewards (HyperX, Zintgraf et al. 2021).

        Only the policy's update sees the bonuses. The encoder and all reports have the rewards.
        """
        if not self.bonuses or self.bonus_left == 0:
            return rollout
        history = map_tensors(  # an inspection's meta-batch may be in double precision
            lambda column: column.float() if column.is_floating_point() else column,
            History.played(rollout),
        )
        reward = rollout.reward
        for name, bonus in self.unexpected(history).items():
            spread = self.bonus_moments[name].merge(bonus, history.valid).std
            scaled = self.bonus_left * self.bonuses[name] * bonus / spread
            reward = reward + scaled.view(reward.shape).to(reward.dtype)
        return replace(rollout, reward=torch.where(rollout.valid, reward, 0.0))

    @torch.no_grad()
    def unexpected(self, history: History) -> dict[str, Float[Tensor, "T B"]]:
        """Return how new each step's next state and belief are, and how wrong the decoder was."""
        found = {}
        output = self.outputs(history)[1:]  # after the step
        if "new" in self.bonuses:
            found["new"] = self.novelty(self.shown(history.next_obs, self.variable(output)))
        if "error" in self.bonuses:
            mean = output.chunk(2, dim=-1)[0].flatten(0, 1).unsqueeze(0)
            each = map_tensors(lambda column: column.flatten(0, 1).unsqueeze(0), history)
            likelihood = self.log_likelihood(each, self.some(1, None), mean)
            found["error"] = self.most_likely - likelihood.view(history.valid.shape)
        return found

    @property
    def most_likely(self) -> float:
        """The `log_likelihood` of exact predictions."""
        config = self.config
        spreads = [config.reward_std]
        if config.decode_transitions:
            spreads += [config.transition_std] * self.spec.observation_size
        return -sum(log(std) + log(2 * pi) / 2 for std in spreads)

    def get_used_to(self, history: History) -> Metrics:
        """Train the bonuses' networks on the newest trials; return the mean bonuses."""
        self.meta_updates += 1
        if not self.bonuses or self.meta_updates > self.config.bonus_updates:
            return {}
        found = self.unexpected(history)
        for name, bonus in found.items():
            self.bonus_moments[name] = self.bonus_moments[name].merge(bonus, history.valid)
        if "new" in found:
            with torch.no_grad():
                variable = self.variable(self.outputs(history)[1:])
            rows = self.shown(history.next_obs, variable)[history.valid]
            order = torch.randperm(len(rows), generator=self.generator).to(self.device)
            for which in order.tensor_split(min(self.config.minibatches, len(rows))):
                self.descend("novelty", self.novelty(rows[which]).mean())
        return {f"bonus/{name}": bonus[history.valid].mean() for name, bonus in found.items()}

    def elbo(self, history: History) -> tuple[Float[Tensor, ""], Metrics]:
        """Return the ELBO (Zintgraf et al. 2020, eq. 7 to 9), the mean over beliefs.

        The belief at t has seen what came before step t; it predicts the rewards of all steps of
        the trial, past and future:

            ELBO_t = E_{m ~ q_t} [Σ_i log p(r_i | s_i, a_i, s_{i+1}, m)] - KL(q_t || q_{t-1})

        N(0, I) takes the place of the belief before the first. Only some beliefs and steps are
        drawn, and their sum is scaled up to all: an unbiased estimate.

        Each rank returns its part of the mean.
        """
        count = history.valid.shape[1]
        beliefs = history.valid.sum() + count
        steps = history.valid.sum(0).float().mean()
        part = dealt(count)
        share = float(part.share > 0)  # a rank without trials has one of weight 0
        history = history.of(part.rows.to(self.device))

        belief = Gaussian(*self.outputs(history).chunk(2, dim=-1))  # (T + 1, B, L)
        known = torch.cat([torch.ones_like(history.valid[:1]), history.valid])
        kl = share * torch.where(known, belief.kl(self.held_to(belief)), 0.0).sum() / beliefs

        at = self.some(len(known), self.config.elbo_beliefs)
        of = self.some(len(history.valid), self.config.elbo_steps)
        drawn = Gaussian(belief.mean[at], belief.log_std[at])
        shape = (len(at), count, self.config.task_size)
        noise = torch.randn(shape, generator=self.generator)[:, part.rows].to(drawn.mean)
        likelihood = self.log_likelihood(history, of, drawn.mean + drawn.log_std.exp() * noise)
        counted = known[at].unsqueeze(1) & history.valid[of]  # (K, J, B)
        scale = share * len(known) / len(at) * len(history.valid) / len(of)
        predicted = scale * torch.where(counted, likelihood, 0.0).sum() / beliefs

        std = belief.log_std[known].exp().mean() * known.sum() / beliefs
        return predicted - kl, {
            "encoder/elbo": ((predicted - kl) / steps).detach(),
            "encoder/log_likelihood": (predicted / steps).detach(),
            "encoder/kl": (kl / steps).detach(),
            "encoder/std": share * std.detach(),
        }

    def held_to(self, belief: Gaussian) -> Gaussian:
        """Return the reference of each belief's divergence."""
        nothing = torch.zeros_like(belief.mean)
        if self.config.kl_to == "prior":
            return Gaussian(nothing, nothing)
        before = (torch.cat([nothing[:1], each[:-1]]) for each in belief)
        return Gaussian(*before)

    def some(self, count: int, wanted: int | None) -> Int[Tensor, "K"]:
        """Draw `wanted` of `count` places, or return all."""
        if wanted is None or wanted >= count:
            return torch.arange(count, device=self.device)
        return torch.randperm(count, generator=self.generator)[:wanted].to(self.device)

    def log_likelihood(
        self, history: History, of: Int[Tensor, "J"], task: Float[Tensor, "K B L"]
    ) -> Float[Tensor, "K J B"]:
        """Return log p of steps' rewards, and of next observations if decoded, given the task."""
        obs, next_obs, action = history.obs[of], history.next_obs[of], history.action[of]
        reward = history.reward[of]
        if self.config.normalize_inputs:
            obs, next_obs = (self.obs_moments.normalize(each) for each in (obs, next_obs))
            reward = self.reward_moments.scale(reward)  # as memories see it
        step = torch.cat([obs, action], dim=-1)
        found = self.density(
            self.inference["reward"](torch.cat([step, next_obs], dim=-1), task),
            reward.unsqueeze(-1),
            self.config.reward_std,
        )
        if self.config.decode_transitions:
            following = self.inference["transition"](step, task)
            found = found + self.density(following, next_obs, self.config.transition_std)
        return found

    def density(
        self, mean: Float[Tensor, "K J B O"], value: Float[Tensor, "J B O"], std: float
    ) -> Float[Tensor, "K J B"]:
        """Return the log-density of a value under Gaussians around its predictions."""
        spread = Gaussian(mean, torch.full_like(mean[:1, :1, :1], log(std)))
        return spread.log_prob(value.expand_as(mean))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `TaskInference`, and that of the bonuses if there are any."""
        state = super().state_dict()
        if self.bonuses:
            moments = {name: vars(moments) for name, moments in self.bonus_moments.items()}
            state["bonuses"] = {"meta_updates": self.meta_updates, "moments": moments}
        if "new" in self.bonuses:
            state["bonuses"]["novelty"] = self.novelty.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        if not self.bonuses:
            return
        saved = state["bonuses"]
        self.meta_updates = saved["meta_updates"]
        self.bonus_moments = {
            name: RunningMoments.loaded(each, self.device)
            for name, each in saved["moments"].items()
        }
        if "new" in self.bonuses:
            self.novelty.load_state_dict(saved["novelty"])


def build(config: Config, spec: EnvSpec, device: torch.device, seed: int) -> VariBAD:
    """Make the agent with its initial parameters."""
    return VariBAD(config, spec, device, seed)
