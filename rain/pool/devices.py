"""How worker processes share the machine: the GPUs, evenly and in order, or without any the CPU cores."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from rain.core.engine import SHARERS
from rain.core.errors import RainError


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    CUDA_VISIBLE_DEVICES decides if it is set; otherwise nvidia-smi is asked. No GPU library is loaded, so that a worker
    can still choose its GPUs.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return [str(index) for index in range(_count_gpus())]
    names = [name.strip() for name in listed.split(",")]
    invalid = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
    return names[:invalid]  # as CUDA does: the first invalid name ends the list


def _count_gpus() -> int:
    command = ["nvidia-smi", "--list-gpus"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def cpu_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worker_environments(nump: int, gpus: Sequence[str], cores: int, share: int = 1) -> list[dict[str, str]]:
    """Return the environment variables that give each worker its share of the machine.

    With GPUs, worker i of p gets GPUs i*k to (i+1)*k - 1, where k = len(gpus) // p; a remainder stays unused. If there
    are more workers than GPUs, the first ``share`` are on the first GPU, and so on. Without GPUs, every worker gets
    cores // p threads, at least one. The variables must be set before torch is imported.

    Args:
        nump: number of worker processes, at least 1 (count).
        gpus: names as in CUDA_VISIBLE_DEVICES, in order; may be empty.
        cores: CPU cores to share (count).
        share: workers that may be on one GPU (count).

    Raises:
        RainError: there are more processes than the GPUs take.
    """
    if not gpus:
        return [{"OMP_NUM_THREADS": str(max(1, cores // nump)), SHARERS: str(nump)} for _ in range(nump)]
    if nump > len(gpus) * share:
        raise RainError(
            f"--nump is {nump}, too many processes for {len(gpus)} visible GPUs with --gpu-share {share}; use at most "
            f"{len(gpus) * share}"
        )
    # nvidia-smi counts in another order than CUDA; numbers from the user count in the user's order.
    order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    each = max(1, len(gpus) // nump)
    places = [i // share if nump > len(gpus) else i * each for i in range(nump)]
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(gpus[place : place + each]), SHARERS: str(places.count(place)), **order}
        for place in places
    ]
