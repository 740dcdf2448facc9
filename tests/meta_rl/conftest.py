"""Ray clusters of several nodes on this machine."""

import os
from pathlib import Path

import pytest

from meta_rl.rollouts.ray.presence import prepare_ray

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module")
def make_cluster():
    """Start Ray clusters on this machine: a node without workers' cores, and others with two."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            patch.delenv(name, raising=False)
        paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")])
        patch.setenv("PYTHONPATH", paths.rstrip(os.pathsep))
        prepare_ray("here")
        from ray.cluster_utils import Cluster

        made = []

        def make(nodes):
            head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 10**8}
            made.append(Cluster(initialize_head=True, head_node_args=head))
            made[-1].nodes = [
                made[-1].add_node(num_cpus=2, object_store_memory=10**8) for _ in range(nodes)
            ]
            return made[-1]

        yield make
        for cluster in made:
            cluster.shutdown()
