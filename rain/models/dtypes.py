"""Number formats of weights: which one suits a device, and which one a judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def auto_dtype(device: str | torch.device) -> torch.dtype:
    """Return the fastest number format that is safe on a device.

    That is bfloat16 on GPUs that compute in it (float16 on older ones) and on CPUs with AVX512_BF16, AMX or the ARM
    extension; float32 on other CPUs, where bfloat16 is slower.
    """
    import torch

    if torch.device(device).type == "cpu":
        has_bfloat16 = {"avx512_bf16", "amx_bf16", "bf16"} & cpu_features()
        return torch.bfloat16 if has_bfloat16 else torch.float32
    if torch.device(device).type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def judge_dtype() -> str:
    """Return the number format of a judge's model: float32 on CPUs, so that no verdict depends on the CPU's kind."""
    import torch

    return "auto" if torch.cuda.is_available() else "float32"


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the names of what the CPU can do, as Linux lists them, such as avx2; empty elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return set(flags.split()[1:])
