"""Where in an environment a variation puts its value. Nothing here may import torch."""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from meta_rl.core.errors import UserError, did_you_mean, what_there_is
from meta_rl.rollouts.gymnasium.worker import Env

NAME = re.compile(r"(?P<path>[A-Za-z_][\w.]*?)(?:\[(?P<number>\d+)\])?")
"""An attribute, or one number of it."""

PARTS = {
    "body": "mjOBJ_BODY",
    "geom": "mjOBJ_GEOM",
    "jnt": "mjOBJ_JOINT",
    "dof": "mjOBJ_JOINT",
    "actuator": "mjOBJ_ACTUATOR",
    "site": "mjOBJ_SITE",
    "tendon": "mjOBJ_TENDON",
}
"""What kind of named part a field of MuJoCo's model has rows of, by the field's first word."""
DEGREES_OF_FREEDOM = (6, 3, 1, 1)
"""Of a joint that is free, a ball, a slide or a hinge."""


@dataclass
class Place:
    """An attribute, or items of an array."""

    name: str
    """What the config calls it."""
    holder: Any
    key: Any
    is_attribute: bool
    original: Any
    """What the environment came with; at first what is there now. A copy, if it can be changed in
    place."""

    def put(self, value: Any) -> None:
        """Change it, to a value that nobody else holds."""
        if self.is_attribute:
            setattr(self.holder, self.key, own(value))
        else:
            self.holder[self.key] = own(value)

    def restore(self) -> None:
        """Change it back to what the environment came with."""
        self.put(self.original)

    def check_settable(self, where: str) -> None:
        """Raise a UserError if it cannot be changed."""
        try:
            self.restore()
        except AttributeError as error:
            raise UserError(
                f"{where} changes {self.name!r}, which cannot be set ({error}); vary what it is "
                f"made of"
            ) from error

    def check_number(self, where: str) -> None:
        """Raise a UserError unless it is a number, and not 0, so that a factor changes it."""
        numbers = isinstance(self.original, int | float | np.ndarray | np.number)
        if not numbers or np.asarray(self.original).dtype.kind not in "fiu":
            raise UserError(
                f"{where} scales {self.key}, which is {self.original!r}, not a number; list its "
                f"`values` instead"
            )
        if not np.any(self.original):
            raise UserError(
                f"{where} scales {self.key}, which is {self.original!r}, so all tasks would be "
                f"alike; give it a `uniform` range instead"
            )

    def check_kept(self, value: Any, where: str) -> None:
        """Raise a UserError if it would drop the fraction of a number."""
        whole = isinstance(self.holder, np.ndarray) and self.holder.dtype.kind in "iu"
        if whole and np.any(np.asarray(value) % 1 != 0):
            raise UserError(
                f"{where} puts {value!r} into an array of whole numbers, which would drop its "
                f"fraction; vary it by `integers`, or list whole `values`"
            )


def attribute(env: Env, name: str, where: str) -> Place:
    """Return an attribute of the unwrapped environment, such as `gravity` or `goal[0]`."""
    match = NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f"{where} changes {name!r}, which is no attribute; write one like gravity, "
            f"physics.mass or goal[0]"
        )
    holder: Any = env.unwrapped
    *path, last = match["path"].split(".")
    for part in path:
        holder = _its_own(holder, part, name, where)
    if match["number"] is not None:
        return _items(_its_own(holder, last, name, where), int(match["number"]), name, where)
    return Place(name, holder, last, True, own(_attribute_of(holder, last, name, where)))


def own(value: Any) -> Any:
    """Return a value that can be changed in place as a copy."""
    return deepcopy(value) if isinstance(value, np.ndarray | list | dict | set) else value


def same(one: Any, other: Any) -> bool:
    """Return whether two values of an attribute are equal; what cannot be compared counts as so."""
    try:
        return bool(np.array_equal(one, other))
    except (TypeError, ValueError):
        return True


def rows(env: Env, name: str, parts: Sequence[str], where: str) -> list[Place]:
    """Return the rows of a field of MuJoCo's model that belong to some parts; all for none."""
    import mujoco

    model = getattr(env.unwrapped, "model", None)
    if not isinstance(model, mujoco.MjModel):
        raise UserError(
            f"{where} changes a model, but {type(env.unwrapped).__name__} has no MuJoCo model; "
            f"name an `attribute` of it"
        )
    match = NAME.fullmatch(name)
    fields = [field for field in dir(model) if field.partition("_")[0] in PARTS]
    if match is None or match["path"] not in fields:
        hint = did_you_mean(match["path"] if match else name, fields)
        raise UserError(
            f"{where} changes {name!r}, which is no field of the model; {hint}There are body_mass, "
            f"geom_friction, dof_damping, actuator_gear and others of mujoco.MjModel"
        )
    if match["path"] in DERIVED:
        raise UserError(
            f"{where} changes {name!r}, which MuJoCo derives from other fields when it compiles a "
            f"model or uses what it derived from it, so the change would be lost or half a change; "
            f"vary another field, or a keyword that the environment is made with"
        )
    array: Any = getattr(model, match["path"])
    column = () if match["number"] is None else (int(match["number"]),)
    if column and (array.ndim < 2 or column[0] >= array.shape[1]):
        raise UserError(f"{where} changes {name!r}, but a row of it has {array[:1].size} numbers")
    kind = match["path"].partition("_")[0]
    chosen = [_rows_of(model, kind, part, where) for part in parts] or [slice(None)]
    for these in chosen:
        _take_effect(model, match["path"], these, f"{where} changes {name!r}")
    keys = [(these, *column) for these in chosen]
    return [Place(name, array, key, False, array[key].copy()) for key in keys]


