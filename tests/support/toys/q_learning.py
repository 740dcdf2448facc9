"""Q-learning from a replay: an off-policy agent that stores what it sees."""

from dataclasses import dataclass

import torch

from meta_rl.core.distributions import one_hot
from meta_rl.core.seeding import make_generator
from meta_rl.core.types import Phase
from meta_rl.learning.replay import Replay


@dataclass(frozen=True)
class Config:
    """One linear Q for all tasks, learned from replayed steps; each task goes on from it."""

    exploration: float = 0.3
    """Share of actions that are drawn at random."""
    capacity: int = 400
    """Steps to keep."""
    outer_lr: float = 0.3
    """Step size of the temporal-difference updates."""


class QLearning:
    copies_share_experience = True
    phases = (Phase(1), Phase(1))

    def __init__(self, config, spec, device, seed):
        self.config, self.device = config, device
        self.generator = make_generator(seed, "update")
        self.q = torch.zeros(spec.observation_size, spec.action_size, device=device)
        sizes = {"obs": (0, spec.observation_size), "action": (0, spec.action_size), "reward": (0,)}
        self.replay = Replay(config.capacity, {name: torch.zeros(s) for name, s in sizes.items()})

    def begin(self, tasks, copies, training):
        return {"q": self.q.expand(len(tasks), -1, -1)}

    def act(self, context, timestep, noise):
        action = one_hot(timestep.obs @ context["q"])
        if noise is not None:
            shape = action.shape
            explore = noise.uniform((*shape[:2], 1)) < self.config.exploration
            action = torch.where(explore, one_hot(noise.uniform(shape)), action)
        return action, torch.zeros(action.shape[:2]), context

    def adapt(self, context, experience):
        q = context["q"].clone()
        for m in range(len(q)):
            rows = steps_of(experience, m)
            q[m] = self.improved(q[m], rows, rate=1.0)
        return {"q": q}

    def improved(self, q, rows, rate):
        """Move Q of what was done towards what it earned."""
        wrong = rows["reward"] - ((rows["obs"] @ q) * rows["action"]).sum(-1)
        change = torch.einsum("bo,ba,b->oa", rows["obs"], rows["action"], wrong)
        seen = torch.einsum("bo,ba->oa", rows["obs"], rows["action"]).clamp(min=1)
        return q + rate * change / seen

    def meta_update(self, batch):
        for rollout in batch.rollouts:
            for m in range(len(batch.tasks)):
                self.replay.add(steps_of(rollout, m))
        rows = self.replay.sample(64, self.generator)
        self.q = self.improved(self.q, rows, self.config.outer_lr)
        return {"outer/q": self.q.mean(), "outer/stored": torch.tensor(float(len(self.replay)))}

    def state_dict(self):
        return {"q": self.q, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.q = state["q"].to(self.device)
        self.generator.set_state(state["generator"].cpu())

    @property
    def room(self):
        return self.replay.room

    def mark(self):
        return self.replay.mark()

    def rewind(self, mark):
        self.replay.rewind(mark)

    def write_stored(self, folder, mark):
        self.replay.write(folder, mark)

    def delete_stored(self, folder, mark):
        self.replay.delete(folder, mark)

    def read_stored(self, folder, mark):
        self.replay.read(folder, mark)


def steps_of(rollout, m):
    """The valid steps of one task."""
    valid = rollout.valid[:, m]
    return {name: getattr(rollout, name)[:, m][valid] for name in ("obs", "action", "reward")}


def build(config, spec, device, seed):
    return QLearning(config, spec, device, seed)
