"""What torch is asked for when a step is recorded; `test_contract.py` replays it on a GPU."""

from contextlib import contextmanager, nullcontext

import torch

from agents import random
from meta_rl.core.seeding import SharedNoise
from meta_rl.core.types import EnvSpec, TimeStep
from meta_rl.rollouts.acting_graph import ActingGraph


def test_all_that_a_graph_needs_is_on_the_agents_gpu(monkeypatch):
    """Whichever GPU is the current one: torch keeps a generator's state there."""
    current, happened = ["another"], []

    @contextmanager
    def device(chosen):
        current.append(str(chosen))
        yield
        current.pop()

    class Graph:
        def register_generator_state(self, generator):
            happened.append(("generator", current[-1]))

    def graph(made, stream, capture_error_mode):
        happened.append(("recording", current[-1]))
        return nullcontext()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    nothing, no = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    timestep = TimeStep(torch.zeros(2, 3, 4), torch.zeros(2, 3, 1), nothing, no, no)
    noise = SharedNoise(torch.Generator().manual_seed(0))
    agent = random.build(random.Config(), EnvSpec.box(4, [-1.0], [1.0], 5), nothing.device, 0)

    ActingGraph(agent)._record({}, timestep, noise)

    assert happened == [("generator", "cpu"), ("recording", "cpu")]
