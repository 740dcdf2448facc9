"""The worlds of one scene, side by side on one device."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import mujoco_warp as mjw
import numpy as np
import torch
import warp as wp
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from meta_rl.rollouts.mujoco.memory import STATE
from meta_rl.rollouts.mujoco.row import Finish, WorldFormat
from meta_rl.rollouts.mujoco.scene import Scene, Snapshot
from meta_rl.rollouts.warp import kernels
from meta_rl.rollouts.warp.devices import warp_device

MOVED = (
    *("qpos", "qvel", "act", "qacc_warmstart", "ctrl", "mocap_pos", "mocap_quat"),
    # MuJoCo Warp's equality constraints see the velocities of the step before.
    *("cvel", "cdof_dot"),
)
"""What of a simulation a step depends on, and an episode begins with."""
NO_FRAME, BODY_FRAME, INERTIA_FRAME = (
    int(getattr(mujoco.mjtSameFrame, f"mjSAMEFRAME_{frame}"))
    for frame in ("NONE", "BODY", "INERTIA")
)


@dataclass(frozen=True)
class Limits:
    """Most contacts and constraints of a world, for which memory is kept."""

    contacts: int
    """On average over the worlds."""
    constraints: int


@dataclass(frozen=True)
class Tensors:
    """Views of what a step reads and leaves; axes W worlds, O observation, A action, K metrics."""

    actions: Float[Tensor, "W A"]
    refused: Bool[Tensor, "W"]
    """Worlds whose action is not finite: a step of theirs counts as diverged."""
    frozen: Bool[Tensor, "W"]
    """Worlds whose episode has ended: a step leaves them as they are."""
    current: Float[Tensor, "W O"]
    """What the next step begins with: of a world that ended, the first of its next episode."""
    next_obs: Float[Tensor, "W O"]
    reward: Float[Tensor, "W"]
    terminated: Bool[Tensor, "W"]
    truncated: Bool[Tensor, "W"]
    metrics: Float[Tensor, "W K"]


class WorldCode(ABC):
    """What the worlds of a scene do beside physics, as launches of Warp's kernels."""

    limits: Limits

    @abstractmethod
    def act(self, worlds: "Worlds") -> None:
        """Set controls by `worlds.actions`."""

    @abstractmethod
    def observe(self, worlds: "Worlds", which: wp.array) -> None:
        """Write what rows of some worlds hold beside what is sensed, and then the outputs."""

    def draw_starts(self, worlds: "Worlds", which: wp.array) -> None:
        """Move worlds that begin an episode to where chance wants them.

        Called where the scene starts at random; a world's chance is in `worlds.chance`.
        """
        raise NotImplementedError(f"{type(self).__name__} must say how its episodes begin")


