"""GGUF to a transformers folder: dequantised safetensors and tokenizer files, so that later loads take seconds."""

from __future__ import annotations

import errno
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rain.core.errors import RainError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Up to this size (bytes of GGUF) the folder is exact, in float32: dequantised weights are exact in neither half format.
_EXACT_UP_TO = 1 << 30
# llama.cpp's names of byte-level vocabularies whose digits are split off, one by one, before everything else.
_DIGITS_FIRST = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})


def convert_gguf(source: Path, into: Path) -> None:
    """Write the model and the tokenizer of a GGUF file into a folder that `from_pretrained` loads.

    Weights are stored as float32, or as bfloat16 if the GGUF file is larger than 1 GiB.

    Args:
        source: the .gguf file.
        into: the folder; it is created.

    Raises:
        RainError: the file is damaged or of a kind that transformers cannot read.
        OSError: the folder cannot be written, for example because the disk is full.
    """
    from safetensors import SafetensorError

    with quiet_transformers(), redirect_stderr(io.StringIO()):  # one of the bars heeds no setting
        try:
            model, tokenizer = _load_gguf(source)
        except Exception as error:  # the readers check nothing: a damaged file fails wherever it first matters
            raise RainError(f"transformers cannot read {source}: {first_line(error)}") from error
        into.mkdir(parents=True, exist_ok=True)
        try:
            tokenizer.save_pretrained(into)
            model.save_pretrained(into)
        except SafetensorError as error:  # how the Rust writer reports a full disk
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, first_line(error)) from error


def _load_gguf(source: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    import transformers

    options: dict[str, Any] = {"gguf_file": source.name, "trust_remote_code": False}
    tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **options)
    _split_digits(tokenizer, source)
    if hasattr(transformers, "GgufConfig"):  # newer versions would keep the weights packed where they have kernels
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    dtype = torch.float32 if source.stat().st_size <= _EXACT_UP_TO else torch.bfloat16
    packed = transformers.AutoModelForCausalLM.from_pretrained(source.parent, dtype=dtype, **options)
    config = packed.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # a model that transformers does not refuse to save; it takes over the tensors
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.load_state_dict(packed.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = packed.generation_config
    return model, tokenizer


def _split_digits(tokenizer: PreTrainedTokenizerBase, source: Path) -> None:
    """Restore the pre-tokenizer that transformers leaves out: without it a blank line before a digit splits in two."""
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(source).get_field("tokenizer.ggml.pre")
    if field and bytes(field.parts[field.data[0]]).decode("utf-8", errors="replace") in _DIGITS_FIRST:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bars and warnings off the screen inside the block."""
    from transformers.utils import logging as reports

    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.ERROR)
    reports.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """Return what an error says in its first line, without the final full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__
