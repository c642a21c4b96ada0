"""How worker processes share the machine: the GPUs, evenly and in order, or without any the CPU cores."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from rain.core.errors import RainError


def visible_gpus(environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them.

    CUDA_VISIBLE_DEVICES decides if it is set; otherwise nvidia-smi is asked. No GPU library is loaded, so that a worker
    can still choose its GPUs.

    Args:
        environ: environment to read; None: that of the process.
    """
    environ = os.environ if environ is None else environ
    listed = environ.get("CUDA_VISIBLE_DEVICES")
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


def worker_environments(nump: int, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
    """Return the environment variables that give each worker its share of the machine.

    With GPUs, worker i of p gets GPUs i*k to (i+1)*k - 1, where k = len(gpus) // p; a remainder stays unused. Without
    GPUs, every worker gets cores // p threads, at least one. The variables must be set before torch is imported.

    Args:
        nump: number of worker processes, at least 1 (count).
        gpus: names as in CUDA_VISIBLE_DEVICES, in order; may be empty.
        cores: CPU cores to share (count).

    Raises:
        RainError: there are more processes than GPUs.
    """
    if not gpus:
        return [{"OMP_NUM_THREADS": str(max(1, cores // nump))} for _ in range(nump)]
    if nump > len(gpus):
        raise RainError(f"--nump is {nump}, too many processes for {len(gpus)} visible GPUs; use at most {len(gpus)}")
    share = len(gpus) // nump
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # the order that nvidia-smi counts in
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[i * share : (i + 1) * share]), **order} for i in range(nump)]
