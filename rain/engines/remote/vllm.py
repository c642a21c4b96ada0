"""The engine that runs vLLM in process: tensor parallel over the GPUs of the worker, with prefix caching."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from rain.core.engine import SHARERS
from rain.core.errors import RainError, UnclearFault, WorkerFault
from rain.engines.remote.engine import CompletionRequest, CompletionResult, RemoteEngine, Sample
from rain.engines.remote.protocol import ProtocolError, checked
from rain.models.embedded.convert import first_line

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # workers share the cores; binding would stack them on the first ones
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; by default vLLM takes nearly all of the memory
}

CPU_OPTIONS: dict[str, Any] = {
    "block_size": 32,
    "enforce_eager": True,
    "enable_chunked_prefill": False,  # vLLM 0.32 on a CPU dies of a seeded request whose prefix takes several steps
}

GPU_OPTIONS: dict[str, Any] = {
    "max_num_seqs": 512,  # vLLM's default in process is 128; 16 searches with 10 candidates each are more
    "max_num_batched_tokens": 8192,
}

MEMORY_SHARE = 0.85
"""Of a GPU's memory; the sentence encoder needs some, too."""

INSTALL = "pip install -e '.[vllm]'"

GUARD = """
import os, signal, sys
handles = []
for pid in map(int, sys.argv[1:]):
    try:
        handles.append(os.pidfd_open(pid))
    except ProcessLookupError:
        pass
sys.stdin.read()
for handle in handles:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""Program that waits for the end of its parent, and then kills processes: vLLM's own would live on and keep the GPU.

It holds the processes themselves, whose numbers may belong to others by then."""


