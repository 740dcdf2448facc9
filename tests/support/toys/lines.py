"""Lines to be fitted from a few points: a supervised family, whose collector only draws."""

from dataclasses import dataclass

import torch

from meta_rl.core.seeding import derive_seed, make_generator
from meta_rl.core.types import EnvSpec, Examples, Score, Tasks, TimeStep

LOSS = Score("loss", "loss", "loss", "mean", higher_is_better=False)
ACCURACY = Score("accuracy", "accuracy", "accuracy", "mean")
FIRST = {"train": 0, "test": 1000, "validation": 2000}


@dataclass(frozen=True)
class Config:
    """y = a x + b, with a and b to be found from a few examples."""

    shots: int = 5
    """Examples of a support or query set."""


class Lines:
    """Task: slope and offset, uniform in [-1, 1]. Judged by squared error, and by how often the
    answer is within 0.1."""

    family = "toys.lines"

    def __init__(self, config):
        box = EnvSpec.box(1, [-10.0], [10.0], config.shots, self.family)
        self.spec = EnvSpec(
            box.observation_space,
            box.action_space,
            config.shots,
            self.family,
            ("loss", "accuracy"),
            (LOSS, ACCURACY),
        )

    def sample(self, count, split, generator):
        tasks = self.tasks(split)
        return tasks[torch.randperm(len(tasks), generator=generator)[:count].tolist()]

    def tasks(self, split):
        params = torch.rand(20, 2, generator=make_generator(0, split), dtype=torch.float64) * 2 - 1
        return Tasks(self.family, ("line",) * 20, torch.arange(20) + FIRST[split], params)

    def make_collector(self, device, workers):
        return Draws(self.spec.horizon, device)

    def protocol(self):
        return {"shots": self.spec.horizon}


class Draws:
    """Draws examples and lets the agent answer them one after the other."""

    most_worlds = None

    def __init__(self, shots, device):
        self.shots, self.device, self.env_steps = shots, device, 0

    def collect(
        self, agent, context, tasks, copies, phase, streams, previous=None, deterministic=False
    ):
        seed = streams.env_seed()
        inputs = torch.stack(
            [
                torch.rand(
                    phase.episodes * self.shots,
                    copies,
                    1,
                    generator=make_generator(derive_seed(seed, task.label), "inputs"),
                )
                for task in tasks
            ],
            dim=1,
        )
        slope, offset = tasks.params.float().view(1, len(tasks), 1, 2).split(1, dim=-1)
        targets = slope * (2 * inputs - 1) + offset
        answers = []
        nothing = torch.zeros(len(tasks), copies)
        for x in 2 * inputs - 1:
            seen = TimeStep(x, nothing.unsqueeze(-1), nothing, nothing == 0, nothing == 0)
            answer, _, context = agent.act(context, seen, None)
            answers.append(answer)
        answer = torch.stack(answers)
        error = (answer - targets).squeeze(-1)
        metrics = {"loss": error**2, "accuracy": (error.abs() < 0.1).float()}
        self.env_steps += error.numel()
        return Examples(2 * inputs - 1, targets, answer, metrics), context

    def close(self):
        pass


def build(config):
    return Lines(config)
