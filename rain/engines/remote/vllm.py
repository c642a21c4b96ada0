"""The engine that runs vLLM in process: tensor parallel over the GPUs of the worker, with prefix caching."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from rain.core.errors import RainError
from rain.engines.remote.engine import Answer, Ask, Sample, ServedEngine
from rain.models.embedded.convert import first_line

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}
CPU_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # workers share the cores; binding would stack them on the first ones
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB; by default vLLM takes nearly all of the memory
}

CPU_OPTIONS: dict[str, Any] = {
    "block_size": 32,
    "enforce_eager": True,
    "enable_chunked_prefill": False,  # vLLM 0.32 on a CPU dies of a seeded request whose prefix takes several steps
}

GUARD = """
import os, signal, sys
sys.stdin.read()
for pid in map(int, sys.argv[1:]):
    os.kill(pid, signal.SIGKILL)
"""
"""Program that waits for the end of its parent, and then kills processes: vLLM's own live on, and keep the GPU."""

T = TypeVar("T")


class Core:
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
            raise RainError(f"--engine vllm needs vLLM: {error}; run `pip install 'rain[vllm]'`") from error
        except (ValueError, RuntimeError, OSError) as error:
            raise RainError(f"vLLM cannot run {options['model']}: {first_line(error)}") from error
        self.limit = int(self._llm.model_config.max_model_len)
        processes = [str(child.pid) for child in multiprocessing.active_children() if child not in others]
        self._guard = subprocess.Popen(
            [sys.executable, "-c", GUARD, *processes], stdin=subprocess.PIPE, start_new_session=True
        )
        atexit.register(self._stop)

    async def run(self, ask: Ask) -> Any:
        """Return vLLM's ``RequestOutput`` for a request."""
        return await self._elsewhere(self._run(ask))

    async def close(self) -> None:
        """Stop vLLM's processes."""
        await asyncio.to_thread(self._stop)

    async def _elsewhere(self, job: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(job, self._loop))

    async def _start(self, options: dict[str, Any]) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    def _stop(self) -> None:
        llm, self._llm = self._llm, None  # gone before the interpreter is, which vLLM cannot stand
        if llm is not None:
            atexit.unregister(self._stop)
            asyncio.run_coroutine_threadsafe(self._end(llm), self._loop).result()
            self._guard.kill()
            self._guard.communicate()
            self._loop.call_soon_threadsafe(self._loop.stop)

    async def _end(self, llm: Any) -> None:
        llm.shutdown()
        await asyncio.sleep(0)  # lets its cancelled tasks end

    async def _run(self, ask: Ask) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            params = SamplingParams(
                n=ask.n,
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                top_k=ask.top_k,
                seed=ask.seed,
                logprobs=ask.logprobs,
                stop=list(ask.stop.strings),
                stop_token_ids=sorted(ask.stop.token_ids),
                ignore_eos=True,
                detokenize=bool(ask.stop.strings),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = {"prompt_token_ids": list(ask.prefix)}
            answers = self._llm.generate(prompt, params, request_id=f"rain-{next(self._numbers)}")
            [output] = [answer async for answer in answers]
        except ValueError as error:  # how vLLM refuses a request
            raise RainError(f"vLLM refuses a request: {first_line(error)}") from error
        except EngineDeadError as error:
            raise RainError("vLLM has stopped; its own messages say why") from error
        return output


class VllmEngine(ServedEngine):
    """A model that vLLM runs in process; a session is its own counters over the common prefix cache.

    Args:
        core: running.
        tokenizer: the model's.
        owner: whether ``close`` stops vLLM.
    """

    def __init__(self, core: Core, tokenizer: Any, *, owner: bool = True) -> None:
        super().__init__(tokenizer, core.limit)
        self._core, self._owner = core, owner

    def session(self, name: str) -> VllmEngine:
        """Return an engine with counters of its own."""
        return VllmEngine(self._core, self.tokenizer, owner=False)

    async def close(self) -> None:
        """Stop vLLM, unless this is one search's view."""
        if self._owner:
            await self._core.close()

    async def _complete(self, ask: Ask) -> Answer:
        output = await self._core.run(ask)
        samples = [
            Sample(
                tokens=tuple(part.token_ids),
                tops=[{token: entry.logprob for token, entry in top.items()} for top in part.logprobs],
                finish="stop" if part.finish_reason == "stop" else "length",
            )
            for part in sorted(output.outputs, key=lambda part: part.index)
        ]
        return Answer(samples, output.num_cached_tokens or 0)


def open_vllm(model: Path | str, tokenizer: Any, dtype: str = "auto", **options: Any) -> VllmEngine:
    """Start vLLM over all visible GPUs, or on the CPU where there is none.

    Args:
        model: a folder or a hub name.
        tokenizer: the model's.
        dtype: "auto" is the checkpoint's on a GPU, and what the machine computes fastest on a CPU.
        options: further ones of ``AsyncEngineArgs``.

    Raises:
        RainError: vLLM is not installed, or cannot run the model.
    """
    import torch

    from rain.models.loading import auto_dtype

    gpus = torch.cuda.device_count()
    settings: dict[str, Any] = {"model": str(model), "dtype": dtype, "generation_config": "vllm", "max_logprobs": -1}
    settings |= {"enable_prefix_caching": True, "tensor_parallel_size": max(1, gpus)}
    for name, value in (QUIET if gpus else {**QUIET, **CPU_ENVIRONMENT}).items():
        os.environ.setdefault(name, value)
    if not gpus:
        settings |= CPU_OPTIONS
        if dtype == "auto":
            settings["dtype"] = str(auto_dtype("cpu")).removeprefix("torch.")
    return VllmEngine(Core({**settings, **options}), tokenizer)