DERIVED = {
    *("body_subtreemass", "body_invweight0", "body_sameframe", "body_weldid", "body_rootid"),
    *("dof_invweight0", "dof_M0", "tendon_invweight0", "tendon_length0"),
    *("actuator_acc0", "actuator_length0"),
    *("geom_size", "geom_rbound", "geom_aabb", "geom_sameframe", "site_sameframe"),
}
"""Fields that the compiler of MuJoCo's models makes, and `geom_size`, of which it makes others: the
bounds by which contacts are looked for."""

SWITCHES = {
    "actuator_forcerange": "actuator_forcelimited",
    "actuator_ctrlrange": "actuator_ctrllimited",
    "actuator_actrange": "actuator_actlimited",
    "jnt_range": "jnt_limited",
    "jnt_actfrcrange": "jnt_actfrclimited",
    "tendon_range": "tendon_limited",
}
"""Fields that MuJoCo reads only where another one is set."""


def _take_effect(model: Any, field: str, these: slice, what: str) -> None:
    """Let MuJoCo read some rows of a field, or raise a UserError if it never would."""
    if field in SWITCHES and not np.any(getattr(model, SWITCHES[field])[these]):
        raise UserError(
            f"{what}, which has no effect where {SWITCHES[field]} is 0, so all tasks would be "
            f"alike; vary another field"
        )
    if field == "body_gravcomp" and model.ngravcomp == 0:
        raise UserError(
            f"{what}, which has no effect in a model that was compiled without any, so all tasks "
            f"would be alike; give its bodies a gravcomp in its file"
        )
    # Poses that were equal to a body's when the model was compiled are not computed by themselves.
    kind, _, part = field.partition("_")
    if (kind, part) in POSES:
        getattr(model, f"{kind}_sameframe")[these] = 0


POSES = {
    *(("geom", "pos"), ("geom", "quat"), ("site", "pos"), ("site", "quat")),
    *(("body", "ipos"), ("body", "iquat")),
}
"""Fields of poses within a body."""


def _rows_of(model: Any, kind: str, part: str, where: str) -> Any:
    import mujoco

    number = mujoco.mj_name2id(model, getattr(mujoco.mjtObj, PARTS[kind]), part)
    if number < 0:
        known = _names(model, kind)
        raise UserError(
            f"{where}.of names {part!r}, which the model does not have; "
            f"{what_there_is(part, known)}"
        )
    if kind != "dof":
        return slice(number, number + 1)
    first = int(model.jnt_dofadr[number])
    return slice(first, first + DEGREES_OF_FREEDOM[int(model.jnt_type[number])])


def _names(model: Any, kind: str) -> list[str]:
    import mujoco

    object_kind = getattr(mujoco.mjtObj, PARTS[kind])
    count = getattr(model, {"jnt": "njnt", "dof": "njnt", "actuator": "nu"}.get(kind, f"n{kind}"))
    found = (mujoco.mj_id2name(model, object_kind, number) for number in range(count))
    return [name for name in found if name]


def _attribute_of(holder: Any, part: str, name: str, where: str) -> Any:
    if not hasattr(holder, part):
        known = sorted(each for each in dir(holder) if not each.startswith("_"))
        raise UserError(
            f"{where} changes {name!r}, but {type(holder).__name__} has no attribute {part!r}; "
            f"{what_there_is(part, known)}"
        )
    return getattr(holder, part)


def _its_own(holder: Any, part: str, name: str, where: str) -> Any:
    """Return an attribute that is changed in place; one of the class becomes the object's own."""
    value = _attribute_of(holder, part, name, where)
    if part not in getattr(holder, "__dict__", {part}) and getattr(type(holder), part, 0) is value:
        value = deepcopy(value)
        setattr(holder, part, value)
    return value


def _items(array: Any, number: int, name: str, where: str) -> Place:
    if not isinstance(array, np.ndarray | list) or number >= len(array):
        raise UserError(
            f"{where} changes {name!r}, an item of {array!r}; name an attribute that is an array "
            f"with more than {number} numbers"
        )
    return Place(name, array, number, False, own(array[number]))
