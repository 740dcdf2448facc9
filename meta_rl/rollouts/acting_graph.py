"""An agent's step as a CUDA graph."""

from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from meta_rl.core.protocols import MetaAgent
from meta_rl.core.seeding import Noise, SharedNoise, SharedOutNoise
from meta_rl.core.types import Context, TimeStep


class ActingGraph:
    """Acts for one rollout as an agent does, on a GPU by replaying a graph of its first steps.

    A step is dozens of small operations, which Python starts more slowly than a GPU ends them. A
    graph starts them all at once. It reads and writes the memory that it was recorded with, and an
    update may put parameters elsewhere: so each rollout records its own. The actions are the same.

    The first step is played without a graph, as libraries set themselves up then. Noise that is
    drawn on the processor, as evaluations have it, is no part of a graph; then no step is.
    """

    def __init__(self, agent: MetaAgent) -> None:
        self._agent = agent
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def act(
        self, context: Context, timestep: TimeStep, noise: Noise | None
    ) -> tuple[Float[Tensor, "M N A"], Float[Tensor, "M N"], Context]:
        """Return actions, their log-probabilities and the context, as `MetaAgent.act` does.

        The context that it returns is the next step's, and is written into then.
        """
        self._steps += 1
        if self._steps == 1 or not drawn_on_gpu(noise):
            return self._agent.act(context, timestep, noise)
        if self._graph is None:
            self._record(context, timestep, noise)
        assert self._graph is not None
        pytree.tree_map(Tensor.copy_, self._given, (context, vars(timestep)))
        self._graph.replay()
        action, log_prob = (column.clone() for column in self._drawn)
        return action, log_prob, self._given[0]

    def _record(
        self, context: Context, timestep: TimeStep, noise: SharedNoise | SharedOutNoise | None
    ) -> None:
        graph = torch.cuda.CUDAGraph()
        self._given = pytree.tree_map(Tensor.clone, (context, vars(timestep)))
        kept, columns = self._given
        # The agent's GPU need not be the current one, where torch keeps the generator's state for
        # the graph, and in whose stream it would record.
        device = timestep.obs.device
        with torch.cuda.device(device):
            if noise is not None:
                graph.register_generator_state(noise.generator)
            stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                action, log_prob, moved = self._agent.act(kept, TimeStep(**columns), noise)
                pytree.tree_map(Tensor.copy_, kept, moved)
        self._drawn = action, log_prob
        self._graph = graph


def drawn_on_gpu(noise: Noise | None) -> TypeGuard[SharedNoise | SharedOutNoise | None]:
    """Return whether actions need nothing that the processor draws."""
    if noise is None:
        return True
    if not isinstance(noise, SharedNoise | SharedOutNoise):
        return False
    return noise.generator.device.type == "cuda"
