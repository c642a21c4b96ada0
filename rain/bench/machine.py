"""The machine that a benchmark runs on: what it is, and how much of its memory was in use."""

from __future__ import annotations

import gc
import resource
from contextlib import suppress
from pathlib import Path

from rain.core.engine import Engine
from rain.models.dtypes import cpu_features
from rain.pool.devices import cpu_cores

NUMBER_FEATURES = {"avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm"}


def machine() -> str:
    """Return how many CPU cores this process has, what decides how fast they multiply, and the GPU that is used."""
    import torch

    found = sorted(cpu_features() & NUMBER_FEATURES)
    kernels = torch.backends.cpu.get_cpu_capability()  # ATEN_CPU_CAPABILITY may ask for less than the CPU has
    cores = f"{cpu_cores()} CPU cores, {' '.join(found) or 'features unknown'}, {kernels} kernels"
    if not torch.cuda.is_available():
        return cores
    return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}; {cores}"


def free_memory() -> None:
    """Free what earlier rows left, on a GPU too."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def forget_peak_memory() -> None:
    """Free what earlier rows left, and have the kernel (Linux) and CUDA count their peaks from here."""
    import torch

    free_memory()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(engine: Engine) -> float:
    """Return the most memory in use since ``forget_peak_memory``: CUDA's if the engine's model lies on a GPU.

    Otherwise it is the resident memory of this process (not on Linux: since it began).
    """
    import torch

    device = getattr(getattr(engine, "model", None), "device", None)
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
