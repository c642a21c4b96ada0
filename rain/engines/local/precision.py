"""Products of half-precision numbers whose sums are not rounded back to half precision, where the device offers them.

GPUs add such products up in float32 and then round the sum. In bfloat16, logits of 16 to 32 come in steps of 0.125, and
so do the log-odds of labels. ``torch.mm`` and ``torch.bmm`` leave the sum as it is if they are asked to (``out_dtype``,
PyTorch 2.8 and later, on CUDA and XPU).
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from transformers import PreTrainedModel


@cache
def has_float32_sums(device: torch.device, dtype: torch.dtype) -> bool:
    """Check, by trying, whether products in a number format can have float32 results on a device."""
    if dtype not in (torch.float16, torch.bfloat16):
        return False
    ones = torch.ones(1, 16, 16, dtype=dtype, device=device)
    try:
        torch.mm(ones[0], ones[0], out_dtype=torch.float32)
        torch.bmm(ones, ones, out_dtype=torch.float32)
    except (TypeError, RuntimeError):  # an older PyTorch; another device
        return False
    return True


def batched_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply (batch, n, m) and (batch, m, p), in float32 where the device offers it."""
    if has_float32_sums(left.device, left.dtype):
        return torch.bmm(left, right, out_dtype=torch.float32)
    return torch.bmm(left, right)


class Float32Head(nn.Module):
    """Does what a linear layer does, with a result in float32; for inference only.

    Args:
        linear: in half precision, on a device that ``has_float32_sums``.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Multiply: (..., in features) to (..., out features)."""
        out = torch.mm(inputs.flatten(0, -2), self.linear.weight.T, out_dtype=torch.float32)
        if self.linear.bias is not None:
            out = out + self.linear.bias
        return out.reshape(*inputs.shape[:-1], -1)


def widen_head(model: PreTrainedModel) -> None:
    """Let a model's head answer in float32, if it is a plain linear layer and its device can."""
    head = model.get_output_embeddings()
    if type(head) is nn.Linear and not hasattr(head, "_hf_hook"):
        if has_float32_sums(head.weight.device, head.weight.dtype):
            model.set_output_embeddings(Float32Head(head))


def restore_head(model: PreTrainedModel) -> None:
    """Give a model its own head back."""
    head = model.get_output_embeddings()
    if isinstance(head, Float32Head):
        model.set_output_embeddings(head.linear)
