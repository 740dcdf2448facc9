"""A `TaskEnv` of worlds in MuJoCo Warp."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
import warp as wp
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from meta_rl.core.errors import NonFiniteAction, UserError
from meta_rl.core.seeding import world_seeds
from meta_rl.core.types import EnvSpec, Step, Task, Tasks
from meta_rl.rollouts.mujoco.row import WorldFormat
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot
from meta_rl.rollouts.warp.devices import warp_device
from meta_rl.rollouts.warp.worlds import WorldCode, Worlds

logger = logging.getLogger(__name__)


class WarpTaskEnv(ABC):
    """A `TaskEnv` over worlds on a device; a family says what world each task is, by `world`.

    Tasks of one scene are stepped together. A world whose numbers are no longer finite is cut: its
    step is truncated, with zero reward, the observation of the step before, and 1 in the metric
    `diverged`. Where MuJoCo Warp had more contacts or constraints than it keeps memory for, it
    leaves some out: the metric `overflow` is 1 on such a step, and a warning tells of the first,
    once its rollout is over. On a GPU nothing waits for it: an
    action that is not finite makes its world diverge, and raises only on the processor.

    Args:
        device: Where worlds, policies and rollouts live.
    """

    changes_within_episodes = True

    def __init__(self, world_format: WorldFormat, spec: EnvSpec, device: torch.device) -> None:
        self.metric_names = (*world_format.metrics, "diverged", "overflow")
        self._format = world_format
        low, high = spec.action_bounds
        self._low, self._high = (torch.tensor(each, device=device) for each in (low, high))
        self._horizon = spec.horizon
        self._device = device
        self._kept: dict[tuple[Scene, int], Worlds] = {}
        self._groups: list[tuple[Worlds, Tensor]] = []
        self._seats: dict[int, tuple[int, int]] = {}
        """The group of each task, and its place there."""
        self._first_task: Task | None = None
        self._shape = (0, 0)
        self._overflowed = torch.zeros((), dtype=torch.bool, device=device)
        self._told_of_overflow = False

    @abstractmethod
    def world(self, task: Task) -> tuple[Scene, Snapshot]:
        """Return the scene that a task is in, and the snapshot that its episodes begin with."""

    @abstractmethod
    def code(self, scene: Scene) -> WorldCode:
        """Return what a scene's worlds do beside physics."""

    def start(self, tasks: Tasks, copies: int, seed: int) -> Float[Tensor, "M N O"]:
        """Put each task into `copies` worlds, reset all, and return the first observations."""
        if len(tasks) * copies < 1:
            raise UserError(f"no worlds to start: {len(tasks)} tasks with {copies} copies each")
        self._tell_of_overflow()
        self._shape = len(tasks), copies
        self._first_task = next(iter(tasks))
        of_scene: dict[Scene, list[tuple[int, Snapshot]]] = {}
        for number, task in enumerate(tasks):
            scene, snapshot = self.world(task)
            of_scene.setdefault(scene, []).append((number, snapshot))
        self._groups = []
        with self._stream():
            for scene, rows in of_scene.items():
                for place, (number, _) in enumerate(rows):
                    self._seats[number] = len(self._groups), place
                numbers, snapshots = zip(*rows, strict=True)
                worlds = self._worlds(scene, snapshots, len(numbers) * copies)
                chance = scene.starts_at_random
                seeds = world_seeds(seed, tasks[list(numbers)], copies) if chance else ()
                worlds.begin(snapshots, copies, seeds)
                at = torch.tensor(numbers, device=self._device)
                self._groups.append((worlds, at))
        return self._gather("current")

    def _worlds(self, scene: Scene, snapshots: tuple[Snapshot, ...], count: int) -> Worlds:
        """Return worlds of a scene, those of the last time if they can hold what is asked for."""
        varied = frozenset(name for each in snapshots for name in each.model.changed)
        kept = self._kept.get((scene, count))
        if kept is None or not varied <= kept.varied:
            varied |= kept.varied if kept is not None else varied
            with wp.ScopedDevice(warp_device(self._device)):
                code = self.code(scene)
            kept = self._kept[scene, count] = Worlds(
                scene, code, self._format, count, varied, self._horizon, self._device
            )
        return kept

    def step(self, action: Float[Tensor, "M N A"]) -> Step:
        """Step all worlds once, with the action clipped to its bounds."""
        if not self._groups:
            raise RuntimeError(f"call start() before any other method of {type(self).__name__}")
        action = action.detach().to(self._device, torch.float32)
        if self._device.type == "cpu" and not torch.isfinite(action).all():
            raise NonFiniteAction("an action is not finite: the policy has diverged")
        refused = ~torch.isfinite(action).all(-1)
        action = torch.clamp(action.masked_fill(refused.unsqueeze(-1), 0.0), self._low, self._high)
        with self._stream():
            for worlds, at in self._groups:
                worlds.tensors.actions.copy_(action[at].flatten(0, 1))
                worlds.tensors.refused.copy_(refused[at].flatten())
                worlds.step()
        metrics = dict(zip(self.metric_names, self._gather("metrics").unbind(-1), strict=True))
        self._overflowed |= metrics["overflow"].any()
        return Step(
            next_obs=self._gather("next_obs"),
            reward=self._gather("reward"),
            terminated=self._gather("terminated"),
            truncated=self._gather("truncated"),
            metrics=metrics,
        )

    def reset_ended(self) -> Float[Tensor, "M N O"]:
        """Begin a new episode where the last step ended one; return all current observations."""
        with self._stream():
            for worlds, _ in self._groups:
                worlds.tensors.frozen.zero_()
        return self._gather("current")

    def change(self, worlds: Sequence[int], tasks: Tasks) -> None:
        """Turn worlds into other tasks; see `ChangingTaskEnv`.

        Raises:
            UserError: A world is to become a task of another scene.
        """
        of_group: dict[int, tuple[list[int], list[Snapshot]]] = {}
        copies = self._shape[1]
        for world, task in zip(worlds, tasks, strict=True):
            if world == 0:
                self._first_task = task
            number, place = self._seats[world // copies]
            scene, snapshot = self.world(task)
            if scene is not self._groups[number][0].scene:
                raise UserError(
                    f"the simulator warp steps the worlds of one model together, so that none can "
                    f"become {task.name}, a task of another; use --envs.simulator native"
                )
            places, snapshots = of_group.setdefault(number, ([], []))
            places.append(place * copies + world % copies)
            snapshots.append(snapshot)
        with self._stream():
            for number, (places, snapshots) in of_group.items():
                self._groups[number][0].change(places, snapshots)

    def close(self) -> None:
        """Release the worlds."""
        self._tell_of_overflow()
        self._groups, self._kept = [], {}

    def _tell_of_overflow(self) -> None:
        """Warn once; asked between rollouts, since the answer waits for the GPU."""
        if not self._told_of_overflow and bool(self._overflowed):
            self._told_of_overflow = True
            logger.warning(
                "MuJoCo Warp had more contacts or constraints than it keeps memory for, and left "
                "some out: forces were wrong on the steps that the metric overflow counts"
            )

    def state_of_first_world(self) -> NDArray[np.float64]:
        """Return the state of copy 0 of task 0 as MuJoCo's C library has it."""
        number, place = self._seats[0]
        return self._groups[number][0].state(place * self._shape[1])

    def _gather(self, name: str) -> Tensor:
        """Return a value of each world, as (M, N, ...), in memory of its own."""
        tasks, copies = self._shape
        parts: list[tuple[Tensor, Tensor]] = [
            (getattr(worlds.tensors, name), at) for worlds, at in self._groups
        ]
        example = parts[0][0]
        result = example.new_empty((tasks, copies, *example.shape[1:]))
        for part, at in parts:
            result[at] = part.reshape(-1, copies, *part.shape[1:])
        return result

    def _stream(self) -> AbstractContextManager[object]:
        """Let Warp work in torch's stream, so that each sees what the other has done."""
        if self._device.type != "cuda":
            return nullcontext()
        stream = wp.stream_from_torch(torch.cuda.current_stream(self._device))
        shared: AbstractContextManager[object] = wp.ScopedStream(stream)
        return shared
