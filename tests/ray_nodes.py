"""A Ray cluster of several nodes on this machine, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

STORE = 100 << 20
TESTS = Path(__file__).resolve().parent
ENVIRONMENT = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}


class Nodes:
    """A Ray cluster on this machine: a head without room for workers, and nodes with room for one worker each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        options = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
        self.cluster = Cluster(initialize_head=True, head_node_args=options)
        self.nodes: dict[int, Any] = {}

    def grow(self, count: int) -> Nodes:
        while len(self.nodes) < count:
            node = self.cluster.add_node(num_cpus=1, object_store_memory=STORE, env_vars=ENVIRONMENT)
            self.nodes[node.all_processes["raylet"][0].process.pid] = node
        while len(self.nodes) > count:
            self.kill(next(iter(self.nodes)))
        return self

    def kill(self, node: int) -> None:
        """End a node with everything on it, at once."""
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)
