"""Lets metaworld run on versions of MuJoCo that it does not know. Nothing here may import torch."""

from typing import Any

import numpy as np

KNOWN_WELD = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)
"""What metaworld sets a weld's numbers to."""


def mend_welds() -> None:
    """Make metaworld set all the numbers of the hand's weld; MuJoCo has more than 11 from 3.17 on.

    Those that are new are zero: the weld's pose is the one that the known ones give.
    """
    import mujoco

    if mujoco.mjNEQDATA == len(KNOWN_WELD):
        return
    from metaworld import sawyer_xyz_env

    base: Any = sawyer_xyz_env.SawyerMocapBase
    base.reset_mocap_welds = _reset_mocap_welds


def _reset_mocap_welds(env: Any) -> None:
    import mujoco

    welds = np.flatnonzero(env.model.eq_type == int(mujoco.mjtEq.mjEQ_WELD))
    env.model.eq_data[welds] = 0.0
    env.model.eq_data[welds, : len(KNOWN_WELD)] = KNOWN_WELD
