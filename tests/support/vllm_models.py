"""vLLM for tests: a tiny model that it can run, servers on 127.0.0.1, and randomness that every engine shares."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from support.tiny_models import IDS, SHAPE
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from rain.core.engine import Continuation, Engine, Stop, Usage
from rain.core.errors import RainError
from rain.engines.toy import EOS

START_S = 900


def save_tiny_model(folder: Path, context: int) -> Path:
    """Save a random model whose attention heads vLLM takes, and the tokenizer of ``ToyTokenizer``: one token a byte."""
    torch.manual_seed(0)
    config = LlamaConfig(max_position_embeddings=context, head_dim=32, num_key_value_heads=2, **IDS, **SHAPE)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.25)
    model.save_pretrained(folder)
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    core = Tokenizer(models.BPE({**letters, "<|end|>": EOS}, [], unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|end|>").save_pretrained(folder)
    return folder


@contextmanager
def vllm_server(model: Path, log: Path, *options: str) -> Iterator[str]:
    """Run vLLM's server and return its base URL once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "float32"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--generation-config", "vllm", "--enforce-eager"]
    command += ["--block-size", "32", "--enable-prompt-tokens-details", "--no-enable-chunked-prefill", *options]
    environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}/v1/models", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(60)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                json.load(reply)
                return
        except OSError:
            time.sleep(0.5)
    raise RainError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Return whether a condition came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class SharedRandomness(Engine):
    """Draws out of the next-token log-probabilities of an engine by random numbers of its own.

    Two engines with the same log-probabilities then give the same texts, whatever generators they have themselves.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.usage = engine, Usage()

    async def generate(
        self,
        prefix: Sequence[int],
        *,
        n: int = 1,
        max_tokens: int,
        temperature: float = 1.0,
        top_k: int = 0,
        greedy_first: bool = False,
        stop: Stop = Stop(),  # noqa: B008 - frozen
        seed: int = 0,
    ) -> list[Continuation]:
        found = []
        if greedy_first:
            options = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "stop": stop}
            found = await self.engine.generate(prefix, greedy_first=True, **options)
        for i in range(len(found), n):
            stream, tokens, logprobs = random.Random(f"{seed}/{i}"), list[int](), list[float]()
            while len(tokens) < max_tokens and not (tokens and tokens[-1] in stop.token_ids):
                top = await self.engine.next_logprobs((*prefix, *tokens), top=top_k or 20)
                weights = [math.exp(logprob / temperature) for logprob in top.values()]
                tokens += stream.choices(list(top), weights)
                logprobs.append(math.log(weights[list(top).index(tokens[-1])] / sum(weights)))
            found.append(Continuation(tuple(tokens), tuple(logprobs), "length"))
        return found

    async def next_logprobs(
        self, prefix: Sequence[int], *, top: int = 0, ids: Collection[int] = ()
    ) -> dict[int, float]:
        return await self.engine.next_logprobs(prefix, top=top, ids=ids)
