"""Engines by name, imported when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rain.core.engine import Engine
from rain.core.errors import RainError
from rain.core.fields import setting

ENGINES = ("hf", "vllm", "http", "reference", "toy")


@dataclass(frozen=True)
class EngineConfig:
    """Which model runs where; nothing here changes what is asked of it."""

    engine: str = setting("hf", f"what runs the model: {', '.join(ENGINES)} (toy: a formula, for dry runs)")
    base_url: str = setting("", "http: where servers with /v1/completions of the same model are; commas between")
    modelname: str = setting("smollm2", "smollm2, gemma3-270m (embedded), a hub name, a folder or a .gguf file")
    dtype: str = setting("auto", "auto, float32, bfloat16 or float16 (auto: bfloat16 where the hardware has it)")
    device_map: str = setting(
        "", "placement of the model as in accelerate, such as auto (default: the first GPU, or CPU)"
    )
    quantization: str = setting("none", "none, 8bit or 4bit (needs bitsandbytes and a GPU)")
    max_batch_tokens: int = setting(1024, "hf: tokens of one forward pass, at most")
    cache_tokens: int = setting(120_000, "hf: cached tokens of all searches of a worker, about; more are evicted")

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise RainError(f"--engine is {self.engine!r}; it must be one of {', '.join(ENGINES)}")
        for name in ("max_batch_tokens", "cache_tokens"):
            if getattr(self, name) < 1:
                raise RainError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.base_url and self.engine != "http":
            raise RainError(f"--base-url is {self.base_url!r}, which only --engine http takes")
        if self.engine in ("http", "vllm") and (self.quantization != "none" or self.device_map):
            raise RainError(
                f"--engine {self.engine} takes a model as it is stored and places it itself: leave out --quantization "
                "and --device-map"
            )

    @property
    def model(self) -> str:
        """Name of what answers, for the records."""
        return "toy" if self.engine == "toy" else self.modelname


def open_engine(config: EngineConfig) -> tuple[Engine, Any]:
    """Start an engine; return it with the model's tokenizer.

    Raises:
        RainError: the model cannot be loaded, or cannot run on this engine.
    """
    if config.engine == "toy":
        from rain.engines.toy import ToyEngine

        toy = ToyEngine()
        return toy, toy.tokenizer
    from rain.models.loading import load_model, load_tokenizer, resolve

    if config.engine == "http":
        from rain.engines.remote.http import open_http

        tokenizer = load_tokenizer(config.modelname)
        return open_http(config.base_url, tokenizer, config.modelname), tokenizer
    if config.engine == "vllm":
        from rain.engines.remote.vllm import open_vllm

        tokenizer = load_tokenizer(config.modelname)
        return open_vllm(resolve(config.modelname), tokenizer, config.dtype), tokenizer
    model, tokenizer = load_model(
        config.modelname,
        dtype=config.dtype,
        device_map=config.device_map or None,
        quantization=None if config.quantization == "none" else config.quantization,
    )
    if config.engine == "reference":
        from rain.engines.reference import ReferenceEngine

        return ReferenceEngine(model, tokenizer), tokenizer
    from rain.engines.local.engine import HfEngine

    engine = HfEngine(model, tokenizer, max_batch_tokens=config.max_batch_tokens, cache_tokens=config.cache_tokens)
    return engine, tokenizer
