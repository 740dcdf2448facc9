"""How a few tasks are acted for as they would be among all others, bit for bit.

Matrix products, and some functions of single numbers, take other loops for few rows, for the last
rows, or for rows that lie otherwise in memory; those loops round otherwise. Rows that stand in for
the tasks that are elsewhere prevent it: a few of them mostly, which is tried out, or else all.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.protocols import MetaAgent
from meta_rl.core.seeding import Noise, Shape, TaskNoise
from meta_rl.core.types import Context, EnvSpec, TimeStep, map_tensors

LEAST_TASKS, LEAST_WORLDS = 2, 4
"""Fewer take other loops of MKL: those of a single matrix, or of fewer than four rows."""
ROWS_OF_A_LOOP = 4
"""Rows that MKL's loops take at a time, beginning at multiples of it: 16 bytes in memory."""
TRIES, STEPS_OF_A_TRY = 25, 8
"""Tries whether a few rows are enough, from contexts of their own, and the steps of each. Two loops
for a function of single numbers may differ in one number of a thousand."""


def separable(count: int, copies: int) -> bool:
    """Return whether a meta-batch is large enough for its tasks to be played apart."""
    return count >= LEAST_TASKS and count * copies >= LEAST_WORLDS


@dataclass(frozen=True)
class Company:
    """The rows that are acted for: some tasks, and repetitions of them that stand in for others."""

    rows: tuple[int, ...]
    """Which of the tasks each row repeats."""
    first: int
    """Where the tasks themselves begin."""
    own: int
    """How many tasks there are."""

    @classmethod
    def of_all(cls, first: int, own: int, count: int) -> "Company":
        """Return as many rows as the meta-batch has, the tasks in their places.

        Args:
            first: Row of the meta-batch that the tasks begin at.
            own: How many tasks there are.
            count: Tasks of the whole meta-batch.
        """
        rows = tuple(min(max(row - first, 0), own - 1) for row in range(count))
        return cls(rows, first, own)

    @classmethod
    def of_few(cls, first: int, own: int, count: int, copies: int) -> "Company":
        """Return as few rows as are mostly enough; as `of_all` if that is no more."""
        lead = first % (ROWS_OF_A_LOOP // math.gcd(ROWS_OF_A_LOOP, copies))
        least = max(LEAST_TASKS, -(-LEAST_WORLDS // copies))
        if (rows := max(lead + own, least)) >= count:
            return cls.of_all(first, own, count)
        return cls.of_all(lead, own, rows)

    def grown(self, tree: Any) -> Any:
        """Return a pytree with a line for each row, of one that has a line for each task."""
        return pytree.tree_map_only(Tensor, lambda x: x[list(self.rows)], tree)

    def shrunk(self, tree: Any) -> Any:
        """Return the tasks' own lines of a pytree that has one for each row."""
        last = self.first + self.own
        return pytree.tree_map_only(Tensor, lambda x: x[self.first : last], tree)


class InCompany:
    """An agent that acts for some tasks as it would among others.

    Its context is that of the whole company; time steps and actions are the tasks' own.
    """

    def __init__(self, agent: MetaAgent, company: Company) -> None:
        self._agent, self._company = agent, company
        self.phases, self.copies_share_experience = agent.phases, agent.copies_share_experience
        self.begin, self.adapt, self.meta_update = agent.begin, agent.adapt, agent.meta_update
        self.state_dict, self.load_state_dict = agent.state_dict, agent.load_state_dict

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Tensor, Tensor, Context]:
        """Act for the whole company; return the tasks' own actions."""
        company = self._company
        shown = map_tensors(company.grown, timestep)
        repeated = None if noise is None else _RepeatedNoise(noise, company)
        action, log_prob, context = self._agent.act(context, shown, repeated)
        return company.shrunk(action), company.shrunk(log_prob), context


class _RepeatedNoise:
    """The tasks' own noise, once more for each row that repeats one of them."""

    def __init__(self, noise: Noise, company: Company) -> None:
        self._noise, self._company = noise, company

    def normal(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers."""
        return self._repeated(self._noise.normal, shape, dtype)

    def uniform(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw numbers uniform in [0, 1)."""
        return self._repeated(self._noise.uniform, shape, dtype)

    def latent(self, shape: Shape, dtype: torch.dtype = torch.float32) -> Tensor:
        """Draw standard normal numbers for what a policy supposes of its task."""
        return self._repeated(self._noise.latent, shape, dtype)

    def _repeated(self, draw: Callable[..., Tensor], shape: Shape, dtype: torch.dtype) -> Tensor:
        repeated: Tensor = self._company.grown(draw((self._company.own, *shape[1:]), dtype))
        return repeated


@torch.no_grad()
def act_alike(
    agent: MetaAgent,
    context: Context,
    companies: tuple[Company, Company],
    copies: int,
    spec: EnvSpec,
    device: torch.device,
) -> bool:
    """Try out whether an agent acts for tasks in one company as in another, bit for bit.

    Each try takes a few steps in made-up states, from contexts that lie around the tasks' own.

    Args:
        context: Of the tasks.
    """
    generator = torch.Generator(device).manual_seed(0)
    own = companies[0].own

    def drawn(*shape: int) -> Tensor:
        return torch.randn(own, copies, *shape, generator=generator, device=device)

    def moved(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=generator, device=device, dtype=leaf.dtype)
        return leaf + 0.1 * noise

    agents = [InCompany(agent, company) for company in companies]
    noises = [TaskNoise(range(own), device) for _ in companies]
    for _ in range(TRIES):
        around = pytree.tree_map_only(Tensor, moved, context)
        contexts = [company.grown(around) for company in companies]
        for _ in range(STEPS_OF_A_TRY):
            action = drawn(spec.action_size)
            first, valid = drawn() > 1, drawn() > -1
            step = TimeStep(drawn(spec.observation_size), action, drawn(), first, valid)
            outcomes = []
            for k, company in enumerate(companies):
                action, log_prob, contexts[k] = agents[k].act(contexts[k], step, noises[k])
                outcomes.append([action, log_prob, company.shrunk(contexts[k])])
            if not _same(*outcomes):
                return False
    return True


def _same(one: Any, other: Any) -> bool:
    """Return whether two pytrees have the same numbers; NaN is a number here."""
    pairs = zip(pytree.tree_leaves(one), pytree.tree_leaves(other), strict=True)
    return all(
        torch.allclose(ours, theirs, rtol=0, atol=0, equal_nan=True)
        for ours, theirs in pairs
        if isinstance(ours, Tensor)
    )
