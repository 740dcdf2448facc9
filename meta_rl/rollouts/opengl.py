"""How MuJoCo draws where there is no display. Nothing here may import torch."""

import os
import sys
from ctypes.util import find_library

from meta_rl.core.errors import UserError

LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
"""What MUJOCO_GL calls the ways to draw without a display, best first, and their libraries."""

ADVICE = (
    "MuJoCo draws without a display through EGL or OSMesa; on Debian and Ubuntu, `apt-get install "
    "libegl1 libgl1` or `apt-get install libosmesa6` brings one, and the variable MUJOCO_GL=egl or "
    "MUJOCO_GL=osmesa chooses between them"
)


def choose_opengl() -> None:
    """Choose how this process and those it starts let MuJoCo draw, before it draws at all.

    What MUJOCO_GL says already stays. A display is used only where neither library is found: its
    windows may be far away, or those of another user.
    """
    if "MUJOCO_GL" in os.environ or not sys.platform.startswith("linux"):
        return
    for name, library in LIBRARIES.items():
        if find_library(library):
            os.environ["MUJOCO_GL"] = name
            return
    if "DISPLAY" not in os.environ:
        raise UserError(f"there is no display, and neither EGL nor OSMesa was found; {ADVICE}")
