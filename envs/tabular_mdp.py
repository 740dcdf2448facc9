"""Random Markov decision processes with few states: transitions and rewards are not shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces
from jaxtyping import Float, Float64, Int
from torch import Tensor

from envs._chance import Chance
from envs._drawn import DrawnFamily, of_each_copy
from meta_rl.core.checks import check_at_least, check_within_unit
from meta_rl.core.distributions import one_hot
from meta_rl.core.types import EnvSpec, Step, Tasks

MEAN_REWARD = 1.0
"""Mean of the normal distribution that the mean rewards come from; its variance is 1."""
LOOKAHEAD = 100
"""Steps that the expert plans ahead, far more than an MDP takes to mix."""


@dataclass(frozen=True)
class Config:
    """Random MDPs with Dirichlet transitions and Gaussian rewards (Duan et al. 2016)."""

    states: int = 10
    """States (S), at least 1."""
    actions: int = 5
    """Actions (A), at least 1."""
    horizon: int = 10
    """Steps of one episode (T), at least 1."""
    tied: float = 0.0
    """Share of the training MDPs in which groups of states have the same mean rewards, in [0, 1].
    The number of groups is random. These MDPs are easier to remember, which helps learning at
    first. Fixed tasks are never tied."""
    test_tasks: int = 1000
    """MDPs of the test split, at least 1. An evaluation on the train split has as many."""
    validation_tasks: int = 200
    """MDPs of the validation split, at least 1, by which the best checkpoint is chosen."""
    task_seed: int = 0
    """Seed of the held-out MDPs, at least 0, independent of the run's seed."""

    def __post_init__(self) -> None:
        check_at_least(0, self, "task_seed", where="envs")
        sizes = ("states", "actions", "horizon", "test_tasks", "validation_tasks")
        check_at_least(1, self, *sizes, where="envs")
        check_within_unit(self, "tied", where="envs")


