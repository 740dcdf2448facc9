"""Whether MuJoCo Warp is there. Nothing here imports it: that takes seconds."""

import logging
from importlib.metadata import PackageNotFoundError, version

import torch

from meta_rl.core.errors import UserError

logger = logging.getLogger(__name__)

PACKAGES = {"warp": "warp-lang", "mujoco_warp": "mujoco-warp"}


def check_warp() -> None:
    """Say what to install where the packages are not there."""
    missing = []
    for package in PACKAGES.values():
        try:
            version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise UserError(
            f"the simulator warp needs {' and '.join(missing)}: install the extra gpu with "
            f"`pip install -e '.[gpu]'`, in an environment of its own because it brings another "
            f"version of MuJoCo, or use --envs.simulator native"
        )


def warn_of_slowness(device: torch.device) -> None:
    """Tell of a device that is only good for tests."""
    if device.type == "cpu":
        logger.warning(
            "MuJoCo Warp is meant for NVIDIA GPUs (--device cuda); on this CPU it is many times "
            "slower than --envs.simulator native, and good for tests alone"
        )


def warp_versions() -> dict[str, str]:
    """Return what a protocol tells of the simulator."""
    return {"simulator": "warp", "mujoco_warp": version(PACKAGES["mujoco_warp"])}