class Worlds:
    """W worlds of one scene, and what they have just seen and earned.

    A step is played as one CUDA graph. What it leaves is in `tensors`, which the next step
    overwrites.

    Args:
        count: W, fixed for life: memory and graph are of this size.
        varied: Fields of the model in which worlds differ.
    """

    def __init__(
        self,
        scene: Scene,
        code: WorldCode,
        world_format: WorldFormat,
        count: int,
        varied: frozenset[str],
        horizon: int,
        device: torch.device,
    ) -> None:
        self.scene, self.count, self.varied = scene, count, varied
        self._code = code
        self.world_format = world_format
        self._horizon = horizon
        self.device = warp_device(device)
        with wp.ScopedDevice(self.device):
            model = solvable(scene.model)
            self.model = mjw.put_model(model, dict.fromkeys(sorted(varied), count))
            self.model.opt.warn_overflow = 0  # a metric tells of it
            # Else contacts come in the order in which a GPU's threads happen to find them.
            self.model.opt.deterministic = torch.are_deterministic_algorithms_enabled()
            limits = code.limits
            self.data = mjw.make_data(
                model, nworld=count, nconmax=limits.contacts, njmax=limits.constraints
            )
            self._allocate()
        self._graph: Any = None

    def _allocate(self) -> None:
        """Make all arrays of the worlds, on the device at hand."""
        world_format, count = self.world_format, self.count
        size = world_format.observation.stop - world_format.observation.start
        self.rows = wp.zeros((count, self.scene.row.size), dtype=float)
        self.outputs = wp.zeros((count, world_format.outputs), dtype=float)
        self.actions = wp.zeros((count, world_format.action_size), dtype=float)
        self._refused = wp.zeros(count, dtype=wp.bool)
        self.frozen = wp.ones(count, dtype=wp.bool)
        self._steps = wp.zeros(count, dtype=int)
        self.chance = wp.zeros((count, 2), dtype=int)
        """Each world's seed, and how often it has begun an episode."""
        self._next_obs, self._current = (wp.zeros((count, size), dtype=float) for _ in range(2))
        self._reward = wp.zeros(count, dtype=float)
        self._terminated, self._truncated = (wp.zeros(count, dtype=wp.bool) for _ in range(2))
        places = list(world_format.metrics.values())
        self._metrics = wp.zeros((count, len(places) + 2), dtype=float)
        self._metric_places = wp.array(places, dtype=int)
        self._moved = [kernels.floats(getattr(self.data, name)) for name in MOVED]
        self._starts = [wp.zeros_like(each) for each in self._moved]
        if self.scene.starts_at_random:  # a row that is written at the start must not see them
            forces = [kernels.floats(self.data.cfrc_ext), kernels.floats(self.data.qfrc_actuator)]
            self._moved += forces
            self._starts += [wp.zeros_like(each) for each in forces]
        self._start_rows = wp.zeros_like(self.rows)
        self._sensed = self._sensing()
        self.all = wp.ones(count, dtype=wp.bool)
        """A mask of all worlds."""
        self.tensors = Tensors(
            actions=wp.to_torch(self.actions),
            refused=wp.to_torch(self._refused),
            frozen=wp.to_torch(self.frozen),
            current=wp.to_torch(self._current),
            next_obs=wp.to_torch(self._next_obs),
            reward=wp.to_torch(self._reward),
            terminated=wp.to_torch(self._terminated),
            truncated=wp.to_torch(self._truncated),
            metrics=wp.to_torch(self._metrics),
        )

    def _sensing(self) -> list[list[wp.array]]:
        """Return for each field that rows get numbers from: which, their places, and the field."""
        copied: dict[str, list[tuple[int, int]]] = {}
        for where, place in self.scene.sensed().items():
            pairs = ((place.start + number, where + number) for number in range(place.size))
            copied.setdefault(place.field, []).extend(pairs)
        return [
            [
                *(wp.array(each, dtype=int) for each in zip(*pairs, strict=True)),
                kernels.floats(getattr(self.data, field)),
            ]
            for field, pairs in copied.items()
        ]

    def begin(self, snapshots: Sequence[Snapshot], copies: int, seeds: Sequence[int] = ()) -> None:
        """Put each task's snapshot into `copies` worlds, side by side, and begin an episode.

        Args:
            seeds: A seed for each world's own chance, needed where the scene starts at random.
        """
        with wp.ScopedDevice(self.device):
            lines = torch.arange(len(snapshots)).repeat_interleave(copies)
            self._assign(snapshots, lines, torch.arange(self.count))
            if self.scene.starts_at_random:
                chance = np.stack([np.array(seeds) % 2**31, np.zeros(self.count)], axis=1)
                self.chance.assign(chance.astype(np.int32))
            self.frozen.fill_(True)
            self._restore(self.frozen)
            self._place_geoms()
            self.frozen.zero_()

    def change(self, places: Sequence[int], snapshots: Sequence[Snapshot]) -> None:
        """Turn worlds into other tasks of the scene.

        A world that is at the beginning of an episode begins it as that task. Any other goes on
        from where it is: its model and its constants are the new task's.
        """
        with wp.ScopedDevice(self.device):
            where = torch.tensor(places)
            self._assign(snapshots, torch.arange(len(snapshots)), where)
            changed = torch.zeros(self.count, dtype=torch.bool)
            changed[where] = True
            marks = wp.array(changed.numpy(), dtype=wp.bool)
            restarts = wp.zeros(self.count, dtype=wp.bool)
            marked = [marks, self.frozen, self._steps, restarts]
            wp.launch(kernels.mark_restarts, self.count, marked)
            self._restore(restarts, others=False)
            rows = wp.to_torch(self.rows)
            fresh = torch.from_numpy(np.stack([each.row for each in snapshots])).to(rows)
            where = where.to(rows.device)
            for start, size in self.scene.constant_places():
                rows[where, start : start + size] = fresh[:, start : start + size]
            self._place_geoms()

    def _assign(
        self, snapshots: Sequence[Snapshot], lines: Int[Tensor, "K"], places: Int[Tensor, "K"]
    ) -> None:
        """Let worlds begin their episodes as snapshots do, in these tasks' models.

        Args:
            lines: Which of the snapshots each world takes.
            places: The worlds.
        """

        def fill(array: wp.array, numbers: Sequence[NDArray[Any]]) -> None:
            tensor = wp.to_torch(array)
            values = torch.from_numpy(np.stack(numbers)).to(tensor)
            tensor[places.to(tensor.device)] = values[lines.to(tensor.device)]

        model = self.scene.model
        data = mujoco.MjData(model)
        moved: dict[str, list[NDArray[Any]]] = {name: [] for name in MOVED}
        for snapshot in snapshots:
            assert self.varied.issuperset(snapshot.model.changed), snapshot.model.changed.keys()
            mujoco.mj_setState(model, data, snapshot.state, STATE)
            for name in MOVED:
                moved[name].append(np.array(getattr(data, name)).ravel())
        for name, start in zip(MOVED, self._starts, strict=False):
            fill(start, moved[name])
        fill(self._start_rows, [snapshot.row for snapshot in snapshots])
        for name in self.varied:
            values = [as_c_takes_it(snapshot, model, name) for snapshot in snapshots]
            fill(kernels.floats(getattr(self.model, name)), values)

    def _place_geoms(self) -> None:
        """Place all geoms by where bodies are now; MuJoCo Warp leaves out those that are fixed."""
        model, data = self.model, self.data
        mjw.kinematics(model, data)
        geoms = [model.geom_bodyid, model.geom_pos, model.geom_quat, data.xpos, data.xmat]
        placed = [data.geom_xpos, data.geom_xmat]
        wp.launch(kernels.place_geoms, (self.count, self.scene.model.ngeom), [*geoms, *placed])

    def step(self) -> None:
        """Step all worlds once with `actions`; restart those whose episode ends with it."""
        with wp.ScopedDevice(self.device):
            if not self.device.is_cuda:
                self._step()
                return
            if self._graph is None:
                self._graph = self._captured()
            wp.capture_launch(self._graph)

    def _captured(self) -> Any:
        """Return a step as a graph; kernels are compiled by a step that is undone.

        Torch's usual stream cannot be captured, so this happens in another.
        """
        kept = [wp.clone(each) for each in self._all_state()]
        with wp.ScopedStream(wp.Stream(self.device), sync_exit=True) as stream:
            self._step()
            for each, before in zip(self._all_state(), kept, strict=True):
                wp.copy(each, before)
            with wp.ScopedCapture(stream=stream) as capture:
                self._step()
        return capture.graph

    def _all_state(self) -> list[wp.array]:
        return [
            *(*self._moved, self.rows, self.frozen, self._steps, self.chance),
            *(self._next_obs, self._current),
        ]

    def _step(self) -> None:
        self._code.act(self)
        for _ in range(self.world_format.substeps):
            mjw.step(self.model, self.data)
        if self.world_format.finish == Finish.FORWARD:
            mjw.forward(self.model, self.data)
        elif self.world_format.finish == Finish.FORCES:
            mjw.rne_postconstraint(self.model, self.data)
        self._sense()
        self._code.observe(self, self.all)
        self._settle()
        self._restore(self.frozen)

    def _sense(self) -> None:
        for numbers, places, field in self._sensed:
            copied = [numbers, places, field, self.rows]
            wp.launch(kernels.sense, (self.count, numbers.size), copied)

    def _settle(self) -> None:
        world_format = self.world_format
        terminated = -1 if world_format.terminated is None else world_format.terminated
        wp.launch(
            kernels.settle,
            self.count,
            [
                self.rows,
                self.outputs,
                self.data.overflow,
                world_format.observation.start,
                world_format.finite.start,
                world_format.finite.stop,
                self._metric_places,
                terminated,
                self._horizon,
                self._refused,
                self._current,
                self.frozen,
                self._steps,
                self._next_obs,
                self._reward,
                self._metrics,
                self._terminated,
                self._truncated,
            ],
        )

    def _restore(self, which: wp.array, others: bool = True) -> None:
        """Put some worlds to where an episode begins, and say what all, or only those, see next."""
        pairs = zip([*self._starts, self._start_rows], [*self._moved, self.rows], strict=True)
        for start, numbers in pairs:
            if numbers.size:
                wp.launch(kernels.restore, numbers.shape, [which, start, numbers])
        if self.scene.starts_at_random:
            self._code.draw_starts(self, which)
            self._sense()
            self._code.observe(self, which)
        shown = [self.rows, self.world_format.observation.start, self._next_obs, self._steps]
        wp.launch(kernels.show, self.count, [which, others, *shown, self._current])

    def state(self, world: int) -> NDArray[np.float64]:
        """Return the state of a world as MuJoCo's C library has it, for pictures."""
        data = mujoco.MjData(self.scene.model)
        for name, numbers in zip(MOVED, self._moved, strict=False):
            field = getattr(data, name)
            field[...] = numbers.numpy()[world].reshape(field.shape)
        packed = np.empty(mujoco.mj_stateSize(self.scene.model, STATE))
        mujoco.mj_getState(self.scene.model, data, packed, STATE)
        return packed


def as_c_takes_it(snapshot: Snapshot, model: mujoco.MjModel, name: str) -> NDArray[np.float64]:
    """Return a field of a task's model, flat, as MuJoCo's C library makes use of it.

    Where a part lay exactly in its body's frame when the model was compiled, C looks no more at
    where it lies; MuJoCo Warp does. Some families move such a site.
    """
    fresh = getattr(model, name)
    values = np.array(snapshot.model.changed.get(name, fresh))
    part, _, kind = name.partition("_")
    if kind in ("pos", "quat") and part in ("geom", "site"):
        frame = getattr(model, f"{part}_sameframe")
        ignored = (frame == BODY_FRAME) | (frame == INERTIA_FRAME)
        if kind == "quat":
            ignored |= frame != NO_FRAME
        values[ignored] = fresh[ignored]
    return values.ravel()


def solvable(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a model whose solver MuJoCo Warp has: Newton's where it was Gauss-Seidel's.

    Both look for the same forces; Gymnasium's humanoid has the latter.
    """
    if model.opt.solver != mujoco.mjtSolver.mjSOL_PGS:
        return model
    other = copy.copy(model)
    other.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    return other
