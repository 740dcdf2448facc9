"""What happens in a world beside physics that no family knows: Warp's kernels, a thread a world."""

from typing import Any, no_type_check

import warp as wp

from meta_rl.rollouts.warp.dialect import kernel


@kernel
@no_type_check
def sense(
    numbers: wp.array[int],
    places: wp.array[int],
    field: wp.array2d[float],
    rows: wp.array2d[float],
) -> None:
    """Copy numbers of a field of the simulation to places in the rows."""
    world, each = wp.tid()
    rows[world, places[each]] = field[world, numbers[each]]


@kernel
@no_type_check
def settle(
    rows: wp.array2d[float],
    outputs: wp.array2d[float],
    overflow: wp.array[int],
    observation_start: int,
    finite_start: int,
    finite_stop: int,
    metric_places: wp.array[int],
    terminated_place: int,
    horizon: int,
    refused: wp.array[wp.bool],
    current: wp.array2d[float],
    frozen: wp.array[wp.bool],
    steps: wp.array[int],
    next_obs: wp.array2d[float],
    reward: wp.array[float],
    metrics: wp.array2d[float],
    terminated: wp.array[wp.bool],
    truncated: wp.array[wp.bool],
) -> None:
    """Tell what a step has made of each world, and freeze those whose episode ends with it.

    The last two metrics are `diverged` and `overflow`.
    """
    world = wp.tid()
    live = not frozen[world]
    good = wp.isfinite(outputs[world, 0]) and not refused[world]
    for place in range(finite_start, finite_stop):
        good = good and wp.isfinite(rows[world, place])
    good = good and live
    if live:
        steps[world] = steps[world] + 1
        for place in range(next_obs.shape[1]):
            seen = current[world, place]
            if good:
                seen = rows[world, observation_start + place]
            next_obs[world, place] = seen
        terminated[world] = False
        if good and terminated_place >= 0:
            terminated[world] = outputs[world, terminated_place] > 0.0
    count = metric_places.shape[0]
    reward[world] = wp.where(good, outputs[world, 0], 0.0)
    for metric in range(count):
        metrics[world, metric] = wp.where(good, outputs[world, metric_places[metric]], 0.0)
    metrics[world, count] = wp.where(live and not good, 1.0, 0.0)
    metrics[world, count + 1] = wp.where(live and overflow[world] != 0, 1.0, 0.0)
    overflow[world] = 0
    if terminated[world] or (live and not good) or steps[world] >= horizon:
        frozen[world] = True
    truncated[world] = frozen[world] and not terminated[world]


@kernel
@no_type_check
def restore(
    which: wp.array[wp.bool],
    start: wp.array2d[float],
    numbers: wp.array2d[float],
) -> None:
    """Put numbers of some worlds to what an episode begins with."""
    world, place = wp.tid()
    if which[world]:
        numbers[world, place] = start[world, place]


@kernel
@no_type_check
def show(
    which: wp.array[wp.bool],
    others: wp.bool,
    rows: wp.array2d[float],
    observation_start: int,
    next_obs: wp.array2d[float],
    steps: wp.array[int],
    current: wp.array2d[float],
) -> None:
    """Write what the next step of some worlds begins with: their episode's first observation.

    That of the others is what the last step has brought, if they are to be written, too.
    """
    world = wp.tid()
    if which[world]:
        steps[world] = 0
        for place in range(current.shape[1]):
            current[world, place] = rows[world, observation_start + place]
    elif others:
        for place in range(current.shape[1]):
            current[world, place] = next_obs[world, place]


@kernel
@no_type_check
def mark_restarts(
    changed: wp.array[wp.bool],
    frozen: wp.array[wp.bool],
    steps: wp.array[int],
    restarts: wp.array[wp.bool],
) -> None:
    """Tell which of the worlds that have changed are at the beginning of an episode."""
    world = wp.tid()
    restarts[world] = changed[world] and (frozen[world] or steps[world] == 0)


@kernel
@no_type_check
def place_geoms(
    geom_bodyid: wp.array[int],
    geom_pos: wp.array2d[wp.vec3],
    geom_quat: wp.array2d[wp.quat],
    xpos: wp.array2d[wp.vec3],
    xmat: wp.array2d[wp.mat33],
    geom_xpos: wp.array2d[wp.vec3],
    geom_xmat: wp.array2d[wp.mat33],
) -> None:
    """Place all geoms by their bodies: MuJoCo Warp places those that cannot move only once."""
    world, geom = wp.tid()
    body = geom_bodyid[geom]
    rotation = xmat[world, body]
    position = geom_pos[world % geom_pos.shape[0], geom]
    q = geom_quat[world % geom_quat.shape[0], geom]
    turned = wp.quat(q[1], q[2], q[3], q[0])  # MuJoCo has w first, Warp has it last
    geom_xpos[world, geom] = xpos[world, body] + rotation * position
    geom_xmat[world, geom] = rotation * wp.quat_to_matrix(turned)


def floats(array: Any) -> Any:
    """Return a view of an array, the first axis worlds and the second all their numbers."""
    worlds = array.shape[0]
    numbers = array.size * wp.types.type_size(array.dtype) // max(worlds, 1)
    assert array.is_contiguous
    if not numbers:
        return wp.zeros((worlds, 0), dtype=float, device=array.device)
    return wp.array(
        ptr=array.ptr, dtype=float, shape=(worlds, numbers), device=array.device, copy=False
    )
