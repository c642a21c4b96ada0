"""A Ray cluster of several nodes on this machine, for tests."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

STORE = 100 << 20
TESTS = Path(__file__).resolve().parents[1]
ENVIRONMENT = {"PYTHONPATH": f"{TESTS}:{TESTS.parent}"}


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def command(pid: int) -> str:
    """Return how a process calls itself; an empty text if it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


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
            self.cluster.remove_node(self.nodes.pop(next(iter(self.nodes))), allow_graceful=True)
        self.cluster.wait_for_nodes()
        return self

    def busy(self, folder: Path) -> int:
        """Return a node with a worker that has begun: it has gone to the folder of the command that started it."""
        for node in self.nodes:
            for child in children(node):
                if command(child).startswith("ray::RayWorker") and Path(f"/proc/{child}/cwd").resolve() == folder:
                    return node
        raise AssertionError("no worker has begun")

    def kill(self, node: int) -> None:
        """End a node with everything on it, at once."""
        self.cluster.remove_node(self.nodes.pop(node), allow_graceful=False)
