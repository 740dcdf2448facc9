"""Whether Ray is there, and what it reads from the environment. Nothing here imports it."""

import os
import secrets
import sys
from importlib.util import find_spec

from meta_rl.core.errors import UserError


def prepare_ray(address: str, flag: str = "--rollouts.backend") -> None:
    """Say what to install where Ray is not there; set what it reads when it is first imported.

    It sends no usage statistics. One that is started for a run lets only processes join that know a
    secret of this one: its ports are open to whoever reaches the machine.

    Args:
        address: Of a cluster to join; RAY_ADDRESS comes second.
        flag: Which asks for Ray.
    """
    if find_spec("ray") is None:
        raise UserError(
            f"{flag} ray needs Ray: install the extra cluster with "
            f"`pip install -e '.[cluster]'`, or use {flag} local"
        )
    if "ray" in sys.modules:
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray announces that it will leave GPUs visible to workers that reserve none.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not (address or os.environ.get("RAY_ADDRESS")):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