class TabularMDPs(DrawnFamily):
    """MDPs drawn at random, one row of numbers each.

    Task: mean rewards of every state and action, from N(1, 1), and the probabilities of every next
    state, from a flat Dirichlet distribution; drawn anew for every meta-batch, fixed for
    validation and test. With `tied`, some training MDPs have fewer rewards to find.
    Observation: the state, one of S, as one-hot.
    Action: one of A, as one-hot.
    Reward: the mean of the state and action, and noise from N(0, 1).
    Episode: T steps from state 0, always as many. A trial of RL² is n episodes.

    As in Duan et al. 2016.
    """

    family = "tabular_mdp"
    between_tasks = True

    def __init__(self, config: Config) -> None:
        super().__init__("mdp", config.test_tasks, config.validation_tasks, config.task_seed)
        self.config = config
        self.spec = EnvSpec(
            spaces.Discrete(config.states),
            spaces.Discrete(config.actions),
            config.horizon,
            self.family,
        )

    def draw(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw the mean rewards and transitions of some MDPs, as rows for `tables`."""
        S, A = self.config.states, self.config.actions
        # Normalized exponentials are a flat Dirichlet distribution.
        drawn = torch.rand(count, S, A, S, generator=generator, dtype=torch.float64)
        weight = -torch.log1p(-drawn)
        reward = torch.randn(count, S * A, generator=generator, dtype=torch.float64) + MEAN_REWARD
        return torch.cat([reward, (weight / weight.sum(-1, keepdim=True)).flatten(1)], dim=1)

    def draw_to_train(self, count: int, generator: torch.Generator) -> Float64[Tensor, "M P"]:
        """Draw MDPs of which some are tied."""
        params = self.draw(count, generator)
        S, A = self.config.states, self.config.actions
        tied = round(self.config.tied * count)
        if tied:
            groups = torch.randint(1, S + 1, (tied, 1), generator=generator)
            group = torch.randint(2**32, (tied, S), generator=generator) % groups
            reward = params[:tied, : S * A].view(tied, S, A)
            shared = reward.gather(1, group.unsqueeze(-1).expand(-1, -1, A))
            params[:tied, : S * A] = shared.flatten(1)
        return params

    def make_env(self, device: torch.device, workers: int) -> "TabularEnv":
        """Make the simulator: a few tensors on the device, no processes."""
        return TabularEnv(self.config, device)

    def protocol(self) -> Mapping[str, Any]:
        """The sizes, the horizon and the held-out MDPs."""
        config = self.config
        return {
            "states": config.states,
            "actions_of_a_state": config.actions,  # `actions` is how evaluation draws them
            "horizon": config.horizon,
            "test_tasks": config.test_tasks,
            "task_seed": config.task_seed,
        }


def tables(
    params: Float64[Tensor, "M P"], states: int
) -> tuple[Float64[Tensor, "M S A"], Float64[Tensor, "M S A S"]]:
    """Return the mean rewards and the probabilities of the next state that tasks consist of."""
    actions = params.shape[1] // (states * (states + 1))
    reward, transition = params[:, : states * actions], params[:, states * actions :]
    return (
        reward.reshape(-1, states, actions),
        transition.reshape(-1, states, actions, states),
    )


def action_values(
    reward: Float64[Tensor, "M S A"], transition: Float64[Tensor, "M S A S"], steps: int
) -> Float64[Tensor, "T M S A"]:
    """Return what each action earns on average until the end, if the best ones follow it.

    Value iteration backwards from the end; row t is of step t of an episode of `steps` steps.
    """
    values = [reward]
    for _ in range(steps - 1):
        best = values[-1].amax(-1)
        values.append(reward + torch.einsum("msat,mt->msa", transition, best))
    return torch.stack(values[::-1])


class TabularEnv:
    """All MDPs as one tensor."""

    changes_within_episodes = True

    def __init__(self, config: Config, device: torch.device) -> None:
        self.states, self.horizon, self.device = config.states, config.horizon, device
        self.reward: Float64[Tensor, "K S A"] = torch.zeros(0, 0, 0, dtype=torch.float64)
        self.cumulative: Float64[Tensor, "K S A S"] = torch.zeros(0, 0, 0, 0, dtype=torch.float64)
        self.state: Int[Tensor, "M N"] = torch.zeros(0, 0, dtype=torch.long)
        self.steps = 0

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N S"]:
        """Begin an episode in every world, in state 0."""
        self.reward, transition = tables(tasks.params.to(self.device), self.states)
        self.cumulative = transition.cumsum(-1)
        self.mdp = of_each_copy(torch.arange(len(tasks), device=self.device), copies)
        self.chance = Chance(tasks, copies, seed, self.device)
        self.state = torch.zeros(len(tasks), copies, dtype=torch.long, device=self.device)
        self.steps = 0
        return self._observed()

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Take an action in every world."""
        self.steps += 1
        where = self.mdp, self.state, action.argmax(-1)
        drawn = self.chance.uniform().unsqueeze(-1)
        reward = self.reward[where].float() + self.chance.normal()
        # The last state takes what rounding leaves of the sum of probabilities.
        self.state = (self.cumulative[where][..., :-1] <= drawn).sum(-1)
        over = torch.full(self.state.shape, self.steps % self.horizon == 0, device=self.device)
        return Step(self._observed(), reward, torch.zeros_like(over), over, metrics={})

    def reset_ended(self) -> Float[Tensor, "M N S"]:
        """Go back to state 0 if the episodes have ended: they all end together."""
        if self.steps % self.horizon == 0:
            self.state = torch.zeros_like(self.state)
        return self._observed()

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Put some worlds into other MDPs, in the state they are in."""
        reward, transition = tables(tasks.params.to(self.device), self.states)
        new = len(self.reward) + torch.arange(len(tasks), device=self.device)
        self.mdp.view(-1)[list(worlds)] = new
        self.reward = torch.cat([self.reward, reward])
        self.cumulative = torch.cat([self.cumulative, transition.cumsum(-1)])
        if len(self.reward) > 2 * self.mdp.numel():  # at least half are in no world any longer
            lived = self.mdp.flatten()
            self.reward, self.cumulative = self.reward[lived], self.cumulative[lived]
            self.mdp = torch.arange(len(lived), device=self.device).view_as(self.mdp)

    def _observed(self) -> Float[Tensor, "M N S"]:
        return torch.nn.functional.one_hot(self.state, self.states).float()

    def close(self) -> None:
        """Nothing to release."""


class Planner:
    """Takes the action that is best in the long run.

    It has no clock, so it does not know that an episode is about to end, and misses what a last
    step could earn more. `scripts/bandit_references.py` measures the true optimum.
    """

    def knowledge(self, tasks: Tasks) -> Float[Tensor, "M P"]:
        """Return the mean rewards and transitions."""
        return tasks.params.float()

    def act(
        self, knowledge: Float[Tensor, "M P"], obs: Float[Tensor, "M N S"]
    ) -> Float[Tensor, "M N A"]:
        """Return the action that value iteration finds, as one-hot."""
        reward, transition = tables(knowledge.double(), obs.shape[-1])
        values = action_values(reward, transition, LOOKAHEAD)[0]
        state = obs.argmax(-1)
        task = torch.arange(len(knowledge), device=state.device).unsqueeze(1)
        return one_hot(values[task, state]).float()


def build(config: Config) -> TabularMDPs:
    """Make the task distribution."""
    return TabularMDPs(config)


def expert() -> Planner:
    """Make who knows the MDPs."""
    return Planner()