class AsyncVllm:
    """A running vLLM with an event loop and thread of its own, so that callers may use any event loop.

    Args:
        options: of ``AsyncEngineArgs``.

    Raises:
        RainError: vLLM is not installed, or cannot run the model.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        others = set(multiprocessing.active_children())
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        try:
            self._llm = asyncio.run_coroutine_threadsafe(self._start(options), self._loop).result()
        except ImportError as error:
            raise RainError(f"--engine vllm needs vLLM: {error}; in RAIN's folder: {INSTALL}") from error
        except (ValueError, RuntimeError, OSError) as error:
            raise RainError(f"vLLM cannot run {options['model']}: {first_line(error)}") from error
        self.limit = int(self._llm.model_config.max_model_len)
        self.dtype = str(self._llm.model_config.dtype).removeprefix("torch.")
        processes = [str(child.pid) for child in multiprocessing.active_children() if child not in others]
        self._guard = subprocess.Popen(
            [sys.executable, "-c", GUARD, *processes], stdin=subprocess.PIPE, start_new_session=True
        )
        atexit.register(self._stop)

    async def run(self, request: CompletionRequest) -> Any:
        """Return vLLM's ``RequestOutput`` for a request."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._run(request), self._loop))

    async def close(self) -> None:
        """Stop vLLM's processes."""
        await asyncio.to_thread(self._stop)

    async def _start(self, options: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    def _stop(self) -> None:
        llm, self._llm = self._llm, None  # vLLM must be gone before the interpreter is
        if llm is not None:
            atexit.unregister(self._stop)
            asyncio.run_coroutine_threadsafe(self._end(llm), self._loop).result()
            self._guard.kill()
            self._guard.communicate()
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self, llm: Any) -> None:
        llm.shutdown()
        await asyncio.sleep(0)  # lets its cancelled tasks end

    async def _run(self, request: CompletionRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            wanted = request.params
            params = SamplingParams(
                n=wanted.n,
                max_tokens=wanted.max_tokens,
                temperature=0.0 if wanted.greedy_first else wanted.temperature,
                top_k=wanted.top_k,
                seed=wanted.seed,
                logprobs=request.logprobs or None,
                stop=list(wanted.stop.strings),
                stop_token_ids=sorted(wanted.stop.token_ids),
                ignore_eos=True,
                detokenize=bool(wanted.stop.strings),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = {"prompt_token_ids": list(request.prefix)}
            answers = self._llm.generate(prompt, params, request_id=f"rain-{next(self._numbers)}")
            [output] = [answer async for answer in answers]
        except ValueError as error:  # how vLLM refuses a request
            raise RainError(f"vLLM refuses a request: {first_line(error)}") from error
        except EngineDeadError as error:
            raise WorkerFault("vLLM has stopped; its own messages say why") from error
        return output


class VllmEngine(RemoteEngine):
    """A model that vLLM runs in process; all sessions share its prefix cache.

    Args:
        vllm: running.
        tokenizer: the model's.
        eos: its end ids.
        vocabulary: number of token ids that it has; the tokenizer's are known anyway.
    """

    exact = True

    def __init__(self, vllm: AsyncVllm, tokenizer: Any, eos: tuple[int, ...] = (), vocabulary: int = 0) -> None:
        super().__init__(tokenizer, vllm.limit, eos)
        self.dtype = vllm.dtype
        self._vllm, self._vocabulary = vllm, max(vocabulary, len(tokenizer))

    async def close(self) -> None:
        """Stop vLLM."""
        await self._vllm.close()

    async def complete(self, request: CompletionRequest, name: str) -> CompletionResult:
        """See ``RemoteEngine.complete``."""
        output = await self._vllm.run(request)
        samples = [
            Sample(
                tokens=tuple(part.token_ids),
                tops=[{token: entry.logprob for token, entry in top.items()} for top in part.logprobs or ()],
                finish="stop" if part.finish_reason == "stop" else "length",
            )
            for part in sorted(output.outputs, key=lambda part: part.index)
        ]
        try:
            return checked(CompletionResult(samples, output.num_cached_tokens or 0), request, self._vocabulary)
        except ProtocolError as error:
            raise UnclearFault(f"vLLM cannot be used: {error}; choose another --dtype") from error


def open_vllm(
    model: Path | str,
    tokenizer: Any,
    dtype: str = "auto",
    eos: tuple[int, ...] = (),
    vocabulary: int = 0,
    **options: Any,
) -> VllmEngine:
    """Start vLLM over all visible GPUs, or on the CPU where there is none.

    Args:
        model: a folder or a hub name.
        tokenizer: the model's.
        dtype: "auto" is the checkpoint's on a GPU, and what the machine computes fastest on a CPU.
        eos: the model's end ids.
        vocabulary: number of token ids that the model has; the tokenizer's are known anyway.
        options: further ones of ``AsyncEngineArgs``.

    Raises:
        RainError: vLLM is not installed, or cannot run the model.
    """
    import torch

    from rain.models.dtypes import auto_dtype

    gpus, sharers = torch.cuda.device_count(), int(os.environ.get(SHARERS, 1))
    settings: dict[str, Any] = {"model": str(model), "dtype": dtype, "generation_config": "vllm", "max_logprobs": -1}
    settings |= {"enable_prefix_caching": True, "tensor_parallel_size": max(1, gpus)}
    for name, value in (QUIET if gpus else {**QUIET, **CPU_ENVIRONMENT}).items():
        os.environ.setdefault(name, value)
    if gpus:
        settings |= {**GPU_OPTIONS, "gpu_memory_utilization": MEMORY_SHARE / sharers}
    else:
        settings |= CPU_OPTIONS
        if dtype == "auto":
            settings["dtype"] = str(auto_dtype("cpu")).removeprefix("torch.")
    # Those that share a GPU start one after the other: a vLLM takes what others load meanwhile for its own.
    name = f"rain-vllm-{os.getuid()}-{os.environ.get('CUDA_VISIBLE_DEVICES', 'all')}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name) if gpus and sharers > 1 else nullcontext():
        return VllmEngine(AsyncVllm({**settings, **options}), tokenizer, eos, vocabulary)
