"""Engines by name, imported when they are needed."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.core.fields import setting, validate
from rain.keys import ENGINE_KEY
from rain.models.loading import DTYPES, QUANTIZATIONS
from rain.terminal import say

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rain.engines.local.engine import HfEngine

ENGINES = ("hf", "vllm", "http", "reference", "toy")

READ_OUT_ENGINES = ("hf", "reference")
"""Those that can read hidden states."""

LOADED_ALREADY = ("engine", "modelname", "dtype", "quantization", "device_map", "base_url")
"""Settings that say how a model is loaded."""


@dataclass(frozen=True)
class ModelConfig:
    """What answers: the engine, and the model in its number format."""

    engine: str = setting(
        "hf",
        "what runs the model (toy: a formula, for dry runs; of truth and imdb with --evaluator random)",
        choices=ENGINES,
        basic=True,
    )
    modelname: str = setting(
        "smollm2", "smollm2, gemma3-270m (embedded), a hub name, a folder or a .gguf file", basic=True
    )
    dtype: str = setting("auto", "number format (auto: bfloat16 where the hardware has it)", choices=DTYPES)
    quantization: str = setting("none", "needs bitsandbytes and a GPU unless none", choices=QUANTIZATIONS)

    def __post_init__(self) -> None:
        validate(self)

    @property
    def name(self) -> str:
        """Name of the model, for the records."""
        return "toy" if self.engine == "toy" else self.modelname


@dataclass(frozen=True)
class PlacementConfig:
    """Where the model runs and how much of it at once; it changes no answer."""

    base_url: str = setting("", "http: servers of the same model with /v1/completions; commas in between")
    device_map: str = setting("", "placement as in accelerate, such as auto (default: the first GPU, or the CPU)")
    patience: float = setting(
        180.0, "http: how long a request waits for servers that are away before its prompt is put back (s)", low=0
    )
    max_batch_tokens: int = setting(1024, "hf: maximum tokens of one forward pass", low=1)
    cache_tokens: int = setting(
        0, "hf: tokens kept in the KV cache; beyond, the least recently used are evicted (0: what memory allows)", low=0
    )
    prefetch: int = setting(
        128,
        "simulations that all searches compute ahead together, 32 each at most, if they can be guessed (0: none)",
        low=0,
    )

    def __post_init__(self) -> None:
        validate(self)


def check_engine(model: ModelConfig, placement: PlacementConfig) -> None:
    """Refuse settings that the engine cannot follow.

    Raises:
        RainError: the message names the flag.
    """
    if bool(placement.base_url) != (model.engine == "http"):
        given = "a --base-url" if placement.base_url else "no --base-url"  # the URL itself may contain a password
        raise RainError(
            f"--engine {model.engine} with {given}: http needs one, such as http://127.0.0.1:8000/v1, and no other "
            "engine takes one"
        )
    if model.engine in ("http", "vllm") and (model.quantization != "none" or placement.device_map):
        raise RainError(
            f"--engine {model.engine} takes a model as it is stored and places it itself: leave out --quantization "
            "and --device-map"
        )


def open_engine(model: ModelConfig, placement: PlacementConfig, key: str = ENGINE_KEY) -> tuple[Engine, Any]:
    """Start an engine; return it with the model's tokenizer.

    Args:
        model: what runs.
        placement: where.
        key: http: the environment variable with the servers' key.

    Raises:
        RainError: the model cannot be loaded, or cannot run on this engine.
    """
    check_engine(model, placement)
    if model.engine == "toy":
        from rain.engines.toy import ToyEngine

        toy = ToyEngine()
        return toy, toy.tokenizer
    return _open_remote(model, placement, key) if model.engine in ("http", "vllm") else _open_local(model, placement)


def _open_remote(model: ModelConfig, placement: PlacementConfig, key: str) -> tuple[Engine, Any]:
    from rain.models.info import stored_model
    from rain.models.loading import load_tokenizer, resolve

    tokenizer = load_tokenizer(model.modelname)
    eos, vocabulary = stored_model(model.modelname, tokenizer)
    if model.engine == "http":
        from rain.engines.remote.client import RetryPolicy
        from rain.engines.remote.http import open_http

        policy, url, name = RetryPolicy(retry=placement.patience), placement.base_url, model.modelname
        return open_http(url, tokenizer, name, eos, vocabulary=vocabulary, policy=policy, key=key), tokenizer
    from rain.engines.remote.vllm import open_vllm

    return open_vllm(resolve(model.modelname), tokenizer, model.dtype, eos, vocabulary), tokenizer


def _open_local(model: ModelConfig, placement: PlacementConfig) -> tuple[Engine, Any]:
    from rain.models.loading import load_model

    loaded, tokenizer = load_model(
        model.modelname,
        dtype=model.dtype,
        device_map=placement.device_map,
        quantization=model.quantization,
    )
    if model.engine == "reference":
        from rain.engines.reference import ReferenceEngine

        return ReferenceEngine(loaded, tokenizer), tokenizer
    engine = open_loaded(loaded, tokenizer, placement)
    if not placement.cache_tokens:
        say(f"rain: room for {engine.scheduler.cache_tokens:,} tokens in the cache (--cache-tokens)", sys.stderr)
    return engine, tokenizer


def check_loaded(model: Any, tokenizer: Any, given: Collection[str]) -> None:
    """Refuse what is no loaded model, one without its tokenizer, or settings that say how to load it."""
    if not hasattr(model, "generation_config"):
        raise RainError(f"model is {model!r}; it must be a name, a folder, a .gguf file or a transformers model")
    if not hasattr(tokenizer, "eos_token_id"):
        raise RainError(f"a loaded model needs its tokenizer, not {tokenizer!r}: Rain(model, tokenizer)")
    for name in LOADED_ALREADY:
        if name in given:
            raise RainError(f"{name} cannot be chosen for a model that is loaded already; leave it out")


def open_loaded(model: PreTrainedModel, tokenizer: Any, placement: PlacementConfig) -> HfEngine:
    """Put a loaded model on the tree cache.

    Raises:
        RainError: it cannot run there; the model is left as it was.
    """
    from rain.engines.local.engine import HfEngine

    return HfEngine(model, tokenizer, max_batch_tokens=placement.max_batch_tokens, cache_tokens=placement.cache_tokens)
