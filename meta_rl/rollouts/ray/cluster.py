"""Joining a Ray cluster, or starting one for a run on this machine."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray

from meta_rl.core.errors import UserError

ANSWER_S = 10.0
"""How long a cluster's head may take to answer."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process has joined."""

    joined_here: bool
    """Whether this process joined it for the run, and leaves it at the end."""

    def has(self, what: str) -> float:
        """Return how many of `CPU` or `GPU` all its machines have together."""
        return float(ray.cluster_resources().get(what, 0))

    @property
    def stores(self) -> list[int]:
        """Bytes of each machine's object store; first this one's."""
        here = ray.get_runtime_context().get_node_id()
        found = {
            node["NodeID"]: int(node["Resources"].get("object_store_memory", 0))
            for node in ray.nodes()
            if node["Alive"]
        }
        return [found.pop(here), *found.values()]

    def leave(self) -> None:
        """Leave the cluster; one that was started for the run ends with all its processes."""
        if self.joined_here:
            ray.shutdown()


def join(address: str, cpus: int, store_bytes: int) -> Cluster:
    """Join the cluster that is named, or start one on this machine.

    One that is started opens no dashboard. `presence.prepare_ray` must come first.

    Args:
        address: HOST:PORT of the head, `auto`, or nothing: then RAY_ADDRESS counts, or one is
            started.
        cpus: Cores of a cluster that is started.
        store_bytes: Size of its object store.

    Raises:
        UserError: Nothing answers at the address.
    """
    if ray.is_initialized():
        return Cluster(joined_here=False)
    address = address or os.environ.get("RAY_ADDRESS", "")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if not address:
        options |= {"num_cpus": cpus, "include_dashboard": False}
        options |= {"object_store_memory": store_bytes}
    if ":" in address:
        _check_answering(address)
    with _own_signals():
        try:
            ray.init(address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"join Ray at {address}" if address else "start Ray on this machine"
            raise UserError(f"cannot {where}: {error}") from error
    return Cluster(joined_here=True)


def _check_answering(address: str) -> None:
    """Refuse an address where nothing listens: Ray would try it for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot join Ray at {address}: {error}; rollouts.address, or RAY_ADDRESS, must be "
            f"HOST:PORT of `ray start --head`"
        ) from error


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray would replace by an exit."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
