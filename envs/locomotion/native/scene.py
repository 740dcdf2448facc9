"""Robots as scenes: where their numbers are, and how their episodes begin."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import mujoco
import numpy as np
from numpy.typing import NDArray

from envs.locomotion.gymnasium_face import LocomotionFamily, TaskRobot
from envs.locomotion.native import rewards, robot, row
from envs.locomotion.native.observation import PLAN_SIZE
from envs.locomotion.native.robot import Piece
from envs.locomotion.tasks import TASKS
from meta_rl.rollouts.mujoco.compiling import REWARD, callback
from meta_rl.rollouts.mujoco.memory import coordinates
from meta_rl.rollouts.mujoco.row import RowLayout, WorldFormat
from meta_rl.rollouts.mujoco.scene import Binding, Place, Scene, TaskCode, field_address

INFINITE = float("inf")


@dataclass(frozen=True)
class Body:
    """What the native simulator must know of a robot beside its model."""

    pieces: tuple[Piece, ...]
    """The observation; a piece reaches to the end of its field."""
    height: int = 1
    """The place in `qpos` of the torso's height; its angle is in the place 2."""
    centre: Literal["joint", "torso", "mass"] = "joint"
    """Whose velocity counts: that of the first joint, the torso's or the centre of mass's."""
    speeds: Literal["normal", "uniform"] = "uniform"
    """What the speeds at an episode's beginning are drawn from."""
    forces: bool = False
    force_bound: float = INFINITE


def _planar(speed_bound: float = INFINITE) -> tuple[Piece, ...]:
    return Piece("qpos", 1), Piece("qvel", bound=speed_bound)


BODIES = {
    "HalfCheetah-v5": Body(_planar(), speeds="normal"),
    "Walker2d-v5": Body(_planar(10.0)),
    "Hopper-v5": Body(_planar(10.0)),
    "Ant-v5": Body(
        (Piece("qpos", 2), Piece("qvel"), Piece("cfrc_ext", 6, bound=1.0)),
        height=2,
        centre="torso",
        speeds="normal",
        forces=True,
        force_bound=1.0,
    ),
    "Humanoid-v5": Body(
        (
            Piece("qpos", 2),
            Piece("qvel"),
            Piece("cinert", 10),  # without the world's
            Piece("cvel", 6),
            Piece("qfrc_actuator", 6),  # without the root's
            Piece("cfrc_ext", 6),
        ),
        height=2,
        centre="mass",
        forces=True,
    ),
}


class RobotScene(Scene):
    """The worlds of one task's name: Gymnasium's robot, and its compiled code."""

    env: Any

    def __init__(self, name: str) -> None:
        self._robot: TaskRobot = LocomotionFamily().make(name)
        kind = TASKS[name]
        self._kind = kind
        self.body = BODIES[kind.robot.id]
        self.name = name
        super().__init__(self._robot.robot, RowLayout(row.OBS + kind.observation_size))
        self._plan_row()
        self._reward = callback(getattr(rewards, name), REWARD)
        self._functions = robot.functions()
        self.format: WorldFormat = row.world_format(
            kind.observation_size, kind.robot.action_size, self.env.frame_skip, self.body.forces
        )

    @property
    def code(self) -> TaskCode:
        """Where the compiled functions are: acting and observing are the same for all robots."""
        act, observe = self._functions
        return TaskCode(int(act.address), int(observe.address), int(self._reward.address))

    @property
    def starts_at_random(self) -> bool:
        """Whether every episode begins elsewhere: yes, as in Gymnasium."""
        return True

    def draw_start(self, state: NDArray[np.float64], random: np.random.Generator) -> None:
        """Draw positions and speeds around the initial ones, as Gymnasium's `reset_model`."""
        positions, speeds = coordinates(self.model, state)
        scale = self.env._reset_noise_scale
        positions += random.uniform(low=-scale, high=scale, size=len(positions))
        if self.body.speeds == "normal":
            speeds += scale * random.standard_normal(len(speeds))
        else:
            speeds += random.uniform(low=-scale, high=scale, size=len(speeds))

    def reset(self, params: tuple[float, ...]) -> Mapping[int, NDArray[np.float64]]:
        """Give the model a task's dynamics, and put it where it begins but for chance."""
        self._robot.assign(params)
        mujoco.mj_resetData(self.model, self.env.data)
        asked_for = () if self._kind.varies == "dynamics" else params
        return {row.TARGET: np.array(asked_for)}

    def constant_places(self) -> list[tuple[int, int]]:
        """Return where a row holds what the task asks for."""
        return [*super().constant_places(), (row.TARGET, row.OBS - row.TARGET)]

    def _plan_row(self) -> None:
        """Say what the row gets from `mjData`, and what `observe_robot` finds there."""
        model, body, data = self.model, self.body, self.env.data
        pieces = self._pieces()
        axes, bodies = {"joint": (1, 0), "torso": (2, 0), "mass": (2, model.nbody)}[body.centre]
        field, start, size = {
            "joint": ("qpos", 0, 1),
            "torso": ("xpos", 3 * model.body("torso").id, 3),
            "mass": ("xipos", 0, 3 * model.nbody),
        }[body.centre]
        self._seen: dict[int, Place] = {}
        sizes = []
        place = row.OBS
        for piece in pieces:
            sizes.append(getattr(data, piece.field).size - piece.start)
            self._seen[place] = Place(piece.field, piece.start, sizes[-1])
            place += sizes[-1]

        def kept(field: str, start: int, size: int) -> int:
            where = self.row.size
            if size:
                self._seen[where] = Place(field, start, size)
                self.row.size += size
            return where

        control = kept("ctrl", 0, model.nu)
        positions = kept("qpos", 0, model.nq)
        speeds = kept("qvel", 0, model.nv)
        force_count = data.cfrc_ext.size if body.forces else 0
        forces = kept("cfrc_ext", 0, force_count)
        plan = [
            *(control, model.nu),
            *(positions + body.height, positions + 2),
            *(positions + 2, model.nq - 2),
            *(speeds, model.nv),
            *(forces, force_count),
            *(kept(field, start, size), axes, bodies),
            len(pieces),
            *sizes,
        ]
        self.plan = np.zeros(PLAN_SIZE, dtype=np.int64)
        self.plan[: len(plan)] = plan
        self.numbers = np.array(
            [
                self.env.dt,
                body.force_bound,
                model.body_mass.sum(),
                *(piece.bound for piece in pieces),
                *model.actuator_ctrlrange[:, 1],
                *model.body_mass,
            ]
        )

    def sensed(self) -> dict[int, Place]:
        """Return what the row gets from `mjData` after each step, by place in the row."""
        return self._seen

    def bind(self, data: mujoco.MjData) -> Binding:
        """Return what the robot's code needs, and where it acts."""
        addresses = np.array([*self.plan, field_address(data, "ctrl")], dtype=np.int64)
        return Binding(addresses, self.numbers)

    def _pieces(self) -> tuple[Piece, ...]:
        first, *others = self.body.pieces
        if self._kind.options.get("exclude_current_positions_from_observation", True):
            return self.body.pieces
        return Piece(first.field), *others


@cache
def scene(name: str) -> RobotScene:
    """Return the scene of a task's name, made the first time: all simulators share it."""
    return RobotScene(name)
