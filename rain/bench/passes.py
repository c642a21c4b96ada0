"""What single passes of the tree cache take: time of the host and of the device, tokens, bytes read from memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from rain.engines.local.batch import Batch
from rain.engines.local.engine import HfEngine
from rain.engines.local.model_runner import PassOutput


def weight_bytes(model: Any) -> int:
    """Return the bytes of weights that a pass reads: all but an embedding of its own, of which it reads a few rows."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return sum(weight.nbytes for weight in model.parameters() if weight is head or weight is not embedding)


def kv_bytes(model: Any) -> int:
    """Return the bytes of the keys and values of one token."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)


class PassMeter:
    """Measures every pass of an engine from now on.

    On a GPU, the host only launches a pass, and the device's time is taken between two events of its stream: the gaps
    in which it waits for launches count. On a CPU both are the same.

    Args:
        engine: measured.
        weights: see ``weight_bytes``; counted before the engine was opened, which may lay them out anew.
        bandwidth: of the device's memory, bytes a second.
    """

    def __init__(self, engine: HfEngine, weights: int, bandwidth: float) -> None:
        runner = engine.scheduler.runner
        self.weights, self.bandwidth, self.device = weights, bandwidth, runner.device
        self.bytes_each, self.passes = kv_bytes(engine.model), list[tuple[float, ...]]()
        self._events: list[tuple[Any, Any]] = []
        self._forward, runner.forward = runner.forward, self._measured  # type: ignore[method-assign]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            torch.cuda.reset_accumulated_memory_stats(self.device)

    def _measured(self, batch: Batch, **options: bool) -> PassOutput:
        """Run a pass."""
        begin, started = self._mark(), time.perf_counter()
        output = self._forward(batch, **options)  # a pass that runs out of memory leaves no trace
        host, trees = time.perf_counter() - started, len({span.tree for span in batch.spans})
        self.passes.append((len(batch.slots), trees, self.bytes_each * output.layout.key_count, host))
        if begin is not None:
            self._events.append((begin, self._mark()))
        return output

    def _mark(self) -> Any:
        """Return an event that has been put into the device's stream, None on a CPU."""
        if self.device.type != "cuda":
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def summary(self) -> dict[str, float]:
        """Return means over the passes, and CUDA's own counters of its memory."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        count = len(self.passes)
        tokens, trees, read, host = (sum(column) / count for column in zip(*self.passes, strict=True))
        device = sum(begin.elapsed_time(end) / 1000 for begin, end in self._events) / count or host
        found = {"passes": count, "tokens": tokens, "trees": trees, "host_ms": 1000 * host, "device_ms": 1000 * device}
        found |= {"kv_mib": read / 2**20, "weights_mib": self.weights / 2**20}
        found["roofline_share"] = (self.weights + read) / self.bandwidth / device
        if self.device.type == "cuda":
            stats = torch.cuda.memory_stats(self.device)
            found["allocated_mib"] = torch.cuda.max_memory_allocated(self.device) / 2**20
            found["reserved_mib"] = torch.cuda.max_memory_reserved(self.device) / 2**20
            found |= {"out_of_memory": stats.get("num_ooms", 0), "retries": stats.get("num_alloc_retries", 0)}
        return found
